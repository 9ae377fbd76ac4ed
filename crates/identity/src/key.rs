//! The key of a workload that asks an authority for its certificate: made in this process, zeroed when it goes.

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::pkcs8::Document;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rcgen::{CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use crate::pem;
use crate::spiffe::SpiffeId;

/// Why there is no key, or no request with it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system gave no random numbers, or the library no key.
    #[error("cannot make a key: the system gives no random numbers")]
    Generate,
    /// A kept key is not one of ours.
    #[error("not an ECDSA P-256 key (PKCS #8, PEM)")]
    Malformed,
    /// The request cannot be written.
    #[error("cannot make the certificate request: {0}")]
    Request(#[from] rcgen::Error),
}

/// An ECDSA P-256 key. Its bytes are zeroed when it is dropped, those inside the library by the library.
pub struct WorkloadKey {
    pair: EcdsaKeyPair,
    pkcs8: Document,
}

impl WorkloadKey {
    /// Makes a new one.
    ///
    /// # Errors
    /// [`KeyError::Generate`].
    pub fn generate() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Generate)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        Ok(Self { pair, pkcs8 })
    }

    /// Reads what [`WorkloadKey::to_pem`] wrote.
    ///
    /// # Errors
    /// [`KeyError::Malformed`]; it says nothing of the content.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| KeyError::Malformed)?;
        let read = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der.secret_pkcs8_der());
        der.zeroize();
        let pair = read.map_err(|_| KeyError::Malformed)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyError::Malformed)?;
        Ok(Self { pair, pkcs8 })
    }

    /// For a file of mode 0600. Secret.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::encode("PRIVATE KEY", self.pkcs8.as_ref()))
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo), which says which key it is and nothing about the secret.
    pub fn fingerprint(&self) -> [u8; 32] {
        let der = self.pair.public_key().as_der();
        pem::sha256(der.as_ref().map_or(&[], |der| der.as_ref()))
    }

    /// A request (PKCS #10, PEM) for a certificate that names `id`. Without it the authority decides from the proof alone.
    ///
    /// # Errors
    /// [`KeyError::Request`].
    pub fn request(&self, id: Option<&SpiffeId>) -> Result<String, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(id) = id {
            params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        }
        Ok(params.serialize_request(self)?.pem()?)
    }

    pub(crate) fn der(&self) -> PrivateKeyDer<'_> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.as_ref()))
    }
}

impl PublicKeyData for WorkloadKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for WorkloadKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for WorkloadKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_key_is_the_same_key_and_is_not_shown() {
        let key = WorkloadKey::generate().unwrap();
        let pem = key.to_pem();
        let again = WorkloadKey::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(key.fingerprint(), again.fingerprint());
        assert_ne!(key.fingerprint(), WorkloadKey::generate().unwrap().fingerprint());
        assert_eq!(format!("{key:?}"), "WorkloadKey { .. }");
        assert!(matches!(WorkloadKey::from_pem(b"nonsense"), Err(KeyError::Malformed)));
    }
}
