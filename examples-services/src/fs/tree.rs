//! Confined, bounded reads beneath one directory.
//!
//! Every path is resolved by `cap-std` against a directory handle (`openat2` with `RESOLVE_BENEATH` on Linux), so
//! the check and the open are one step: swapping a directory for a symlink in between cannot lead outside.

use std::io::{self, Read};
use std::path::{Component, Path};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, DirEntry, File, OpenOptions, OpenOptionsExt};
use rmcp::schemars;
use serde::Serialize;

/// Longest path that is looked at, in bytes; Linux refuses longer ones too.
const MAX_PATH_BYTES: usize = 4096;

/// One directory and how much may be read from it.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Dir,
    max_bytes: u64,
    max_entries: usize,
    /// Names that begin with a dot are offered too.
    hidden: bool,
}

/// What `listDir` returns.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(crate) struct Listing {
    /// The directory, as it was asked for.
    pub(crate) path: String,
    /// Entries sorted by name.
    pub(crate) entries: Vec<Entry>,
    /// True if the directory has more entries than the service returns.
    pub(crate) truncated: bool,
}

/// One entry of a directory.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(crate) struct Entry {
    /// File name, without its directory.
    pub(crate) name: String,
    /// What it is; symlinks are not followed here.
    pub(crate) kind: Kind,
    /// Size in bytes, for files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
}

/// The kind of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, wherever it leads.
    Symlink,
    /// A device, socket or pipe; it cannot be read here.
    Other,
}

/// Why a path was not listed or read. The texts go to the caller and never name the host's own paths.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    #[error("{0:?} is not a path beneath the root: give it relative to the root, without \"..\" (\".\" is the root)")]
    BadPath(String),
    #[error("{0:?} leads outside the root")]
    Outside(String),
    #[error("{0:?} is hidden: names that begin with a dot are offered only with --hidden")]
    Hidden(String),
    #[error("{0:?} does not exist")]
    NotFound(String),
    #[error("{0:?} is not a regular file")]
    NotAFile(String),
    #[error("{0:?} is not a directory")]
    NotADirectory(String),
    #[error("{path:?} has {size} bytes; the limit is {limit}")]
    TooLarge { path: String, size: u64, limit: u64 },
    #[error("{0:?} is a binary file (not UTF-8 text)")]
    Binary(String),
    #[error("{path:?} cannot be read: {kind}")]
    Io { path: String, kind: io::ErrorKind },
    #[error("the read was interrupted; try again")]
    Interrupted,
}

impl Tree {
    /// Opens the root. `max_bytes` bounds one file, `max_entries` one listing. What begins with a dot is not offered unless
    /// `hidden`: that is where secrets lie (`.env`, `.git`, `.outrigger`).
    ///
    /// # Errors
    /// Whatever opening the directory says.
    pub(crate) fn open(root: &Path, max_bytes: u64, max_entries: usize, hidden: bool) -> io::Result<Self> {
        Ok(Self { root: Dir::open_ambient_dir(root, ambient_authority())?, max_bytes, max_entries, hidden })
    }

    /// Lists one directory.
    ///
    /// # Errors
    /// [`TreeError`] says which path and why.
    pub(crate) fn list(&self, path: &str) -> Result<Listing, TreeError> {
        let relative = self.checked(path)?;
        let dir = self.root.open_dir(relative).map_err(|error| classify(path, &error))?;
        let mut entries = Vec::new();
        let mut truncated = false;
        for entry in dir.entries().map_err(|error| classify(path, &error))? {
            let entry = entry.map_err(|error| classify(path, &error))?;
            if !self.hidden && entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if entries.len() >= self.max_entries {
                truncated = true;
                break;
            }
            entries.push(describe(&entry));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Listing { path: path.to_owned(), entries, truncated })
    }

    /// Reads one UTF-8 file whole.
    ///
    /// # Errors
    /// [`TreeError`] says which path and why.
    pub(crate) fn read_text(&self, path: &str) -> Result<String, TreeError> {
        let file = self.open_file(path)?;
        let mut bytes = Vec::new();
        // The file may grow while it is read, so the limit holds for what arrives, not for what `stat` said.
        file.take(self.max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| classify(path, &error))?;
        let size = bytes.len() as u64;
        if size > self.max_bytes {
            return Err(TreeError::TooLarge { path: path.to_owned(), size, limit: self.max_bytes });
        }
        match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err(TreeError::Binary(path.to_owned())),
        }
    }

    /// Refuses what cannot be beneath the root by its spelling, and hidden names.
    fn checked<'a>(&self, path: &'a str) -> Result<&'a Path, TreeError> {
        let relative = checked(path)?;
        let dotted = |part| matches!(part, Component::Normal(name) if name.as_encoded_bytes().starts_with(b"."));
        if !self.hidden && relative.components().any(dotted) {
            return Err(TreeError::Hidden(path.to_owned()));
        }
        Ok(relative)
    }

    /// Opens a regular file that is not too large. All checks are made on the open handle.
    fn open_file(&self, path: &str) -> Result<File, TreeError> {
        let relative = self.checked(path)?;
        let mut options = OpenOptions::new();
        // Without NONBLOCK, opening a named pipe would wait for a writer for ever.
        options.read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        let file = self.root.open_with(relative, &options).map_err(|error| classify(path, &error))?;
        let metadata = file.metadata().map_err(|error| classify(path, &error))?;
        if !metadata.is_file() {
            return Err(TreeError::NotAFile(path.to_owned()));
        }
        if metadata.len() > self.max_bytes {
            return Err(TreeError::TooLarge { path: path.to_owned(), size: metadata.len(), limit: self.max_bytes });
        }
        Ok(file)
    }
}

/// Refuses what cannot be beneath the root by its spelling; `cap-std` refuses the rest when it opens.
fn checked(path: &str) -> Result<&Path, TreeError> {
    let spelled = Path::new(path);
    let plain = spelled.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if path.is_empty() || path.len() > MAX_PATH_BYTES || path.contains('\0') || !plain {
        // A hostile path is echoed only in part.
        return Err(TreeError::BadPath(path.chars().take(200).collect()));
    }
    Ok(spelled)
}

fn describe(entry: &DirEntry) -> Entry {
    let kind = match entry.file_type() {
        Ok(kind) if kind.is_file() => Kind::File,
        Ok(kind) if kind.is_dir() => Kind::Directory,
        Ok(kind) if kind.is_symlink() => Kind::Symlink,
        _ => Kind::Other,
    };
    // An entry that vanishes while we look at it simply has no size.
    let size = if kind == Kind::File { entry.metadata().ok().map(|metadata| metadata.len()) } else { None };
    Entry { name: entry.file_name().to_string_lossy().into_owned(), kind, size }
}

fn classify(path: &str, error: &io::Error) -> TreeError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => TreeError::NotFound(path),
        io::ErrorKind::NotADirectory => TreeError::NotADirectory(path),
        io::ErrorKind::IsADirectory => TreeError::NotAFile(path),
        // cap-std's own refusal carries no errno; a real EACCES does.
        io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => TreeError::Outside(path),
        kind => TreeError::Io { path, kind },
    }
}

#[cfg(test)]
mod tests;
