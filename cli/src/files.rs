//! Reading files with a bound, and writing them so that a reader sees the old or the new content, never half of one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Mode of what only the owner may read: tokens, and settings that may hold secrets.
pub(crate) const PRIVATE: u32 = 0o600;
/// Mode of what is no secret.
pub(crate) const PUBLIC: u32 = 0o644;
/// Largest file that is read: settings have at most 1 MiB, which their reader says better than we could.
const MAX_BYTES: u64 = 4 << 20;

/// Replaces `path` whole, with this mode from its first moment on.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    replace(path, content, mode, false).with_context(|| format!("cannot write {}", path.display()))
}

/// The same, and on the disk when it returns: for what must not be forgotten in a power cut.
pub(crate) fn write_through(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let written = replace(path, content, mode, true).and_then(|()| {
        // The new name is an entry of its directory.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn replace(path: &Path, content: &[u8], mode: u32, through: bool) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    // Left behind by a process with our number that was killed here.
    let _ = fs::remove_file(&temporary);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(content)?;
            if through { file.sync_all() } else { Ok(()) }
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Reads a text file.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let bytes = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    if bytes.with_context(|| format!("cannot read {}", path.display()))? as u64 > MAX_BYTES {
        bail!("{} is larger than {MAX_BYTES} bytes", path.display());
    }
    Ok(text)
}

/// Makes a directory for the owner alone, and those above it. One that exists keeps its mode.
pub(crate) fn make_dir(path: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make the directory {}", path.display()))
}

/// The path from the root of the file system, for processes and people that are elsewhere. It need not exist.
pub(crate) fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot use the path {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn content_and_mode_are_replaced_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "old").unwrap();
        write(&path, b"new", PRIVATE).unwrap();
        assert_eq!(read(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, PRIVATE);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none/x");
        assert!(write(&missing, b"", PUBLIC).unwrap_err().to_string().contains("none/x"));
        assert!(read(&missing).unwrap_err().to_string().contains("none/x"));
    }
}
