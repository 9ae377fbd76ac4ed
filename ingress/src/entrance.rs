//! What is checked before anybody is identified: the path, and the `Host` and `Origin` headers, which keep web pages of
//! other sites from reaching us through somebody's browser (DNS rebinding).

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Uri, header};
use outrigger_proxy::failure::Failure;
use outrigger_proxy::legacy::http_sse::At;

use crate::config::Config;

/// The paths that exist, for those who asked for another one.
pub(crate) const PATHS: &str = "/mcp and /s/<service>/mcp";

/// Which endpoint a path names; the service may not exist.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Endpoint<'a> {
    Merged,
    Service(&'a str),
}

/// Reads the path: the endpoint, and which door of HTTP+SSE it is if it is one.
///
/// # Errors
/// [`Failure::UnknownPath`].
pub(crate) fn endpoint(path: &str) -> Result<(Endpoint<'_>, Option<At>), Failure> {
    let streamable = path.strip_suffix("/mcp").map(|base| (base, None));
    let found = streamable.or_else(|| At::of(path).map(|(base, door)| (base, Some(door))));
    let (base, door) = found.ok_or(Failure::UnknownPath(PATHS))?;
    if base.is_empty() {
        return Ok((Endpoint::Merged, door));
    }
    let service = base.strip_prefix("/s/").filter(|name| !name.contains('/'));
    service.map(|name| (Endpoint::Service(name), door)).ok_or(Failure::UnknownPath(PATHS))
}

/// The names that we go by, and the pages that may call.
#[derive(Debug, Clone)]
pub(crate) struct Entrance {
    /// Lower case, without port.
    hosts: Vec<String>,
    /// Lower case, with port.
    authorities: Vec<String>,
    origins: Vec<String>,
}

impl Entrance {
    /// As configured.
    pub(crate) fn new(config: &Config) -> Self {
        let lower = |list: &[String]| list.iter().map(|text| text.to_ascii_lowercase()).collect::<Vec<_>>();
        let (authorities, mut hosts): (Vec<_>, Vec<_>) =
            lower(&config.clients.allowed_hosts).into_iter().partition(|host| split_port(host).1.is_some());
        hosts.extend(config.public_url.as_ref().map(|url| bare(&url.authority.host).to_ascii_lowercase()));
        if !config.listen.ip().is_unspecified() {
            hosts.push(config.listen.ip().to_string());
        }
        let hosts = hosts.iter().map(|host| bare(host).to_owned()).collect();
        Self { hosts, authorities, origins: lower(&config.clients.allowed_origins) }
    }

    /// Checks a request that came in at `local`.
    ///
    /// # Errors
    /// [`Failure::HostNotAllowed`] or [`Failure::OriginNotAllowed`].
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap, local: SocketAddr) -> Result<(), Failure> {
        self.host_is_ours(uri, headers, local)?;
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let asked =
            |port| port == local.port() || named(uri, headers).flatten().any(|host| split_port(host).1 == Some(port));
        if origins.all(|origin| origin.to_str().is_ok_and(|origin| self.origin(origin, local.ip(), asked))) {
            Ok(())
        } else {
            Err(Failure::OriginNotAllowed)
        }
    }

    /// Checks `Host` alone, for what any page may read.
    ///
    /// # Errors
    /// [`Failure::HostNotAllowed`].
    pub(crate) fn host_is_ours(&self, uri: &Uri, headers: &HeaderMap, local: SocketAddr) -> Result<(), Failure> {
        let mut named = named(uri, headers).peekable();
        if named.peek().is_none() || !named.all(|host| host.is_some_and(|host| self.host(host, local.ip()))) {
            return Err(Failure::HostNotAllowed);
        }
        Ok(())
    }

    fn host(&self, authority: &str, local: IpAddr) -> bool {
        let (host, _) = split_port(authority);
        // A name can be made to lead here by anybody; the address that was dialled cannot.
        let address = bare(host).parse::<IpAddr>().ok();
        is_loopback(host)
            || address == Some(local)
            || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(bare(host)))
            || self.authorities.iter().any(|own| own.eq_ignore_ascii_case(authority))
    }

    /// Pages that we could have served ourselves, and those that are listed. Another port of this machine is another
    /// program, and so another origin; `asked` are the ports by which the request names us.
    fn origin(&self, origin: &str, local: IpAddr, asked: impl Fn(u16) -> bool) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.origins.contains(&origin) {
            return true;
        }
        let schemes = [("https://", 443), ("http://", 80)];
        let found = schemes.iter().find_map(|(scheme, port)| Some((origin.strip_prefix(scheme)?, *port)));
        let Some((authority, usual)) = found.filter(|(authority, _)| self.host(authority, local)) else {
            return false;
        };
        let (host, port) = split_port(authority);
        let port = port.unwrap_or(usual);
        // What stands in front of us under a name of ours may rewrite `Host`.
        let in_front = port == usual && !is_loopback(host);
        in_front || asked(port)
    }
}

/// The names by which a request names us; none for one that is no text.
fn named<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> impl Iterator<Item = Option<&'r str>> {
    // h2 has the authority in the target, HTTP/1.1 in the header; a request with both must pass with both.
    let target = uri.authority().map(|authority| Some(authority.as_str()));
    target.into_iter().chain(headers.get_all(header::HOST).iter().map(|host| host.to_str().ok()))
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || bare(host).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

/// Splits `host:port`; the host keeps its brackets.
fn split_port(authority: &str) -> (&str, Option<u16>) {
    let end = authority.rfind(']').map_or(0, |at| at + 1);
    let at = authority.get(end..).and_then(|rest| rest.rfind(':')).map(|at| end + at);
    let port = at.and_then(|at| authority.get(at + 1..)).filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    match (at, port.and_then(|port| port.parse().ok())) {
        (Some(at), Some(port)) => (authority.get(..at).unwrap_or_default(), Some(port)),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entrance() -> Entrance {
        Entrance {
            hosts: vec!["mcp.example.com".into(), "10.0.0.1".into(), "fe80::1".into()],
            authorities: vec!["odd.example.com:8443".into()],
            origins: vec!["https://app.example.com".into()],
        }
    }

    fn check(host: &str, origin: Option<&str>) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        headers.insert("host", host.parse().unwrap());
        // Dialled at port 8080.
        if let Some(origin) = origin {
            headers.insert("origin", origin.parse().unwrap());
        }
        entrance().check(&Uri::from_static("/mcp"), &headers, "192.0.2.7:8080".parse().unwrap())
    }

    #[test]
    fn paths() {
        assert_eq!(endpoint("/mcp").unwrap(), (Endpoint::Merged, None));
        assert_eq!(endpoint("/s/fs/mcp").unwrap(), (Endpoint::Service("fs"), None));
        assert_eq!(endpoint("/sse").unwrap(), (Endpoint::Merged, Some(At::Stream)));
        assert_eq!(endpoint("/s/fs/messages").unwrap(), (Endpoint::Service("fs"), Some(At::Messages)));
        for bad in ["/", "/mcp/", "/s//mcp/x", "/s/a/b/mcp", "/s/mcp", "/MCP", "", "/sse/", "/s/sse", "/messages/x"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn own_names_and_this_machine_are_accepted() {
        for good in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:80",
            "[::1]",
            "mcp.example.com",
            "MCP.example.com:443",
            "10.0.0.1:8080",
            "[fe80::1]:8080",
            "odd.example.com:8443",
            "ODD.example.com:8443",
            "192.0.2.7:8080",
        ] {
            assert!(check(good, None).is_ok(), "{good}");
        }
    }

    #[test]
    fn other_names_are_refused() {
        for bad in [
            "evil.example.com",
            "localhost.evil.com",
            "mcp.example.com.evil.com",
            "odd.example.com",
            "odd.example.com:1",
            "192.0.2.8",
            "",
            "127.0.0.1.nip.io",
            "user@localhost",
            "localhost:x",
        ] {
            assert!(matches!(check(bad, None), Err(Failure::HostNotAllowed)), "{bad}");
        }
    }

    #[test]
    fn origins_are_of_this_machine_our_own_or_listed() {
        for good in [
            "http://localhost:8080",
            "http://localhost:3000",
            "https://app.example.com",
            "https://mcp.example.com",
            "http://[::1]:3000",
        ] {
            assert!(check("localhost:3000", Some(good)).is_ok(), "{good}");
        }
        for bad in [
            "null",
            "http://evil.com",
            "https://app.example.com:444",
            "https://mcp.example.com:444",
            "http://app.example.com",
            "http://localhost:3001",
            "http://localhost",
            "file://localhost",
            "",
        ] {
            assert!(matches!(check("localhost:3000", Some(bad)), Err(Failure::OriginNotAllowed)), "{bad}");
        }
    }

    #[test]
    fn a_request_without_any_name_is_refused() {
        let local = "127.0.0.1:1".parse().unwrap();
        assert!(entrance().check(&Uri::from_static("/mcp"), &HeaderMap::new(), local).is_err());
        assert!(entrance().check(&Uri::from_static("http://localhost/mcp"), &HeaderMap::new(), local).is_ok());
    }
}
