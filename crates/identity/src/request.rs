//! What a workload sends when it wants a certificate: a request (PKCS #10, RFC 2986) with the proof that it has the key.
//!
//! The request decides nothing but the key. Who the workload is comes from how it proved itself; a request that names
//! somebody else is refused, so that a mistake or an attack is seen instead of silently corrected.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, VerificationAlgorithm};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SignatureAlgorithm};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ED25519,
};
use x509_parser::prelude::{FromDer, GeneralName};

use crate::pem;
use crate::spiffe::SpiffeId;

/// Most bytes of a request in PEM; real ones have some 500.
pub const MAX_REQUEST: usize = 8 * 1024;
/// Most bytes of a refused request that an error repeats.
const SHOWN: usize = 128;

/// Why no certificate is made of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than any real one.
    #[error("the request is longer than {MAX_REQUEST} bytes")]
    TooLarge,
    /// Not PEM, not PKCS #10, or with something behind it.
    #[error("the request is not one PKCS #10 request in PEM")]
    Malformed,
    /// A key that is not for workloads.
    #[error("the key of the request is of a kind that is not accepted; use ECDSA P-256 or P-384, or Ed25519")]
    KeyType,
    /// Whoever sent it does not have the key.
    #[error("the signature of the request does not belong to its key")]
    Signature,
    /// It wants to be an authority.
    #[error("the request asks for the certificate of an authority")]
    Authority,
    /// It names somebody, and not the one who it proved to be.
    #[error("the request names `{asked}`, but it was proved to come from `{proved}`")]
    Name {
        /// What it names, cut.
        asked: String,
        /// Who sent it.
        proved: SpiffeId,
    },
}

/// A request whose signature is good.
pub struct CertificateRequest {
    algorithm: &'static SignatureAlgorithm,
    key: Vec<u8>,
    /// Every alternative name that it asks for.
    names: Vec<String>,
    fingerprint: [u8; 32],
}

impl CertificateRequest {
    /// Reads and checks a request.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn parse(text: &[u8]) -> Result<Self, RequestError> {
        if text.len() > MAX_REQUEST {
            return Err(RequestError::TooLarge);
        }
        let der = CertificateSigningRequestDer::from_pem_slice(text).map_err(|_| RequestError::Malformed)?;
        Self::from_der(&der)
    }

    /// The same without PEM around it.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn from_der(der: &[u8]) -> Result<Self, RequestError> {
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() || request.certification_request_info.version.0 != 0 {
            return Err(RequestError::Malformed);
        }
        let algorithm = verify(&request)?;
        let info = &request.certification_request_info;
        Ok(Self {
            algorithm,
            key: info.subject_pki.subject_public_key.data.to_vec(),
            names: names(&request)?,
            fingerprint: pem::sha256(info.subject_pki.raw),
        })
    }

    /// That it asks for nothing but what its sender may have: no name at all, or only this one.
    ///
    /// # Errors
    /// [`RequestError::Name`].
    pub fn is_for(&self, id: &SpiffeId) -> Result<(), RequestError> {
        match self.names.iter().find(|name| *name != id.as_str()) {
            None => Ok(()),
            Some(other) => Err(RequestError::Name { asked: other.chars().take(SHOWN).collect(), proved: id.clone() }),
        }
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo).
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }
}

/// Which kind of key it is; the signature must be of that kind and by that key.
fn verify(request: &X509CertificationRequest<'_>) -> Result<&'static SignatureAlgorithm, RequestError> {
    let info = &request.certification_request_info;
    let (key, signed) = (&info.subject_pki.algorithm, &request.signature_algorithm.algorithm);
    let curve = key.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let elliptic = key.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY;
    let (algorithm, check): (_, &dyn VerificationAlgorithm) =
        if elliptic && curve.as_ref() == Some(&OID_EC_P256) && *signed == OID_SIG_ECDSA_WITH_SHA256 {
            (&PKCS_ECDSA_P256_SHA256, &ECDSA_P256_SHA256_ASN1)
        } else if elliptic && curve.as_ref() == Some(&OID_NIST_EC_P384) && *signed == OID_SIG_ECDSA_WITH_SHA384 {
            (&PKCS_ECDSA_P384_SHA384, &ECDSA_P384_SHA384_ASN1)
        } else if key.algorithm == OID_SIG_ED25519 && *signed == OID_SIG_ED25519 {
            (&PKCS_ED25519, &ED25519)
        } else {
            return Err(RequestError::KeyType);
        };
    let verified = check.verify_sig(&info.subject_pki.subject_public_key.data, info.raw, &request.signature_value.data);
    verified.map_err(|_| RequestError::Signature)?;
    Ok(algorithm)
}

/// Every name that is asked for, in whatever form.
fn names(request: &X509CertificationRequest<'_>) -> Result<Vec<String>, RequestError> {
    let mut names = Vec::new();
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else { continue };
        for extension in &asked.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(asked) => {
                    names.extend(asked.general_names.iter().map(|name| match name {
                        GeneralName::URI(uri) => (*uri).to_owned(),
                        other => other.to_string(),
                    }));
                }
                ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                    return Err(RequestError::Authority);
                }
                ParsedExtension::ParseError { .. } => return Err(RequestError::Malformed),
                _ => {}
            }
        }
    }
    Ok(names)
}

impl PublicKeyData for CertificateRequest {
    fn der_bytes(&self) -> &[u8] {
        &self.key
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateRequest").field("names", &self.names).finish_non_exhaustive()
    }
}
