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

/// An error and what caused it, each said once: many errors say their cause themselves.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.last().is_none_or(|last| !last.ends_with(&cause)) {
            said.push(cause);
        }
    }
    said.join(": ")
}

/// Tells the person at the terminal something, on stderr.
pub(crate) fn say(text: &str) {
    // As above.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow!("no such file").context("cannot read x: no such file").context("no authority in ca");
        assert_eq!(chain(&error), "no authority in ca: cannot read x: no such file");
        let plain: anyhow::Result<()> = Err(anyhow!("b"));
        assert_eq!(chain(&plain.context("a").unwrap_err()), "a: b");
    }
}
