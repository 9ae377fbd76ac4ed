//! Whether to believe a certificate: chain, dates and revocation by rustls, then the SPIFFE id by us. Which roots a chain
//! must lead to depends on the trust domain that the certificate names, so that no root can speak for another domain.
//!
//! A mesh certificate serves both ends of a connection, so one chain check serves both as well. It is the one that
//! rustls has for clients, because that one asks for no host name: in a mesh the SPIFFE id is the name.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientCertVerifierBuilder, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::credentials::CredentialsError;
use crate::files::Loaded;
use crate::known::KnownChains;
use crate::peer::{self, PeerError, PeerFacts};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::watch::Contents;

/// Believes members of our trust domain, and of those that it is federated with.
#[derive(Debug)]
pub(crate) struct MemberVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: TrustDomain,
    /// Each vouches for its own trust domain and no other.
    federation: Vec<(TrustDomain, Arc<dyn ClientCertVerifier>)>,
    /// Good ones, of any of the roots.
    known: KnownChains,
    /// The names of all roots, which some clients choose their certificate by.
    hints: Vec<DistinguishedName>,
}

/// Believes one workload, as the server that we call.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    members: Arc<MemberVerifier>,
    expected: SpiffeId,
}

impl MemberVerifier {
    /// With the authorities and revocation lists of the files. `required` decides whether a client may come without a
    /// certificate; one that it shows must always be good.
    pub(crate) fn from_files(
        provider: &Arc<CryptoProvider>,
        trust_domain: &TrustDomain,
        contents: &Contents,
        required: bool,
    ) -> Result<Self, CredentialsError> {
        let crls = contents.crl.as_ref().map_or_else(|| Ok(Vec::new()), Loaded::crls)?;
        // rustls' defaults are the strict ones: the whole chain is checked, and with lists present a certificate that
        // none of them covers is refused. A list past its nextUpdate still counts: stale knowledge beats an outage.
        let mut chain = builder(provider, contents)?.with_crls(crls);
        if !required {
            chain = chain.allow_unauthenticated();
        }
        let federation = contents.federation.iter().map(|foreign| {
            let crls = foreign.crl.as_ref().map_or_else(|| Ok(Vec::new()), Loaded::crls)?;
            let roots = Arc::new(foreign.bundle.roots()?);
            let chain = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider)).with_crls(crls);
            Ok((foreign.trust_domain.clone(), chain.build()?))
        });
        let federation = federation.collect::<Result<Vec<_>, CredentialsError>>()?;
        Ok(Self::new(chain.build()?, trust_domain.clone(), federation))
    }

    /// With these roots and nothing else.
    pub(crate) fn of_roots(
        provider: &Arc<CryptoProvider>,
        trust_domain: &TrustDomain,
        roots: RootCertStore,
    ) -> Result<Self, VerifierBuilderError> {
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build()?;
        Ok(Self::new(chain, trust_domain.clone(), Vec::new()))
    }

    fn new(
        chain: Arc<dyn ClientCertVerifier>,
        trust_domain: TrustDomain,
        federation: Vec<(TrustDomain, Arc<dyn ClientCertVerifier>)>,
    ) -> Self {
        let all = std::iter::once(&chain).chain(federation.iter().map(|(_, chain)| chain));
        let hints = all.flat_map(|chain| chain.root_hint_subjects().to_vec()).collect();
        Self { chain, trust_domain, federation, known: KnownChains::default(), hints }
    }

    /// For our own certificate: that we are revoked is for peers to notice, and must not keep us from learning whom we
    /// should refuse.
    pub(crate) fn without_revocation(
        provider: &Arc<CryptoProvider>,
        trust_domain: &TrustDomain,
        contents: &Contents,
    ) -> Result<Self, CredentialsError> {
        Ok(Self::new(builder(provider, contents)?.build()?, trust_domain.clone(), Vec::new()))
    }

    /// The full check, now, of a chain with its leaf first.
    pub(crate) fn verify_chain(&self, chain: &[CertificateDer<'_>]) -> Result<PeerFacts, PeerError> {
        let (leaf, intermediates) = chain.split_first().ok_or(PeerError::NoCertificate)?;
        self.verify(leaf, intermediates, UnixTime::now())
    }

    /// The full check, at `now`; of a chain that it has found good before, only whether it is still alive.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<PeerFacts, PeerError> {
        if let Some(facts) = self.known.find(leaf, intermediates, now) {
            return Ok(facts);
        }
        // What the leaf says decides whose roots are asked, and they decide whether it is true.
        let claimed = if self.federation.is_empty() { None } else { peer::facts(leaf).ok() };
        let foreign = claimed.and_then(|facts| self.foreign(facts.id.trust_domain()));
        let chain = foreign.unwrap_or(&self.chain);
        chain.verify_client_cert(leaf, intermediates, now).map_err(PeerError::Untrusted)?;
        let facts = self.member(leaf)?;
        self.known.remember(leaf, intermediates, &facts, now);
        Ok(facts)
    }

    fn foreign(&self, trust_domain: &TrustDomain) -> Option<&Arc<dyn ClientCertVerifier>> {
        self.federation.iter().find(|(domain, _)| domain == trust_domain).map(|(_, chain)| chain)
    }

    /// Only the name: a workload of our trust domain, or of one that it is federated with.
    pub(crate) fn member(&self, leaf: &CertificateDer<'_>) -> Result<PeerFacts, PeerError> {
        let facts = peer::facts(leaf)?;
        if *facts.id.trust_domain() != self.trust_domain && self.foreign(facts.id.trust_domain()).is_none() {
            return Err(PeerError::ForeignTrustDomain { id: facts.id, expected: self.trust_domain.clone() });
        }
        Ok(facts)
    }
}

impl ServerVerifier {
    pub(crate) fn new(members: Arc<MemberVerifier>, expected: SpiffeId) -> Self {
        Self { members, expected }
    }
}

fn builder(provider: &Arc<CryptoProvider>, contents: &Contents) -> Result<ClientCertVerifierBuilder, CredentialsError> {
    let roots = contents.ca.as_ref().map_or_else(|| Ok(RootCertStore::empty()), Loaded::roots)?;
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)))
}

/// rustls' own errors keep their alert; ours travel inside and reach the peer as `certificate_unknown`.
fn refusal(error: PeerError) -> Error {
    match error {
        PeerError::Untrusted(error) => error,
        other => Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(other)))),
    }
}

impl ClientCertVerifier for MemberVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, now).map_err(refusal)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let facts = self.members.verify(leaf, intermediates, now).map_err(refusal)?;
        if facts.id != self.expected {
            return Err(refusal(PeerError::Unexpected { id: facts.id, expected: self.expected.clone() }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.members.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.members.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.members.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
