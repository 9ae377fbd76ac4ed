//! Who a certificate is. Reads names and dates; believing them is the verifier's work.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

use crate::spiffe::{SpiffeError, SpiffeId, TrustDomain};

/// Why a certificate does not say who its holder is, or says somebody else.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PeerError {
    /// The peer showed none.
    #[error("the peer has no certificate")]
    NoCertificate,
    /// Not readable as X.509.
    #[error("the certificate cannot be read: {0}")]
    Malformed(&'static str),
    /// No URI among its names.
    #[error("the certificate names no SPIFFE id; issue it with one URI, `spiffe://<trust domain>/<service>`")]
    NoUri,
    /// More URIs than the one that a SPIFFE certificate has (X509-SVID, section 2).
    #[error("the certificate names {0} URIs; a workload has exactly one")]
    SeveralUris(usize),
    /// A URI that is not a SPIFFE id.
    #[error("the URI of the certificate is not a SPIFFE id: {0}")]
    NotSpiffe(#[from] SpiffeError),
    /// The certificate of an authority, which must not act as a workload (X509-SVID, section 5.2).
    #[error("the certificate is one of an authority, not of a workload")]
    NotALeaf,
    /// The id of a trust domain without a workload in it.
    #[error("`{0}` names a trust domain, not a workload")]
    NoWorkload(SpiffeId),
    /// Somebody of another mesh.
    #[error("`{id}` is not of the trust domain `{expected}`")]
    ForeignTrustDomain {
        /// Who it is.
        id: SpiffeId,
        /// Where it should belong.
        expected: TrustDomain,
    },
    /// Somebody else than the one who was called.
    #[error("the peer is `{id}`, expected `{expected}`")]
    Unexpected {
        /// Who it is.
        id: SpiffeId,
        /// Who it should be.
        expected: SpiffeId,
    },
    /// Before its first or after its last second.
    #[error("the certificate is not valid now: it has expired, or it begins in the future")]
    OutsideLife,
    /// The chain does not lead to our authority, or an authority revoked it.
    #[error("the certificate is not trusted: {0}")]
    Untrusted(rustls::Error),
}

/// What a workload certificate says.
#[derive(Debug, Clone)]
pub(crate) struct PeerFacts {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// What the certificate of an authority says.
pub(crate) struct AuthorityFacts<'a> {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) subject: &'a [u8],
    /// Of the subject; empty when it has none that is text.
    pub(crate) common_name: String,
    pub(crate) public_key: Vec<u8>,
    pub(crate) not_after: SystemTime,
}

/// Who the peer is, from the certificates that rustls verified (`peer_certificates()`): the one SPIFFE URI of the first.
///
/// [`crate::Credentials::peer`] also checks the trust domain and the dates, which a resumed handshake does not.
///
/// # Errors
/// No certificate, no URI, several URIs, or one that is not a SPIFFE id of a workload.
pub fn peer_id(certificates: Option<&[CertificateDer<'_>]>) -> Result<SpiffeId, PeerError> {
    let leaf = certificates.and_then(<[_]>::first).ok_or(PeerError::NoCertificate)?;
    facts(leaf).map(|facts| facts.id)
}

/// Reads a workload certificate.
pub(crate) fn facts(leaf: &CertificateDer<'_>) -> Result<PeerFacts, PeerError> {
    let certificate = parse(leaf)?;
    let signs_keys = |usage: &x509_parser::extensions::KeyUsage| usage.key_cert_sign() || usage.crl_sign();
    let usage = certificate.key_usage().map_err(|_| PeerError::Malformed("its key usage"))?;
    if certificate.is_ca() || usage.is_some_and(|usage| signs_keys(usage.value)) {
        return Err(PeerError::NotALeaf);
    }
    let id = only_uri(&certificate)?;
    if id.path().is_empty() {
        return Err(PeerError::NoWorkload(id));
    }
    let (not_before, not_after) = dates(&certificate);
    Ok(PeerFacts { id, not_before, not_after })
}

/// Start and end of any certificate's life.
pub(crate) fn life(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), PeerError> {
    parse(certificate).map(|certificate| dates(&certificate))
}

/// The key of a certificate, and what kind of key it is (the contents of its AlgorithmIdentifier).
pub(crate) struct PublicKey {
    pub(crate) algorithm: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

/// Reads the key of a certificate.
pub(crate) fn public_key(certificate: &CertificateDer<'_>) -> Result<PublicKey, PeerError> {
    let certificate = parse(certificate)?;
    let public = &certificate.tbs_certificate.subject_pki;
    let malformed = || PeerError::Malformed("its public key");
    let (_, outer) = Any::from_der(public.raw).map_err(|_| malformed())?;
    let (_, algorithm) = Any::from_der(outer.data).map_err(|_| malformed())?;
    Ok(PublicKey { algorithm: algorithm.data.to_vec(), key: public.subject_public_key.data.to_vec() })
}

/// Reads the certificate of an authority that speaks for a trust domain.
pub(crate) fn authority_facts<'a>(root: &'a CertificateDer<'_>) -> Result<AuthorityFacts<'a>, PeerError> {
    let certificate = parse(root)?;
    let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Ok(AuthorityFacts {
        trust_domain: only_uri(&certificate)?.trust_domain().clone(),
        common_name: common_name.unwrap_or_default().to_owned(),
        subject: certificate.tbs_certificate.subject.as_raw(),
        public_key: certificate.tbs_certificate.subject_pki.raw.to_vec(),
        not_after: dates(&certificate).1,
    })
}

/// Whether an authority may sign other authorities (the path length of its basic constraints).
pub(crate) fn signs_authorities(certificate: &CertificateDer<'_>) -> Result<bool, PeerError> {
    let certificate = parse(certificate)?;
    let constraints = certificate.basic_constraints().map_err(|_| PeerError::Malformed("its basic constraints"))?;
    Ok(constraints.is_some_and(|it| it.value.ca && it.value.path_len_constraint != Some(0)))
}

/// SHA-256 of the public key (SubjectPublicKeyInfo), which names an authority whatever its certificate says.
pub(crate) fn key_fingerprint(certificate: &CertificateDer<'_>) -> Result<[u8; 32], PeerError> {
    parse(certificate).map(|certificate| crate::pem::sha256(certificate.tbs_certificate.subject_pki.raw))
}

/// The subject in DER.
pub(crate) fn subject<'a>(certificate: &'a CertificateDer<'_>) -> Result<&'a [u8], PeerError> {
    parse(certificate).map(|certificate| certificate.tbs_certificate.subject.as_raw())
}

/// True when the key identifier of `certificate`'s issuer, or failing that its name, is that of `root`.
pub(crate) fn issued_by(certificate: &CertificateDer<'_>, root: &CertificateDer<'_>) -> Result<bool, PeerError> {
    let (certificate, root) = (parse(certificate)?, parse(root)?);
    Ok(certificate.tbs_certificate.issuer.as_raw() == root.tbs_certificate.subject.as_raw()
        && authority_key_id(&certificate) == subject_key_id(&root))
}

/// The serial as it stands in DER.
pub(crate) fn raw_serial<'a>(certificate: &'a CertificateDer<'_>) -> Result<&'a [u8], PeerError> {
    parse(certificate).map(|certificate| certificate.raw_serial())
}

/// X.509 dates before 1970 count as 1970.
pub(crate) fn system_time(time: &ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PeerError> {
    match X509Certificate::from_der(der.as_ref()) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PeerError::Malformed("bytes follow it")),
        Err(_) => Err(PeerError::Malformed("not X.509 in DER")),
    }
}

fn only_uri(certificate: &X509Certificate<'_>) -> Result<SpiffeId, PeerError> {
    // Refuses two extensions of the kind as well: the other one could hold another name.
    let names = certificate.subject_alternative_name().map_err(|_| PeerError::Malformed("its alternative names"))?;
    let mut uris = Vec::new();
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // Could be a second URI that another reader understands.
            GeneralName::Invalid(..) => {
                return Err(PeerError::Malformed("one of its alternative names"));
            }
            _ => {}
        }
    }
    match uris.as_slice() {
        [] => Err(PeerError::NoUri),
        [uri] => Ok(SpiffeId::parse(uri)?),
        several => Err(PeerError::SeveralUris(several.len())),
    }
}

fn dates(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let validity = certificate.validity();
    (system_time(&validity.not_before), system_time(&validity.not_after))
}

fn authority_key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
            id.key_identifier.as_ref().map(|key| key.0)
        }
        _ => None,
    })
}

fn subject_key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}
