//! A trail whose lines are on the disk, signed, before anything else happens: for the few records without which nothing may
//! be done. It blocks; where there are many records, [`crate::AuditLog`] has a thread for them.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Trail, TrailError, TrailSettings};
use crate::sink::{Output, Sink, SinkError};

/// Such a trail. One at a time writes to it.
pub struct SureTrail {
    path: PathBuf,
    settings: TrailSettings,
    /// None after a write that failed: what is in the file then decides how the trail goes on.
    open: Option<(Output, Trail)>,
}

/// A line that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SureError {
    /// The trail cannot begin or go on.
    #[error(transparent)]
    Trail(#[from] TrailError),
    /// The file cannot be opened.
    #[error(transparent)]
    Open(#[from] SinkError),
    /// The file cannot be written.
    #[error("cannot write {}: {cause}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
}

impl SureTrail {
    /// Goes on with the trail in this file, or begins one.
    ///
    /// # Errors
    /// The key or the file cannot be used.
    pub fn open(path: &Path, settings: TrailSettings) -> Result<Self, SureError> {
        let mut trail = Self { path: path.to_owned(), settings, open: None };
        trail.begin()?;
        Ok(trail)
    }

    /// Writes a record, an object, and waits until it is on the disk.
    ///
    /// # Errors
    /// It is not there, or nobody can say. The next call tries to go on.
    pub fn write(&mut self, record: &impl Serialize) -> Result<(), SureError> {
        if self.open.is_none() {
            self.begin()?;
        }
        let mut line = serde_json::to_vec(record).map_err(|error| self.failed(error.into()))?;
        let Some((output, trail)) = &mut self.open else { return Ok(()) };
        trail.link(&mut line, 0);
        trail.seal(&mut line);
        let full = trail.is_full(0);
        let written = put(output, &mut line).and_then(|()| if full { turn(output, trail, "full") } else { Ok(()) });
        written.map_err(|cause| self.failed(cause))
    }

    /// Ends the segment and keeps it under its name; the next one begins.
    ///
    /// # Errors
    /// As [`SureTrail::write`].
    pub fn turn(&mut self) -> Result<(), SureError> {
        if !self.path.exists() {
            // Somebody moved it away.
            self.end();
        }
        let Some((output, trail)) = &mut self.open else { return self.begin() };
        turn(output, trail, "reopened").map_err(|cause| self.failed(cause))
    }

    /// Says that what follows is not missing.
    pub fn end(&mut self) {
        if let Some((mut output, mut trail)) = self.open.take() {
            let mut lines = Vec::new();
            trail.end(&mut lines, "stopped");
            if let Err(error) = put(&mut output, &mut lines) {
                tracing::error!(%error, "the end of a trail cannot be written");
            }
        }
    }

    fn begin(&mut self) -> Result<(), SureError> {
        let mut lines = Vec::new();
        let trail = Trail::begin(self.settings.clone(), Some(&self.path), &mut lines)?;
        let Some(mut output) = Sink::File(self.path.clone()).open()? else { return Ok(()) };
        put(&mut output, &mut lines).map_err(|cause| self.failed(cause))?;
        self.open = Some((output, trail));
        Ok(())
    }

    pub(super) fn failed(&mut self, cause: io::Error) -> SureError {
        self.open = None;
        SureError::Write { path: self.path.clone(), cause }
    }
}

impl Drop for SureTrail {
    fn drop(&mut self) {
        self.end();
    }
}

fn turn(output: &mut Output, trail: &mut Trail, reason: &'static str) -> io::Result<()> {
    let mut lines = Vec::new();
    trail.end(&mut lines, reason);
    put(output, &mut lines)?;
    if let Some(kept) = trail.kept_as() {
        output.rotate(&kept).map_err(io::Error::other)?;
    }
    trail.next_segment(&mut lines);
    put(output, &mut lines)
}

fn put(output: &mut Output, lines: &mut Vec<u8>) -> io::Result<()> {
    output.drain(lines)?;
    output.sync()
}
