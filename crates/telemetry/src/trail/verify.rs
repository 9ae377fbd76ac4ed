//! Checks a trail: every line in its place, every hash, every signature, no file missing between two.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::trail::chain::{self, Hash, Link, NOTHING};
use crate::trail::key::PublicKey;
use crate::trail::segment::{self, MAX_LINE};

/// Most faults that are kept: a file of another kind has one in each line.
const MAX_FAULTS: usize = 100;

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Files that were read.
    pub files: usize,
    /// Lines in them.
    pub lines: u64,
    /// Number of the first line. Not 0 when earlier segments were not given.
    pub first: Option<u64>,
    /// Number of the last line. Somebody who can write the file can cut its end off: compare this with the metric.
    pub last: Option<u64>,
    /// Signatures that hold.
    pub signatures: u64,
    /// Records that the writer itself says it lost.
    pub lost: u64,
    /// Starts after a crash: lines that were written just before may be missing or unsigned.
    pub crashes: u64,
    /// What is wrong, in the order of the lines; at most 100.
    pub faults: Vec<Fault>,
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// In which file.
    pub file: PathBuf,
    /// In which line of it, from 1.
    pub line: u64,
    /// What.
    #[serde(flatten)]
    pub kind: FaultKind,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum FaultKind {
    /// A line without a place in a chain.
    NotALine,
    /// Lines are missing before this one, or it stands elsewhere than it was written.
    OutOfOrder {
        /// The number that should be here.
        expected: u64,
        /// The one that is.
        found: u64,
    },
    /// The line before is not the one that was written before this one.
    Broken,
    /// The signature was not made by a trusted key over this line.
    BadSignature,
    /// The last lines are not signed: the process that writes them crashed, or they were made up.
    Unsigned {
        /// How many.
        lines: u64,
    },
    /// The last line of a file has no line feed: half a line.
    Torn,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotALine => f.write_str("not a line of a trail: it was changed, or put here"),
            Self::OutOfOrder { expected, found } if found > expected => {
                write!(f, "line number {found} follows where {expected} should be: {} missing", found - expected)
            }
            Self::OutOfOrder { expected, found } => write!(f, "line number {found} stands where {expected} should be"),
            Self::Broken => f.write_str("the line before it was changed after it was written"),
            Self::BadSignature => f.write_str("the signature is not of a trusted key over this line"),
            Self::Unsigned { lines } => write!(f, "the last {lines} lines are not signed"),
            Self::Torn => f.write_str("the last line is not whole"),
        }
    }
}

/// The files of the trail that grows in `path`: its kept segments in order, and itself.
///
/// # Errors
/// When the directory cannot be read.
pub fn segments(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = segment::kept(path)?;
    if path.exists() || files.is_empty() {
        files.push(path.to_owned());
    }
    Ok(files)
}

/// Checks files that follow each other. They are put in order by their numbers.
///
/// # Errors
/// When a file cannot be read. What is wrong with the trail is in the report.
pub fn verify(files: &[PathBuf], keys: &[PublicKey]) -> io::Result<Report> {
    let mut ordered = Vec::with_capacity(files.len());
    for file in files {
        let named = |cause: io::Error| io::Error::new(cause.kind(), format!("{}: {cause}", file.display()));
        ordered.push((segment::first_number(file).map_err(named)?, file));
    }
    ordered.sort();
    let mut check = Check { keys, report: Report::default(), expected: None, unsigned: 0 };
    for (_, file) in ordered {
        let named = |cause: io::Error| io::Error::new(cause.kind(), format!("{}: {cause}", file.display()));
        check.file(file).map_err(named)?;
    }
    Ok(check.report)
}

struct Check<'k> {
    keys: &'k [PublicKey],
    report: Report,
    /// Number and hash that the next line should have.
    expected: Option<(u64, Hash)>,
    /// Lines since the last signature.
    unsigned: u64,
}

impl Check<'_> {
    fn file(&mut self, path: &Path) -> io::Result<()> {
        self.report.files += 1;
        let mut reader = BufReader::new(File::open(path)?);
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            line.clear();
            let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            number += 1;
            if line.pop_if(|byte| *byte == b'\n').is_none() {
                self.fault(path, number, FaultKind::Torn);
                break;
            }
            self.line(path, number, &line);
        }
        if self.unsigned > 0 {
            let lines = std::mem::take(&mut self.unsigned);
            self.fault(path, number, FaultKind::Unsigned { lines });
        }
        Ok(())
    }

    fn line(&mut self, path: &Path, number: u64, line: &[u8]) {
        self.report.lines += 1;
        self.unsigned += 1;
        let Some(link) = chain::parse(line).filter(|_| serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok())
        else {
            return self.fault(path, number, FaultKind::NotALine);
        };
        self.place(path, number, &link);
        self.signature(path, number, &link);
        match event(line) {
            Some(Event::Lost { records }) => self.report.lost += records,
            Some(Event::Segment { clean: false }) => self.report.crashes += 1,
            Some(Event::Segment { .. } | Event::End) | None => {}
        }
        self.report.first.get_or_insert(link.seq);
        self.report.last = Some(link.seq);
        self.expected = Some((link.seq.saturating_add(1), chain::hash(line)));
    }

    fn place(&mut self, path: &Path, number: u64, link: &Link<'_>) {
        let (expected, previous) = match self.expected {
            Some(expected) => expected,
            // The first line of a trail follows nothing. That of a later segment follows a file that was not given.
            None if link.seq == 0 => (0, NOTHING),
            None => return,
        };
        if link.seq != expected {
            self.fault(path, number, FaultKind::OutOfOrder { expected, found: link.seq });
        } else if link.previous != previous {
            self.fault(path, number, FaultKind::Broken);
        }
    }

    fn signature(&mut self, path: &Path, number: u64, link: &Link<'_>) {
        let Some((signature, message)) = &link.signed else { return };
        self.unsigned = 0;
        if self.keys.iter().any(|key| key.verifies(message, signature)) {
            self.report.signatures += 1;
        } else {
            self.fault(path, number, FaultKind::BadSignature);
        }
    }

    fn fault(&mut self, file: &Path, line: u64, kind: FaultKind) {
        if self.report.faults.len() < MAX_FAULTS {
            self.report.faults.push(Fault { file: file.to_owned(), line, kind });
        }
    }
}

/// A trail's own line, as far as it matters here.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Segment { clean: bool },
    End,
    Lost { records: u64 },
}

fn event(line: &[u8]) -> Option<Event> {
    serde_json::from_slice(line).ok()
}
