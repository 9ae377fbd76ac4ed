//! Directories for temporary files that end with this process, however it ends: each is locked while it is in use, and the
//! next start removes those that nobody holds any more.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::geteuid;

/// What their names begin with.
const PREFIX: &str = "outrigger-own-";
/// One that is younger may be about to be locked.
const SETTLED: Duration = Duration::from_secs(60);

/// A directory that goes with this value, or with the process.
#[derive(Debug)]
pub(crate) struct OwnDirectory {
    path: PathBuf,
    /// Locked; the kernel unlocks it when the process ends.
    _lock: File,
}

impl OwnDirectory {
    /// Makes one that nobody else could have made before us.
    ///
    /// # Errors
    /// What the operating system says, and what to do.
    pub(crate) fn make(mode: u32) -> io::Result<Self> {
        let within = std::env::temp_dir();
        Self::make_in(&within, mode).map_err(|error| {
            let hint = "it needs a directory to write to: set TMPDIR, or mount a tmpfs at /tmp";
            io::Error::new(error.kind(), format!("{}: {error}; {hint}", within.display()))
        })
    }

    fn make_in(within: &Path, mode: u32) -> io::Result<Self> {
        let mut last = io::Error::other("no name was free");
        for _ in 0..8 {
            let mut random = [0_u8; 8];
            aws_lc_rs::rand::fill(&mut random).map_err(io::Error::other)?;
            let name = format!("{PREFIX}{:016x}", u64::from_ne_bytes(random));
            // Links on the way (macOS has one) would not be the path that the kernel sees.
            let path = fs::canonicalize(within)?.join(name);
            match DirBuilder::new().mode(mode).create(&path) {
                Ok(()) => {
                    let lock = open(&path)?;
                    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                    return Ok(Self { path, _lock: lock });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnDirectory {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        // Caches of package runners are large; nobody waits for their end.
        let _ = std::thread::Builder::new().name("clean-up".into()).spawn(move || fs::remove_dir_all(path));
    }
}

/// Removes what processes left behind that were killed, without anybody waiting for it.
pub(crate) fn clean_up() {
    let _ = std::thread::Builder::new().name("clean-up".into()).spawn(|| remove_abandoned(&std::env::temp_dir()));
}

/// Only what is ours by name and owner, is no link, and is not locked.
fn remove_abandoned(within: &Path) {
    let Ok(entries) = fs::read_dir(within) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())) {
        let path = entry.path();
        let Ok(known) = fs::symlink_metadata(&path) else { continue };
        let age = known.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        let ours = known.is_dir() && known.uid() == geteuid().as_raw();
        if !ours || age.is_none_or(|age| age < SETTLED) {
            continue;
        }
        if let Ok(lock) = open(&path)
            && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            match fs::remove_dir_all(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "removed what a killed process left behind"),
                Err(error) => tracing::debug!(path = %path.display(), %error, "cannot remove it"),
            }
        }
    }
}

/// Not what a link leads to.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits();
    OpenOptions::new().read(true).custom_flags(i32::try_from(flags).map_err(io::Error::other)?).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aged(path: &Path) {
        let old = SystemTime::now() - 2 * SETTLED;
        File::open(path).unwrap().set_modified(old).unwrap();
    }

    #[test]
    fn where_none_can_be_made_it_is_said_where_and_what_to_do() {
        let nowhere = Path::new("/nowhere");
        assert_eq!(OwnDirectory::make_in(nowhere, 0o700).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_nobody_holds_is_removed_and_nothing_else() {
        let held = OwnDirectory::make(0o700).unwrap();
        let within = tempfile::tempdir().unwrap();
        let named = |name: &str| {
            let path = within.path().join(format!("{PREFIX}{name}"));
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), "").unwrap();
            path
        };
        let (abandoned, young, locked) = (named("1"), named("2"), named("3"));
        let other = within.path().join("outrigger-else");
        fs::create_dir(&other).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let link = within.path().join(format!("{PREFIX}4"));
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        let lock = open(&locked).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        for path in [&abandoned, &locked, &other, elsewhere.path(), held.path()] {
            aged(path);
        }
        remove_abandoned(within.path());
        remove_abandoned(&std::env::temp_dir());
        assert!(!abandoned.exists());
        for kept in [&young, &locked, &other, elsewhere.path(), held.path()] {
            assert!(kept.exists(), "{}", kept.display());
        }
    }
}
