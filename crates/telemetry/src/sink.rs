//! Where JSON lines go: nowhere, a standard stream, or a file that can be rotated.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A destination of records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sink {
    /// Nothing is written.
    #[default]
    Off,
    /// Standard error, between the lines of the log.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, made with mode 0600 and appended to.
    File(PathBuf),
}

/// The file of a sink cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {path} for appending: {cause}; check that its directory exists and may be written by this user", path = path.display())]
pub struct SinkError {
    path: PathBuf,
    cause: io::Error,
}

/// An open sink.
pub(crate) enum Output {
    Stderr,
    Stdout,
    File { path: PathBuf, file: File },
}

impl Sink {
    /// Reads a setting: `off`, `stderr`, `stdout`, or a path.
    pub fn parse(setting: &str) -> Self {
        match setting {
            "off" | "" => Self::Off,
            "stderr" => Self::Stderr,
            "stdout" => Self::Stdout,
            path => Self::File(PathBuf::from(path)),
        }
    }

    /// Opens the sink; `None` when it is off.
    pub(crate) fn open(&self) -> Result<Option<Output>, SinkError> {
        Ok(match self {
            Self::Off => None,
            Self::Stderr => Some(Output::Stderr),
            Self::Stdout => Some(Output::Stdout),
            Self::File(path) => Some(Output::File { path: path.clone(), file: append(path)? }),
        })
    }
}

impl Output {
    /// Writes `lines` and removes what was written, so that what is left after an error can be tried again.
    pub(crate) fn drain(&mut self, lines: &mut Vec<u8>) -> io::Result<()> {
        let mut stream: Box<dyn Write + '_> = match self {
            Self::Stderr => Box::new(io::stderr().lock()),
            Self::Stdout => Box::new(io::stdout().lock()),
            Self::File { file, .. } => Box::new(file),
        };
        while !lines.is_empty() {
            match stream.write(lines) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(lines.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        stream.flush()
    }

    /// Forces what was written to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        if let Self::File { file, .. } = self { file.sync_data() } else { Ok(()) }
    }

    /// Gives the file another name and begins a new one under its own. On an error nothing has changed.
    pub(crate) fn rotate(&mut self, to: &Path) -> Result<(), SinkError> {
        if let Self::File { path, file } = self {
            let failed = |cause| SinkError { path: to.to_owned(), cause };
            // Never over something that is there: it may be a segment of somebody else's trail.
            std::fs::hard_link(&*path, to).map_err(failed)?;
            std::fs::remove_file(&*path).map_err(failed)?;
            *file = append(path)?;
        }
        Ok(())
    }

    /// Opens the file again under its name, after a rotation moved it away.
    pub(crate) fn reopen(&mut self) -> Result<(), SinkError> {
        if let Self::File { path, file } = self {
            *file = append(path)?;
        }
        Ok(())
    }
}

fn append(path: &Path) -> Result<File, SinkError> {
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    opened.map_err(|cause| SinkError { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn settings_are_words_or_a_path() {
        assert_eq!(Sink::parse("off"), Sink::Off);
        assert_eq!(Sink::parse("stderr"), Sink::Stderr);
        assert_eq!(Sink::parse("stdout"), Sink::Stdout);
        assert_eq!(Sink::parse("audit.jsonl"), Sink::File(PathBuf::from("audit.jsonl")));
    }

    #[test]
    fn a_file_is_private_and_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        for line in ["one\n", "two\n"] {
            Sink::File(path.clone()).open().unwrap().unwrap().drain(&mut line.into()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_unusable_path_is_named() {
        let error = Sink::parse("no-such-directory/audit.jsonl").open().err().unwrap().to_string();
        assert!(error.contains("no-such-directory/audit.jsonl") && error.contains("directory exists"), "{error}");
    }
}
