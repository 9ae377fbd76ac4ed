//! The state directory of `outrigger up`: where everything lies, and the lock that keeps a second one out.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::files;

/// The directory of the bundled `fs` service, below the state.
pub(crate) const DATA: &str = "data";

/// Where the state is, held against others until this is dropped.
pub(crate) struct StateDir {
    root: PathBuf,
    /// The system lets go of it when we die, however we die.
    _lock: File,
}

impl StateDir {
    /// Makes the directory if missing, locks it, and removes what a killed predecessor left.
    ///
    /// # Errors
    /// When another `up` uses it, or it cannot be written.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let root = files::absolute(dir)?;
        files::make_dir(&root)?;
        let lock = lock(&root)?;
        let state = Self { root, _lock: lock };
        for part in ["config", "logs", "run"] {
            files::make_dir(&state.root.join(part))?;
        }
        state.remove_up()?;
        Ok(state)
    }

    /// All of it.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What says that the mesh is ready.
    pub(crate) fn up(&self) -> PathBuf {
        self.root.join("up.json")
    }

    /// Takes [`StateDir::up`] away: the mesh is not ready any more.
    pub(crate) fn remove_up(&self) -> anyhow::Result<()> {
        let path = self.up();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The authority's directory.
    pub(crate) fn ca(&self) -> PathBuf {
        self.root.join("ca")
    }

    /// The directory of one member's certificate and key.
    pub(crate) fn identity(&self, name: &str) -> PathBuf {
        self.root.join("identity").join(name)
    }

    /// What clients present.
    pub(crate) fn token(&self) -> PathBuf {
        self.root.join("token")
    }

    /// What seals the ids of sessions.
    pub(crate) fn session_keys(&self) -> PathBuf {
        self.root.join("session.keys")
    }

    /// Who may do what, unless the manifest names policies.
    pub(crate) fn policy(&self) -> PathBuf {
        self.root.join("policy.yaml")
    }

    /// Who may call the sidecars.
    pub(crate) fn inside_policy(&self) -> PathBuf {
        self.root.join("policy-inside.yaml")
    }

    /// Files of the bundled `fs` service.
    pub(crate) fn data(&self) -> PathBuf {
        self.root.join(DATA)
    }

    /// The settings of one part.
    pub(crate) fn config(&self, name: &str) -> PathBuf {
        self.root.join("config").join(format!("{name}.yaml"))
    }

    /// The log of one part.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// The audit of one part.
    pub(crate) fn audit(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.audit.jsonl"))
    }

    /// What signs it.
    pub(crate) fn audit_key(&self, name: &str) -> PathBuf {
        self.root.join("identity").join(format!("{name}.audit.key"))
    }

    /// What one service dialled.
    pub(crate) fn egress(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.egress.jsonl"))
    }

    /// Where sidecars find each other.
    pub(crate) fn services(&self) -> PathBuf {
        self.root.join("run").join("services.json")
    }

    /// Where one part tells the addresses that it listens on.
    pub(crate) fn report(&self, name: &str) -> PathBuf {
        self.root.join("run").join(format!("{name}.json"))
    }
}

fn lock(root: &Path) -> anyhow::Result<File> {
    let path = root.join("lock");
    let open = File::options().create(true).truncate(false).write(true).mode(files::PRIVATE).open(&path);
    let mut file = open.with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder = holder.trim();
            let who = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
            bail!("another `outrigger up`{who} uses {}: stop it, or give this one another --dir", root.display());
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    // For whoever finds it locked.
    file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).context("cannot write the lock file")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_told_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        let refused = StateDir::open(dir.path()).err().unwrap().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        StateDir::open(dir.path()).unwrap();
    }

    #[test]
    fn what_a_killed_predecessor_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("up.json"), "{}").unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert!(!state.up().exists());
    }
}
