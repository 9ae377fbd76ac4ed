//! Mistakes in settings, as a person wants to read them: where, what, what to do, and the line itself with a caret.

use std::fmt;

use serde::Serialize;

use crate::node::Position;

/// The file name used for mistakes in environment variables.
pub const ENVIRONMENT: &str = "environment";

/// The most characters of a source line that a mistake shows.
const EXCERPT_CHARS: usize = 120;

/// One mistake (or warning) in the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file as the caller named it, or [`ENVIRONMENT`].
    pub file: String,
    /// Line, counted from 1; 0 where there is no file.
    pub line: u32,
    /// Column in characters, counted from 1; 0 where there is no file.
    pub column: u32,
    /// The setting, such as `services.fs.url`; empty for the file as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The source line; absent for the environment and where the line may hold a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<String>,
}

/// All mistakes of one reading, in file order, those of the environment last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostic {
    /// A mistake at a place of `text`, the content of `file`; its source line is taken along.
    pub fn at(file: &str, text: &str, at: Position, path: &str, message: impl Into<String>) -> Self {
        let line = (at.line as usize).checked_sub(1).and_then(|index| text.lines().nth(index));
        Self {
            file: file.to_owned(),
            line: at.line,
            column: at.column,
            path: path.to_owned(),
            message: message.into(),
            hint: None,
            excerpt: line.map(str::to_owned),
        }
    }

    /// A mistake in an environment variable.
    pub fn environment(variable: &str, message: impl Into<String>) -> Self {
        Self { path: variable.to_owned(), ..Self::file(ENVIRONMENT, message) }
    }

    /// What is wrong with a file as a whole, such as that it cannot be read.
    pub fn file(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            path: String::new(),
            message: message.into(),
            hint: None,
            excerpt: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Leaves the source line out: it may hold a secret.
    #[must_use]
    pub fn without_excerpt(mut self) -> Self {
        self.excerpt = None;
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without a file there are no positions: everything comes from the environment.
        f.write_str(if self.file.is_empty() { "settings" } else { &self.file })?;
        if self.line > 0 && !self.file.is_empty() {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        match &self.excerpt {
            Some(line) => write_excerpt(f, line, self.line, self.column),
            None => Ok(()),
        }
    }
}

/// Writes the line under its number, and a caret under the column. Long lines are cut around the caret.
fn write_excerpt(f: &mut fmt::Formatter<'_>, line: &str, number: u32, column: u32) -> fmt::Result {
    let column = (column as usize).saturating_sub(1);
    let first = column.saturating_sub(EXCERPT_CHARS * 2 / 3);
    // A control character could move the cursor of the terminal that shows the mistake.
    let shown: String =
        line.chars().skip(first).take(EXCERPT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let number = number.to_string();
    write!(f, "\n  {number} | {}", shown.trim_end())?;
    write!(f, "\n  {:width$} | {:caret$}^", "", "", width = number.len(), caret = column - first)
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

#[cfg(test)]
mod tests {
    use super::{Diagnostic, Diagnostics};
    use crate::node::Position;

    #[test]
    fn a_mistake_shows_the_line_and_a_caret() {
        let text = "services:\n  fs:\n    url: htp://x\n";
        let at = Position { line: 3, column: 10 };
        let mistake = Diagnostic::at("mesh.yaml", text, at, "services.fs.url", "not a URL").hint("write http://...");
        let shown = Diagnostics(vec![mistake, Diagnostic::environment("OUTRIGGER_ERA", "bad")]).to_string();
        let expected = "mesh.yaml:3:10: services.fs.url: not a URL (write http://...)\n  \
                        3 |     url: htp://x\n    |          ^\nenvironment: OUTRIGGER_ERA: bad";
        assert_eq!(shown, expected);
    }

    #[test]
    fn long_lines_and_control_characters_are_tamed() {
        let text = format!("{}\u{1b}[2Jbad", "x".repeat(5000));
        let shown = Diagnostic::at("f", &text, Position { line: 1, column: 5003 }, "", "m").to_string();
        assert!(shown.len() < 400, "{shown}");
        assert!(!shown.contains('\u{1b}'));
    }

    #[test]
    fn json_has_every_part() {
        let mistake = Diagnostic::at("f", "a: b", Position { line: 1, column: 4 }, "a", "m").hint("h");
        let json = serde_json::to_value(Diagnostics(vec![mistake])).unwrap();
        assert_eq!(json[0]["line"], 1);
        assert_eq!(json[0]["excerpt"], "a: b");
        assert_eq!(json[0]["hint"], "h");
    }
}
