//! The first words of a TLS client (RFC 8446 section 4.1.2): which name it asks for, and whether it hides another.

use std::str;

/// Bytes of records that a ClientHello may take. With post-quantum key shares and a long ticket it is some 4 KiB.
pub const MAX_BYTES: usize = 16 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
/// draft-ietf-tls-esni; also sent with random content by clients that have nothing to hide (GREASE).
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// Of the drafts before it, which hide a name just as well.
const OLDER_HIDDEN_NAMES: [u16; 4] = [0xffce, 0xfe08, 0xfe09, 0xfe0a];
/// The largest plaintext of a record.
const MAX_RECORD: usize = 16 * 1024;

/// Why it is no ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHello {
    /// It does not begin as TLS does.
    #[error("not TLS")]
    NotTls,
    /// It begins as TLS and goes on as something else, or is longer than [`MAX_BYTES`].
    #[error("a malformed TLS ClientHello")]
    Malformed,
}

/// What a ClientHello says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The name in the clear.
    pub name: Option<String>,
    /// Another name may be hidden.
    pub hidden: bool,
}

/// Reads a ClientHello; `None`: more is needed.
///
/// # Errors
/// [`BadHello`].
pub fn parse(bytes: &[u8]) -> Result<Option<ClientHello>, BadHello> {
    let Some(message) = handshake(bytes)? else { return Ok(None) };
    hello(&message).ok_or(BadHello::Malformed).map(Some)
}

/// The first handshake message without its head, put together from its records.
fn handshake(bytes: &[u8]) -> Result<Option<Vec<u8>>, BadHello> {
    let (mut message, mut rest) = (Vec::new(), bytes);
    loop {
        let (record, after) = match rest {
            [HANDSHAKE, 3, 0..=4, high, low, after @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if length == 0 || length > MAX_RECORD {
                    return Err(BadHello::Malformed);
                }
                after.split_at(length.min(after.len()))
            }
            short if prefix(short) => return more(bytes),
            _ if message.is_empty() => return Err(BadHello::NotTls),
            _ => return Err(BadHello::Malformed),
        };
        message.extend_from_slice(record);
        match message.as_slice() {
            [] => return more(bytes),
            [CLIENT_HELLO, a, b, c, body @ ..] => {
                let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
                if length > MAX_BYTES {
                    return Err(BadHello::Malformed);
                }
                if let Some(body) = body.get(..length) {
                    return Ok(Some(body.to_vec()));
                }
            }
            [CLIENT_HELLO, ..] => {}
            _ => return Err(BadHello::NotTls),
        }
        rest = after;
    }
}

/// Whether a record's head may begin so.
fn prefix(short: &[u8]) -> bool {
    matches!(short, [] | [HANDSHAKE] | [HANDSHAKE, 3] | [HANDSHAKE, 3, 0..=4] | [HANDSHAKE, 3, 0..=4, _])
}

fn more<T>(bytes: &[u8]) -> Result<Option<T>, BadHello> {
    if bytes.len() >= MAX_BYTES { Err(BadHello::Malformed) } else { Ok(None) }
}

fn hello(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?;
    reader.vector8()?;
    reader.vector16()?;
    reader.vector8()?;
    let mut found = ClientHello { name: None, hidden: false };
    if reader.0.is_empty() {
        // TLS before 1.3 without any extension.
        return Some(found);
    }
    let mut extensions = Reader(reader.vector16()?);
    if !reader.0.is_empty() {
        return None;
    }
    let mut named = false;
    while !extensions.0.is_empty() {
        let (kind, data) = (extensions.u16()?, extensions.vector16()?);
        if kind == SERVER_NAME {
            // Twice the same extension is an error (RFC 8446 section 4.2), and two names are two meanings.
            if std::mem::replace(&mut named, true) {
                return None;
            }
            found.name = Some(server_name(data)?);
        }
        found.hidden |= kind == ENCRYPTED_CLIENT_HELLO || OLDER_HIDDEN_NAMES.contains(&kind);
    }
    Some(found)
}

/// Exactly one name of the one kind there is (RFC 6066 section 3).
fn server_name(data: &[u8]) -> Option<String> {
    let mut reader = Reader(data);
    let mut list = Reader(reader.vector16()?);
    let (kind, name) = (list.take(1)?, list.vector16()?);
    let alone = reader.0.is_empty() && list.0.is_empty() && kind == [0];
    str::from_utf8(name).ok().filter(|name| alone && !name.is_empty()).map(str::to_owned)
}

/// Takes pieces off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = *self.take(1)?.first()?;
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector16(data: &[u8]) -> Vec<u8> {
        let mut out = u16::try_from(data.len()).unwrap().to_be_bytes().to_vec();
        out.extend_from_slice(data);
        out
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        let mut out = kind.to_be_bytes().to_vec();
        out.extend(vector16(data));
        out
    }

    fn name(name: &str) -> Vec<u8> {
        let mut entry = vec![0];
        entry.extend(vector16(name.as_bytes()));
        extension(SERVER_NAME, &vector16(&entry))
    }

    fn message(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(vector16(extensions));
        let mut out = vec![CLIENT_HELLO, 0];
        out.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        out.extend(body);
        out
    }

    fn record(data: &[u8]) -> Vec<u8> {
        let mut out = vec![HANDSHAKE, 3, 1];
        out.extend(vector16(data));
        out
    }

    fn read(extensions: &[u8]) -> Result<Option<ClientHello>, BadHello> {
        parse(&record(&message(extensions)))
    }

    #[test]
    fn names_are_found_however_the_hello_is_cut() {
        let whole = message(&[extension(10, &[0, 2, 0, 29]), name("allowed.test")].concat());
        let expected = ClientHello { name: Some("allowed.test".into()), hidden: false };
        let one = record(&whole);
        for cut in 0..one.len() {
            assert_eq!(parse(&one[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(parse(&one), Ok(Some(expected.clone())));
        for cut in 1..whole.len() {
            let two = [record(&whole[..cut]), record(&whole[cut..])].concat();
            assert_eq!(parse(&two), Ok(Some(expected.clone())), "fragments of {cut} and the rest");
        }
    }

    #[test]
    fn no_name_and_hidden_names_are_told() {
        assert_eq!(read(&[]), Ok(Some(ClientHello { name: None, hidden: false })));
        let both = [name("cover.test"), extension(ENCRYPTED_CLIENT_HELLO, &[0; 40])].concat();
        assert_eq!(read(&both), Ok(Some(ClientHello { name: Some("cover.test".into()), hidden: true })));
        assert!(read(&extension(0xffce, &[])).unwrap().unwrap().hidden);
    }

    #[test]
    fn two_names_are_none() {
        assert_eq!(read(&[name("a.test"), name("b.test")].concat()), Err(BadHello::Malformed));
        let mut two = vec![0];
        two.extend(vector16(b"a.test"));
        let entries = [two.clone(), two].concat();
        assert_eq!(read(&extension(SERVER_NAME, &vector16(&entries))), Err(BadHello::Malformed));
        assert_eq!(read(&name("")), Err(BadHello::Malformed));
    }

    #[test]
    fn other_protocols_are_told_from_the_first_bytes() {
        for text in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"SSH-2.0-x",
            b"\x16\x02\x00",
            b"\x15\x03\x01\x00\x02\x01\x00",
            b"\x80\x2e\x01\x03\x01",
        ] {
            assert_eq!(parse(text), Err(BadHello::NotTls));
        }
        assert_eq!(parse(&record(&[2, 0, 0, 0])), Err(BadHello::NotTls), "a ServerHello");
        assert_eq!(parse(&[22, 3, 1, 0, 0]), Err(BadHello::Malformed), "an empty record");
        assert_eq!(parse(&record(&[1, 0xff, 0, 0])), Err(BadHello::Malformed), "too long");
        let endless: Vec<u8> = std::iter::repeat_n(record(&[1, 0, 0x3f, 0]), 1).flatten().collect();
        assert_eq!(parse(&endless), Ok(None));
        let mut drip = record(&[1, 0, 0x3f, 0]);
        while drip.len() < MAX_BYTES {
            drip.extend(record(&[0]));
        }
        assert_eq!(parse(&drip), Err(BadHello::Malformed));
    }
}
