//! How the lines of a trail hang together: each holds the hash of the one before it, and each batch ends in a signature.
//!
//! ```text
//! {...,"seq":7,"prev":"<SHA-256 of line 6>"}
//! {...,"seq":8,"prev":"<SHA-256 of line 7>","sig":"<Ed25519 over all that stands before it>"}
//! ```
//!
//! The three members are always the last ones, in this order and spelling, so that what was hashed and signed are bytes of
//! the line and never depend on how somebody reads JSON. A hash covers a whole line without its line feed.

use aws_lc_rs::digest::{SHA256, digest};

use crate::trace::write_hex;
use crate::trail::key::{SIGNATURE_LEN, SigningKey};

/// SHA-256 of a line.
pub(crate) type Hash = [u8; 32];

/// What the first line of all has for the line before it.
pub(crate) const NOTHING: Hash = [0; 32];

const SEQ: &[u8] = br#","seq":"#;
const PREV: &[u8] = br#","prev":""#;
const SIG: &[u8] = br#","sig":""#;
const END: &[u8] = br#""}"#;

/// The end of a chain that grows.
pub(crate) struct Chain {
    key: SigningKey,
    next: u64,
    previous: Hash,
    /// Where the last line begins, while it may still be signed.
    unsigned: Option<usize>,
}

/// What a line says of its place.
pub(crate) struct Link<'a> {
    /// Its number, from 0.
    pub(crate) seq: u64,
    /// Hash of the line before.
    pub(crate) previous: Hash,
    /// The signature, and what it is over.
    pub(crate) signed: Option<([u8; SIGNATURE_LEN], &'a [u8])>,
}

impl Chain {
    /// A chain whose next line has this number and follows a line of this hash.
    pub(crate) fn after(key: SigningKey, next: u64, previous: Hash) -> Self {
        Self { key, next, previous, unsigned: None }
    }

    /// The key that signs.
    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The number that the next line gets.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Gives the JSON object at the end of `lines`, from `start` on, its place, and ends the line.
    pub(crate) fn link(&mut self, lines: &mut Vec<u8>, start: usize) {
        lines.pop();
        lines.extend_from_slice(SEQ);
        lines.extend_from_slice(self.next.to_string().as_bytes());
        lines.extend_from_slice(PREV);
        push_hex(lines, &self.previous);
        lines.extend_from_slice(END);
        self.next += 1;
        self.previous = hash(lines.get(start..).unwrap_or_default());
        self.unsigned = Some(start);
        lines.push(b'\n');
    }

    /// Signs the last line of `lines`, and with it all before it. Nothing to do when that was done.
    pub(crate) fn seal(&mut self, lines: &mut Vec<u8>) {
        let Some(start) = self.unsigned.take() else { return };
        lines.truncate(lines.len().saturating_sub(b"}\n".len()));
        let signature = self.key.sign(lines.get(start..).unwrap_or_default());
        lines.extend_from_slice(SIG);
        push_hex(lines, &signature);
        lines.extend_from_slice(END);
        self.previous = hash(lines.get(start..).unwrap_or_default());
        lines.push(b'\n');
    }
}

/// Reads the place of a line, given without its line feed. None when it has none.
pub(crate) fn parse(line: &[u8]) -> Option<Link<'_>> {
    let (rest, last) = split_hex(line)?;
    // A signature is twice as long as a hash, so that the two cannot be taken for each other.
    let (unsigned, signed) = match rest.strip_suffix(SIG) {
        Some(message) => (message, Some((unhex::<SIGNATURE_LEN>(last)?, message))),
        None => (line.strip_suffix(b"}")?, None),
    };
    let (rest, previous) = unsigned.strip_suffix(b"\"").and_then(split_digits)?;
    let rest = rest.strip_suffix(PREV)?;
    let digits = rest.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (rest, seq) = rest.split_at_checked(rest.len() - digits)?;
    rest.strip_suffix(SEQ)?;
    Some(Link { seq: str::from_utf8(seq).ok()?.parse().ok()?, previous: unhex(previous)?, signed })
}

/// The hash of a line, given without its line feed.
pub(crate) fn hash(line: &[u8]) -> Hash {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, line).as_ref());
    out
}

fn split_hex(line: &[u8]) -> Option<(&[u8], &[u8])> {
    line.strip_suffix(END).and_then(split_digits)
}

/// Splits off the hexadecimal digits at the end.
fn split_digits(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let digits = text.iter().rev().take_while(|byte| byte.is_ascii_hexdigit()).count();
    text.split_at_checked(text.len() - digits)
}

fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    if let Some(place) = out.get_mut(start..) {
        write_hex(bytes, place);
    }
}

/// Reads exactly `N` bytes of lower-case hex.
pub(crate) fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain() -> Chain {
        Chain::after(SigningKey::generate().unwrap(), 0, NOTHING)
    }

    fn add(chain: &mut Chain, lines: &mut Vec<u8>, object: &str) {
        let start = lines.len();
        lines.extend_from_slice(object.as_bytes());
        chain.link(lines, start);
    }

    fn split(lines: &[u8]) -> Vec<&[u8]> {
        lines.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').collect()
    }

    #[test]
    fn lines_name_the_one_before_and_a_batch_ends_in_a_signature() {
        let (mut chain, mut lines) = (chain(), Vec::new());
        add(&mut chain, &mut lines, r#"{"a":1}"#);
        add(&mut chain, &mut lines, r#"{"b":2}"#);
        chain.seal(&mut lines);
        chain.seal(&mut lines);
        let mut batch = Vec::new();
        add(&mut chain, &mut batch, r#"{"c":3}"#);
        lines.extend_from_slice(&batch);
        let parts = split(&lines);
        let links: Vec<Link<'_>> = parts.iter().map(|line| parse(line).unwrap()).collect();
        assert_eq!(links.iter().map(|link| link.seq).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(links[0].previous, NOTHING);
        assert_eq!(links[1].previous, hash(parts[0]));
        assert_eq!(links[2].previous, hash(parts[1]));
        assert!(links[0].signed.is_none() && links[2].signed.is_none());
        let (signature, message) = links[1].signed.unwrap();
        assert!(chain.key.public().verifies(message, &signature));
        assert!(!chain.key.public().verifies(parts[0], &signature));
        assert_eq!(serde_json::from_slice::<serde_json::Value>(parts[1]).unwrap()["b"], 2);
    }

    #[test]
    fn what_has_no_place_is_told_apart() {
        for line in [&b""[..], b"{}", br#"{"seq":1,"prev":"00"}"#, br#"{"a":1,"seq":x,"prev":"00"}"#, b"}", b"\"}"] {
            assert!(parse(line).is_none(), "{}", line.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn anything_can_be_read(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }

        #[test]
        fn text_of_callers_cannot_move_a_line(text in r#"[",:{}seqprvig0-9a-f\\]{0,80}"#) {
            let (mut chain, mut lines) = (chain(), Vec::new());
            add(&mut chain, &mut lines, &serde_json::json!({ "who": text }).to_string());
            let link = parse(split(&lines)[0]).unwrap();
            prop_assert_eq!((link.seq, link.previous), (0, NOTHING));
        }
    }
}
