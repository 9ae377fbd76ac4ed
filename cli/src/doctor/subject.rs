//! The server that is looked at: a URL, or a program that is started anew each time.

use std::time::Duration;

use outrigger_mcp::names::check_service;

use crate::args::DoctorArgs;
use crate::connect::client::Client;
use crate::connect::target::Target;

use super::http::Http;
use super::sse::Sse;
use super::stdio::Stdio;
use super::wire::{Transport, Trouble, Wire};

/// What is looked at.
pub(super) struct Subject {
    name: String,
    kind: Kind,
    /// How long an answer may take.
    pub(super) patience: Duration,
}

enum Kind {
    Program(Vec<String>),
    Url(Box<Target>),
}

impl Subject {
    /// Reads the command line.
    ///
    /// # Errors
    /// A wrong URL, header, file or name.
    pub(super) fn of(args: &DoctorArgs) -> anyhow::Result<Self> {
        check_service(&args.service)?;
        let first = args.server.first().map(String::as_str).unwrap_or_default();
        let kind = if is_url(first)? {
            if args.server.len() > 1 {
                anyhow::bail!("after the URL comes nothing; options go before it");
            }
            let target = Target::of(first, &args.asked)?;
            Kind::Url(Box::new(target))
        } else {
            Kind::Program(args.server.clone())
        };
        Ok(Self { name: args.server.join(" "), kind, patience: args.timeout })
    }

    /// As it was given.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a program that is started.
    pub(super) fn is_program(&self) -> bool {
        matches!(self.kind, Kind::Program(_))
    }

    /// The ways of talking that can be tried.
    pub(super) fn transports(&self) -> &'static [Transport] {
        match self.kind {
            Kind::Program(_) => &[Transport::Stdio],
            Kind::Url(_) => &[Transport::Http, Transport::Sse],
        }
    }

    /// Begins to talk, with a new process, session or stream.
    ///
    /// # Errors
    /// When the program cannot be started or the stream cannot be opened.
    pub(super) async fn open(&self, transport: Transport) -> Result<Wire, Trouble> {
        match (&self.kind, transport) {
            (Kind::Program(command), _) => Stdio::start(command, self.patience).map(Wire::Stdio),
            (Kind::Url(target), Transport::Sse) => {
                Sse::open(&Client::new(Target::clone(target)), self.patience).await.map(Wire::Sse)
            }
            (Kind::Url(target), _) => Ok(Wire::Http(Http::new(Client::new(Target::clone(target)), self.patience))),
        }
    }
}

/// Whether the first word is a URL, and not a program.
///
/// # Errors
/// It is a URL over which no MCP is spoken.
fn is_url(word: &str) -> anyhow::Result<bool> {
    match outrigger_mcp::catalog::uri::scheme(word).filter(|scheme| word[scheme.len()..].starts_with("://")) {
        None => Ok(false),
        Some(scheme) if ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => Ok(true),
        Some(scheme) => anyhow::bail!(
            "MCP is not spoken over {scheme}: give a URL that begins with http:// or https://, or a program with its arguments"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_no_program() {
        assert!(is_url("http://a/mcp").unwrap() && is_url("HTTPS://a").unwrap());
        for program in ["npx", "./a://b", "C:/server.exe", "/bin/x", "", "a:b"] {
            assert!(!is_url(program).unwrap(), "{program}");
        }
        for other in ["ftp://x", "ws://localhost/mcp", "file:///bin/x"] {
            let refused = is_url(other).unwrap_err().to_string();
            assert!(refused.contains("http:// or https://"), "{refused}");
        }
    }
}
