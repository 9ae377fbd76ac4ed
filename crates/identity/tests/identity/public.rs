//! The public listener: ordinary TLS clients, with or without a certificate of the mesh.

use std::fs;
use std::sync::Arc;

use outrigger_identity::{ClientAuth, CredentialsError, PublicCredentials, PublicFiles, Reload, provider, write_leaf};
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, Error, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::support::*;

fn listener(mesh: &Mesh, client_auth: ClientAuth) -> Arc<PublicCredentials> {
    let issued = mesh.authority.issue("ingress", DAY, &["localhost", "127.0.0.1"]).unwrap();
    write_leaf(mesh.path(), "public", &issued).unwrap();
    let files = mesh.files("public");
    PublicCredentials::load(PublicFiles { cert: files.cert, key: files.key }, client_auth).unwrap()
}

fn optional(mesh: &Mesh) -> ClientAuth {
    let files = mesh.files("public");
    ClientAuth::Optional { ca: files.ca, crl: files.crl, trust_domain: mesh.authority.trust_domain().clone() }
}

/// A client as everybody has one: it verifies the host name.
fn browser(mesh: &Mesh, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(mesh.files("x").ca).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn name(host: &'static str) -> ServerName<'static> {
    ServerName::try_from(host).unwrap()
}

#[tokio::test]
async fn ordinary_clients_connect_with_both_versions() {
    let mesh = Mesh::new();
    for auth in [ClientAuth::None, optional(&mesh)] {
        let public = listener(&mesh, auth);
        for (versions, negotiated) in [(&[&TLS13], ProtocolVersion::TLSv1_3), (&[&TLS12], ProtocolVersion::TLSv1_2)] {
            for host in ["localhost", "127.0.0.1"] {
                let (client, server) =
                    handshake_as(&browser(&mesh, versions), &public.server_config(), name(host)).await;
                assert_eq!(client.unwrap().get_ref().1.protocol_version(), Some(negotiated));
                assert!(server.unwrap().get_ref().1.peer_certificates().is_none());
            }
        }
        let (client, _) = handshake_as(&browser(&mesh, &[&TLS13]), &public.server_config(), name("example.com")).await;
        client.unwrap_err();
    }
}

#[tokio::test]
async fn a_member_may_show_its_certificate_and_is_known_by_it() {
    let mesh = Mesh::new();
    let public = listener(&mesh, optional(&mesh));
    let agent = mesh.member("agent");
    for version in [&TLS13, &TLS12] {
        let client = client_with(&browser(&mesh, &[version]), mesh.forge("agent", |_| {}));
        let (client, server) = handshake_as(&client, &public.server_config(), name("localhost")).await;
        client.unwrap();
        assert_eq!(agent.peer(server.unwrap().get_ref().1.peer_certificates()).unwrap(), mesh.id("agent"));
    }
}

#[tokio::test]
async fn a_certificate_that_is_shown_must_be_good() {
    let (mesh, other) = (Mesh::new(), Mesh::of("other"));
    let public = listener(&mesh, optional(&mesh));
    let client = client_with(&browser(&mesh, &[&TLS13]), other.forge("agent", |_| {}));
    let (_, server) = handshake_as(&client, &public.server_config(), name("localhost")).await;
    assert!(matches!(tls_error(server), Error::InvalidCertificate(CertificateError::UnknownIssuer)));

    mesh.issue("agent");
    let agent = mesh.load("agent").client_config(&mesh.id("ingress"));
    let (_, server) = handshake(&agent, &public.server_config()).await;
    server.unwrap();
    mesh.authority.revoke_file(&mesh.files("agent").cert).unwrap();
    assert!(matches!(public.reload_if_changed(), Reload::Swapped { .. }));
    let (_, server) = handshake(&agent, &public.server_config()).await;
    assert_eq!(tls_error(server), Error::InvalidCertificate(CertificateError::Revoked));
}

#[tokio::test]
async fn it_reloads_as_the_mesh_does() {
    let mesh = Mesh::new();
    let public = listener(&mesh, ClientAuth::None);
    let (first, _) = handshake_as(&browser(&mesh, &[&TLS13]), &public.server_config(), name("localhost")).await;
    let before = certificates(first.unwrap().get_ref().1);
    assert!(matches!(public.reload_if_changed(), Reload::Unchanged));

    let next = mesh.authority.issue("ingress", DAY / 2, &["localhost"]).unwrap();
    fs::write(mesh.files("public").cert, &next.cert_chain_pem).unwrap();
    assert!(matches!(public.reload_if_changed(), Reload::Failed(CredentialsError::File(_))));
    assert_eq!(public.generation(), 1);
    fs::write(mesh.files("public").key, &next.key_pem).unwrap();
    assert!(matches!(public.reload_if_changed(), Reload::Swapped { .. }));
    assert_eq!((public.generation(), public.not_after()), (2, next.not_after));
    let (second, _) = handshake_as(&browser(&mesh, &[&TLS13]), &public.server_config(), name("localhost")).await;
    assert_ne!(certificates(second.unwrap().get_ref().1), before);
}
