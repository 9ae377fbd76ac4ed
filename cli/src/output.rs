//! Where text goes: results to stdout, everything else to stderr. A reader that has gone away is no failure.

use std::io::{self, Write};

use serde::Serialize;

/// Writes a result to stdout, with a line end.
pub(crate) fn result(text: &str) {
    // Nothing to do when the reader has gone, as in `outrigger docs configuration | head`.
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes a result to stdout as JSON for programs that people also look at.
pub(crate) fn json(value: &impl Serialize) -> serde_json::Result<()> {
    result(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Tells the person at the terminal something, on stderr.
pub(crate) fn say(text: &str) {
    // As above.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
