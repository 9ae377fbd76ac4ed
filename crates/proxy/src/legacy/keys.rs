//! The keys under which session ids are sealed: shared by all replicas of an ingress, or made up when there is one.
//!
//! A key file has one key in each line, 64 hexadecimal digits (`openssl rand -hex 32`); empty lines and lines that begin
//! with `#` are skipped. The first key seals, all of them open. To rotate: add the new key as second line everywhere,
//! then make it the first, and remove the old one when the sessions that it sealed are over.

use std::path::Path;
use std::{fmt, fs};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hmac, rand};

/// Bytes of a key.
const KEY: usize = 32;
/// Keys in a file: two while one replaces the other, and some slack. Each costs an attempt for every forged id.
const MAX_KEYS: usize = 8;

/// The keys in force. Immutable: a reload makes new ones.
pub struct Keys {
    first: RandomizedNonceKey,
    others: Vec<RandomizedNonceKey>,
    cursors: [u8; KEY],
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("cannot read the session keys {path}: {error}; `openssl rand -hex 32` makes one")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// A line is no key. The line itself is never shown.
    #[error(
        "line {0} of the session keys is no key: expected 64 hexadecimal digits, as `openssl rand -hex 32` makes them"
    )]
    Line(usize),
    /// A key that nobody made at random.
    #[error("line {0} of the session keys repeats one byte: use a random key, as `openssl rand -hex 32` makes them")]
    Placeholder(usize),
    /// No key at all.
    #[error("there is no session key in the file; add one, as `openssl rand -hex 32` makes them")]
    None,
    /// Too many.
    #[error("more than {MAX_KEYS} session keys; remove those whose sessions are over")]
    TooMany,
    /// The system has no randomness.
    #[error("no randomness from the system")]
    Random,
}

impl Keys {
    /// A key that nobody else has, and that ends with the process.
    ///
    /// # Errors
    /// [`KeysError::Random`].
    pub fn random() -> Result<Self, KeysError> {
        let mut key = [0; KEY];
        rand::fill(&mut key).map_err(|_| KeysError::Random)?;
        Ok(Self { first: of_bytes(&key).ok_or(KeysError::Random)?, others: Vec::new(), cursors: for_cursors(&key) })
    }

    /// The keys of a file.
    ///
    /// # Errors
    /// [`KeysError`]. No key is shown in it.
    pub fn load(path: &Path) -> Result<Self, KeysError> {
        let text =
            fs::read_to_string(path).map_err(|error| KeysError::Read { path: path.display().to_string(), error })?;
        Self::parse(&text)
    }

    /// The keys of a file's text.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bytes = from_hex(line).ok_or(KeysError::Line(at + 1))?;
            if bytes.iter().all(|byte| Some(byte) == bytes.first()) {
                return Err(KeysError::Placeholder(at + 1));
            }
            if keys.len() == MAX_KEYS {
                return Err(KeysError::TooMany);
            }
            keys.push((of_bytes(&bytes).ok_or(KeysError::Line(at + 1))?, for_cursors(&bytes)));
        }
        let mut keys = keys.into_iter();
        let (first, cursors) = keys.next().ok_or(KeysError::None)?;
        Ok(Self { first, others: keys.map(|(key, _)| key).collect(), cursors })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// The secret under which cursors of merged lists are sealed: a client may ask another replica for the next page.
    pub fn cursors(&self) -> &[u8] {
        &self.cursors
    }

    /// Seals with the first key.
    ///
    /// # Errors
    /// [`KeysError::Random`].
    pub(super) fn seal(&self, mut text: Vec<u8>) -> Result<Vec<u8>, KeysError> {
        let nonce = self.first.seal_in_place_append_tag(Aad::empty(), &mut text).map_err(|_| KeysError::Random)?;
        Ok([nonce.as_ref().as_slice(), &text].concat())
    }

    /// Opens with whichever key fits; `None` when none does.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        std::iter::once(&self.first).chain(&self.others).find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut text = text.to_vec();
            let length = key.open_in_place(nonce, Aad::empty(), &mut text).ok()?.len();
            text.truncate(length);
            Some(text)
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.count())
    }
}

/// One key must not serve two purposes, so this one is derived.
fn for_cursors(key: &[u8; KEY]) -> [u8; KEY] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), b"outrigger cursors 1");
    tag.as_ref().first_chunk().copied().unwrap_or_default()
}

fn of_bytes(bytes: &[u8; KEY]) -> Option<RandomizedNonceKey> {
    RandomizedNonceKey::new(&AES_256_GCM, bytes).ok()
}

fn from_hex(text: &str) -> Option<[u8; KEY]> {
    let mut bytes = [0; KEY];
    if text.len() != KEY * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| pair.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const B: &str = "ffeeddccbbaa99887766554433221100FFEEDDCCBBAA99887766554433221100";

    fn keys(text: &str) -> Keys {
        Keys::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let (old, both, new) = (keys(A), keys(&format!("# new\n\n {B} \n{A}\n")), keys(B));
        assert_eq!(both.count(), 2);
        let by_old = old.seal(b"text".to_vec()).unwrap();
        let by_both = both.seal(b"text".to_vec()).unwrap();
        assert_eq!(both.open(&by_old).unwrap(), b"text");
        assert_eq!(new.open(&by_both).unwrap(), b"text");
        assert!(new.open(&by_old).is_none() && old.open(&by_both).is_none());
        assert_eq!(both.cursors(), new.cursors());
        assert_ne!(both.cursors(), old.cursors());
        assert_ne!(old.seal(b"text".to_vec()).unwrap(), by_old, "a nonce is never used twice");
    }

    #[test]
    fn what_is_no_key_is_named_by_its_line_and_not_shown() {
        let short = A.get(2..).unwrap();
        for (text, wanted) in [
            (String::new(), "no session key"),
            ("# only this\n".into(), "no session key"),
            (format!("{A}\n{short}"), "line 2"),
            (format!("{A} {B}"), "line 1"),
            (A.replace('0', "g"), "line 1"),
            ("ab".repeat(32), "line 1 of the session keys repeats one byte"),
            (format!("{A}\n").repeat(9), "more than 8"),
        ] {
            let error = Keys::parse(&text).err().unwrap_or_else(|| panic!("{text} is accepted")).to_string();
            assert!(error.contains(wanted) && !error.contains("112233"), "{error}");
        }
        assert!(Keys::load(Path::new("/does/not/exist")).unwrap_err().to_string().contains("openssl rand"));
        assert_eq!(format!("{:?}", keys(A)), "Keys(1)");
    }

    #[test]
    fn short_texts_are_not_sealed_ones() {
        for length in 0..30 {
            assert!(keys(A).open(&vec![0; length]).is_none());
        }
    }
}
