//! Certificates of one mesh, made for one test.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use outrigger_identity::{
    Authority, AuthorityOptions, CredentialOptions, Credentials, IdentityFiles, SpiffeId, TrustDomain,
    install_provider, write_leaf,
};
use outrigger_proxy::handshake::ServerTlsProvider;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

/// How long certificates live unless a test says otherwise.
const LIFE: Duration = Duration::from_secs(3600);

/// An authority in a temporary directory, and whoever it names.
pub struct Mesh {
    dir: TempDir,
    authority: Authority,
    domain: TrustDomain,
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new()
    }
}

impl Mesh {
    /// A mesh with the trust domain `test.local`.
    pub fn new() -> Self {
        if std::env::var_os("OUTRIGGER_TEST_LOG").is_some() {
            // A second mesh in one test finds it there already.
            let _ = outrigger_telemetry::log::init(
                outrigger_telemetry::log::LogFormat::Text,
                "debug,hyper=info,h2=info,rustls=info",
            );
        }
        install_provider();
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("test.local").unwrap();
        let authority = Authority::init(&dir.path().join("ca"), &domain, &AuthorityOptions::default()).unwrap();
        Self { dir, authority, domain }
    }

    /// Where tests may put files.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The trust domain.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The SPIFFE id of a name.
    pub fn id(&self, name: &str) -> SpiffeId {
        self.domain.service(name).unwrap()
    }

    /// Issues a certificate to `name` into its files, over an earlier one if there is one.
    pub fn issue(&self, name: &str, life: Duration) -> IdentityFiles {
        let dir = self.path().join("certs");
        write_leaf(&dir, name, &self.authority.issue(name, life, &[]).unwrap()).unwrap();
        IdentityFiles {
            cert: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
            ca: self.authority.certificate_path(),
            crl: Some(self.authority.dir().join("crl.pem")),
        }
    }

    /// What a server shows whose certificate is for this host, by the authority of this mesh.
    pub fn server_tls(&self, host: &str) -> ServerTlsProvider {
        let issued = self.authority.issue("server", LIFE, &[host]).unwrap();
        let chain = CertificateDer::pem_slice_iter(issued.cert_chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain.unwrap(), key).unwrap();
        let config = Arc::new(config);
        Arc::new(move || Arc::clone(&config))
    }

    /// The file with its roots.
    pub fn roots(&self) -> PathBuf {
        self.authority.certificate_path()
    }

    /// The identity of `name`, for a client.
    pub fn credentials(&self, name: &str) -> Arc<Credentials> {
        self.credentials_for(name, LIFE)
    }

    /// The identity of `name`, with a certificate that ends after `life`.
    pub fn credentials_for(&self, name: &str, life: Duration) -> Arc<Credentials> {
        Credentials::load(self.issue(name, life), &CredentialOptions::default()).unwrap()
    }

    /// The `identity:` section for the settings of `name`.
    pub fn identity_section(&self, name: &str) -> String {
        let files = self.issue(name, LIFE);
        let crl = files.crl.unwrap_or_default();
        format!(
            "identity:\n  trust_domain: {}\n  cert: {}\n  key: {}\n  ca: {}\n  crl: {}\n",
            self.domain,
            files.cert.display(),
            files.key.display(),
            files.ca.display(),
            crl.display(),
        )
    }

    /// Puts the certificate that `name` has now on the revocation list.
    pub fn revoke(&self, name: &str) {
        self.authority.revoke_file(&self.path().join("certs").join(format!("{name}.pem"))).unwrap();
    }

    /// Writes a policy file, atomically as an editor does.
    pub fn policy(&self, spec: &str) -> PathBuf {
        let path = self.path().join("policy.yaml");
        let text = format!("apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: test }}\nspec:\n{spec}");
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), &path).unwrap();
        path
    }
}
