//! Other trust domains by their bundle, and that their roots vouch for their own workloads alone.

use std::sync::Arc;

use outrigger_identity::{CredentialOptions, Credentials, Federation, PeerError, Reload, X509SvidResponse};
use rustls::{CertificateError, Error};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::support::*;

/// A member of `mesh` that believes `other` as well.
fn federated(mesh: &Mesh, service: &str, other: &Mesh) -> Arc<Credentials> {
    mesh.issue(service);
    let federation = vec![Federation {
        trust_domain: other.authority.trust_domain().clone(),
        bundle: other.authority.certificate_path(),
        crl: Some(other.path().join("crl.pem")),
    }];
    let options = CredentialOptions { federation, ..CredentialOptions::default() };
    Credentials::load(mesh.files(service), &options).unwrap()
}

#[tokio::test]
async fn workloads_of_two_meshes_meet_by_their_ids() {
    let (ours, theirs) = (Mesh::of("ours"), Mesh::of("theirs"));
    let (fs, caller) = (federated(&ours, "fs", &theirs), federated(&theirs, "caller", &ours));
    let (_, side) = connect(&caller.client_config(fs.id()), &fs.server_config()).await;
    let shown = certificates(side.get_ref().1);
    assert_eq!(fs.peer(Some(&shown)).unwrap().to_string(), "spiffe://theirs/caller");
    assert_eq!(fs.recheck(Some(&shown)).unwrap(), *caller.id());
    // Their revocations count here, too.
    theirs.authority.revoke_file(&theirs.files("caller").cert).unwrap();
    assert!(matches!(fs.reload_if_changed(), Reload::Swapped { .. }));
    let revoked = Error::InvalidCertificate(CertificateError::Revoked);
    assert_eq!(fs.recheck(Some(&shown)), Err(PeerError::Untrusted(revoked)));
}

#[tokio::test]
async fn a_foreign_root_speaks_for_nobody_but_its_own() {
    let (ours, theirs) = (Mesh::of("ours"), Mesh::of("theirs"));
    let fs = federated(&ours, "fs", &theirs);
    // Their authority issues a certificate that names a member of our mesh, and one of a third mesh.
    for claim in ["spiffe://ours/ingress", "spiffe://third/ingress"] {
        let forged = theirs.forge("caller", |params| params.subject_alt_names = vec![uri(claim)]);
        let caller = federated(&theirs, "caller", &ours).client_config(fs.id());
        let (_, refused) = handshake(&client_with(&caller, forged.clone()), &fs.server_config()).await;
        assert_eq!(tls_error(refused), Error::InvalidCertificate(CertificateError::UnknownIssuer), "{claim}");
        fs.recheck(Some(&forged.cert)).unwrap_err();
    }
    // Nor does ours for theirs.
    let forged = ours.forge("x", |params| params.subject_alt_names = vec![uri("spiffe://theirs/caller")]);
    fs.recheck(Some(&forged.cert)).unwrap_err();
    // Without federation their workloads are strangers.
    let alone = ours.member("alone");
    let caller = federated(&theirs, "caller", &ours);
    let (_, refused) = handshake(&caller.client_config(alone.id()), &alone.server_config()).await;
    tls_error(refused);
}

/// A field of protobuf with a length.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let (low, high) = (value.len() & 0x7f, value.len() >> 7);
    let length = [u8::try_from(low).unwrap() | 0x80, u8::try_from(high).unwrap()];
    [&[number << 3 | 2][..], &length, value].concat()
}

/// What an agent says to a workload of `mesh`, with the roots of `other` under a name.
fn handed(mesh: &Mesh, service: &str, other: &Mesh, name: &str) -> Vec<u8> {
    mesh.issue(service);
    let files = mesh.files(service);
    let root = |mesh: &Mesh| CertificateDer::from_pem_file(mesh.authority.certificate_path()).unwrap();
    let leaf = CertificateDer::from_pem_file(&files.cert).unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_file(&files.key).unwrap();
    let id = mesh.id(service);
    let svid =
        [field(1, id.as_str().as_bytes()), field(2, &leaf), field(3, key.secret_pkcs8_der()), field(4, &root(mesh))];
    let foreign = [field(1, name.as_bytes()), field(2, &root(other))];
    [field(1, &svid.concat()), field(3, &foreign.concat())].concat()
}

fn taken(message: &[u8], options: &CredentialOptions) -> Arc<Credentials> {
    let svid = X509SvidResponse::parse(message).unwrap().identity(None).unwrap();
    Credentials::enrolled(svid, options).unwrap()
}

#[tokio::test]
async fn an_agent_says_whom_else_to_believe() {
    let (ours, theirs) = (Mesh::of("ours"), Mesh::of("theirs"));
    let fs = taken(&handed(&ours, "fs", &theirs, "spiffe://theirs"), &CredentialOptions::default());
    let caller = federated(&theirs, "caller", &ours);
    let (_, side) = connect(&caller.client_config(fs.id()), &fs.server_config()).await;
    let shown = certificates(side.get_ref().1);
    assert_eq!(fs.peer(Some(&shown)).unwrap().to_string(), "spiffe://theirs/caller");
    let forged = theirs.forge("x", |params| params.subject_alt_names = vec![uri("spiffe://ours/ingress")]);
    fs.recheck(Some(&forged.cert)).unwrap_err();
    // What the next message leaves out is believed no more.
    let alone = handed(&ours, "fs", &theirs, "spiffe://others");
    let svid = X509SvidResponse::parse(&alone).unwrap().identity(Some(fs.id())).unwrap();
    assert!(matches!(fs.offer(svid), Reload::Swapped { .. }));
    fs.recheck(Some(&shown)).unwrap_err();
}

#[test]
fn the_settings_count_more_than_an_agent() {
    let (ours, theirs, false_theirs) = (Mesh::of("ours"), Mesh::of("theirs"), Mesh::of("theirs"));
    let trust_domain = theirs.authority.trust_domain().clone();
    let federation = vec![Federation { trust_domain, bundle: theirs.authority.certificate_path(), crl: None }];
    let options = CredentialOptions { federation, ..CredentialOptions::default() };
    let fs = taken(&handed(&ours, "fs", &false_theirs, "spiffe://theirs"), &options);
    let theirs = theirs.forge("caller", |_| {});
    assert_eq!(fs.recheck(Some(&theirs.cert)).unwrap().to_string(), "spiffe://theirs/caller");
    fs.recheck(Some(&false_theirs.forge("caller", |_| {}).cert)).unwrap_err();
}
