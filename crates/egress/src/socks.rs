//! SOCKS5 (RFC 1928), as far as it is served: no authentication or a password (RFC 1929), CONNECT, names and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str;

/// The version byte.
pub const VERSION: u8 = 5;
/// The answer to a greeting: no authentication is needed.
pub const NO_AUTHENTICATION: [u8; 2] = [VERSION, 0];
/// The answer to a greeting: a user name and password are wanted.
pub const WITH_PASSWORD: [u8; 2] = [VERSION, 2];
/// The answer to a user name and password that are good (RFC 1929 section 2).
pub const WELCOME: [u8; 2] = [1, 0];
/// The answer to those that are not.
pub const UNWELCOME: [u8; 2] = [1, 1];
/// The answer to a greeting without a method that is served.
pub const NO_METHOD: [u8; 2] = [VERSION, 0xff];

/// Why a greeting or request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSocks {
    /// Another version, or bytes that cannot be.
    #[error("not SOCKS5")]
    Malformed,
    /// BIND or UDP.
    #[error("only CONNECT is served over SOCKS5")]
    Command,
    /// An address of an unknown kind.
    #[error("an unknown kind of address")]
    AddressType,
}

/// Codes of replies (RFC 1928 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Connected.
    Succeeded = 0,
    /// Something failed on our side.
    Failure = 1,
    /// A rule is missing.
    NotAllowed = 2,
    /// The name has no address, or the address does not answer.
    HostUnreachable = 4,
    /// The other side refused.
    Refused = 5,
    /// It took too long.
    Expired = 6,
    /// Not CONNECT.
    Command = 7,
    /// Not a name or address.
    AddressType = 8,
}

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address<'a> {
    /// A name.
    Name(&'a str),
    /// An address.
    Ip(IpAddr),
}

/// What was read, and how many bytes it took. `None`: more is needed.
pub type Read<T> = Result<Option<(T, usize)>, BadSocks>;

/// What a client offers to say of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Methods {
    /// Nothing at all.
    pub none: bool,
    /// A user name and password.
    pub password: bool,
}

/// Reads a greeting.
///
/// # Errors
/// [`BadSocks::Malformed`].
pub fn greeting(bytes: &[u8]) -> Read<Methods> {
    match bytes {
        [] => Ok(None),
        [VERSION] => Ok(None),
        [VERSION, count, rest @ ..] => {
            let count = usize::from(*count);
            let offered = |methods: &[u8]| Methods { none: methods.contains(&0), password: methods.contains(&2) };
            Ok(rest.get(..count).map(|methods| (offered(methods), 2 + count)))
        }
        _ => Err(BadSocks::Malformed),
    }
}

/// Reads a user name and password (RFC 1929).
///
/// # Errors
/// [`BadSocks::Malformed`].
pub fn password(bytes: &[u8]) -> Read<(&[u8], &[u8])> {
    let (length, rest) = match bytes {
        [1, length, rest @ ..] => (usize::from(*length), rest),
        [] | [1] => return Ok(None),
        _ => return Err(BadSocks::Malformed),
    };
    let (Some(user), Some(second)) = (rest.get(..length), rest.get(length)) else { return Ok(None) };
    let (begins, ends) = (length + 1, length + 1 + usize::from(*second));
    Ok(rest.get(begins..ends).map(|password| ((user, password), 2 + ends)))
}

/// Reads a request.
///
/// # Errors
/// [`BadSocks`].
pub fn request(bytes: &[u8]) -> Read<(Address<'_>, u16)> {
    let (kind, rest) = match bytes {
        [VERSION, 1, 0, kind, rest @ ..] => (*kind, rest),
        [VERSION, command, 0, ..] if *command != 1 => return Err(BadSocks::Command),
        [] | [VERSION] | [VERSION, _] | [VERSION, _, 0] => return Ok(None),
        _ => return Err(BadSocks::Malformed),
    };
    let length = match (kind, rest.first()) {
        (1, _) => 4,
        (4, _) => 16,
        (3, Some(0)) => return Err(BadSocks::Malformed),
        (3, Some(length)) => 1 + usize::from(*length),
        (3, None) => return Ok(None),
        _ => return Err(BadSocks::AddressType),
    };
    let (Some(address), Some(&[high, low])) = (rest.get(..length), rest.get(length..length + 2)) else {
        return Ok(None);
    };
    let address = match kind {
        3 => Address::Name(str::from_utf8(address.get(1..).unwrap_or_default()).map_err(|_| BadSocks::Malformed)?),
        1 => Address::Ip(Ipv4Addr::from(<[u8; 4]>::try_from(address).map_err(|_| BadSocks::Malformed)?).into()),
        _ => Address::Ip(Ipv6Addr::from(<[u8; 16]>::try_from(address).map_err(|_| BadSocks::Malformed)?).into()),
    };
    match u16::from_be_bytes([high, low]) {
        0 => Err(BadSocks::Malformed),
        port => Ok(Some(((address, port), 4 + length + 2))),
    }
}

/// A reply. The bound address in it means nothing to anybody; it is left at zero.
pub fn reply(code: Code) -> [u8; 10] {
    [VERSION, code as u8, 0, 1, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_and_requests_are_read_however_they_are_cut() {
        let offered = |none, password| Methods { none, password };
        assert_eq!(greeting(&[5, 2, 0, 2, 9]), Ok(Some((offered(true, true), 4))));
        assert_eq!(greeting(&[5, 1, 2]), Ok(Some((offered(false, true), 3))));
        assert_eq!(greeting(&[5, 1, 0]), Ok(Some((offered(true, false), 3))));
        for cut in 0..6 {
            assert_eq!(password(&b"\x01\x01a\x02bcd"[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(password(b"\x01\x01a\x02bcd"), Ok(Some(((&b"a"[..], &b"bc"[..]), 6))));
        assert_eq!(password(b"\x01\x00\x00"), Ok(Some(((&b""[..], &b""[..]), 3))));
        assert_eq!(password(b"\x05\x00\x00"), Err(BadSocks::Malformed));
        assert_eq!(greeting(&[4, 1]), Err(BadSocks::Malformed));
        let name = b"\x05\x01\x00\x03\x06a.test\x01\xbbrest";
        for cut in 0..13 {
            assert_eq!(request(&name[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(request(name), Ok(Some(((Address::Name("a.test"), 443), 13))));
        let v4 = [5, 1, 0, 1, 127, 0, 0, 1, 0, 80];
        assert_eq!(request(&v4), Ok(Some(((Address::Ip([127, 0, 0, 1].into()), 80), 10))));
        let mut v6 = vec![5, 1, 0, 4];
        v6.extend([0; 16]);
        assert_eq!(request(&v6), Ok(None));
        v6.extend([0, 80]);
        assert!(matches!(request(&v6), Ok(Some(((Address::Ip(IpAddr::V6(_)), 80), 22)))));
    }

    #[test]
    fn what_is_not_served_is_refused() {
        assert_eq!(request(&[5, 3, 0, 1, 1, 1, 1, 1, 0, 53]), Err(BadSocks::Command), "UDP");
        assert_eq!(request(&[5, 2, 0, 1]), Err(BadSocks::Command), "BIND");
        assert_eq!(request(&[5, 1, 0, 2, 0]), Err(BadSocks::AddressType));
        assert_eq!(request(&[5, 1, 0, 1, 1, 1, 1, 1, 0, 0]), Err(BadSocks::Malformed), "port 0");
        assert_eq!(request(&[5, 1, 0, 3, 0, 0, 80]), Err(BadSocks::Malformed), "no name");
        assert_eq!(request(&[5, 1, 0, 3, 1, 0xff, 0, 80]), Err(BadSocks::Malformed), "no text");
    }
}
