//! What is verified again, and what is known.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls_pki_types::pem::PemObject;

use super::*;
use crate::root::{Rank, Root};
use crate::tls;

const LIFE: Duration = Duration::from_secs(3600);

/// Counts how often a chain is really verified.
#[derive(Debug)]
struct Counting {
    chain: Arc<dyn ClientCertVerifier>,
    asked: Arc<AtomicUsize>,
}

impl ClientCertVerifier for Counting {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.chain.verify_client_cert(leaf, intermediates, now)
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

/// An authority, and a verifier that believes it.
struct Mesh {
    root: Root,
    certificate: CertificateDer<'static>,
    verifier: MemberVerifier,
    asked: Arc<AtomicUsize>,
}

impl Mesh {
    fn new() -> Self {
        let domain = TrustDomain::parse("demo.outrigger.local").unwrap();
        let (root, pem) = Root::generate(&domain, LIFE, Rank::Signer).unwrap();
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(tls::provider()));
        let asked = Arc::new(AtomicUsize::new(0));
        let chain = Counting { chain: builder.build().unwrap(), asked: Arc::clone(&asked) };
        Self { root, certificate, verifier: MemberVerifier::new(Arc::new(chain), domain, Vec::new()), asked }
    }

    fn issue(&self, service: &str) -> CertificateDer<'static> {
        let issued = self.root.issue(service, LIFE, &[]).unwrap();
        CertificateDer::from_pem_slice(issued.cert_chain_pem.as_bytes()).unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn in_seconds(seconds: i64) -> UnixTime {
    let now = UnixTime::now().as_secs().checked_add_signed(seconds).unwrap();
    UnixTime::since_unix_epoch(Duration::from_secs(now))
}

#[test]
fn a_chain_that_was_found_good_is_known_by_all_of_its_bytes() {
    let mesh = Mesh::new();
    let (fs, git) = (mesh.issue("fs"), mesh.issue("git"));
    for _ in 0..3 {
        assert_eq!(mesh.verifier.verify_chain(std::slice::from_ref(&fs)).unwrap().id.path(), "/fs");
    }
    assert_eq!(mesh.asked(), 1);
    assert_eq!(mesh.verifier.verify_chain(&[git]).unwrap().id.path(), "/git");
    assert_eq!(mesh.asked(), 2);
    mesh.verifier.verify_chain(&[fs.clone(), mesh.certificate.clone()]).unwrap();
    assert_eq!(mesh.asked(), 3);

    let mut forged = fs.to_vec();
    *forged.last_mut().unwrap() ^= 1; // of its signature
    let refused = mesh.verifier.verify_chain(&[CertificateDer::from(forged)]);
    assert!(matches!(refused, Err(PeerError::Untrusted(_))), "{refused:?}");
    assert_eq!(mesh.asked(), 4);
}

#[test]
fn one_that_was_refused_is_verified_every_time() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let stranger = other.issue("fs");
    for times in 1..=3 {
        assert!(matches!(mesh.verifier.verify_chain(std::slice::from_ref(&stranger)), Err(PeerError::Untrusted(_))));
        assert_eq!(mesh.asked(), times);
    }
}

#[test]
fn a_known_chain_is_refused_outside_its_life() {
    let mesh = Mesh::new();
    let fs = mesh.issue("fs");
    let at = |seconds| mesh.verifier.verify(&fs, &[], in_seconds(seconds)).map(|facts| facts.id);
    at(0).unwrap();
    at(LIFE.as_secs() as i64 - 60).unwrap();
    assert_eq!(mesh.asked(), 1);
    for seconds in [LIFE.as_secs() as i64 + 60, -2 * 24 * 3600] {
        assert!(matches!(at(seconds), Err(PeerError::Untrusted(Error::InvalidCertificate(_)))), "{seconds}");
    }
    assert_eq!(mesh.asked(), 3);
    // And it is still known.
    at(60).unwrap();
    assert_eq!(mesh.asked(), 3);
    // A clock that was set back is not believed to have verified anything.
    at(-10).unwrap();
    assert_eq!(mesh.asked(), 4);
}
