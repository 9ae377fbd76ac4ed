//! Writes files so that a reader sees the old or the new content and never half of one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Mode of private keys: the owner alone.
pub(crate) const SECRET: u32 = 0o600;
/// Mode of certificates and revocation lists, which are public by nature.
pub(crate) const PUBLIC: u32 = 0o644;

/// Replaces `dir/name` atomically: a temporary file beside it, fsync, rename, fsync of the directory.
pub(crate) fn write_atomically(dir: &Path, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.{}", random_suffix()?));
    let written = write_new(&temporary, content, mode).and_then(|()| fs::rename(&temporary, dir.join(name)));
    if let Err(error) = written {
        // The first error is the one to report; a file that was never made cannot be removed.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(dir)?.sync_all()
}

/// Makes the directory, and those above it, for the owner alone. One that exists keeps its mode: it may be the user's own.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Holds `dir` against other processes that change it until the handle is dropped.
pub(crate) fn lock_dir(dir: &Path) -> io::Result<File> {
    let handle = File::open(dir)?;
    handle.lock()?;
    Ok(handle)
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    // The mode is given at creation, so that a key is never readable for others, however short the moment.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn random_suffix() -> io::Result<String> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no random numbers from the system"))?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn replaces_content_and_mode_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.key"), "old").unwrap();
        write_atomically(dir.path(), "a.key", b"new", SECRET).unwrap();
        assert_eq!(fs::read(dir.path().join("a.key")).unwrap(), b"new");
        assert_eq!(mode(&dir.path().join("a.key")), 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_rename_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("taken")).unwrap();
        write_atomically(dir.path(), "taken", b"x", PUBLIC).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_directory_is_private_and_an_old_one_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        make_private_dir(&dir.path().join("x/y")).unwrap();
        assert_eq!(mode(&dir.path().join("x/y")), 0o700);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        make_private_dir(dir.path()).unwrap();
        assert_eq!(mode(dir.path()), 0o755);
    }
}
