//! The public listener of the ingress: a certificate for host names, and client certificates of the mesh if wanted.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;

use crate::credentials::{CredentialsError, Reload};
use crate::files;
use crate::peer::{self, PeerError};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::tls;
use crate::verifier::MemberVerifier;
use crate::watch::{Contents, Own, Sources, Watch};

/// Whether clients of the public listener are asked for a certificate.
#[derive(Debug, Clone, Default)]
pub enum ClientAuth {
    /// They are not.
    #[default]
    None,
    /// They may show one; if they do, it must be of a member of the mesh.
    Optional {
        /// The authorities of the mesh, PEM.
        ca: PathBuf,
        /// Their revocation lists, PEM.
        crl: Option<PathBuf>,
        /// Whose members they must be.
        trust_domain: TrustDomain,
    },
}

/// Where the public listener finds its certificate. PEM.
#[derive(Debug, Clone)]
pub struct PublicFiles {
    /// The certificate, then those between it and the root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The public face of the ingress; reloads as [`crate::Credentials`] does.
pub struct PublicCredentials {
    provider: Arc<CryptoProvider>,
    watch: Watch,
    /// Kept for its trust domain; the files are watched.
    client_auth: ClientAuth,
    current: ArcSwap<Snapshot>,
}

struct Snapshot {
    generation: u64,
    not_after: SystemTime,
    server: Arc<ServerConfig>,
    /// Whom clients with certificates must convince.
    members: Option<Arc<MemberVerifier>>,
}

impl PublicCredentials {
    /// Reads the files and builds the first snapshot.
    ///
    /// # Errors
    /// When a file is unusable, certificate and key are not a pair, or the certificate has expired.
    pub fn load(files: PublicFiles, client_auth: ClientAuth) -> Result<Arc<Self>, CredentialsError> {
        let (ca, crl) = match &client_auth {
            ClientAuth::None => (None, None),
            ClientAuth::Optional { ca, crl, .. } => (Some(ca.clone()), crl.clone()),
        };
        let own = Own::Files { cert: files.cert, key: files.key, ca, crl };
        let sources = Sources { own, federation: Vec::new() };
        let provider = Arc::new(tls::provider());
        let (watch, first) = Watch::start(sources, |contents| Snapshot::compile(&provider, contents, &client_auth, 1))?;
        Ok(Arc::new(Self { provider, watch, client_auth, current: ArcSwap::from_pointee(first) }))
    }

    /// Looks at the files and swaps the snapshot if they changed and are good. Reads files; see
    /// [`crate::Credentials::reload_if_changed`].
    pub fn reload_if_changed(&self) -> Reload {
        let compile = |contents: &_| {
            let generation = self.generation() + 1;
            Snapshot::compile(&self.provider, contents, &self.client_auth, generation)
        };
        match self.watch.reload(&self.current, compile) {
            Ok(None) => Reload::Unchanged,
            Ok(Some(snapshot)) => Reload::Swapped { not_after: snapshot.not_after },
            Err(error) => Reload::Failed(error),
        }
    }

    /// For the public listener, to be asked for each accepted connection: TLS 1.3 and 1.2.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().server)
    }

    /// The full check of a client's certificates again, under the present authorities and revocations.
    ///
    /// # Errors
    /// When a new connection with these certificates would be refused.
    pub fn recheck(&self, chain: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerError> {
        let current = self.current.load();
        let members = current.members.as_ref().ok_or(PeerError::NoCertificate)?;
        members.verify_chain(chain).map(|facts| facts.id)
    }

    /// Counts the snapshots from 1.
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// End of the certificate's life.
    pub fn not_after(&self) -> SystemTime {
        self.current.load().not_after
    }
}

impl Snapshot {
    fn compile(
        provider: &Arc<CryptoProvider>,
        contents: &Contents,
        client_auth: &ClientAuth,
        generation: u64,
    ) -> Result<Self, CredentialsError> {
        let pair = Arc::new(files::pair(&contents.cert, &contents.key)?);
        let own = |source| CredentialsError::Own { cert: contents.cert.path().to_owned(), source };
        let life = pair.cert.first().ok_or(PeerError::NoCertificate).and_then(peer::life);
        let (not_before, not_after) = life.map_err(own)?;
        let now = SystemTime::now();
        if now < not_before || not_after < now {
            return Err(own(PeerError::OutsideLife));
        }
        let members = match client_auth {
            ClientAuth::None => None,
            ClientAuth::Optional { trust_domain, .. } => {
                Some(Arc::new(MemberVerifier::from_files(provider, trust_domain, contents, false)?))
            }
        };
        let clients: Arc<dyn ClientCertVerifier> = match &members {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(members) => Arc::clone(members) as _,
        };
        let server = Arc::new(tls::public_server(provider, clients, &pair)?);
        Ok(Self { generation, not_after, server, members })
    }
}

impl fmt::Debug for PublicCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicCredentials")
            .field("generation", &self.generation())
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}
