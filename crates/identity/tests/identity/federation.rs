//! Other trust domains by their bundle, and that their roots vouch for their own workloads alone.

use std::sync::Arc;

use outrigger_identity::{CredentialOptions, Credentials, Federation, PeerError, Reload};
use rustls::{CertificateError, Error};

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
