//! The bearer token of a mesh on one machine: made once, kept in a file of the owner, known to the ingress by its hash.

use std::path::Path;

use anyhow::{anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use outrigger_config::Secret;

use crate::files;

/// Random bytes in a token: nothing to guess.
const RANDOM: usize = 32;
/// The shortest text that is taken for a token: 128 random bits.
const SHORTEST: usize = 22;

/// Reads the token, or makes one.
///
/// # Errors
/// A file that holds no token, and what cannot be read or written.
pub(crate) fn load_or_make(path: &Path) -> anyhow::Result<Secret> {
    if path.exists() {
        return read(path);
    }
    let mut bytes = [0; RANDOM];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow!("the system gives no random numbers"))?;
    let token = URL_SAFE_NO_PAD.encode(bytes);
    files::write(path, token.as_bytes(), files::PRIVATE)?;
    Ok(Secret::new(token))
}

/// Reads a token from a file; blanks and line ends around it do not count.
pub(crate) fn read(path: &Path) -> anyhow::Result<Secret> {
    let text = files::read(path)?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("{} holds no token: expected one word of visible ASCII characters", path.display());
    }
    Ok(Secret::new(token))
}

/// What the ingress is told: SHA-256, in hexadecimal.
///
/// # Errors
/// A token so short that its hash would give it away.
pub(crate) fn digest(token: &Secret) -> anyhow::Result<String> {
    if token.reveal().len() < SHORTEST {
        bail!("the token is shorter than {SHORTEST} characters; remove its file, and a good one is made");
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.reveal().as_bytes());
    Ok(HEXLOWER.encode(digest.as_ref()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_made_once_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = load_or_make(&path).unwrap();
        assert_eq!(token.reveal().len(), 43);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load_or_make(&path).unwrap(), token);
    }

    #[test]
    fn the_digest_is_the_one_of_sha256sum() {
        let token = Secret::new("0123456789012345678901");
        assert_eq!(digest(&token).unwrap(), "285cda1c67d9118fe505aec5031ed73135ec3b2a9116a878104be9d0abe63c2f");
        assert!(digest(&Secret::new("short")).is_err());
    }

    #[test]
    fn a_file_without_a_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        for bad in ["", "\n", "two words", "ünïcode"] {
            std::fs::write(&path, bad).unwrap();
            assert!(load_or_make(&path).is_err(), "{bad:?}");
        }
        std::fs::write(&path, " abc \n").unwrap();
        assert_eq!(read(&path).unwrap().reveal(), "abc");
    }
}
