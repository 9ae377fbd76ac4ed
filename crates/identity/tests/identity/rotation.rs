//! Authorities below an offline root, and one that replaces another while members go on.

use std::fs;
use std::time::Duration;

use outrigger_identity::{
    Authority, AuthorityError, AuthorityOptions, CredentialOptions, Credentials, IdentityFiles, Reload, Rotation,
    TrustDomain, write_leaf,
};

use crate::support::*;

#[tokio::test]
async fn nobody_notices_that_the_authority_is_replaced() {
    let mesh = Mesh::new();
    let (a, b) = (mesh.member("a"), mesh.member("b"));
    let talk = async |when: &str| {
        a.reload_if_changed();
        b.reload_if_changed();
        let (one, other) = handshake(&a.client_config(b.id()), &b.server_config()).await;
        assert!(one.is_ok() && other.is_ok(), "{when}");
        let (one, other) = handshake(&b.client_config(a.id()), &a.server_config()).await;
        assert!(one.is_ok() && other.is_ok(), "{when}");
    };
    assert!(matches!(mesh.authority.switch(), Err(AuthorityError::Rotation(_))));
    assert!(matches!(mesh.authority.finish(Duration::ZERO), Err(AuthorityError::Rotation(_))));
    mesh.authority.begin(&AuthorityOptions::default()).unwrap();
    assert_eq!(mesh.authority.rotation(), Rotation::Begun);
    assert!(matches!(mesh.authority.begin(&AuthorityOptions::default()), Err(AuthorityError::Rotation(_))));
    talk("begun").await;
    let next = mesh.authority.switch().unwrap();
    assert_eq!(next.rotation(), Rotation::Switched);
    talk("switched").await;
    write_leaf(mesh.path(), "a", &next.issue("a", DAY, &[]).unwrap()).unwrap();
    talk("one of them renewed").await;
    assert!(matches!(next.finish(DAY), Err(AuthorityError::TooEarly(_))));
    // A certificate of the old one can still be revoked.
    let (serial, new) = next.revoke_file(&mesh.files("b").cert).unwrap();
    assert!(new && next.revoked().unwrap().contains(&serial));
    a.reload_if_changed();
    let (_, refused) = handshake(&b.client_config(a.id()), &a.server_config()).await;
    tls_error(refused);
    write_leaf(mesh.path(), "b", &next.issue("b", DAY, &[]).unwrap()).unwrap();
    talk("both renewed").await;
    next.finish(Duration::ZERO).unwrap();
    assert_eq!(next.rotation(), Rotation::None);
    talk("finished").await;
    assert_eq!(fs::read_to_string(mesh.path().join("ca.pem")).unwrap().matches("BEGIN").count(), 1);
    assert_eq!(fs::read_to_string(mesh.path().join("crl.pem")).unwrap().matches("BEGIN").count(), 1);
    let last = Authority::load(mesh.path()).unwrap();
    last.begin(&AuthorityOptions::default()).unwrap();
}

#[tokio::test]
async fn an_authority_below_a_root_signs_while_the_root_is_away() {
    let (offline, online) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let domain = TrustDomain::parse("demo").unwrap();
    let options = AuthorityOptions { offline: true, ..AuthorityOptions::default() };
    let root = Authority::init(offline.path(), &domain, &options).unwrap();
    let dir = online.path().join("ca");
    root.init_below(&dir, DAY * 30).unwrap();
    fs::rename(offline.path().join("ca.key"), offline.path().join("away")).unwrap();

    let below = Authority::load(&dir).unwrap();
    assert!(below.not_after() < root.not_after());
    let member = |name: &str| {
        write_leaf(&dir, name, &below.issue(name, DAY, &[]).unwrap()).unwrap();
        Credentials::load(IdentityFiles::in_dir(&dir, name), &CredentialOptions::default()).unwrap()
    };
    let (a, b) = (member("a"), member("b"));
    connect(&a.client_config(b.id()), &b.server_config()).await;
    // Members believe the root alone, not the one below it.
    assert_eq!(
        fs::read_to_string(dir.join("ca.pem")).unwrap(),
        fs::read_to_string(offline.path().join("ca.pem")).unwrap()
    );
    below.revoke_file(&dir.join("a.pem")).unwrap();
    assert!(matches!(b.reload_if_changed(), Reload::Swapped { .. }));
    let (_, refused) = handshake(&a.client_config(b.id()), &b.server_config()).await;
    tls_error(refused);
    // It may not make others, nor may an ordinary authority.
    assert!(matches!(below.init_below(&online.path().join("x"), DAY), Err(AuthorityError::NotARoot)));
    assert!(matches!(Mesh::new().authority.init_below(&online.path().join("y"), DAY), Err(AuthorityError::NotARoot)));
    assert!(matches!(below.begin(&AuthorityOptions::default()), Err(AuthorityError::Rotation(_))));
}

#[tokio::test]
async fn a_root_is_replaced_below_which_an_authority_signs() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let domain = TrustDomain::parse("demo").unwrap();
    let options = AuthorityOptions { offline: true, ..AuthorityOptions::default() };
    let [old, new] = [&dirs[0], &dirs[1]].map(|dir| Authority::init(dir.path(), &domain, &options).unwrap());
    let dir = dirs[2].path();
    old.init_below(dir, DAY).unwrap();
    let present = Authority::load(dir).unwrap();
    let member = |authority: &Authority, name: &str| {
        write_leaf(dir, name, &authority.issue(name, DAY, &[]).unwrap()).unwrap();
        Credentials::load(IdentityFiles::in_dir(dir, name), &CredentialOptions::default()).unwrap()
    };
    let a = member(&present, "a");
    new.init_below(dir, DAY).unwrap();
    let b = member(&present.switch().unwrap(), "b");
    a.reload_if_changed();
    connect(&a.client_config(b.id()), &b.server_config()).await;
    connect(&b.client_config(a.id()), &a.server_config()).await;
    present.finish(Duration::ZERO).unwrap();
    b.reload_if_changed();
    let (_, refused) = handshake(&a.client_config(b.id()), &b.server_config()).await;
    tls_error(refused);
    let again = member(&Authority::load(dir).unwrap(), "a");
    connect(&again.client_config(b.id()), &b.server_config()).await;
    assert_eq!(
        fs::read_to_string(dir.join("ca.pem")).unwrap(),
        fs::read_to_string(dirs[1].path().join("ca.pem")).unwrap()
    );
    assert_eq!(fs::read_to_string(dir.join("crl.pem")).unwrap().matches("BEGIN").count(), 2);
}
