//! Hosts as they are written in URLs, CONNECT, SOCKS, SNI and rules, brought to one form: a name in A-labels, or an address.
//!
//! One text has one meaning here, whatever a resolver or a library would make of it: case, the trailing dot, Unicode
//! (UTS 46) and every spelling of an IP address that `inet_aton` or a browser takes are gone afterwards.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use idna::AsciiDenyList;

/// Longest text that is looked at. A name of 253 bytes can be written in UTF-8 with some four times as many.
const MAX_TEXT: usize = 1024;
/// Longest name (RFC 1035 section 2.3.4), without the trailing dot.
const MAX_NAME: usize = 253;
/// Longest label.
const MAX_LABEL: usize = 63;

/// Why a text is no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing there, or nothing between two dots.
    #[error("the host is empty, or has an empty part between two dots")]
    Empty,
    /// Longer than a name can be.
    #[error("the host is longer than a name may be")]
    TooLong,
    /// A character that no host has: a space, `%`, `@`, `/`, a control character.
    #[error("the host has a character that no host may have")]
    Character,
    /// Unicode that stands for no name.
    #[error("the host is no valid internationalised name")]
    Idna,
    /// It looks like an address, and is none.
    #[error("the host looks like an IP address and is none")]
    Address,
}

/// A DNS name: A-labels, lower case, no trailing dot, never an address. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Where somebody wants to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name, to be resolved.
    Name(Name),
    /// An address.
    Address(IpAddr),
}

impl Host {
    /// Reads a host without a port. IPv6 addresses may stand in brackets or without them; zone ids are refused.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn parse(text: &str) -> Result<Host, HostError> {
        if text.len() > MAX_TEXT {
            return Err(HostError::TooLong);
        }
        if let Some(inside) = text.strip_prefix('[') {
            let inside = inside.strip_suffix(']').ok_or(HostError::Address)?;
            return inside.parse::<Ipv6Addr>().map(|v6| Host::Address(v6.into())).map_err(|_| HostError::Address);
        }
        if text.contains(':') {
            return text.parse::<Ipv6Addr>().map(|v6| Host::Address(v6.into())).map_err(|_| HostError::Address);
        }
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), AsciiDenyList::URL).map_err(|_| {
            // Plain ASCII is only ever refused for a character of the list, or for a broken `xn--` label.
            let broken_label = text.is_ascii() && text.bytes().all(|byte| fits(byte) || byte == b'.');
            if text.is_empty() {
                HostError::Empty
            } else if text.is_ascii() && !broken_label {
                HostError::Character
            } else {
                HostError::Idna
            }
        })?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        check_labels(name)?;
        match ipv4(name) {
            Some(Some(address)) => Ok(Host::Address(address.into())),
            Some(None) => Err(HostError::Address),
            None => Ok(Host::Name(Name(name.to_ascii_lowercase().into()))),
        }
    }
}

impl fmt::Display for Host {
    /// As it stands in an authority: IPv6 in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => name.fmt(f),
            Host::Address(IpAddr::V4(address)) => address.fmt(f),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The service that it names in the mesh: one label below `mesh`, a name that no resolver is asked for.
    pub fn in_mesh(&self) -> Option<&str> {
        self.0.strip_suffix(".mesh").filter(|service| !service.contains('.'))
    }

    /// Whether a label of it mixes the letters of scripts that look alike (Latin with Greek, Cyrillic, Armenian or
    /// Cherokee), as names do that pretend to be another. Names of one script only are never flagged.
    pub fn mixes_scripts(&self) -> bool {
        if !self.0.contains("xn--") {
            return false;
        }
        let (shown, _) = idna::domain_to_unicode(&self.0);
        shown.split('.').any(|label| {
            let alike = |c: char| matches!(c, '\u{370}'..='\u{52f}' | '\u{531}'..='\u{58f}' | '\u{13a0}'..='\u{13ff}' | '\u{1c80}'..='\u{1c8f}' | '\u{1f00}'..='\u{1fff}' | '\u{ab70}'..='\u{abbf}');
            label.chars().any(alike) && label.chars().any(|c| c.is_ascii_alphabetic())
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Underscores are no host names in DNS, yet service records, compose and Kubernetes use them.
fn fits(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn check_labels(name: &str) -> Result<(), HostError> {
    if name.len() > MAX_NAME {
        return Err(HostError::TooLong);
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(HostError::Empty);
        }
        if label.len() > MAX_LABEL {
            return Err(HostError::TooLong);
        }
        if !label.bytes().all(fits) {
            return Err(HostError::Character);
        }
    }
    Ok(())
}

/// The address, when the last label is a number (WHATWG URL, "ends in a number"): then nothing else can be meant, and
/// what is no address is refused. One to four parts, each decimal, octal (`0...`) or hexadecimal (`0x...`).
fn ipv4(name: &str) -> Option<Option<Ipv4Addr>> {
    let last = name.rsplit('.').next()?;
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit()) || number(last).is_some();
    numeric.then(|| parts(name))
}

fn parts(name: &str) -> Option<Ipv4Addr> {
    let mut numbers = Vec::with_capacity(4);
    for part in name.split('.') {
        if numbers.len() == 4 {
            return None;
        }
        numbers.push(number(part)?);
    }
    let (last, leading) = numbers.split_last()?;
    let room = 32 - 8 * u32::try_from(leading.len()).ok()?;
    if leading.iter().any(|part| *part > 255) || u64::from(*last) >= 1_u64 << room {
        return None;
    }
    let high = leading.iter().zip([24_u32, 16, 8]).fold(0, |all, (part, shift)| all | (part << shift));
    Some(Ipv4Addr::from(high | last))
}

fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (text.get(2..)?, 16),
        [b'0', _, ..] => (text.get(1..)?, 8),
        _ => (text, 10),
    };
    match digits {
        // `0x` alone is zero to a browser.
        "" if radix == 16 => Some(0),
        "" => None,
        digits if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => u32::from_str_radix(digits, radix).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
