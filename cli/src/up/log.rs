//! What the log of a part says last: the reason that a person looks for first.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// How much of a log is looked through.
const TAIL: u64 = 8 * 1024;
/// Under this name a sidecar logs what its server writes to stderr.
const SERVER: &str = " child: ";

/// The last line that may say why a part ended: for people, so not one of the JSON records, without colours, and not about
/// the usual course of things.
pub(crate) fn last_complaint(log: &Path) -> Option<String> {
    let usual =
        |line: &str| line.split_whitespace().nth(1).is_some_and(|word| matches!(word, "INFO" | "DEBUG" | "TRACE"));
    lines(log)?.into_iter().rfind(|line| !line.starts_with('{') && !usual(line))
}

/// What the server behind a sidecar said last.
pub(crate) fn last_words_of_server(log: &Path) -> Option<String> {
    let lines = lines(log)?;
    let said = lines.iter().rev().find_map(|line| Some(line.split_once(SERVER)?.1))?;
    Some(said.rsplit_once(" service=").map_or(said, |(said, _)| said).to_owned())
}

/// The last lines that are not blank, without colours.
fn lines(log: &Path) -> Option<Vec<String>> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let clean = text.lines().map(|line| without_colours(line).trim().to_owned());
    Some(clean.filter(|line| !line.is_empty()).collect())
}

/// Leaves out escape sequences of colours (`ESC [ ... m`).
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_last_line_for_people() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "first\n\u{1b}[31mERROR\u{1b}[0m it broke\n{\"audit\":1}\n\n").unwrap();
        assert_eq!(last_complaint(&log).as_deref(), Some("ERROR it broke"));
        assert_eq!(last_words_of_server(&log), None);
        let usual = "2026-11-21T10:00:00Z  WARN keeper: odd\n2026-11-21T10:00:01Z  INFO ingress: well\n";
        std::fs::write(&log, usual).unwrap();
        assert!(last_complaint(&log).unwrap().ends_with("odd"));
        std::fs::write(&log, "").unwrap();
        assert_eq!(last_complaint(&log), None);
    }

    #[test]
    fn the_server_is_quoted_without_what_the_log_adds() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let said = "T INFO child: no config file: x service=\"a\"\nT WARN keeper: down service=\"a\"\n";
        std::fs::write(&log, said).unwrap();
        assert_eq!(last_words_of_server(&log).as_deref(), Some("no config file: x"));
    }
}
