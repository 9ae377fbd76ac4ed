//! The operator's log: `tracing` events to stderr, as text or JSON lines.

use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why the log cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The format is not one of ours.
    #[error("log format `{0}` is unknown: use `text` or `json`")]
    Format(String),
    /// The filter cannot be read.
    #[error("log level `{level}` cannot be read: {cause}; use `info`, or levels by target as in `info,hyper=warn`")]
    Level {
        /// What was given.
        level: String,
        /// What the parser says.
        cause: String,
    },
    /// Another subscriber is installed.
    #[error("the log was started before: {0}")]
    Started(#[from] TryInitError),
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

/// Starts the log of this process; once. `level` is a level (`info`), or levels by target (`info,hyper=warn`).
pub fn init(format: LogFormat, level: &str) -> Result<(), LogError> {
    let filter = parse_level(level)?;
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => {
            let ansi = io::stderr().is_terminal();
            registry.with(fmt::layer().with_writer(io::stderr).with_ansi(ansi)).try_init()?;
        }
        LogFormat::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr)).try_init()?;
        }
    }
    Ok(())
}

/// Checks a level setting without starting anything, for `outrigger validate`.
pub fn check_level(level: &str) -> Result<(), LogError> {
    parse_level(level).map(drop)
}

fn parse_level(level: &str) -> Result<Targets, LogError> {
    let unreadable = |cause: String| LogError::Level { level: level.to_owned(), cause };
    // `Targets` reads a lone misspelt level as the name of a target, which would silence the log.
    let known = ["off", "error", "warn", "info", "debug", "trace"];
    for part in level.split(',').map(str::trim).filter(|part| !part.contains('=')) {
        if !known.contains(&part.to_ascii_lowercase().as_str()) {
            return Err(unreadable(format!("`{part}` is not one of {}", known.join(", "))));
        }
    }
    level.parse::<Targets>().map_err(|error| unreadable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_by_target_are_read() {
        for good in ["info", "off", "INFO", "info,hyper=warn", "outrigger_proxy=trace,warn"] {
            assert!(check_level(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_misspelt_level_says_what_is_known() {
        let error = check_level("inof").unwrap_err().to_string();
        assert!(error.contains("`inof`") && error.contains("trace"), "{error}");
        assert!(check_level("info,hyper=loud").is_err());
        assert!(check_level("").is_err());
    }

    #[test]
    fn an_unknown_format_names_the_two() {
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        let error = "xml".parse::<LogFormat>().unwrap_err().to_string();
        assert!(error.contains("`text` or `json`"), "{error}");
    }
}
