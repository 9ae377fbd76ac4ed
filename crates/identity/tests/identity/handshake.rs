//! Who gets in, who does not, and for what reason.

use std::sync::Arc;
use std::time::SystemTime;

use outrigger_identity::{PeerError, SpiffeError, TrustDomain, peer_id, provider};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, SanType};
use rustls::client::Resumption;
use rustls::sign::CertifiedKey;
use rustls::version::TLS12;
use rustls::{CertificateError, ClientConfig, Error, HandshakeKind, PeerIncompatible, ProtocolVersion, RootCertStore};

use crate::support::*;

#[tokio::test]
async fn members_know_each_other() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let (client, server) = connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    let (client, server) = (client.get_ref().1, server.get_ref().1);
    assert_eq!(fs.peer(server.peer_certificates()).unwrap(), mesh.id("ingress"));
    assert_eq!(ingress.peer(client.peer_certificates()).unwrap(), mesh.id("fs"));
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(server.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(server.server_name(), None, "the mesh sends no SNI");
}

#[tokio::test]
async fn the_key_exchange_is_the_post_quantum_hybrid() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let (client, server) = connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    let name = rustls::NamedGroup::X25519MLKEM768;
    assert_eq!(client.get_ref().1.negotiated_key_exchange_group().unwrap().name(), name);
    assert_eq!(server.get_ref().1.negotiated_key_exchange_group().unwrap().name(), name);
    // Not a hello that has to be repeated because the first share was for another group.
    assert_eq!(server.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
}

#[tokio::test]
async fn http1_is_spoken_with_those_who_want_it() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let mut config = ClientConfig::clone(&ingress.client_config(fs.id()));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (_, server) = connect(&Arc::new(config), &fs.server_config()).await;
    assert_eq!(server.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
}

#[tokio::test]
async fn no_client_certificate_is_refused() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let (_, server) = handshake(&client_without(&ingress.client_config(fs.id())), &fs.server_config()).await;
    assert_eq!(tls_error(server), Error::NoCertificatesPresented);
}

#[tokio::test]
async fn another_authority_is_refused_by_both_sides_even_under_our_name() {
    let (ours, theirs) = (Mesh::new(), Mesh::new());
    let (fs, stranger) = (ours.member("fs"), theirs.member("fs"));
    let is_untrusted = |error: &Error| {
        matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature))
    };

    let client = client_with(&fs.client_config(fs.id()), theirs.forge("fs", |_| {}));
    let (_, server) = handshake(&client, &fs.server_config()).await;
    let error = tls_error(server);
    assert!(is_untrusted(&error), "{error:?}");

    let (client, _) = handshake(&fs.client_config(fs.id()), &stranger.server_config()).await;
    let error = tls_error(client);
    assert!(is_untrusted(&error), "{error:?}");
}

#[tokio::test]
async fn a_certificate_that_is_known_is_worth_nothing_without_its_key() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let mut dials = ClientConfig::clone(&ingress.client_config(fs.id()));
    dials.resumption = Resumption::disabled(); // or no certificate is shown
    let dials = Arc::new(dials);
    let (client, server) = connect(&dials, &fs.server_config()).await;
    let (shown_by_fs, shown_by_ingress) = (certificates(client.get_ref().1), certificates(server.get_ref().1));
    // What both have just verified, with the key of somebody else.
    let stolen = |chain| {
        let other = mesh.forge("thief", |_| {});
        Arc::new(CertifiedKey::new(chain, Arc::clone(&other.key)))
    };
    let bad_signature = Error::InvalidCertificate(CertificateError::BadSignature);

    let thief = client_with(&dials, stolen(shown_by_ingress));
    let (_, server) = handshake(&thief, &fs.server_config()).await;
    assert_eq!(tls_error(server), bad_signature);
    let thief = server_with(&fs.server_config(), stolen(shown_by_fs));
    let (client, _) = handshake(&dials, &thief).await;
    assert_eq!(tls_error(client), bad_signature);
    connect(&dials, &fs.server_config()).await;
}

#[tokio::test]
async fn another_service_than_the_one_called_is_refused() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let (client, server) = handshake(&ingress.client_config(&mesh.id("notes")), &fs.server_config()).await;
    assert_eq!(peer_error(client), PeerError::Unexpected { id: mesh.id("fs"), expected: mesh.id("notes") });
    server.unwrap_err();
}

#[tokio::test]
async fn a_ticket_of_one_service_does_not_open_the_way_to_another() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    let (client, _) = handshake(&ingress.client_config(&mesh.id("notes")), &fs.server_config()).await;
    assert!(matches!(peer_error(client), PeerError::Unexpected { .. }));
}

#[tokio::test]
async fn a_second_connection_is_resumed_and_still_has_a_name() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    let (client, server) = connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    assert_eq!(server.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(fs.peer(server.get_ref().1.peer_certificates()).unwrap(), mesh.id("ingress"));
    assert_eq!(ingress.peer(client.get_ref().1.peer_certificates()).unwrap(), mesh.id("fs"));
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let mesh = Mesh::new();
    let fs = mesh.member("fs");
    let old = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let (client, server) = handshake(&Arc::new(old), &fs.server_config()).await;
    assert!(matches!(
        tls_error(server),
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired | PeerIncompatible::Tls12NotOfferedOrEnabled
        )
    ));
    client.unwrap_err();
}

#[tokio::test]
async fn expired_and_future_certificates_are_refused_by_both_sides() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let now = SystemTime::now();
    let expired = mesh.forge("fs", |params| params.not_after = (now - DAY / 2).into());
    let future = mesh.forge("fs", |params| params.not_before = (now + DAY / 2).into());

    let client = client_with(&ingress.client_config(fs.id()), Arc::clone(&expired));
    let (_, server) = handshake(&client, &fs.server_config()).await;
    let error = tls_error(server);
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{error:?}");

    let (client, _) = handshake(&ingress.client_config(fs.id()), &server_with(&fs.server_config(), expired)).await;
    let error = tls_error(client);
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{error:?}");

    let client = client_with(&ingress.client_config(fs.id()), future);
    let (_, server) = handshake(&client, &fs.server_config()).await;
    let error = tls_error(server);
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::NotValidYetContext { .. })), "{error:?}");
}

#[tokio::test]
async fn a_name_that_is_not_exactly_one_workload_of_our_domain_is_refused() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let foreign = TrustDomain::parse("other").unwrap();
    let names = |names: Vec<SanType>| mesh.forge("ingress", |params| params.subject_alt_names = names);
    let own = || uri(mesh.id("ingress").as_str());
    let cases = [
        (names(vec![own(), uri(mesh.id("fs").as_str())]), PeerError::SeveralUris(2)),
        (names(vec![own(), uri("https://example.com/")]), PeerError::SeveralUris(2)),
        (names(vec![]), PeerError::NoUri),
        (names(vec![SanType::DnsName("ingress".try_into().unwrap())]), PeerError::NoUri),
        (names(vec![uri("https://demo.outrigger.local/fs")]), PeerError::NotSpiffe(SpiffeError::Scheme)),
        (names(vec![uri("spiffe://demo.outrigger.local/a/../fs")]), PeerError::NotSpiffe(SpiffeError::DotSegment)),
        (
            names(vec![uri("spiffe://other/ingress")]),
            PeerError::ForeignTrustDomain {
                id: foreign.service("ingress").unwrap(),
                expected: mesh.authority.trust_domain().clone(),
            },
        ),
        (names(vec![uri("spiffe://demo.outrigger.local")]), PeerError::NoWorkload(mesh.authority.trust_domain().id())),
    ];
    for (pair, expected) in cases {
        let client = client_with(&ingress.client_config(fs.id()), Arc::clone(&pair));
        let (_, server) = handshake(&client, &fs.server_config()).await;
        assert_eq!(peer_error(server), expected);

        let server = server_with(&fs.server_config(), pair);
        let (client, _) = handshake(&ingress.client_config(fs.id()), &server).await;
        assert_eq!(peer_error(client), expected);
    }
}

#[tokio::test]
async fn authorities_and_certificates_for_other_purposes_are_refused() {
    let mesh = Mesh::new();
    let (ingress, fs) = (mesh.member("ingress"), mesh.member("fs"));
    let authority = mesh.forge("ingress", |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let signer = mesh.forge("ingress", |params| params.key_usages.push(rcgen::KeyUsagePurpose::KeyCertSign));
    let mail = mesh.forge("ingress", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    });
    for (pair, what) in [(authority, "authority"), (signer, "may sign certificates"), (mail, "mail")] {
        let client = client_with(&ingress.client_config(fs.id()), pair);
        let (_, server) = handshake(&client, &fs.server_config()).await;
        assert!(matches!(tls_error(server), Error::InvalidCertificate(_)), "{what}");
    }
}

#[test]
fn a_peer_without_a_readable_certificate_has_no_id() {
    let mesh = Mesh::new();
    let good = mesh.forge("fs", |_| {}).cert.clone();
    assert_eq!(peer_id(Some(&good)).unwrap(), mesh.id("fs"));
    assert_eq!(peer_id(None), Err(PeerError::NoCertificate));
    assert_eq!(peer_id(Some(&[])), Err(PeerError::NoCertificate));
    assert!(matches!(peer_id(Some(&[b"\x30\x00".to_vec().into()])), Err(PeerError::Malformed(_))));
    let mut longer = good[0].to_vec();
    longer.push(0);
    assert!(matches!(peer_id(Some(&[longer.into()])), Err(PeerError::Malformed(_))));
}

#[test]
fn a_certificate_that_ran_out_after_its_handshake_no_longer_names_its_holder() {
    let mesh = Mesh::new();
    let fs = mesh.member("fs");
    let now = SystemTime::now();
    let expired = mesh.forge("ingress", |params| params.not_after = (now - DAY / 2).into());
    assert_eq!(fs.peer(Some(&expired.cert)), Err(PeerError::OutsideLife));
    assert_eq!(fs.peer(Some(&mesh.forge("ingress", |_| {}).cert)).unwrap(), mesh.id("ingress"));
}
