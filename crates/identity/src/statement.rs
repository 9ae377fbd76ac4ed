//! A signed statement of one member for others: some bytes, a signature by the key of its certificate, and that certificate.
//! Whoever gets it needs nothing else to believe it, and nobody else can make one.
//!
//! ```text
//!  <payload> . <scheme, 2 bytes, and signature> . <certificate> . <intermediate> ...     each in base64url
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use crate::peer::{self, PeerError};

/// Longest statement: a payload of 8 KiB and a chain of two, with room.
pub const MAX_STATEMENT: usize = 24 * 1024;
/// Longest payload.
pub const MAX_PAYLOAD: usize = 8 * 1024;
/// Most certificates of a chain.
const MAX_CHAIN: usize = 4;
/// Stands before every payload that is signed, so that a signature is good for nothing else, TLS least of all.
const CONTEXT: &[u8] = b"outrigger statement 1\0";
/// The schemes of TLS 1.3, one for each kind of key that a member may have.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];

/// Why a statement is not believed, or not made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StatementError {
    /// Not of the form.
    #[error("it is no statement: {0}")]
    Form(&'static str),
    /// More than others take.
    #[error("a payload of {0} bytes; at most {MAX_PAYLOAD} are taken")]
    TooLong(usize),
    /// Its signer is nobody to believe.
    #[error("its signer: {0}")]
    Signer(#[from] PeerError),
    /// The signature is not one of the certificate's key.
    #[error("its signature is wrong")]
    Signature,
    /// Our own key cannot sign.
    #[error("cannot sign: {0}")]
    Key(rustls::Error),
}

/// What a statement says, once its signature holds: nothing is known of the signer yet.
pub(crate) struct Opened {
    pub(crate) payload: Vec<u8>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// Signs a payload.
pub(crate) fn sign(pair: &CertifiedKey, payload: &[u8]) -> Result<String, StatementError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(StatementError::TooLong(payload.len()));
    }
    let unusable = || StatementError::Key(rustls::Error::General("no scheme of signatures fits".to_owned()));
    let signer = pair.key.choose_scheme(&SCHEMES).ok_or_else(unusable)?;
    let mut signature = u16::from(signer.scheme()).to_be_bytes().to_vec();
    signature.extend(signer.sign(&signed(payload)).map_err(StatementError::Key)?);
    let parts = [payload, &signature].into_iter().chain(pair.cert.iter().map(AsRef::as_ref));
    Ok(parts.map(|part| URL_SAFE_NO_PAD.encode(part)).collect::<Vec<_>>().join("."))
}

/// Reads a statement and checks its signature by the certificate that it brings.
pub(crate) fn open(provider: &CryptoProvider, text: &[u8]) -> Result<Opened, StatementError> {
    if text.len() > MAX_STATEMENT {
        return Err(StatementError::Form("longer than one may be"));
    }
    let mut parts = text.split(|byte| *byte == b'.').map(|part| URL_SAFE_NO_PAD.decode(part));
    let mut next = || parts.next().and_then(Result::ok);
    let payload = next().ok_or(StatementError::Form("its payload"))?;
    let signature = next().ok_or(StatementError::Form("its signature"))?;
    let chain: Result<Vec<_>, _> = parts.take(MAX_CHAIN + 1).map(|part| part.map(CertificateDer::from)).collect();
    let chain = chain.map_err(|_| StatementError::Form("its certificates"))?;
    let leaf = chain.first().filter(|_| chain.len() <= MAX_CHAIN).ok_or(StatementError::Form("its certificates"))?;
    let (scheme, signature) = signature.split_first_chunk::<2>().ok_or(StatementError::Form("its signature"))?;
    let scheme = SignatureScheme::from(u16::from_be_bytes(*scheme));
    if !SCHEMES.contains(&scheme) {
        return Err(StatementError::Signature);
    }
    let key = peer::public_key(leaf)?;
    let mapping = provider.signature_verification_algorithms.mapping.iter();
    let mut fitting = mapping.filter(|(known, _)| *known == scheme).flat_map(|(_, algorithms)| *algorithms);
    let holds = fitting.any(|algorithm| {
        algorithm.public_key_alg_id().as_ref() == key.algorithm
            && algorithm.verify_signature(&key.key, &signed(&payload), signature).is_ok()
    });
    if holds { Ok(Opened { payload, chain }) } else { Err(StatementError::Signature) }
}

fn signed(payload: &[u8]) -> Vec<u8> {
    [CONTEXT, payload].concat()
}
