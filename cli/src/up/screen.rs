//! What the person (or program) at the terminal sees while the mesh runs: a table that is redrawn in place on a
//! terminal, a line per change elsewhere, JSON lines with `--json`.

use std::io::{self, IsTerminal, Write};

use serde_json::{Value, json};

use super::board::{Board, Entry, State};
use crate::output;

/// How changes are shown.
pub(crate) enum Screen {
    /// A table, of which so many lines are on the terminal.
    Table {
        /// Lines to go up before drawing.
        drawn: usize,
        /// With colours.
        colours: bool,
    },
    /// A line on stderr per change.
    Lines,
    /// A JSON line on stdout per change.
    Json,
}

impl Screen {
    /// The one that suits where the output goes.
    pub(crate) fn choose(json: bool) -> Self {
        if json {
            return Self::Json;
        }
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if !io::stderr().is_terminal() || dumb {
            return Self::Lines;
        }
        Self::Table { drawn: 0, colours: std::env::var_os("NO_COLOR").is_none() }
    }

    /// Shows that a part changed.
    pub(crate) fn changed(&mut self, board: &Board, part: usize) {
        let Some(entry) = board.entries.get(part) else {
            return;
        };
        match self {
            Self::Table { .. } => self.draw(board),
            Self::Lines => output::say(row(entry, 0, false).trim()),
            Self::Json => {
                emit(&json!({"event": "state", "part": entry.name, "state": entry.state, "reason": entry.reason}));
            }
        }
    }

    /// Shows a text for people above the table: on stdout when it is a result.
    pub(crate) fn text(&mut self, board: &Board, text: &str, result: bool) {
        self.erase();
        if result {
            output::result(text);
        } else {
            output::say(text);
        }
        self.draw(board);
    }

    /// Shows an event of the mesh as a whole: to programs as it is, to people as the text.
    pub(crate) fn event(&mut self, board: &Board, event: &Value, text: &str, result: bool) {
        match self {
            Self::Json => emit(event),
            Self::Table { .. } | Self::Lines => self.text(board, text, result),
        }
    }

    /// Shows the parts before anything happened.
    pub(crate) fn begin(&mut self, board: &Board) {
        self.draw(board);
    }

    /// From now on there are only lines: the parts are ending, and a table would show what no longer is.
    pub(crate) fn fold(&mut self) {
        self.erase();
        if let Self::Table { .. } = self {
            *self = Self::Lines;
        }
    }

    fn erase(&mut self) {
        if let Self::Table { drawn, .. } = self
            && *drawn > 0
        {
            // Up, then clear to the end of the screen (ECMA-48 CUU and ED). A terminal that is gone shows nothing.
            let _ = write!(io::stderr(), "\u{1b}[{drawn}A\u{1b}[J");
            *drawn = 0;
        }
    }

    fn draw(&mut self, board: &Board) {
        self.erase();
        let Self::Table { drawn, colours } = self else {
            return;
        };
        let columns = rustix::termios::tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
        // A terminal that does not know its size says 0.
        let columns = if columns == 0 { 80 } else { columns };
        let mut rows: Vec<String> = board.entries.iter().map(|entry| row(entry, columns, *colours)).collect();
        rows.extend(board.entries.iter().flat_map(|entry| in_full(entry, columns)));
        *drawn = rows.len();
        output::say(&rows.join("\n"));
    }
}

fn emit(event: &Value) {
    output::result(&event.to_string());
}

/// Why a part failed, where its line in the table has no room for that: lines of at most `columns`.
fn in_full(entry: &Entry, columns: usize) -> Vec<String> {
    const INDENT: usize = 4;
    let Some(reason) = entry.reason.as_ref().filter(|_| entry.state == State::Failed) else { return Vec::new() };
    if row(entry, 0, false).chars().count() < columns {
        return Vec::new();
    }
    let all: Vec<char> = format!("{}: {reason}", entry.name).chars().collect();
    let width = columns.saturating_sub(INDENT + 1).max(1);
    all.chunks(width).map(|part| format!("{:INDENT$}{}", "", part.iter().collect::<String>().trim_start())).collect()
}

/// One line about a part, at most `columns` wide (0: any width).
fn row(entry: &Entry, columns: usize, colours: bool) -> String {
    let about = match (&entry.reason, entry.addresses) {
        (Some(reason), _) => reason.clone(),
        (None, Some(addresses)) => addresses.mesh.to_string(),
        (None, None) => String::new(),
    };
    let (name, state) = (&entry.name, entry.state.as_str());
    let plain = format!("  {name:<20} {state:<10} {about}");
    // A line that wraps would take two, and the next redraw would miss one.
    let cut: String = if columns == 0 { plain } else { plain.chars().take(columns.saturating_sub(1)).collect() };
    let cut = cut.trim_end();
    if !colours {
        return cut.to_owned();
    }
    let colour = match entry.state {
        State::Ready => 32,
        State::Failed => 31,
        State::Starting | State::Waiting | State::Restarting => 33,
    };
    cut.replacen(state, &format!("\u{1b}[{colour}m{state}\u{1b}[0m"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_fits_its_line() {
        let reason = Some("x".repeat(300));
        let entry = Entry { name: "fs".into(), state: State::Failed, reason, addresses: None, failing: None };
        let line = row(&entry, 80, false);
        assert!(line.len() == 79 && line.starts_with("  fs                   failed     xxx"), "{line}");
        assert!(row(&entry, 0, false).len() > 300);
        assert!(row(&entry, 80, true).contains("\u{1b}[31mfailed\u{1b}[0m"));
    }

    #[test]
    fn a_long_reason_is_told_in_full_below_the_table() {
        let entry = |reason: &str, state| {
            let reason = Some(reason.to_owned());
            Entry { name: "fs".into(), state, reason, addresses: None, failing: None }
        };
        let long = "é".repeat(200);
        let lines = in_full(&entry(&long, State::Failed), 80);
        assert!(lines.len() == 3 && lines.iter().all(|line| line.chars().count() < 80), "{lines:?}");
        assert_eq!(lines.concat().matches('é').count(), 200);
        assert!(in_full(&entry(&long, State::Waiting), 80).is_empty());
        assert!(in_full(&entry("short", State::Failed), 80).is_empty());
    }
}
