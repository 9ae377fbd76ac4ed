//! A line of JSON for everything that the authority issued or refused. It is on the disk before the answer goes out; when it
//! cannot be written, nothing is issued.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use super::tokens::seconds;

/// One decision. Proofs and keys are never in it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Line<'a> {
    /// Seconds since 1970.
    pub(crate) time: u64,
    /// `issued` or `refused`.
    pub(crate) decision: &'static str,
    /// `token`, `kubernetes`, `certificate` or `none`.
    pub(crate) proof: &'static str,
    /// The public id of a token, the user of Kubernetes, or the SPIFFE id of a certificate.
    pub(crate) who: Option<&'a str>,
    /// Whom the certificate names.
    pub(crate) id: Option<&'a str>,
    pub(crate) serial: Option<&'a str>,
    pub(crate) not_after: Option<u64>,
    /// Why it was refused, in one word.
    pub(crate) reason: Option<&'a str>,
    pub(crate) detail: Option<&'a str>,
    pub(crate) peer: Option<SocketAddr>,
}

/// The file.
pub(crate) struct Audit {
    path: PathBuf,
    file: Mutex<File>,
}

impl Audit {
    /// Opens it for appending.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let file = Mutex::new(append(&path)?);
        Ok(Self { path, file })
    }

    /// Writes a line and waits until it is on the disk. Blocks.
    pub(crate) fn write(&self, line: &Line<'_>) -> io::Result<()> {
        let line = Line { time: seconds(SystemTime::now()), ..*line };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        // One write for a whole line: a panic in between cannot leave half of one.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&text)?;
        file.sync_data()
    }

    /// Opens the file again under its name, after a rotation moved it away.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        let file = append(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

fn append(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}
