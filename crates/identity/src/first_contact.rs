//! The first connection of a workload to its authority: it has no certificate yet, and knows the authority by its roots or
//! by the digest of one.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::authority::AUTHORITY_NAME;
use crate::credentials::CredentialsError;
use crate::files::{FileRole, Loaded};
use crate::peer;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::tls;
use crate::verifier::{MemberVerifier, ServerVerifier};

/// How a workload without a certificate knows its authority.
#[derive(Debug, Clone)]
pub enum Anchor {
    /// By its roots. PEM.
    Bundle(String),
    /// By the SHA-256 of a root's public key (SubjectPublicKeyInfo).
    Digest([u8; 32]),
}

/// A client that shows nothing and believes the authority of this trust domain alone.
///
/// # Errors
/// A bundle that cannot be read, and a trust domain whose authority has no name.
pub fn first_contact(trust_domain: &TrustDomain, anchor: &Anchor) -> Result<Arc<ClientConfig>, CredentialsError> {
    let provider = Arc::new(tls::provider());
    let expected = trust_domain.service(AUTHORITY_NAME).map_err(CredentialsError::Name)?;
    let servers: Arc<dyn ServerCertVerifier> = match anchor {
        Anchor::Bundle(pem) => {
            let file = Loaded::from_memory(FileRole::Ca, Path::new("(authorities)"), pem.clone().into_bytes());
            let members = MemberVerifier::of_roots(&provider, trust_domain, file.roots()?)?;
            Arc::new(ServerVerifier::new(Arc::new(members), expected))
        }
        Anchor::Digest(digest) => Arc::new(Pinned { provider: Arc::clone(&provider), digest: *digest, expected }),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // rustls' word for bringing one's own verifier
        .with_custom_certificate_verifier(servers)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Believes the chain that leads to the one root with this digest, which must be among what the authority shows.
struct Pinned {
    provider: Arc<CryptoProvider>,
    digest: [u8; 32],
    expected: SpiffeId,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_it = |certificate: &&CertificateDer<'_>| peer::key_fingerprint(certificate) == Ok(self.digest);
        let root = intermediates.iter().find(is_it);
        let root = root.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let members = MemberVerifier::of_roots(&self.provider, self.expected.trust_domain(), roots);
        let members = members.map_err(|error| Error::General(error.to_string()))?;
        ServerVerifier::new(Arc::new(members), self.expected.clone()).verify_server_cert(
            leaf,
            intermediates,
            name,
            ocsp,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("expected", &self.expected).finish_non_exhaustive()
    }
}
