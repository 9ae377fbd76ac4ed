//! Small real MCP services (fs, http, vector) and the templates of `outrigger new`.
//!
//! ```text
//! run(name, args) -> fs | http | vector   one file per service: its tools, prompts, resources
//!                        |
//!                    transport            stdio, or Streamable HTTP through http_server
//! templates                               the Python and TypeScript starters, embedded
//! ```
//!
//! Every service speaks the 2026-07-28 revision and the older handshake revisions, as rmcp does.
//! Only protocol messages go to stdout; logs go to stderr.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod fs;
mod http;
mod http_server;
pub mod templates;
mod transport;
mod vector;

use std::ffi::OsString;

use anyhow::bail;
use clap::Parser;
use clap::error::ErrorKind;

/// The services that [`run`] knows, in the order people meet them.
pub const NAMES: [&str; 3] = ["fs", "http", "vector"];

/// Runs the named service until its client leaves (stdio) or a signal arrives (http).
///
/// `args` are the flags after the name, for example `["--root", "./data"]`.
///
/// # Errors
/// An unknown name, a `clap::Error` (usage; downcast it to print and exit as clap does), or
/// whatever stops the service: a root that cannot be opened, an address in use, a broken pipe.
pub async fn run(name: &str, args: Vec<OsString>) -> anyhow::Result<()> {
    match name {
        "fs" => match parse::<fs::FsArgs>(name, args)? {
            Some(args) => fs::run(args).await,
            None => Ok(()),
        },
        "http" => match parse::<http::HttpArgs>(name, args)? {
            Some(args) => http::run(args).await,
            None => Ok(()),
        },
        "vector" => match parse::<vector::VectorArgs>(name, args)? {
            Some(args) => vector::run(args).await,
            None => Ok(()),
        },
        "" => bail!("name a service: one of {}", NAMES.join(", ")),
        other => bail!("there is no example service {other:?}: use one of {}", NAMES.join(", ")),
    }
}

/// Parses the flags of one service; `None` after printing the help that was asked for.
fn parse<A: Parser>(name: &str, args: Vec<OsString>) -> anyhow::Result<Option<A>> {
    match A::try_parse_from(std::iter::once(OsString::from(name)).chain(args)) {
        Ok(args) => Ok(Some(args)),
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            error.print()?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unknown_name_lists_the_known_ones() {
        let error = run("ftp", Vec::new()).await.unwrap_err().to_string();
        assert!(error.contains("\"ftp\"") && error.contains("fs, http, vector"), "{error}");
    }

    #[tokio::test]
    async fn a_wrong_flag_stays_a_clap_error() {
        let error = run("fs", vec!["--rot".into(), "x".into()]).await.unwrap_err();
        assert!(error.downcast_ref::<clap::Error>().is_some());
    }
}
