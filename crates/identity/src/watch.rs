//! Notices that files changed: by their `stat` when that can be trusted, by a hash of their content otherwise.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{Context, Digest, SHA256};

use crate::files::{FileError, FileRole, Key, Loaded};
use crate::material::{Federation, Given};
use crate::spiffe::TrustDomain;

/// A file changed more recently than this may change again within the resolution of its time stamps, unseen.
const SETTLED: Duration = Duration::from_secs(2);

/// The files that make one snapshot, and what the present one was made of.
#[derive(Debug)]
pub(crate) struct Watch {
    sources: Sources,
    seen: Mutex<Seen>,
}

/// Where the parts of an identity are.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) own: Own,
    pub(crate) federation: Vec<Federation>,
}

/// Where our own certificate and those whom we believe are.
#[derive(Debug)]
pub(crate) enum Own {
    /// Files that somebody replaces.
    Files { cert: PathBuf, key: PathBuf, ca: Option<PathBuf>, crl: Option<PathBuf> },
    /// What an authority or an agent gave to this process.
    Memory(ArcSwap<Given>),
}

/// The parts as they were at one moment.
pub(crate) struct Contents {
    pub(crate) cert: Loaded,
    pub(crate) key: Key,
    pub(crate) ca: Option<Loaded>,
    pub(crate) crl: Option<Loaded>,
    pub(crate) federation: Vec<Foreign>,
}

/// What is believed of another trust domain.
pub(crate) struct Foreign {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) bundle: Loaded,
    pub(crate) crl: Option<Loaded>,
}

#[derive(Debug)]
struct Seen {
    /// None when the time stamps are too fresh to say anything.
    stats: Option<Vec<Stat>>,
    digest: Digest,
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Watch {
    /// Reads the files for the first time and compiles a snapshot of them.
    pub(crate) fn start<S, E: From<FileError>>(
        sources: Sources,
        compile: impl FnOnce(&Contents) -> Result<S, E>,
    ) -> Result<(Self, S), E> {
        let stats = sources.stats(SystemTime::now());
        let contents = sources.read()?;
        let snapshot = compile(&contents)?;
        let seen = Seen { stats, digest: contents.digest() };
        Ok((Self { sources, seen: Mutex::new(seen) }, snapshot))
    }

    /// The roots that an authority or an agent gave, if one did. PEM.
    pub(crate) fn held_roots(&self) -> Option<String> {
        let Own::Memory(held) = &self.sources.own else { return None };
        Some(held.load().roots().to_owned())
    }

    /// The same for what did not come from a file. On an error what was before it stays.
    pub(crate) fn offer<S, E: From<FileError>>(
        &self,
        given: Given,
        current: &ArcSwap<S>,
        compile: impl FnOnce(&Contents) -> Result<S, E>,
    ) -> Result<Option<Arc<S>>, E> {
        let Own::Memory(held) = &self.sources.own else { return Ok(None) };
        let before = held.swap(Arc::new(given));
        let swapped = self.reload(current, compile);
        if swapped.is_err() {
            held.store(before);
        }
        swapped
    }

    /// Swaps `current` for a snapshot of the files if they changed. On an error nothing is swapped, and the next call tries
    /// again. None means that nothing changed; no file is read whose `stat` is as before.
    pub(crate) fn reload<S, E: From<FileError>>(
        &self,
        current: &ArcSwap<S>,
        compile: impl FnOnce(&Contents) -> Result<S, E>,
    ) -> Result<Option<Arc<S>>, E> {
        // What is behind the lock is replaced as a whole, so a panic cannot have left it half done.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stats = self.sources.stats(SystemTime::now());
        if stats.is_some() && stats == seen.stats {
            return Ok(None);
        }
        let contents = self.sources.read()?;
        let digest = contents.digest();
        if digest.as_ref() == seen.digest.as_ref() {
            seen.stats = stats;
            return Ok(None);
        }
        let snapshot = Arc::new(compile(&contents)?);
        current.store(Arc::clone(&snapshot));
        *seen = Seen { stats, digest };
        Ok(Some(snapshot))
    }
}

impl Sources {
    fn read(&self) -> Result<Contents, FileError> {
        let optional = |role, path: &Option<PathBuf>| path.as_deref().map(|path| Loaded::read(role, path)).transpose();
        let foreign = |it: &Federation| -> Result<Foreign, FileError> {
            let bundle = Loaded::read(FileRole::Ca, &it.bundle)?;
            Ok(Foreign { trust_domain: it.trust_domain.clone(), bundle, crl: optional(FileRole::Crl, &it.crl)? })
        };
        let federation = self.federation.iter().map(foreign).collect::<Result<_, _>>()?;
        match &self.own {
            Own::Files { cert, key, ca, crl } => Ok(Contents {
                cert: Loaded::read(FileRole::Cert, cert)?,
                key: Key::File(Loaded::read(FileRole::Key, key)?),
                ca: optional(FileRole::Ca, ca)?,
                crl: optional(FileRole::Crl, crl)?,
                federation,
            }),
            Own::Memory(held) => Ok(held.load().contents(federation)),
        }
    }

    /// Taken before the files are read: a change between the two is then seen next time.
    fn stats(&self, now: SystemTime) -> Option<Vec<Stat>> {
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        let settled_before = i64::try_from(now.saturating_sub(SETTLED).as_secs()).ok()?;
        // What is in memory has no time stamp, and is compared in no time.
        let Own::Files { cert, key, ca, crl } = &self.own else { return None };
        let own = [Some(cert), Some(key), ca.as_ref(), crl.as_ref()];
        let foreign = self.federation.iter().flat_map(|it| [Some(&it.bundle), it.crl.as_ref()]);
        own.into_iter()
            .chain(foreign)
            .flatten()
            .map(|path| stat(path).filter(|stat| stat.changed.0 < settled_before))
            .collect()
    }
}

impl Contents {
    fn digest(&self) -> Digest {
        let mut hash = Context::new(&SHA256);
        hash.update(&self.key.mark());
        let mut add = |part: Option<&[u8]>| {
            // The length keeps two parts with a moved boundary apart, and one that is not there from one that is empty.
            hash.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
            hash.update(part.unwrap_or_default());
        };
        let content = Loaded::content;
        for file in [Some(&self.cert), self.ca.as_ref(), self.crl.as_ref()] {
            add(file.map(content));
        }
        for foreign in &self.federation {
            add(Some(foreign.trust_domain.as_str().as_bytes()));
            add(Some(content(&foreign.bundle)));
            add(foreign.crl.as_ref().map(content));
        }
        hash.finish()
    }
}

/// Follows symbolic links, because mounted secrets are replaced by pointing a link elsewhere.
fn stat(path: &Path) -> Option<Stat> {
    let meta = fs::metadata(path).ok()?;
    Some(Stat {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stamps_are_trusted_once_they_are_old_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let own = Own::Files { cert: path("a"), key: path("b"), ca: Some(path("c")), crl: None };
        let sources = Sources { own, federation: Vec::new() };
        for name in ["a", "b", "c"] {
            fs::write(path(name), "1").unwrap();
        }
        let later = SystemTime::now() + SETTLED * 5;
        assert!(sources.stats(SystemTime::now()).is_none());
        let before = sources.stats(later).unwrap();
        assert_eq!(sources.stats(later).unwrap(), before);

        // A file put in its place by renaming, as certificates are renewed.
        fs::write(path("new"), "2").unwrap();
        fs::rename(path("new"), path("c")).unwrap();
        assert_ne!(sources.stats(later).unwrap(), before);
        fs::remove_file(path("c")).unwrap();
        assert!(sources.stats(later).is_none());
    }
}
