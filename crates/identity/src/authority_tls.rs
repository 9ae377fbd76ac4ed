//! The listener of an authority: anybody may connect and see who it is, members also show who they are.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::version::TLS13;
use rustls_pki_types::CertificateDer;

use crate::credentials::CredentialsError;
use crate::files;
use crate::material::Material;
use crate::peer::{self, PeerError};
use crate::spiffe::SpiffeId;
use crate::tls;
use crate::verifier::MemberVerifier;

/// The authority as a member of its own mesh, and whom it believes. One snapshot at a time, as [`crate::Credentials`].
pub struct AuthorityCredentials {
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Snapshot>,
}

struct Snapshot {
    not_after: SystemTime,
    server: Arc<ServerConfig>,
    members: Arc<MemberVerifier>,
}

impl AuthorityCredentials {
    /// With what the authority signed for itself.
    ///
    /// # Errors
    /// When a part is unusable or does not fit the others.
    pub fn new(material: &Material) -> Result<Self, CredentialsError> {
        let provider = Arc::new(tls::provider());
        let first = Snapshot::compile(&provider, material)?;
        Ok(Self { provider, current: ArcSwap::from_pointee(first) })
    }

    /// Uses something else for new connections from now on.
    ///
    /// # Errors
    /// As [`AuthorityCredentials::new`]; then nothing changes.
    pub fn replace(&self, material: &Material) -> Result<(), CredentialsError> {
        self.current.store(Arc::new(Snapshot::compile(&self.provider, material)?));
        Ok(())
    }

    /// For the listener, to be asked for each accepted connection: TLS 1.3, a certificate of a member if the client has one.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().server)
    }

    /// Who a client is, by the full check under what is believed and revoked now: its connection may be older.
    ///
    /// # Errors
    /// When a new connection with these certificates would be refused.
    pub fn client(&self, chain: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerError> {
        self.current.load().members.verify_chain(chain).map(|facts| facts.id)
    }

    /// End of the present certificate's life.
    pub fn not_after(&self) -> SystemTime {
        self.current.load().not_after
    }
}

impl Snapshot {
    fn compile(provider: &Arc<CryptoProvider>, material: &Material) -> Result<Self, CredentialsError> {
        let contents = material.contents(Vec::new());
        let mut pair = files::pair(&contents.cert, &contents.key)?;
        let refused = |source| CredentialsError::Own { cert: contents.cert.path().to_owned(), source };
        let facts = pair.cert.first().ok_or(PeerError::NoCertificate).and_then(peer::facts).map_err(refused)?;
        let domain = facts.id.trust_domain();
        MemberVerifier::without_revocation(provider, domain, &contents)?.verify_chain(&pair.cert).map_err(refused)?;
        let members = Arc::new(MemberVerifier::from_files(provider, domain, &contents, false)?);
        // The roots as well: a workload that knows only the digest of one must see it.
        pair.cert.extend(contents.ca.iter().map(files::Loaded::certificates).collect::<Result<Vec<_>, _>>()?.concat());
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(&[&TLS13])?;
        let server = tls::server(builder.with_client_cert_verifier(Arc::clone(&members) as _), &Arc::new(pair))?;
        Ok(Self { not_after: facts.not_after, server: Arc::new(server), members })
    }
}

impl fmt::Debug for AuthorityCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityCredentials").field("not_after", &self.not_after()).finish_non_exhaustive()
    }
}
