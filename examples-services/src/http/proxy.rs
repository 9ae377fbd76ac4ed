//! The proxy variables of the environment: which URL goes through which proxy.
//!
//! `HTTP_PROXY` is for http URLs, `HTTPS_PROXY` for https ones, `ALL_PROXY` for what has none of its own, `NO_PROXY`
//! lists exceptions. The lower-case spelling wins, as in curl.

use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::header::HeaderValue;
use url::{Host, Url};

/// A proxy that is spoken to in plain HTTP.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    /// Host name or address, without brackets.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
    /// `Proxy-Authorization`, marked sensitive so that `Debug` hides it.
    pub(crate) authorization: Option<HeaderValue>,
}

/// The proxy of each scheme and the hosts that need none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    bypass: Vec<Bypass>,
}

/// A proxy variable that cannot be used. The value is not repeated: it may hold a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("{0} is not a URL; write http://host:port")]
    NotAUrl(&'static str),
    #[error("{0} names a {1:?} proxy; only http:// proxies are supported")]
    Scheme(&'static str, String),
    #[error("{0} has a user name or password that cannot go into a header")]
    Credentials(&'static str),
}

/// One entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Bypass {
    Everything,
    /// The name itself and every name below it.
    Domain(String, Option<u16>),
    Address(IpAddr, Option<u16>),
    Network(IpAddr, u32),
}

impl Proxies {
    /// Reads the variables through `lookup`; empty ones count as unset.
    ///
    /// # Errors
    /// [`ProxyError`] names the variable.
    pub(crate) fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let either = |name: &'static str| {
            let lower = lookup(&name.to_ascii_lowercase()).filter(|value| !value.is_empty());
            lower.or_else(|| lookup(name)).filter(|value| !value.trim().is_empty())
        };
        let proxy = |name| either(name).map(|value| parse_proxy(name, value.trim())).transpose();
        let all = proxy("ALL_PROXY")?;
        Ok(Self {
            http: proxy("HTTP_PROXY")?.or_else(|| all.clone()),
            https: proxy("HTTPS_PROXY")?.or(all),
            bypass: either("NO_PROXY").iter().flat_map(|list| list.split(',')).filter_map(parse_bypass).collect(),
        })
    }

    /// The proxy for this URL; `None` means dial the host itself.
    pub(crate) fn for_url(&self, url: &Url) -> Option<&Proxy> {
        if self.bypass.iter().any(|entry| entry.covers(url)) {
            return None;
        }
        if url.scheme() == "https" { self.https.as_ref() } else { self.http.as_ref() }
    }
}

fn parse_proxy(name: &'static str, value: &str) -> Result<Proxy, ProxyError> {
    // `host:port` without a scheme is common and means http.
    let spelled = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let url = Url::parse(&spelled).map_err(|_| ProxyError::NotAUrl(name))?;
    if url.scheme() != "http" {
        return Err(ProxyError::Scheme(name, url.scheme().to_owned()));
    }
    let host = url.host_str().ok_or(ProxyError::NotAUrl(name))?.trim_matches(['[', ']']).to_owned();
    Ok(Proxy { host, port: url.port_or_known_default().unwrap_or(80), authorization: authorization(name, &url)? })
}

fn authorization(name: &'static str, url: &Url) -> Result<Option<HeaderValue>, ProxyError> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let plain = |part: &str| percent_decode(part).ok_or(ProxyError::Credentials(name));
    let pair = format!("{}:{}", plain(url.username())?, plain(url.password().unwrap_or_default())?);
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair)))
        .map_err(|_| ProxyError::Credentials(name))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Undoes percent-encoding; `None` if the result is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match hex.and_then(|pair| u8::from_str_radix(pair, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..)?;
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// An entry that is empty or makes no sense covers nothing, as in curl.
fn parse_bypass(entry: &str) -> Option<Bypass> {
    let entry = entry.trim();
    if entry == "*" {
        return Some(Bypass::Everything);
    }
    if let Some((address, bits)) = entry.split_once('/') {
        let address: IpAddr = address.parse().ok()?;
        let bits: u32 = bits.parse().ok()?;
        return (bits <= address_bits(address)).then_some(Bypass::Network(address, bits));
    }
    if let Ok(address) = entry.trim_matches(['[', ']']).parse() {
        return Some(Bypass::Address(address, None));
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (entry, None),
    };
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Some(Bypass::Address(address, port));
    }
    let domain = host.trim_start_matches("*.").trim_start_matches('.').trim_end_matches('.').to_ascii_lowercase();
    (!domain.is_empty()).then_some(Bypass::Domain(domain, port))
}

impl Bypass {
    fn covers(&self, url: &Url) -> bool {
        let port_fits = |port: &Option<u16>| port.is_none() || *port == url.port_or_known_default();
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) | None => None,
        };
        match self {
            Self::Everything => true,
            Self::Domain(domain, port) => {
                let host = url.host_str().unwrap_or_default().trim_end_matches('.');
                let below =
                    host.strip_suffix(domain.as_str()).is_some_and(|head| head.is_empty() || head.ends_with('.'));
                below && address.is_none() && port_fits(port)
            }
            Self::Address(entry, port) => address == Some(*entry) && port_fits(port),
            Self::Network(network, bits) => address.is_some_and(|address| in_network(address, *network, *bits)),
        }
    }
}

fn address_bits(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn in_network(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    // Left-aligned, so that one shift serves both families.
    let aligned = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let differing = aligned(address) ^ aligned(network);
    address.is_ipv4() == network.is_ipv4() && (bits == 0 || differing >> (128 - bits) == 0)
}

#[cfg(test)]
mod tests;
