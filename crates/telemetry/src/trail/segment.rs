//! The files of a trail: going on with one after a restart, and the names of those that have ended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::trail::chain::{self, Hash, Link, NOTHING};
use crate::trail::key::PublicKey;

/// Longest line: far more than the bounded fields of a record come to.
pub(crate) const MAX_LINE: u64 = 256 * 1024;
/// Digits of the number in a kept segment's name, so that names sort like numbers.
const DIGITS: usize = 12;

/// Where a trail goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resumed {
    /// Number of the next line.
    pub(crate) next: u64,
    /// Hash of the last one.
    pub(crate) previous: Hash,
    /// Number of the first line in the file, if it has one.
    pub(crate) first: Option<u64>,
    /// Bytes in the file.
    pub(crate) bytes: u64,
    /// Bytes of half a line that were cut off.
    pub(crate) torn: u64,
    /// Whether it ended in order: by a line that says so and that this key signed.
    pub(crate) clean: bool,
}

impl Resumed {
    /// The beginning of a trail.
    pub(crate) fn fresh() -> Self {
        Self { next: 0, previous: NOTHING, first: None, bytes: 0, torn: 0, clean: true }
    }
}

/// Reads where the trail in `path` stopped. Half a line at its end, which a crash leaves, is cut off. When the file is not
/// there the kept segment with the highest number is what it follows. A file without a trail is moved out of the way.
pub(crate) fn resume(path: &Path, key: &PublicKey) -> io::Result<Resumed> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) if file.metadata()?.is_file() && file.metadata()?.len() > 0 => file,
        Ok(_) => return after_kept(path, key),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return after_kept(path, key),
        Err(error) => return Err(error),
    };
    let (line, torn) = last_line(&file)?;
    let bytes = file.metadata()?.len() - torn;
    if torn > 0 {
        file.set_len(bytes)?;
    }
    let Some(line) = line else { return Ok(Resumed { torn, ..after_kept(path, key)? }) };
    let first = first_number(path)?;
    let (Some(link), Some(first)) = (chain::parse(&line), first) else {
        move_aside(path)?;
        return after_kept(path, key);
    };
    let clean = torn == 0 && is_end(&line, &link, key);
    let next = link.seq.saturating_add(1);
    Ok(Resumed { next, previous: chain::hash(&line), first: Some(first), bytes, torn, clean })
}

/// Names the kept form of a segment by the number of its first line.
pub(crate) fn kept_as(path: &Path, first: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{first:0DIGITS$}"));
    PathBuf::from(name)
}

/// The kept segments of a trail, in order.
pub(crate) fn kept(path: &Path) -> io::Result<Vec<PathBuf>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let Some(base) = path.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(base)?.strip_prefix('.'));
        if number.is_some_and(|digits| digits.len() >= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit())) {
            found.push(path.with_file_name(name));
        }
    }
    found.sort();
    Ok(found)
}

/// The number of the first line of a file. None when it is no line of a trail.
pub(crate) fn first_number(path: &Path) -> io::Result<Option<u64>> {
    let mut start = Vec::new();
    File::open(path)?.take(MAX_LINE).read_to_end(&mut start)?;
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(chain::parse(line).map(|link| link.seq))
}

/// What was written before there was a trail stays readable, under another name.
fn move_aside(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".unsigned");
    let aside = PathBuf::from(name);
    fs::hard_link(path, &aside).map_err(|cause| {
        let message = format!("its lines are not signed, and it cannot be moved to {}: {cause}", aside.display());
        io::Error::new(cause.kind(), message)
    })?;
    fs::remove_file(path)?;
    tracing::warn!(file = %path.display(), moved_to = %aside.display(), "the audit has lines that are not signed; it was moved");
    Ok(())
}

fn after_kept(path: &Path, key: &PublicKey) -> io::Result<Resumed> {
    let Some(last) = kept(path)?.pop() else { return Ok(Resumed::fresh()) };
    let (line, _) = last_line(&File::open(&last)?)?;
    let Some((line, link)) = line.as_deref().and_then(|line| Some((line, chain::parse(line)?))) else {
        let message = format!("the last kept segment, {}, does not end in a line of a trail", last.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    };
    let next = link.seq.saturating_add(1);
    Ok(Resumed { next, previous: chain::hash(line), clean: is_end(line, &link, key), ..Resumed::fresh() })
}

/// The last whole line without its line feed, and the bytes that follow it.
fn last_line(mut file: &File) -> io::Result<(Option<Vec<u8>>, u64)> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(2 * MAX_LINE);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(2 * MAX_LINE).read_to_end(&mut tail)?;
    let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') else { return Ok((None, tail.len() as u64)) };
    let torn = (tail.len() - end - 1) as u64;
    tail.truncate(end);
    let start = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Ok((Some(tail.split_off(start)), torn))
}

fn is_end(line: &[u8], link: &Link<'_>, key: &PublicKey) -> bool {
    let signed = link.signed.is_some_and(|(signature, message)| key.verifies(message, &signature));
    signed && event(line).is_some_and(|event| event == "end")
}

/// The name of a trail's own line; none for a record.
fn event(line: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named {
        event: Option<String>,
    }
    serde_json::from_slice::<Named>(line).ok()?.event
}
