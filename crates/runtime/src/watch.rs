//! Watches files by looking at them: stat every few seconds, contents when the stat changed. Also SIGHUP.
//!
//! Polling, because mounted secrets are swapped by renaming a directory above the file, which a watch on the file
//! does not see (kubernetes issue 112677), and because a handful of stats costs nothing.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

/// How often files are looked at: soon enough after an edit, and 30 wake-ups a minute.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
/// Shortest interval; below it polling would be a busy loop.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Contents beyond this are not compared: certificates and configuration are far smaller.
const MAX_BYTES: u64 = 16 << 20;
/// A file written this recently may be written again without its stat changing, so its contents are read again.
const UNSETTLED: Duration = Duration::from_secs(2);

/// Why to load again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These files have other contents, appeared or went away.
    Files(Vec<PathBuf>),
    /// SIGHUP: everything, changed or not (and log files are opened again).
    Hangup,
}

/// Looks at a set of files.
#[derive(Debug)]
pub struct FileWatcher {
    files: Vec<(PathBuf, Seen)>,
    ticks: Interval,
    hangup: Signal,
}

/// What was seen of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// `None`: no such file, or it cannot be looked at.
    stat: Option<Stat>,
    contents: Contents,
    settled: bool,
}

/// Device, inode, length, modification and status change times in nanoseconds.
type Stat = (u64, u64, u64, i128, i128);

/// A hash of the contents, or why there is none; a change between the two is a change.
type Contents = Result<u64, io::ErrorKind>;

impl FileWatcher {
    /// Takes the files as they are now for unchanged: make it before loading them, or an edit between the two is
    /// missed. Takes SIGHUP over. Reads the files, and needs a tokio runtime.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>, interval: Duration) -> io::Result<Self> {
        let interval = interval.max(MIN_INTERVAL);
        let mut ticks = interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut made = Self { files: Vec::new(), ticks, hangup: signal(SignalKind::hangup())? };
        made.replace_paths(paths);
        Ok(made)
    }

    /// Watches these files from now on. What is known of a file stays known; a new one is taken as it is now.
    pub fn replace_paths(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let mut old = std::mem::take(&mut self.files);
        for path in paths {
            let known = old.iter().position(|(seen, _)| *seen == path);
            let seen = match known {
                Some(at) => old.swap_remove(at).1,
                None => look(&path),
            };
            self.files.push((path, seen));
        }
    }

    /// Waits for the next change. Safe to cancel: a change that was not returned is found again.
    pub async fn changed(&mut self) -> Change {
        loop {
            tokio::select! {
                biased;
                _ = self.hangup.recv() => return Change::Hangup,
                _ = self.ticks.tick() => {}
            }
            let changed = self.poll().await;
            if !changed.is_empty() {
                return Change::Files(changed);
            }
        }
    }

    /// Calls back for every change until `stop`.
    pub async fn run(mut self, stop: CancellationToken, mut on_change: impl FnMut(Change)) {
        while let Some(change) = stop.run_until_cancelled(self.changed()).await {
            on_change(change);
        }
    }

    async fn poll(&mut self) -> Vec<PathBuf> {
        let mut fresh = Vec::new();
        for (at, (path, seen)) in self.files.iter().enumerate() {
            // The stat is cheap enough to do here; reading is not done on a thread that serves requests.
            if seen.settled && stat(path) == seen.stat {
                continue;
            }
            let path = path.clone();
            if let Ok(now) = tokio::task::spawn_blocking(move || look(&path)).await {
                fresh.push((at, now));
            }
        }
        // No await from here on: either all of it is remembered and returned, or nothing.
        let mut changed = Vec::new();
        for (at, now) in fresh {
            let (path, seen) = &mut self.files[at];
            if seen.contents != now.contents {
                changed.push(path.clone());
            }
            *seen = now;
        }
        changed
    }
}

/// Looks at a file: the stat first, so that a write after it shows next time.
fn look(path: &Path) -> Seen {
    let settled = match fs::metadata(path).and_then(|meta| meta.modified()) {
        Ok(modified) => SystemTime::now().duration_since(modified).is_ok_and(|age| age >= UNSETTLED),
        Err(_) => true,
    };
    Seen { stat: stat(path), contents: hash(path).map_err(|error| error.kind()), settled }
}

fn stat(path: &Path) -> Option<Stat> {
    let meta = fs::metadata(path).ok()?;
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let modified = nanos(meta.mtime(), meta.mtime_nsec());
    Some((meta.dev(), meta.ino(), meta.len(), modified, nanos(meta.ctime(), meta.ctime_nsec())))
}

fn hash(path: &Path) -> io::Result<u64> {
    let mut contents = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut contents)?;
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests;
