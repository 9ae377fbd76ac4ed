//! Requests of workloads, certificates for keys that others made, and the connection on which they are asked for.

use std::sync::Arc;

use outrigger_identity::{
    Anchor, AuthorityCredentials, AuthorityError, CertificateRequest, CredentialOptions, Credentials, Material,
    PeerError, Reload, RequestError, WorkloadKey, first_contact,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};
use rustls::{CertificateError, Error};

use crate::support::*;

fn request_of(params: CertificateParams) -> String {
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

/// What the authority gives to a workload with a new key.
fn enrol(mesh: &Mesh, service: &str) -> Material {
    let key = WorkloadKey::generate().unwrap();
    let request = CertificateRequest::parse(key.request(Some(&mesh.id(service))).unwrap().as_bytes()).unwrap();
    request.is_for(&mesh.id(service)).unwrap();
    assert_eq!(request.fingerprint(), key.fingerprint());
    let signed = mesh.authority.sign(&request, service, DAY, &[]).unwrap();
    material(mesh, key, signed.cert_chain_pem)
}

fn material(mesh: &Mesh, key: WorkloadKey, cert_chain_pem: String) -> Material {
    let trust = mesh.authority.trust().unwrap();
    Material { cert_chain_pem, key: Arc::new(key), ca_pem: trust.ca_pem, crl_pem: trust.crl_pem }
}

fn enrolled(mesh: &Mesh, service: &str) -> Arc<Credentials> {
    Credentials::enrolled(enrol(mesh, service), &CredentialOptions::default()).unwrap()
}

fn authority(mesh: &Mesh) -> AuthorityCredentials {
    let key = WorkloadKey::generate().unwrap();
    let request = CertificateRequest::parse(key.request(None).unwrap().as_bytes()).unwrap();
    let signed = mesh.authority.sign_itself(&request, DAY).unwrap();
    AuthorityCredentials::new(&material(mesh, key, signed.cert_chain_pem)).unwrap()
}

#[tokio::test]
async fn a_workload_is_a_member_with_a_key_that_only_it_has() {
    let mesh = Mesh::new();
    let (fs, ingress) = (enrolled(&mesh, "fs"), mesh.member("ingress"));
    connect(&ingress.client_config(fs.id()), &fs.server_config()).await;
    connect(&fs.client_config(ingress.id()), &ingress.server_config()).await;
    assert!(!format!("{fs:?}").to_lowercase().contains("key"));
}

#[tokio::test]
async fn what_the_authority_gives_later_is_taken_up_if_it_is_good() {
    let mesh = Mesh::new();
    let fs = enrolled(&mesh, "fs");
    assert!(matches!(fs.reload_if_changed(), Reload::Unchanged));
    let renewed = enrol(&mesh, "fs");
    assert!(matches!(fs.offer(renewed.clone()), Reload::Swapped { .. }));
    assert!(matches!(fs.offer(renewed.clone()), Reload::Unchanged));
    // Somebody else's, one of another authority, and one without its key: the last good one stays.
    let strange = Material { ca_pem: Mesh::new().authority.trust().unwrap().ca_pem, ..renewed.clone() };
    let keyless = Material { key: Arc::new(WorkloadKey::generate().unwrap()), ..renewed };
    for bad in [enrol(&mesh, "notes"), strange, keyless] {
        assert!(matches!(fs.offer(bad), Reload::Failed(_)));
        assert!(matches!(fs.reload_if_changed(), Reload::Unchanged));
    }
    assert_eq!(fs.generation(), 2);
}

#[test]
fn a_request_decides_nothing_but_the_key() {
    let mesh = Mesh::new();
    let with = |names: Vec<SanType>| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        CertificateRequest::parse(request_of(params).as_bytes()).unwrap()
    };
    let fs = mesh.id("fs");
    with(Vec::new()).is_for(&fs).unwrap();
    with(vec![uri("spiffe://demo.outrigger.local/fs")]).is_for(&fs).unwrap();
    for names in [
        vec![uri("spiffe://demo.outrigger.local/ingress")],
        vec![uri("spiffe://demo.outrigger.local/fs"), uri("spiffe://demo.outrigger.local/ingress")],
        vec![uri("spiffe://other/fs")],
        vec![SanType::DnsName("mesh.example".try_into().unwrap())],
        vec![SanType::IpAddress([127, 0, 0, 1].into())],
    ] {
        let refused = with(names.clone()).is_for(&fs);
        assert!(matches!(refused, Err(RequestError::Name { .. })), "{names:?}");
    }
    assert!(matches!(mesh.authority.sign(&with(Vec::new()), "ca", DAY, &[]), Err(AuthorityError::Reserved)));
    assert!(matches!(mesh.authority.issue("ca", DAY, &[]), Err(AuthorityError::Reserved)));
}

#[test]
fn requests_that_are_not_good_are_refused() {
    let parse = |text: &str| CertificateRequest::parse(text.as_bytes()).unwrap_err();
    assert_eq!(parse(""), RequestError::Malformed);
    assert_eq!(parse(&"x".repeat(9000)), RequestError::TooLarge);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // rcgen leaves that out of requests; what matters is that nothing of the kind comes into the certificate.
    let _ = CertificateRequest::parse(request_of(params).as_bytes());

    // One bit of the signature, and of what is signed.
    let good = request_of(CertificateParams::default());
    let der = pem_bytes(&good);
    for at in [der.len() - 3, der.len() / 2] {
        let mut bad = der.clone();
        bad[at] ^= 1;
        CertificateRequest::parse(to_pem(&bad).as_bytes()).unwrap_err();
    }
    let mut longer = der.clone();
    longer.push(0);
    assert_eq!(parse(&to_pem(&longer)), RequestError::Malformed);

    let of = |algorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
    };
    for accepted in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384] {
        let mesh = Mesh::new();
        let request = CertificateRequest::parse(of(accepted).as_bytes()).unwrap();
        mesh.authority.sign(&request, "fs", DAY, &[]).unwrap();
    }
    assert_eq!(parse(&of(&rcgen::PKCS_ECDSA_P521_SHA512)), RequestError::KeyType);
}

fn pem_bytes(pem: &str) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

fn to_pem(der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
}

#[tokio::test]
async fn the_authority_is_known_by_its_roots_or_by_a_digest() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let server = authority(&mesh);
    let domain = mesh.authority.trust_domain();
    let bundle = |mesh: &Mesh| Anchor::Bundle(mesh.authority.trust().unwrap().ca_pem);
    let digest = |mesh: &Mesh| Anchor::Digest(mesh.authority.fingerprints().unwrap()[0]);
    for good in [bundle(&mesh), digest(&mesh)] {
        connect(&first_contact(domain, &good).unwrap(), &server.server_config()).await;
    }
    for bad in [bundle(&other), digest(&other)] {
        let (client, _) = handshake(&first_contact(domain, &bad).unwrap(), &server.server_config()).await;
        assert_eq!(tls_error(client), Error::InvalidCertificate(CertificateError::UnknownIssuer));
    }
    // A member that poses as the authority, as far as it gets with what it has.
    let poser = mesh.forge("fs", |_| {});
    for anchor in [bundle(&mesh), digest(&mesh)] {
        let posing = server_with(&server.server_config(), poser.clone());
        let (client, _) = handshake(&first_contact(domain, &anchor).unwrap(), &posing).await;
        assert!(client.is_err(), "{anchor:?}");
    }
}

#[tokio::test]
async fn members_show_the_authority_who_they_are_and_strangers_need_not() {
    let mesh = Mesh::new();
    let server = authority(&mesh);
    let fs = enrolled(&mesh, "fs");
    let id = mesh.authority.id().unwrap();
    let (_, side) = connect(&fs.client_config(&id), &server.server_config()).await;
    let shown = certificates(side.get_ref().1);
    assert_eq!(server.client(&shown).unwrap(), *fs.id());
    // Revoked since: the connection is still open.
    let serial = outrigger_identity::Serial::of(&shown[0]).unwrap();
    assert!(mesh.authority.revoke(&serial).unwrap());
    let key = WorkloadKey::generate().unwrap();
    let request = CertificateRequest::parse(key.request(None).unwrap().as_bytes()).unwrap();
    let signed = mesh.authority.sign_itself(&request, DAY).unwrap();
    server.replace(&material(&mesh, key, signed.cert_chain_pem)).unwrap();
    let revoked = Error::InvalidCertificate(CertificateError::Revoked);
    assert_eq!(server.client(&shown), Err(PeerError::Untrusted(revoked.clone())));
    let (_, refused) = handshake(&fs.client_config(&id), &server.server_config()).await;
    assert_eq!(tls_error(refused), revoked);
}

#[test]
fn a_connection_gives_way_between_the_renewal_of_its_certificate_and_the_end() {
    let mesh = Mesh::new();
    for life in [std::time::Duration::from_secs(12), DAY] {
        let issued = mesh.authority.issue("fs", life, &[]).unwrap();
        let now = issued.not_after - life;
        let der = {
            use rustls_pki_types::pem::PemObject;
            rustls_pki_types::CertificateDer::from_pem_slice(issued.cert_chain_pem.as_bytes()).unwrap()
        };
        let (by, end) = outrigger_identity::replaced_by(&der).unwrap();
        assert!(by > outrigger_identity::renew_at(now, issued.not_after, 0.0) && by < end, "{life:?}");
        assert_eq!(end, issued.not_after);
    }
}

#[test]
fn what_is_kept_is_for_the_owner_alone_and_read_back() {
    use std::os::unix::fs::PermissionsExt;
    let (mesh, dir) = (Mesh::new(), tempfile::tempdir().unwrap());
    assert!(Material::load(dir.path()).unwrap().is_none());
    let material = enrol(&mesh, "fs");
    material.save(dir.path()).unwrap();
    let path = dir.path().join("identity.pem");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = Material::load(dir.path()).unwrap().unwrap();
    assert_eq!(again.key.fingerprint(), material.key.fingerprint());
    assert_eq!((again.ca_pem.as_str(), again.crl_pem.as_str()), (material.ca_pem.as_str(), material.crl_pem.as_str()));
    assert_eq!(again.cert_chain_pem, material.cert_chain_pem);
    let fs = Credentials::enrolled(again, &CredentialOptions::default()).unwrap();
    assert_eq!(*fs.id(), mesh.id("fs"));
    std::fs::write(&path, "garbage").unwrap();
    Material::load(dir.path()).unwrap_err();
}
