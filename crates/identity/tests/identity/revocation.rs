//! Revoked certificates, from the authority's list to the refused handshake.

use std::fs;

use outrigger_identity::{AuthorityError, CredentialsError, PeerError, Reload, Serial};
use rustls::{CertificateError, Error};

use crate::support::*;

const REVOKED: Error = Error::InvalidCertificate(CertificateError::Revoked);

#[tokio::test]
async fn a_revoked_workload_is_refused_as_client_and_as_server() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let (_client, old) = connect(&fs.client_config(ingress.id()), &ingress.server_config()).await;

    mesh.authority.revoke_file(&mesh.files("fs").cert).unwrap();
    assert!(matches!(ingress.reload_if_changed(), Reload::Swapped { .. }));

    // The client half holds a ticket from before; it does not help.
    let (_, server) = handshake(&fs.client_config(ingress.id()), &ingress.server_config()).await;
    assert_eq!(tls_error(server), REVOKED);
    let (client, _) = handshake(&ingress.client_config(fs.id()), &fs.server_config()).await;
    assert_eq!(tls_error(client), REVOKED);
    // A connection from before is found out by looking again.
    let certificates = old.get_ref().1.peer_certificates();
    assert_eq!(ingress.recheck(certificates), Err(PeerError::Untrusted(REVOKED)));
    assert_eq!(ingress.peer(certificates).unwrap(), mesh.id("fs"));

    // A new certificate is a new start; revocation is of certificates, not of names.
    mesh.issue("fs");
    assert!(matches!(fs.reload_if_changed(), Reload::Swapped { .. }));
    connect(&fs.client_config(ingress.id()), &ingress.server_config()).await;
}

#[tokio::test]
async fn a_list_that_vanishes_or_breaks_pardons_nobody() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    mesh.authority.revoke_file(&mesh.files("fs").cert).unwrap();
    assert!(matches!(ingress.reload_if_changed(), Reload::Swapped { .. }));
    fs::remove_file(mesh.path().join("crl.pem")).unwrap();
    assert!(matches!(ingress.reload_if_changed(), Reload::Failed(CredentialsError::File(_))));
    let (_, server) = handshake(&fs.client_config(ingress.id()), &ingress.server_config()).await;
    assert_eq!(tls_error(server), REVOKED);
    // Nor does the authority start a new list over it.
    assert!(matches!(mesh.authority.revoke(&"0102".parse().unwrap()), Err(AuthorityError::File(_))));
    fs::write(mesh.path().join("crl.pem"), "garbage").unwrap();
    assert!(matches!(mesh.authority.revoke(&"0102".parse().unwrap()), Err(AuthorityError::File(_))));
}

#[tokio::test]
async fn one_who_is_revoked_still_learns_whom_to_refuse() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    mesh.authority.revoke_file(&mesh.files("ingress").cert).unwrap();
    mesh.authority.revoke_file(&mesh.files("fs").cert).unwrap();
    assert!(matches!(ingress.reload_if_changed(), Reload::Swapped { .. }));
    let (_, server) = handshake(&fs.client_config(ingress.id()), &ingress.server_config()).await;
    assert_eq!(tls_error(server), REVOKED);
}

#[tokio::test]
async fn a_list_of_another_authority_does_not_vouch_for_ours() {
    let (mesh, other) = (Mesh::new(), Mesh::of("other"));
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    fs::copy(other.path().join("crl.pem"), mesh.path().join("crl.pem")).unwrap();
    assert!(matches!(ingress.reload_if_changed(), Reload::Swapped { .. }));
    let (_, server) = handshake(&fs.client_config(ingress.id()), &ingress.server_config()).await;
    assert_eq!(tls_error(server), Error::InvalidCertificate(CertificateError::UnknownRevocationStatus));
}

#[test]
fn the_list_grows_by_one_each_and_knows_what_is_on_it() {
    let mesh = Mesh::new();
    mesh.issue("fs");
    assert_eq!(mesh.authority.revoked().unwrap(), []);
    let (serial, new) = mesh.authority.revoke_file(&mesh.files("fs").cert).unwrap();
    assert!(new);
    let before = fs::read(mesh.path().join("crl.pem")).unwrap();
    assert_eq!(mesh.authority.revoke_file(&mesh.files("fs").cert).unwrap(), (serial.clone(), false));
    assert_eq!(fs::read(mesh.path().join("crl.pem")).unwrap(), before, "nothing is written for nothing");
    let other: Serial = "00:ab:cd".parse().unwrap();
    assert!(mesh.authority.revoke(&other).unwrap());
    assert_eq!(mesh.authority.revoked().unwrap(), [serial, other]);
}

#[test]
fn a_certificate_of_another_authority_is_not_revoked_here() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    other.issue("fs");
    let error = mesh.authority.revoke_file(&other.files("fs").cert).unwrap_err();
    assert!(matches!(error, AuthorityError::ForeignCertificate(_)), "{error}");
    assert_eq!(mesh.authority.revoked().unwrap(), []);
}
