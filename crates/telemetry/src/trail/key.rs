//! The Ed25519 key that signs a trail, and the public half that checks it. Files are PEM (RFC 8410), as openssl reads them.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{PemObject, SectionKind};

use crate::trace::write_hex;

/// Bytes of a signature.
pub(crate) const SIGNATURE_LEN: usize = 64;
/// Bytes of a public key.
const PUBLIC_LEN: usize = 32;
/// Most bytes of a key file.
const MAX_FILE: u64 = 64 * 1024;
/// `SubjectPublicKeyInfo` of an Ed25519 key up to the key itself (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("cannot use the key file {}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The file is something else.
    #[error("{} holds no Ed25519 key in PEM; make one with `openssl genpkey -algorithm ed25519`", .0.display())]
    NotAKey(PathBuf),
    /// No key can be made.
    #[error("cannot make a key: the system gives no random numbers")]
    NoRandom,
}

/// Signs.
pub(crate) struct SigningKey(Ed25519KeyPair);

/// Checks what the other half signed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; PUBLIC_LEN]);

impl SigningKey {
    /// A new key.
    pub(crate) fn generate() -> Result<Self, KeyError> {
        Ed25519KeyPair::generate().map(Self).map_err(|_| KeyError::NoRandom)
    }

    /// Reads the key of this file, or makes it, with its public half beside it as `<file>.pub`.
    pub(crate) fn load_or_make(path: &Path) -> Result<Self, KeyError> {
        match read(path) {
            Err(KeyError::File { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Self::make(path),
            Err(error) => Err(error),
            Ok((SectionKind::PrivateKey, der)) => Self::from_der(&der, path),
            Ok(_) => Err(KeyError::NotAKey(path.to_owned())),
        }
    }

    fn from_der(der: &[u8], path: &Path) -> Result<Self, KeyError> {
        // "Maybe unchecked": openssl leaves the public half out, which is then computed.
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
        key.map(Self).map_err(|_| KeyError::NotAKey(path.to_owned()))
    }

    fn make(path: &Path) -> Result<Self, KeyError> {
        let key = Self::generate()?;
        let der = key.0.to_pkcs8v1().map_err(|_| KeyError::NoRandom)?;
        let public = [SPKI_PREFIX.as_slice(), &key.public().0].concat();
        let mut beside = path.as_os_str().to_owned();
        beside.push(".pub");
        // The private half first: a public half without it would be believed for nothing.
        write_new(path, 0o600, &pem("PRIVATE KEY", der.as_ref()))?;
        let beside = PathBuf::from(beside);
        match write_new(&beside, 0o644, &pem("PUBLIC KEY", &public)) {
            Err(KeyError::File { cause, .. }) if cause.kind() == io::ErrorKind::AlreadyExists => {
                fs::write(&beside, pem("PUBLIC KEY", &public))
                    .map_err(|cause| KeyError::File { path: beside, cause })?;
            }
            written => written?,
        }
        Ok(key)
    }

    /// The half that may be known.
    pub(crate) fn public(&self) -> PublicKey {
        let mut out = [0; PUBLIC_LEN];
        for (to, from) in out.iter_mut().zip(self.0.public_key().as_ref()) {
            *to = *from;
        }
        PublicKey(out)
    }

    /// Signs some bytes.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        let mut out = [0; SIGNATURE_LEN];
        for (to, from) in out.iter_mut().zip(self.0.sign(message).as_ref()) {
            *to = *from;
        }
        out
    }
}

impl PublicKey {
    /// Reads it from a PEM file: a public key, or the private one that it belongs to.
    ///
    /// # Errors
    /// [`KeyError`], with the path.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let not_a_key = || KeyError::NotAKey(path.to_owned());
        match read(path)? {
            (SectionKind::PublicKey, der) => {
                let raw = der.strip_prefix(&SPKI_PREFIX).ok_or_else(not_a_key)?;
                raw.try_into().map(Self).map_err(|_| not_a_key())
            }
            (SectionKind::PrivateKey, der) => Ok(SigningKey::from_der(&der, path)?.public()),
            _ => Err(not_a_key()),
        }
    }

    /// Whether the signature is of this message, by this key.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hex = [0; 2 * PUBLIC_LEN];
        write_hex(&self.0, &mut hex);
        f.write_str(str::from_utf8(&hex).unwrap_or_default())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn read(path: &Path) -> Result<(SectionKind, Vec<u8>), KeyError> {
    let failed = |cause| KeyError::File { path: path.to_owned(), cause };
    if fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
        return Err(KeyError::NotAKey(path.to_owned()));
    }
    let text = fs::read(path).map_err(failed)?;
    <(SectionKind, Vec<u8>)>::from_pem_slice(&text).map_err(|_| KeyError::NotAKey(path.to_owned()))
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), KeyError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|cause| KeyError::File { path: path.to_owned(), cause })
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.key");
        let made = SigningKey::load_or_make(&path).unwrap();
        let again = SigningKey::load_or_make(&path).unwrap();
        assert_eq!(made.public(), again.public());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let public = PublicKey::load(&dir.path().join("audit.key.pub")).unwrap();
        assert_eq!((public, PublicKey::load(&path).unwrap()), (made.public(), made.public()));
        let signature = again.sign(b"text");
        assert!(public.verifies(b"text", &signature) && !public.verifies(b"texts", &signature));
    }

    #[test]
    fn keys_of_openssl_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (key, public) = (dir.path().join("key"), dir.path().join("pub"));
        let run = |args: &[&str]| assert!(std::process::Command::new("openssl").args(args).status().unwrap().success());
        let (key_text, public_text) = (key.to_str().unwrap(), public.to_str().unwrap());
        run(&["genpkey", "-algorithm", "ed25519", "-out", key_text]);
        run(&["pkey", "-in", key_text, "-pubout", "-out", public_text]);
        assert_eq!(SigningKey::load_or_make(&key).unwrap().public(), PublicKey::load(&public).unwrap());
    }

    #[test]
    fn what_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.key");
        for text in ["", "key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            fs::write(&path, text).unwrap();
            let error = SigningKey::load_or_make(&path).err().unwrap().to_string();
            assert!(error.contains("audit.key") && error.contains("openssl genpkey"), "{error}");
            assert!(PublicKey::load(&path).is_err());
        }
    }
}
