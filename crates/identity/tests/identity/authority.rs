//! What the embedded authority writes, and what it refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use outrigger_identity::{Authority, AuthorityError, AuthorityOptions, Issued, TrustDomain, write_leaf};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::support::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn der(issued: &Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.cert_chain_pem.as_bytes()).unwrap()
}

#[test]
fn files_are_as_private_as_they_should_be() {
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("state/identity");
    let domain = TrustDomain::parse("demo").unwrap();
    let authority = Authority::init(&dir, &domain, &AuthorityOptions::default()).unwrap();
    write_leaf(&dir, "fs", &authority.issue("fs", DAY, &[]).unwrap()).unwrap();
    assert_eq!(mode(&dir), 0o700);
    for (name, expected) in
        [("ca.key", 0o600), ("fs.key", 0o600), ("ca.pem", 0o644), ("crl.pem", 0o644), ("fs.pem", 0o644)]
    {
        assert_eq!(mode(&dir.join(name)), expected, "{name}");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 5, "no temporary file is left");
}

#[test]
fn an_authority_is_never_overwritten() {
    let mesh = Mesh::new();
    let before = fs::read(mesh.path().join("ca.key")).unwrap();
    let again = || Authority::init(mesh.path(), mesh.authority.trust_domain(), &AuthorityOptions::default());
    assert!(matches!(again(), Err(AuthorityError::Exists(_))));
    fs::remove_file(mesh.path().join("ca.pem")).unwrap();
    assert!(matches!(again(), Err(AuthorityError::Exists(_))), "not even a broken one");
    assert_eq!(fs::read(mesh.path().join("ca.key")).unwrap(), before);
}

#[test]
fn a_leaf_is_what_the_svid_specification_asks_for() {
    let mesh = Mesh::new();
    let before = SystemTime::now();
    let issued = mesh.authority.issue("ingress", DAY, &["mesh.example", "*.mesh.example", "127.0.0.1"]).unwrap();
    let der = der(&issued);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(
        names.as_slice(),
        [
            GeneralName::URI("spiffe://demo.outrigger.local/ingress"),
            GeneralName::DNSName("mesh.example"),
            GeneralName::DNSName("*.mesh.example"),
            GeneralName::IPAddress(&[127, 0, 0, 1]),
        ]
    );
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature and nothing else");
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    assert_eq!(leaf.validity().not_after.timestamp(), seconds(issued.not_after));
    assert_eq!(leaf.validity().not_before.timestamp(), seconds(issued.not_before));
    let backdated = before.duration_since(issued.not_before).unwrap();
    assert!(backdated >= Duration::from_secs(290) && backdated <= Duration::from_secs(301), "{backdated:?}");
    assert!(issued.not_after >= before + DAY - Duration::from_secs(1));
    let other = mesh.authority.issue("ingress", DAY, &[]).unwrap();
    assert_ne!(other.serial, issued.serial);
    assert_ne!(other.key_pem, issued.key_pem);
}

fn seconds(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

#[tokio::test]
async fn a_loaded_authority_goes_on_where_it_stopped() {
    let mesh = Mesh::new();
    let fs = mesh.member("fs");
    let loaded = Authority::load(mesh.path()).unwrap();
    assert_eq!(loaded.trust_domain(), mesh.authority.trust_domain());
    assert_eq!(loaded.not_after(), mesh.authority.not_after());
    write_leaf(mesh.path(), "ingress", &loaded.issue("ingress", DAY, &[]).unwrap()).unwrap();
    let ingress = mesh.load("ingress");
    connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    loaded.revoke_file(&mesh.files("ingress").cert).unwrap();
    fs.reload_if_changed();
    let (_, server) = handshake(&ingress.client_config(fs.id()), &fs.server_config()).await;
    tls_error(server);
}

#[tokio::test]
async fn a_trust_domain_too_long_for_the_subject_works_as_well() {
    let mesh = Mesh::of(&"long-".repeat(50));
    let fs = mesh.member("fs");
    connect(&fs.client_config(fs.id()), &fs.server_config()).await;
    Authority::load(mesh.path()).unwrap();
}

#[test]
fn files_that_do_not_make_an_authority_are_refused() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    fs::copy(other.path().join("ca.key"), mesh.path().join("ca.key")).unwrap();
    assert!(matches!(Authority::load(mesh.path()), Err(AuthorityError::KeyMismatch)));
    fs::write(mesh.path().join("ca.key"), "garbage").unwrap();
    assert!(matches!(Authority::load(mesh.path()), Err(AuthorityError::File(_))));
    assert!(matches!(Authority::load(&mesh.path().join("nowhere")), Err(AuthorityError::File(_))));

    // A root of another tool: the right key, another subject.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://demo")];
    fs::write(other.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(other.path().join("ca.key"), key.serialize_pem()).unwrap();
    assert!(matches!(Authority::load(other.path()), Err(AuthorityError::ForeignRoot)));
}

#[test]
fn a_leaf_never_outlives_its_authority() {
    let dir = tempfile::tempdir().unwrap();
    let domain = TrustDomain::parse("demo").unwrap();
    let options = AuthorityOptions { root_life: DAY, ..AuthorityOptions::default() };
    let authority = Authority::init(dir.path(), &domain, &options).unwrap();
    let issued = authority.issue("fs", DAY * 30, &[]).unwrap();
    assert_eq!(issued.not_after, authority.not_after());
    assert_eq!(authority.issue("fs", Duration::MAX, &[]).unwrap().not_after, authority.not_after());
}

#[test]
fn bad_requests_are_refused_with_a_reason() {
    let mesh = Mesh::new();
    let issue = |service: &str, life, hosts: &[&str]| mesh.authority.issue(service, life, hosts).unwrap_err();
    assert!(matches!(issue("No", DAY, &[]), AuthorityError::Name(_)));
    assert!(matches!(issue("../fs", DAY, &[]), AuthorityError::Name(_)));
    assert!(matches!(issue("fs", Duration::ZERO, &[]), AuthorityError::LeafLife));
    for host in ["", "a b", "https://x", "-", "*.*.x", "d\u{e9}"] {
        assert!(matches!(issue("fs", DAY, &[host]), AuthorityError::HostName(_)), "{host}");
    }
    assert!(matches!(issue("fs", DAY, &["a.b"; 65]), AuthorityError::TooManyHosts(65)));
    let dir = tempfile::tempdir().unwrap();
    let domain = TrustDomain::parse("demo").unwrap();
    for root_life in [Duration::ZERO, Duration::MAX] {
        let error = Authority::init(dir.path(), &domain, &AuthorityOptions { root_life, offline: false }).unwrap_err();
        assert!(matches!(error, AuthorityError::RootLife));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_leaf_cannot_be_written_over_the_authority_or_elsewhere() {
    let mesh = Mesh::new();
    let issued = mesh.authority.issue("fs", DAY, &[]).unwrap();
    for name in ["ca", "crl", "", ".", "..", ".hidden", "a/b", "../fs", "a\0b"] {
        let error = write_leaf(mesh.path(), name, &issued).unwrap_err();
        assert!(matches!(error, AuthorityError::FileName(_)), "{name:?}: {error}");
    }
}
