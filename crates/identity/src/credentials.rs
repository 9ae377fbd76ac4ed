//! The identity of a running workload: one immutable snapshot of everything TLS needs, replaced when its files change.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::files::{self, FileError, IdentityFiles};
use crate::material::{Federation, Given};
use crate::peer::{self, PeerError};
use crate::spiffe::{SpiffeError, SpiffeId, TrustDomain};
use crate::statement::{self, StatementError};
use crate::tls;
use crate::verifier::{MemberVerifier, ServerVerifier};
use crate::watch::{Contents, Own, Sources, Watch};

/// Most peers whose client configuration is kept; a mesh has fewer services. Past it the oldest tickets are forgotten.
const MAX_PEERS: usize = 1024;

/// Why an identity cannot be used. A running workload keeps the one it has.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file is missing, broken, or does not fit the others.
    #[error(transparent)]
    File(#[from] FileError),
    /// Our own certificate would be refused by every peer.
    #[error("the certificate {} would be refused by its peers: {source}", cert.display())]
    Own {
        /// The certificate file.
        cert: PathBuf,
        /// What is wrong with it.
        source: PeerError,
    },
    /// The files name somebody else than the configuration, or than they did when the process started.
    #[error(
        "the certificate names `{found}`, but this process is `{expected}`; correct the file, or restart to change the identity"
    )]
    Identity {
        /// Whom the file names.
        found: SpiffeId,
        /// Who we are.
        expected: SpiffeId,
    },
    /// The files are of another mesh than the configuration says.
    #[error(
        "the certificate names `{found}`, which is not of the trust domain `{expected}`; correct `trust_domain` or the file"
    )]
    TrustDomain {
        /// Whom the file names.
        found: SpiffeId,
        /// Which mesh the configuration names.
        expected: TrustDomain,
    },
    /// The authorities or revocation lists were refused.
    #[error("the authorities or revocation lists cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// A trust domain that leaves no room for a name.
    #[error(transparent)]
    Name(SpiffeError),
    /// rustls refused the whole.
    #[error("cannot configure TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// What a look at the files led to.
#[derive(Debug)]
pub enum Reload {
    /// The files are as they were.
    Unchanged,
    /// New connections use the new files; those that exist go on.
    Swapped {
        /// End of the new certificate's life.
        not_after: SystemTime,
    },
    /// The files changed but cannot be used; the last good snapshot stays. Reported at every look until it is repaired.
    Failed(CredentialsError),
}

/// What the files must say when an identity is loaded. Whatever is set here is checked again at every reload.
#[derive(Debug, Clone, Default)]
pub struct CredentialOptions {
    /// Which mesh we belong to; any unless set.
    pub trust_domain: Option<TrustDomain>,
    /// Who exactly we are; anybody unless set.
    pub expected: Option<SpiffeId>,
    /// Other trust domains whose workloads are believed. Taken when an identity is loaded; the files are read again.
    pub federation: Vec<Federation>,
}

impl CredentialOptions {
    fn check(&self, found: &SpiffeId) -> Result<(), CredentialsError> {
        if let Some(expected) = self.trust_domain.clone().filter(|domain| domain != found.trust_domain()) {
            return Err(CredentialsError::TrustDomain { found: found.clone(), expected });
        }
        if let Some(expected) = self.expected.clone().filter(|id| id != found) {
            return Err(CredentialsError::Identity { found: found.clone(), expected });
        }
        Ok(())
    }
}

/// The identity of this process. Shared by every listener and dialler; reading it takes no lock.
pub struct Credentials {
    id: SpiffeId,
    provider: Arc<CryptoProvider>,
    watch: Watch,
    current: ArcSwap<Snapshot>,
}

/// Everything of one generation; a connection uses one snapshot for all its life.
pub(crate) struct Snapshot {
    generation: u64,
    not_before: SystemTime,
    not_after: SystemTime,
    id: SpiffeId,
    members: Arc<MemberVerifier>,
    pair: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
    client_template: ClientConfig,
    /// Taken once per dialled connection.
    clients: Mutex<HashMap<SpiffeId, Arc<ClientConfig>>>,
}

impl Credentials {
    /// Reads the files and builds the first snapshot.
    ///
    /// # Errors
    /// When a file is unusable, certificate and key are not a pair, the certificate is not one of a workload that `ca`
    /// vouches for now, or it names somebody else than expected.
    pub fn load(files: IdentityFiles, options: &CredentialOptions) -> Result<Arc<Self>, CredentialsError> {
        let own = Own::Files { cert: files.cert, key: files.key, ca: Some(files.ca), crl: files.crl };
        Self::start(own, options)
    }

    /// The same with what an authority or an agent gave. [`Credentials::offer`] brings what follows.
    ///
    /// # Errors
    /// As [`Credentials::load`].
    pub fn enrolled(given: impl Into<Given>, options: &CredentialOptions) -> Result<Arc<Self>, CredentialsError> {
        Self::start(Own::Memory(ArcSwap::from_pointee(given.into())), options)
    }

    fn start(own: Own, options: &CredentialOptions) -> Result<Arc<Self>, CredentialsError> {
        let provider = Arc::new(tls::provider());
        let sources = Sources { own, federation: options.federation.clone() };
        let (watch, first) = Watch::start(sources, |contents| Snapshot::compile(&provider, contents, options, 1))?;
        let id = first.id.clone();
        Ok(Arc::new(Self { id, provider, watch, current: ArcSwap::from_pointee(first) }))
    }

    /// Looks at the files and swaps the snapshot if they changed and are good. Reads files: call it from a timer on a
    /// thread that may block. Calls at the same time wait for each other.
    pub fn reload_if_changed(&self) -> Reload {
        outcome(self.watch.reload(&self.current, |contents| self.compile(contents)))
    }

    /// Takes up what the authority or the agent gave, if it is good; else everything stays as it was. Does nothing for an
    /// identity that comes from files. Verifies certificates, which takes a fraction of a millisecond.
    pub fn offer(&self, given: impl Into<Given>) -> Reload {
        outcome(self.watch.offer(given.into(), &self.current, |contents| self.compile(contents)))
    }

    fn compile(&self, contents: &Contents) -> Result<Snapshot, CredentialsError> {
        let same = CredentialOptions { expected: Some(self.id.clone()), ..CredentialOptions::default() };
        Snapshot::compile(&self.provider, contents, &same, self.generation() + 1)
    }

    /// Who we are. Never changes while the process lives.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Counts the snapshots from 1. A connection that remembers it can tell that [`Credentials::recheck`] is due.
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// Start of our certificate's life.
    pub fn not_before(&self) -> SystemTime {
        self.current.load().not_before
    }

    /// End of our certificate's life.
    pub fn not_after(&self) -> SystemTime {
        self.current.load().not_after
    }

    /// For a listener inside the mesh, to be asked for each accepted connection: TLS 1.3, members only.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.current.load().server()
    }

    /// For a listener whose clients are no members and show no certificate, such as an API server: TLS 1.3, with the same
    /// certificate. Good until the next [`Reload::Swapped`]; takes some microseconds to make.
    ///
    /// # Errors
    /// When TLS cannot be configured.
    pub fn open_server_config(&self) -> Result<Arc<ServerConfig>, CredentialsError> {
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&self.provider)).with_protocol_versions(&[&TLS13])?;
        let nobody = WebPkiClientVerifier::no_client_auth();
        Ok(Arc::new(tls::server(builder.with_client_cert_verifier(nobody), &self.current.load().pair)?))
    }

    /// The roots that are believed, PEM, if an authority gave them.
    pub fn roots_pem(&self) -> Option<String> {
        self.watch.held_roots()
    }

    /// For dialling the workload `expected` and nobody else; see [`server_name`] for the name that rustls wants.
    pub fn client_config(&self, expected: &SpiffeId) -> Arc<ClientConfig> {
        self.current.load().client(expected)
    }

    /// Who a peer is whose handshake succeeded: its name, our trust domain, and that its certificate is valid now. The last
    /// is not a repetition: a resumed handshake shows no certificate, so nobody looked at its dates.
    ///
    /// # Errors
    /// When the peer has no certificate, or one that says anything else.
    pub fn peer(&self, certificates: Option<&[CertificateDer<'_>]>) -> Result<SpiffeId, PeerError> {
        self.peer_until(certificates).map(|(id, _)| id)
    }

    /// The same, and the time until which the peer's certificate is valid: a connection may live longer.
    ///
    /// # Errors
    /// As [`Credentials::peer`].
    pub fn peer_until(&self, certificates: Option<&[CertificateDer<'_>]>) -> Result<(SpiffeId, SystemTime), PeerError> {
        let leaf = certificates.and_then(<[_]>::first).ok_or(PeerError::NoCertificate)?;
        let facts = self.current.load().members.member(leaf)?;
        let now = SystemTime::now();
        if now < facts.not_before || facts.not_after < now {
            return Err(PeerError::OutsideLife);
        }
        Ok((facts.id, facts.not_after))
    }

    /// Signs something for other members: see [`Credentials::statement`]. Takes a fraction of a millisecond.
    ///
    /// # Errors
    /// More than [`crate::MAX_PAYLOAD`] bytes, or a key that cannot sign.
    pub fn sign(&self, payload: &[u8]) -> Result<String, StatementError> {
        statement::sign(&self.current.load().pair, payload)
    }

    /// Who signed a statement, and what it says. The signer passes the same checks as a peer that connects now. What is said,
    /// to whom and until when is for the caller to look at.
    ///
    /// # Errors
    /// It is not of the form, its signature is wrong, or its signer is nobody that we believe.
    pub fn statement(&self, text: &[u8]) -> Result<(SpiffeId, Vec<u8>), StatementError> {
        let opened = statement::open(&self.provider, text)?;
        let facts = self.current.load().members.verify_chain(&opened.chain)?;
        Ok((facts.id, opened.payload))
    }

    /// The full check of the handshake again, under the present authorities and revocations: for connections that live
    /// longer than a snapshot.
    ///
    /// # Errors
    /// When a new connection with these certificates would be refused.
    pub fn recheck(&self, certificates: Option<&[CertificateDer<'_>]>) -> Result<SpiffeId, PeerError> {
        let chain = certificates.ok_or(PeerError::NoCertificate)?;
        self.current.load().members.verify_chain(chain).map(|facts| facts.id)
    }
}

fn outcome(swapped: Result<Option<Arc<Snapshot>>, CredentialsError>) -> Reload {
    match swapped {
        Ok(None) => Reload::Unchanged,
        Ok(Some(snapshot)) => Reload::Swapped { not_after: snapshot.not_after },
        Err(error) => Reload::Failed(error),
    }
}

impl Snapshot {
    pub(crate) fn compile(
        provider: &Arc<CryptoProvider>,
        contents: &Contents,
        options: &CredentialOptions,
        generation: u64,
    ) -> Result<Self, CredentialsError> {
        let pair = Arc::new(files::pair(&contents.cert, &contents.key)?);
        let refused = |source| CredentialsError::Own { cert: contents.cert.path().to_owned(), source };
        let facts = pair.cert.first().ok_or(PeerError::NoCertificate).and_then(peer::facts).map_err(refused)?;
        options.check(&facts.id)?;
        let trust_domain = facts.id.trust_domain();
        MemberVerifier::without_revocation(provider, trust_domain, contents)?
            .verify_chain(&pair.cert)
            .map_err(refused)?;
        let members = Arc::new(MemberVerifier::from_files(provider, trust_domain, contents, true)?);
        let ourselves = Arc::new(ServerVerifier::new(Arc::clone(&members), facts.id.clone()));
        Ok(Self {
            generation,
            not_before: facts.not_before,
            not_after: facts.not_after,
            server: Arc::new(tls::mesh_server(provider, Arc::clone(&members) as _, &pair)?),
            client_template: tls::mesh_client(provider, ourselves, &pair)?,
            clients: Mutex::default(),
            id: facts.id,
            members,
            pair,
        })
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    pub(crate) fn client(&self, expected: &SpiffeId) -> Arc<ClientConfig> {
        // A map that is only ever added to or emptied is good after a panic, too.
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = clients.get(expected) {
            return Arc::clone(config);
        }
        if clients.len() >= MAX_PEERS {
            clients.clear();
        }
        let servers = Arc::new(ServerVerifier::new(Arc::clone(&self.members), expected.clone()));
        let config = Arc::new(tls::for_other_peer(&self.client_template, servers));
        clients.insert(expected.clone(), Arc::clone(&config));
        config
    }
}

/// The name to give to a TLS connector together with [`Credentials::client_config`]: the address of the replica. It is
/// neither sent nor verified; it only keeps the tickets of replicas apart.
pub fn server_name(replica: IpAddr) -> ServerName<'static> {
    ServerName::IpAddress(replica.into())
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current.load();
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .field("generation", &current.generation)
            .field("not_after", &current.not_after)
            .finish_non_exhaustive()
    }
}
