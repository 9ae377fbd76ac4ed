//! Cursors of lists that we page ourselves, sealed so that a client can neither read meaning into them nor forge them.
//!
//! A cursor is bound to the kind of list, to the generation of the merged catalog and to what its holder may see: when
//! any of them is another one now, the client gets -32602 and starts the list again (server/utilities/pagination).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use thiserror::Error;

use crate::catalog_kind::Kind;

/// A keyed message authentication code, supplied by whoever holds the key.
pub type Mac<'a> = &'a dyn Fn(&[u8]) -> [u8; 16];

const VERSION: u8 = 1;
const BODY: usize = 1 + 1 + 16 + 16 + 4;
const SEALED: usize = BODY + 16;

/// Why a cursor is refused. All of them map to -32602.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CursorError {
    /// Not made by us, or changed since.
    #[error("the cursor is not one that this endpoint issued; start the list again without a cursor")]
    Forged,
    /// Made for another list or another caller.
    #[error("the cursor belongs to another list or caller; start the list again without a cursor")]
    Foreign,
    /// The list has changed since.
    #[error("the list has changed since the cursor was issued; start again without a cursor")]
    Outdated,
}

/// What a cursor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The list it walks.
    pub kind: Kind,
    /// Fingerprint of the prepared list.
    pub generation: [u8; 16],
    /// Identifies what its holder may see (and the endpoint): two callers that see different things have different ones.
    pub class: [u8; 16],
    /// Index of the first item that was not yet sent.
    pub offset: u32,
}

impl Cursor {
    /// The cursor as opaque text.
    pub fn seal(&self, mac: Mac<'_>) -> String {
        let mut out = Vec::with_capacity(SEALED);
        out.extend([VERSION, kind_code(self.kind)]);
        out.extend(self.generation);
        out.extend(self.class);
        out.extend(self.offset.to_be_bytes());
        let tag = mac(&out);
        out.extend(tag);
        URL_SAFE_NO_PAD.encode(out)
    }

    /// Opens a cursor and gives its offset when it was issued for this very list: `self` with any offset.
    ///
    /// # Errors
    /// [`CursorError`], for the caller's eyes.
    pub fn open(&self, text: &str, mac: Mac<'_>) -> Result<u32, CursorError> {
        let mut sealed = [0_u8; SEALED];
        // A fixed buffer also refuses texts of any other length before anything is computed over them.
        match URL_SAFE_NO_PAD.decode_slice(text, &mut sealed) {
            Ok(SEALED) => {}
            Ok(_) | Err(_) => return Err(CursorError::Forged),
        }
        let (body, tag) = sealed.split_at(BODY);
        if !same(&mac(body), tag) || body.first() != Some(&VERSION) {
            return Err(CursorError::Forged);
        }
        if body.get(1) != Some(&kind_code(self.kind)) || body.get(18..34) != Some(&self.class) {
            return Err(CursorError::Foreign);
        }
        if body.get(2..18) != Some(&self.generation) {
            return Err(CursorError::Outdated);
        }
        let offset = body.get(34..).and_then(|b| <[u8; 4]>::try_from(b).ok()).ok_or(CursorError::Forged)?;
        Ok(u32::from_be_bytes(offset))
    }
}

fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::Tool => 0,
        Kind::Prompt => 1,
        Kind::Resource => 2,
        Kind::Template => 3,
    }
}

/// Compares in a time that does not depend on where the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    fn mac(key: &'static str) -> impl Fn(&[u8]) -> [u8; 16] {
        move |bytes| {
            let hash = Sha256::new().chain_update(key).chain_update(bytes).finalize();
            <[u8; 16]>::try_from(&hash[..16]).unwrap()
        }
    }

    const HERE: Cursor = Cursor { kind: Kind::Tool, generation: [7; 16], class: [9; 16], offset: 1234 };

    #[test]
    fn opens_only_where_it_belongs() {
        let text = HERE.seal(&mac("k"));
        assert_eq!(HERE.open(&text, &mac("k")), Ok(1234));
        assert_eq!(HERE.open(&text, &mac("other")), Err(CursorError::Forged));
        assert_eq!(Cursor { kind: Kind::Prompt, ..HERE }.open(&text, &mac("k")), Err(CursorError::Foreign));
        assert_eq!(Cursor { class: [8; 16], ..HERE }.open(&text, &mac("k")), Err(CursorError::Foreign));
        assert_eq!(Cursor { generation: [8; 16], ..HERE }.open(&text, &mac("k")), Err(CursorError::Outdated));
        for bad in ["", "AAAA", &"A".repeat(72), &"A".repeat(100_000), "ü", &text[1..], &format!("{text}A")] {
            assert_eq!(HERE.open(bad, &mac("k")), Err(CursorError::Forged));
        }
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_noticed(at in 0_usize..SEALED, flip in 1_u8..=255) {
            let mut sealed = URL_SAFE_NO_PAD.decode(HERE.seal(&mac("k"))).unwrap();
            sealed[at] ^= flip;
            prop_assert_eq!(HERE.open(&URL_SAFE_NO_PAD.encode(sealed), &mac("k")), Err(CursorError::Forged));
        }
    }
}
