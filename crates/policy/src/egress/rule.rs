//! One rule of the allowlist: where to, on which ports, for which tools, with which requests.

use std::fmt;
use std::net::IpAddr;

use super::address::{self, Range, Special};
use super::budget::Budget;
use super::host::{Host, HostError, Name};
use super::rules::{Request, Tools};
use crate::capability::has_parent_segment;
use crate::glob::Glob;
use crate::rule::RuleId;

/// The port of a destination that names none: TLS, so that names are proven and words are private.
pub const DEFAULT_PORT: u16 = 443;

/// The port of plain HTTP.
const PLAIN_HTTP: u16 = 80;

/// Which hosts a destination stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// One name.
    Exact(Name),
    /// Every name below this one, over any number of labels; not the name itself. Written `*.example.com`.
    Below(Name),
    /// Addresses, named on purpose: special ones are then dialled too.
    Range(Range),
}

/// A host pattern with or without a port: `api.example.com`, `*.example.com:8443`, `10.0.0.0/8:5432`, `[fd00::7]:443`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Where.
    pub host: HostPattern,
    /// The only port; the rule's ports where absent.
    pub port: Option<u16>,
}

/// Why a text is no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// The host cannot be read.
    #[error("{0}")]
    Host(#[from] HostError),
    /// The range cannot be read.
    #[error("{0}")]
    Range(&'static str),
    /// The port is none.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// A star elsewhere than as the whole first label.
    #[error("`*` may only stand as the whole first label, as in *.example.com")]
    Star,
    /// A URL where a host belongs.
    #[error("a host is wanted, not a URL: leave out the scheme and the path")]
    Url,
}

/// One rule, as the settings say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRule {
    /// Its name in logs, answers and metrics.
    pub id: RuleId,
    /// Where to; one of them must fit.
    pub hosts: Vec<Destination>,
    /// Ports of hosts that name none; empty: 443.
    pub ports: Vec<u16>,
    /// Tools that it is for, as patterns; empty: what belongs to no call, and every call while no rule names tools.
    pub tools: Vec<Glob>,
    /// HTTP methods; empty: every one, and also what cannot be read.
    pub methods: Vec<String>,
    /// Beginnings of paths, ending at a `/` of the path; empty: every one, and also what cannot be read.
    pub paths: Vec<String>,
    /// Special addresses that its names may have.
    pub addresses: Vec<Range>,
    /// Whether a tunnel may carry something else than TLS.
    pub raw: bool,
    /// Whether a TLS tunnel may hide its name (ECH).
    pub ech: bool,
    /// Whether tunnels are read inside: TLS ends at the proxy, and each request is decided by itself.
    pub inspect: bool,
    /// How much of it.
    pub budget: Budget,
}

impl Destination {
    /// Reads a destination.
    ///
    /// # Errors
    /// [`DestinationError`].
    pub fn parse(text: &str) -> Result<Destination, DestinationError> {
        if text.contains("://") {
            return Err(DestinationError::Url);
        }
        let (host, port) = split_port(text)?;
        let port = port.map(port_number).transpose()?;
        let bare = host.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')).unwrap_or(host);
        if bare.contains('/') {
            let url = bare.split('/').next().is_none_or(|first| first.parse::<IpAddr>().is_err());
            let range = Range::parse(bare)
                .map_err(|why| if url { DestinationError::Url } else { DestinationError::Range(why) })?;
            return Ok(Destination { host: HostPattern::Range(range), port });
        }
        let (below, name) = match host.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, host),
        };
        if name.contains('*') {
            return Err(DestinationError::Star);
        }
        let host = match Host::parse(name)? {
            Host::Name(name) if below => HostPattern::Below(name),
            Host::Name(name) => HostPattern::Exact(name),
            Host::Address(_) if below => return Err(DestinationError::Star),
            Host::Address(address) => HostPattern::Range(Range(address.into())),
        };
        Ok(Destination { host, port })
    }
}

/// Splits `host:port`. A text with several colons and no brackets is an IPv6 address or range without a port.
fn split_port(text: &str) -> Result<(&str, Option<&str>), DestinationError> {
    if text.starts_with('[') {
        let end = text.find(']').ok_or(DestinationError::Host(HostError::Address))?;
        let (host, rest) = text.split_at(end + 1);
        return match rest {
            "" => Ok((host, None)),
            rest => rest.strip_prefix(':').map(|port| (host, Some(port))).ok_or(DestinationError::Port),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Ok((text, None)),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn port_number(text: &str) -> Result<u16, DestinationError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0).ok_or(DestinationError::Port)
}

impl HostPattern {
    /// The port that is meant where none is named. Services of the mesh are called in the clear: their sidecar adds TLS.
    fn usual_port(&self) -> u16 {
        match self {
            HostPattern::Exact(name) if name.in_mesh().is_some() => PLAIN_HTTP,
            HostPattern::Below(name) if name.as_str() == "mesh" => PLAIN_HTTP,
            HostPattern::Exact(_) | HostPattern::Below(_) | HostPattern::Range(_) => DEFAULT_PORT,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => name.fmt(f),
            HostPattern::Below(name) => write!(f, "*.{name}"),
            HostPattern::Range(range) => range.fmt(f),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (host, None) => host.fmt(f),
            (HostPattern::Range(range), Some(port)) if range.to_string().contains(':') => write!(f, "[{range}]:{port}"),
            (host, Some(port)) => write!(f, "{host}:{port}"),
        }
    }
}

impl EgressRule {
    /// A rule that lets TLS through to these hosts, for every tool. `name` is the second half of its id.
    pub fn new(name: &str, hosts: Vec<Destination>) -> EgressRule {
        EgressRule {
            id: RuleId::new("egress", name),
            hosts,
            ports: Vec::new(),
            tools: Vec::new(),
            methods: Vec::new(),
            paths: Vec::new(),
            addresses: Vec::new(),
            raw: false,
            ech: false,
            inspect: false,
            budget: Budget::default(),
        }
    }

    /// A rule for one destination, named after it: the short form.
    pub fn short(destination: Destination) -> EgressRule {
        EgressRule::new(&destination.to_string(), vec![destination])
    }

    /// Whether the port is open under a destination of this rule.
    pub(super) fn covers_port(&self, destination: &Destination, port: u16) -> bool {
        match destination.port {
            Some(only) => only == port,
            None if self.ports.is_empty() => port == destination.host.usual_port(),
            None => self.ports.contains(&port),
        }
    }

    /// Whether it is for what is behind the connection. `per_tool`: some rule of the set names tools; then rules that
    /// name none are for what belongs to no call.
    pub(super) fn covers_tools(&self, tools: &Tools<'_>, per_tool: bool) -> bool {
        match tools {
            Tools::Outside => self.tools.is_empty(),
            Tools::Among(_) | Tools::EachOf(_) if self.tools.is_empty() => !per_tool,
            Tools::Among(names) => names.iter().any(|name| self.covers_tool(name)),
            Tools::EachOf(names) => names.iter().all(|name| self.covers_tool(name)),
        }
    }

    fn covers_tool(&self, name: &str) -> bool {
        self.tools.iter().any(|glob| glob.matches(name))
    }

    /// Whether it asks for something of the request.
    pub fn reads_requests(&self) -> bool {
        !self.methods.is_empty() || !self.paths.is_empty()
    }

    pub(super) fn covers_request(&self, request: &Request<'_>, port: u16) -> bool {
        let Request::Read { method, path } = request else {
            // Behind port 80 is plain HTTP: a tunnel to it would only get around what can be read.
            return (self.inspect || !self.reads_requests()) && (port != PLAIN_HTTP || self.raw);
        };
        let method_fits = self.methods.is_empty() || self.methods.iter().any(|allowed| allowed == method);
        let path_fits = self.paths.is_empty()
            || (!has_parent_segment(path) && self.paths.iter().any(|allowed| begins(path, allowed)));
        method_fits && path_fits
    }

    /// The guard over one address, reached through a destination of this rule.
    pub(super) fn guard(&self, destination: &Destination, address: IpAddr) -> Result<(), Special> {
        let own = match &destination.host {
            HostPattern::Range(range) => Some(range),
            HostPattern::Exact(_) | HostPattern::Below(_) => None,
        };
        address::check(address, self.addresses.iter().chain(own))
    }
}

/// Whether `path` is `start` or lies below it: `/v1` covers `/v1`, `/v1/x` and `/v1?x`, not `/v10`.
fn begins(path: &str, start: &str) -> bool {
    path.strip_prefix(start)
        .is_some_and(|rest| rest.is_empty() || start.ends_with('/') || rest.starts_with(['/', '?', '#']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        Destination::parse(text).map(|found| found.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn destinations_are_read_and_shown_alike() {
        for (text, expected) in [
            ("example.com", "example.com"),
            ("Example.com.:8443", "example.com:8443"),
            ("*.example.com", "*.example.com"),
            ("*.bücher.test:80", "*.xn--bcher-kva.test:80"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.0/8:5432", "10.0.0.0/8:5432"),
            ("127.0.0.1:9000", "127.0.0.1:9000"),
            ("[fd00::7]:443", "[fd00::7]:443"),
            ("fd00::/8", "fd00::/8"),
            ("[fd00::/8]:80", "[fd00::/8]:80"),
            ("::1", "::1"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_destination_says_why() {
        for (text, part) in [
            ("https://example.com", "URL"),
            ("example.com/path", "URL"),
            ("*", "`*`"),
            ("*.*.example.com", "`*`"),
            ("a*.example.com", "`*`"),
            ("*.10.0.0.1", "`*`"),
            ("example.com:0", "port"),
            ("example.com:+443", "port"),
            ("example.com:65616", "port"),
            ("example.com:", "port"),
            ("[fd00::7]443", "port"),
            ("", "empty"),
            ("user@example.com", "character"),
            ("10.0.0.1/8", "bits"),
        ] {
            let wrong = shown(text).expect_err(text);
            assert!(wrong.contains(part), "{text}: {wrong}");
        }
    }

    #[test]
    fn a_path_covers_itself_and_what_is_below() {
        for (path, start, covered) in [
            ("/v1", "/v1", true),
            ("/v1/x", "/v1", true),
            ("/v1?x=1", "/v1", true),
            ("/v10", "/v1", false),
            ("/v1/", "/v1/", true),
            ("/v1", "/v1/", false),
            ("/anything", "/", true),
        ] {
            assert_eq!(begins(path, start), covered, "{path} under {start}");
        }
    }
}
