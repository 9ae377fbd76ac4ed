//! Addresses: where to listen, whom to dial, and simple URLs.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde_json::json;

use super::{Kind, Mistake, quoted};

/// A name or address with a port, to be resolved by whoever dials it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// A DNS name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

/// How the host of a [`Url`] is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP over TCP.
    Http,
    /// HTTP inside TLS.
    Https,
    /// Plain HTTP over the socket file of this path.
    Unix(PathBuf),
}

/// An `http://`, `https://` or `unix:` URL without user, password or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// How the host is reached.
    pub scheme: Scheme,
    /// The host to dial and to name in the `Host` header; `localhost:80` for a socket file.
    pub authority: HostPort,
    /// Path and query, always with a leading `/`.
    pub path: String,
}

impl HostPort {
    /// Reads `host:port`, as [`host_port`] does.
    pub fn parse(text: &str) -> Option<HostPort> {
        split_authority(text, None)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Url {
    /// Reads a URL of one of the forms that [`url`] takes.
    pub fn parse(text: &str) -> Option<Url> {
        parse_url(text).ok()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scheme {
            Scheme::Http => write!(f, "http://{}{}", self.authority, self.path),
            Scheme::Https => write!(f, "https://{}{}", self.authority, self.path),
            Scheme::Unix(socket) => write!(f, "unix:{}:{}", socket.display(), self.path),
        }
    }
}

/// An address to listen on: `127.0.0.1:8080`, `[::]:8443`, `localhost:0`. Port 0 lets the system choose.
pub fn listen() -> Kind<SocketAddr> {
    let parse = |text: &str| {
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        if let Some(Ok(port)) = text.strip_prefix("localhost:").map(str::parse) {
            return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        let port = text.trim_start_matches(':').parse::<u16>();
        let hint = match port {
            Ok(port) => format!("add the address: 127.0.0.1:{port} for this machine only, 0.0.0.0:{port} for all"),
            Err(_) => "an IP address and a port: 127.0.0.1:8080, 0.0.0.0:8443, [::1]:0".to_owned(),
        };
        Err(Mistake::new(format!("{} is not an address to listen on", quoted(text)), hint))
    };
    let schema = json!({"type": "string", "pattern": "^(localhost|[0-9.]+|\\[[0-9a-fA-F:.]+(%[0-9]+)?\\]):[0-9]+$"});
    Kind::scalar("address:port", schema, parse, ToString::to_string)
}

/// A peer to dial: `fs.internal:8443`, `10.0.0.7:8443`, `[fd00::7]:8443`.
pub fn host_port() -> Kind<HostPort> {
    let parse = |text: &str| {
        let hint = "a host and a port: fs.internal:8443, 10.0.0.7:8443, [fd00::7]:8443";
        let wrong = || Mistake::new(format!("{} is not host:port", quoted(text)), hint);
        split_authority(text, None).ok_or_else(wrong)
    };
    Kind::scalar("host:port", json!({"type": "string", "pattern": "^.+:[0-9]+$"}), parse, ToString::to_string)
}

/// A URL of one of three forms: `http://host:port/path`, `https://host/path`, `unix:/run/server.sock:/path`.
pub fn url() -> Kind<Url> {
    let parse = |text: &str| {
        let hint = "http://host:port/path, https://host/path or unix:/run/server.sock:/path";
        parse_url(text).map_err(|why| Mistake::new(format!("{} is not a URL for this: {why}", quoted(text)), hint))
    };
    let schema = json!({"type": "string", "pattern": "^(https?://|unix:/)"});
    Kind::scalar("URL", schema, parse, ToString::to_string)
}

fn parse_url(text: &str) -> Result<Url, &'static str> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("it has spaces or control characters");
    }
    if let Some(rest) = text.strip_prefix("unix:") {
        return parse_unix(rest);
    }
    let (scheme, default_port, rest) = if let Some(rest) = text.strip_prefix("http://") {
        (Scheme::Http, 80, rest)
    } else if let Some(rest) = text.strip_prefix("https://") {
        (Scheme::Https, 443, rest)
    } else {
        return Err("the scheme is missing or unknown");
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.contains('@') {
        return Err("it has a user name or password");
    }
    let authority = split_authority(authority, Some(default_port)).ok_or("the host or port is wrong")?;
    let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
    Ok(Url { scheme, authority, path: checked_path(&path)? })
}

fn parse_unix(rest: &str) -> Result<Url, &'static str> {
    let (socket, path) = rest.split_once(':').unwrap_or((rest, "/mcp"));
    if !socket.starts_with('/') || socket.len() < 2 || socket.contains('\0') {
        return Err("the socket file needs an absolute path");
    }
    let authority = HostPort { host: "localhost".to_owned(), port: 80 };
    Ok(Url { scheme: Scheme::Unix(socket.into()), authority, path: checked_path(path)? })
}

/// Only characters that may stand in a request line (RFC 9112 section 3.2).
fn checked_path(path: &str) -> Result<String, &'static str> {
    if path.contains('#') {
        return Err("a fragment (#...) means nothing to a server");
    }
    if !path.is_ascii() {
        return Err("its path has characters that need percent-encoding");
    }
    match path {
        "" => Ok("/".to_owned()),
        path if path.starts_with('/') => Ok(path.to_owned()),
        _ => Err("its path does not begin with /"),
    }
}

/// Splits `host:port`; without a port, `default` when there is one.
fn split_authority(text: &str, default: Option<u16>) -> Option<HostPort> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok()?,
        Some(_) => return None,
        None => default?,
    };
    let good = host.parse::<IpAddr>().is_ok() || is_dns_name(host);
    (good && port != 0).then(|| HostPort { host: host.to_ascii_lowercase(), port })
}

/// Letters, digits, `-` and `_` between dots. An underscore is no host name in DNS, yet compose and Kubernetes use it.
fn is_dns_name(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let all_numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    host.len() <= 253 && !all_numeric && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}
