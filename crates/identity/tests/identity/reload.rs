//! Files change under a running workload.

use std::fs;
use std::sync::Arc;

use outrigger_identity::{CredentialOptions, Credentials, CredentialsError, FileError, Reload, TrustDomain};
use rustls::HandshakeKind;

use crate::support::*;

fn failed(reload: Reload) -> CredentialsError {
    match reload {
        Reload::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

fn swapped(reload: Reload) {
    assert!(matches!(reload, Reload::Swapped { .. }), "{reload:?}");
}

fn unchanged(reload: Reload) {
    assert!(matches!(reload, Reload::Unchanged), "{reload:?}");
}

#[tokio::test]
async fn new_connections_use_the_new_certificate_and_old_ones_go_on() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let (mut client, mut server) = connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    let old = certificates(client.get_ref().1);

    mesh.issue("fs");
    match fs.reload_if_changed() {
        Reload::Swapped { not_after } => assert_eq!(not_after, fs.not_after()),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs.generation(), 2);
    exchange(&mut client, &mut server).await;
    let (client, _server) = connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    let new = certificates(client.get_ref().1);
    assert_ne!(new, old);
    assert_eq!(ingress.peer(Some(&new)).unwrap(), mesh.id("fs"));
}

#[tokio::test]
async fn our_new_certificate_is_shown_to_those_whom_we_call() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let (_client, server) = connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    let old = certificates(server.get_ref().1);
    mesh.issue("ingress");
    swapped(ingress.reload_if_changed());
    let (_client, server) = connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    assert_ne!(certificates(server.get_ref().1), old);
}

#[test]
fn nothing_happens_when_nothing_changed() {
    let mesh = Mesh::new();
    let fs = mesh.member("fs");
    let before = fs.server_config();
    unchanged(fs.reload_if_changed());
    // Another file with the same content.
    let cert = fs::read(mesh.files("fs").cert).unwrap();
    fs::remove_file(mesh.files("fs").cert).unwrap();
    fs::write(mesh.files("fs").cert, cert).unwrap();
    unchanged(fs.reload_if_changed());
    assert_eq!(fs.generation(), 1);
    assert!(Arc::ptr_eq(&before, &fs.server_config()));
    assert!(Arc::ptr_eq(&fs.client_config(fs.id()), &fs.client_config(fs.id())));
}

#[tokio::test]
async fn a_broken_or_missing_file_keeps_the_old_and_a_repaired_one_is_taken() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let files = mesh.files("fs");
    for path in [&files.cert, &files.key, &files.ca, files.crl.as_ref().unwrap()] {
        let good = fs::read(path).unwrap();
        for bad in [b"".as_slice(), b"garbage", &good[..good.len() / 2], &[b'x'; 300_000]] {
            fs::write(path, bad).unwrap();
            let error = failed(fs.reload_if_changed()).to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert!(matches!(fs.reload_if_changed(), Reload::Failed(_)), "reported until it is repaired");
        }
        fs::remove_file(path).unwrap();
        assert!(matches!(failed(fs.reload_if_changed()), CredentialsError::File(FileError::Read { .. })));
        fs::write(path, good).unwrap();
        unchanged(fs.reload_if_changed());
    }
    assert_eq!(fs.generation(), 1);
    connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    mesh.issue("fs");
    swapped(fs.reload_if_changed());
    connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
}

#[tokio::test]
async fn half_a_new_pair_keeps_the_old_until_the_other_half_is_there() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let next = mesh.authority.issue("fs", DAY, &[]).unwrap();
    fs::write(mesh.files("fs").key, &next.key_pem).unwrap();
    assert!(matches!(failed(fs.reload_if_changed()), CredentialsError::File(FileError::Pair { .. })));
    connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    fs::write(mesh.files("fs").cert, &next.cert_chain_pem).unwrap();
    swapped(fs.reload_if_changed());
    assert_eq!(fs.not_after(), next.not_after);
    connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
}

#[tokio::test]
async fn no_ticket_outlives_a_reload_of_either_side() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let client_before = ingress.client_config(fs.id());
    connect(&client_before, &fs.server_config()).await;

    mesh.issue("fs");
    swapped(fs.reload_if_changed());
    let (_, server) = connect(&client_before, &fs.server_config()).await;
    assert_eq!(server.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "the server forgot its tickets");
    let (_, server) = connect(&client_before, &fs.server_config()).await;
    assert_eq!(server.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));

    mesh.issue("ingress");
    swapped(ingress.reload_if_changed());
    let (_, server) = connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    assert_eq!(server.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "the client forgot its tickets");
}

#[tokio::test]
async fn an_authority_is_replaced_by_trusting_both_for_a_while() {
    let (mesh, next) = (Mesh::new(), Mesh::new());
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let both = [fs::read(mesh.path().join("ca.pem")).unwrap(), fs::read(next.path().join("ca.pem")).unwrap()].concat();
    fs::write(mesh.path().join("ca.pem"), &both).unwrap();
    let lists = [fs::read(mesh.path().join("crl.pem")).unwrap(), fs::read(next.path().join("crl.pem")).unwrap()];
    fs::write(mesh.path().join("crl.pem"), lists.concat()).unwrap();
    swapped(ingress.reload_if_changed());
    swapped(fs.reload_if_changed());
    outrigger_identity::write_leaf(mesh.path(), "fs", &next.authority.issue("fs", DAY, &[]).unwrap()).unwrap();
    swapped(fs.reload_if_changed());
    connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    connect(&fs.client_config(ingress.id()), &ingress.server_config()).await;
}

#[test]
fn a_process_never_becomes_somebody_else() {
    let mesh = Mesh::new();
    let fs = mesh.member("fs");
    let other = mesh.authority.issue("notes", DAY, &[]).unwrap();
    outrigger_identity::write_leaf(mesh.path(), "fs", &other).unwrap();
    match failed(fs.reload_if_changed()) {
        CredentialsError::Identity { found, expected } => {
            assert_eq!((found, expected), (mesh.id("notes"), mesh.id("fs")));
        }
        error => panic!("{error}"),
    }
    let options = CredentialOptions { expected: Some(mesh.id("fs")), ..CredentialOptions::default() };
    let error = Credentials::load(mesh.files("fs"), &options).unwrap_err();
    assert!(matches!(error, CredentialsError::Identity { .. }), "{error}");
}

#[test]
fn the_certificate_must_be_of_the_configured_mesh() {
    let mesh = Mesh::new();
    mesh.issue("fs");
    let domain = |name: &str| TrustDomain::parse(name).ok();
    let load = |trust_domain| {
        Credentials::load(mesh.files("fs"), &CredentialOptions { trust_domain, ..CredentialOptions::default() })
    };
    load(domain("demo.outrigger.local")).unwrap();
    let error = load(domain("other")).unwrap_err();
    assert!(matches!(error, CredentialsError::TrustDomain { .. }), "{error}");
}

#[test]
fn a_certificate_that_peers_would_refuse_is_refused_at_the_start() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    mesh.issue("fs");
    let mut files = mesh.files("fs");
    files.ca = other.files("fs").ca;
    files.crl = None;
    let error = Credentials::load(files, &CredentialOptions::default()).unwrap_err();
    assert!(matches!(error, CredentialsError::Own { .. }), "{error}");
    assert!(error.to_string().contains("fs.pem"), "{error}");
}

#[test]
fn many_peers_do_not_grow_the_cache_without_end() {
    let mesh = Mesh::new();
    let fs = mesh.member("fs");
    let first = Arc::downgrade(&fs.client_config(&mesh.id("p0")));
    for n in 1..=1024 {
        fs.client_config(&mesh.id(&format!("p{n}")));
    }
    assert!(first.upgrade().is_none(), "the oldest configurations are let go");
}

#[test]
fn what_is_printed_shows_no_key() {
    let mesh = Mesh::new();
    let issued = mesh.authority.issue("fs", DAY, &[]).unwrap();
    let fs = mesh.member("fs");
    let key_line = issued.key_pem.lines().nth(1).unwrap();
    for text in [format!("{issued:?}"), format!("{fs:?}"), format!("{:?}", mesh.authority)] {
        assert!(!text.contains("PRIVATE") && !text.contains(key_line), "{text}");
    }
}
