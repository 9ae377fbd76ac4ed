//! What is verified again, and what is known.

use std::time::Duration;

use rustls_pki_types::pem::PemObject;

use super::*;
use crate::root::{Rank, Root};
use crate::tls;

const LIFE: Duration = Duration::from_secs(3600);

/// An authority, and a verifier that believes it.
struct Mesh {
    root: Root,
    certificate: CertificateDer<'static>,
    verifier: MemberVerifier,
}

impl Mesh {
    fn new() -> Self {
        let domain = TrustDomain::parse("demo.outrigger.local").unwrap();
        let (root, pem) = Root::generate(&domain, LIFE, Rank::Signer).unwrap();
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let verifier = MemberVerifier::of_roots(&Arc::new(tls::provider()), &domain, roots).unwrap();
        Self { root, certificate, verifier }
    }

    fn issue(&self, service: &str) -> CertificateDer<'static> {
        let issued = self.root.issue(service, LIFE, &[]).unwrap();
        CertificateDer::from_pem_slice(issued.cert_chain_pem.as_bytes()).unwrap()
    }

    fn verify(&self, leaf: &CertificateDer<'_>, seconds: i64) -> Result<String, PeerError> {
        self.verifier.verify(leaf, &[], in_seconds(seconds)).map(|facts| facts.id.path().to_owned())
    }

    fn knows(&self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], seconds: i64) -> bool {
        self.verifier.known.find(leaf, intermediates, in_seconds(seconds)).is_some()
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
    assert!(!mesh.knows(&fs, &[], 0));
    assert_eq!(mesh.verify(&fs, 0).unwrap(), "/fs");
    assert!(mesh.knows(&fs, &[], 0));
    assert_eq!(mesh.verify(&fs, 0).unwrap(), "/fs");
    assert!(!mesh.knows(&git, &[], 0));
    assert!(!mesh.knows(&fs, std::slice::from_ref(&mesh.certificate), 0));

    let mut forged = fs.to_vec();
    *forged.last_mut().unwrap() ^= 1; // of its signature
    let forged = CertificateDer::from(forged);
    assert!(matches!(mesh.verify(&forged, 0), Err(PeerError::Untrusted(_))));
}

#[test]
fn a_known_chain_is_not_verified_again_and_one_that_was_refused_is() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let stranger = other.issue("fs");
    for _ in 0..2 {
        assert!(matches!(mesh.verify(&stranger, 0), Err(PeerError::Untrusted(_))));
        assert!(!mesh.knows(&stranger, &[], 0));
    }
    // What it would refuse shows that it does not look.
    let facts = other.verifier.verify(&stranger, &[], in_seconds(0)).unwrap();
    mesh.verifier.known.remember(&stranger, &[], &facts, in_seconds(0));
    assert_eq!(mesh.verify(&stranger, 0).unwrap(), "/fs");
}

#[test]
fn a_known_chain_is_refused_outside_its_life() {
    let mesh = Mesh::new();
    let fs = mesh.issue("fs");
    let life = LIFE.as_secs() as i64;
    mesh.verify(&fs, 0).unwrap();
    assert!(mesh.knows(&fs, &[], life - 60));
    for seconds in [life + 60, -2 * 24 * 3600] {
        assert!(
            matches!(mesh.verify(&fs, seconds), Err(PeerError::Untrusted(Error::InvalidCertificate(_)))),
            "{seconds}"
        );
    }
    assert!(mesh.knows(&fs, &[], 60));
    // A clock that was set back is not believed to have verified anything.
    assert!(!mesh.knows(&fs, &[], -10));
    mesh.verify(&fs, -10).unwrap();
}
