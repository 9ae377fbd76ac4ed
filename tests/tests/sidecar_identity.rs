//! Who may connect, and what happens when certificates change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::{sync::Arc, time::Duration};

use http::{Method, Request};
use outrigger_proxy::{body::OutBody, dial::ClientTlsProvider};
use outrigger_tests::{Call, Client, Mesh, TestSidecar, eventually, sidecar::text_of, subjects::scripted};
use rustls::{ClientConfig, SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};

/// A client that shows no certificate.
#[derive(Debug)]
struct Nobody;

impl ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A client that believes the mesh of `mesh` but shows what `shown` shows.
fn showing(mesh: &Mesh, sidecar: &TestSidecar, shown: Arc<dyn ResolvesClientCert>) -> Client {
    let mut config = ClientConfig::clone(&mesh.credentials("ingress").client_config(&mesh.id("fs")));
    config.client_auth_cert_resolver = shown;
    let config = Arc::new(config);
    Client::new(sidecar.address(), Arc::new(move || config.clone()))
}

async fn refused(sidecar: &TestSidecar, client: &Client, outcome: &str) {
    let counter = format!("outrigger_handshakes_total{{outcome=\"{outcome}\"}}");
    let before = sidecar.metric(&counter).await;
    assert!(client.try_open(&Call::new("tools/list")).await.is_err(), "{outcome}: it must not get through");
    eventually("the refusal is counted", || async { (sidecar.metric(&counter).await > before).then_some(()) }).await;
}

#[tokio::test]
async fn peers_without_a_good_certificate_do_not_get_past_the_handshake() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let good = sidecar.ready_client(&mesh).await;
    refused(&sidecar, &showing(&mesh, &sidecar, Arc::new(Nobody)), "no_certificate").await;
    let foreign = other.credentials("ingress").client_config(&other.id("fs")).client_auth_cert_resolver.clone();
    refused(&sidecar, &showing(&mesh, &sidecar, foreign), "unknown_authority").await;
    let short = mesh.credentials_for("short", Duration::from_secs(2));
    let shown = short.client_config(&mesh.id("fs")).client_auth_cert_resolver.clone();
    eventually("the certificate has expired", || async {
        // Certificates count in whole seconds.
        (std::time::SystemTime::now() > short.not_after() + Duration::from_secs(1)).then_some(())
    })
    .await;
    refused(&sidecar, &showing(&mesh, &sidecar, shown), "expired").await;
    assert_eq!(text_of(&good.tool("echo", "{}").await), "{}");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_client_that_expects_another_service_turns_away() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let (credentials, expected) = (mesh.credentials("ingress"), mesh.id("notes"));
    let tls: ClientTlsProvider = Arc::new(move || credentials.client_config(&expected));
    let error =
        Client::new(sidecar.address(), tls).try_open(&Call::new("tools/list")).await.err().expect("not this one");
    assert!(format!("{error:?}").contains("fs"), "{error:?}");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_sidecar_with_the_certificate_of_another_service_does_not_start() {
    let mesh = Mesh::new();
    let settings = format!("{}session: shared\n", scripted(&[]));
    mesh.issue("fs", Duration::from_secs(60));
    mesh.issue("notes", Duration::from_secs(60));
    let certs = mesh.path().join("certs");
    let text = format!(
        "service: fs\nlisten: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\nidentity: {{ trust_domain: test.local, \
         cert: {0}/notes.pem, key: {0}/notes.key, ca: {1}/ca/ca.pem }}\n{settings}",
        certs.display(),
        mesh.path().display()
    );
    let config = outrigger_sidecar::config::Config::from_sources(Some(("x", &text)), &|_| None).unwrap();
    let error = outrigger_sidecar::start(config, None).await.err().expect("it must not start").to_string();
    assert!(error.contains("spiffe://test.local/notes") && error.contains("spiffe://test.local/fs"), "{error}");
}

#[tokio::test]
async fn only_allowed_workloads_may_call() {
    let mesh = Mesh::new();
    let settings = format!("{}allowed_callers: [\"spiffe://test.local/ing*\"]\n", scripted(&[]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let ingress = sidecar.ready_client(&mesh).await;
    let stranger = sidecar.client(&mesh, "stranger");
    let reply = stranger.reply(&Call::tool("echo", "{}")).await;
    assert_eq!(reply.status, 403);
    assert_eq!(reply.json()["error"]["data"]["reason"], "caller_refused");
    assert_eq!(stranger.get("/mesh/v1/health", &[]).await.status, 403, "the catalog is not for strangers either");
    assert_eq!(ingress.reply(&Call::tool("echo", "{}")).await.status, 200);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_revoked_peer_is_refused_at_its_next_connection() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let good = sidecar.ready_client(&mesh).await;
    let bad = sidecar.client(&mesh, "bad");
    assert_eq!(bad.reply(&Call::tool("echo", "{}")).await.status, 200);
    mesh.revoke("bad");
    let swapped = "outrigger_reloads_total{outcome=\"applied\",what=\"certificates\"}";
    eventually("the list was read", || async { (sidecar.metric(swapped).await >= 1.0).then_some(()) }).await;
    bad.pool.retire();
    assert!(bad.try_open(&Call::tool("echo", "{}")).await.is_err(), "a new connection");
    assert_eq!(good.reply(&Call::tool("echo", "{}")).await.status, 200);
    sidecar.stop().await;
}

/// What is open on connections of `bad` ends when its certificate is revoked; what others have open goes on.
async fn loses_what_is_open(mesh: &Mesh, sidecar: &TestSidecar, name: &str, bad: Client) {
    let good = sidecar.ready_client(mesh).await;
    let known = bad.get("/mesh/v1/health", &[]).await.headers["etag"].to_str().unwrap().to_owned();
    let poller = bad.clone();
    let poll = tokio::spawn(async move {
        let request = Request::get("/").header("if-none-match", known).body(OutBody::empty()).unwrap();
        poller.send(Method::GET, "/mesh/v1/health?wait=120s", request).await
    });
    let listening = r#""notifications":{"toolsListChanged":true}"#;
    let mut listen = bad.open(&Call::new("subscriptions/listen").params(listening)).await;
    listen.next().await.unwrap();
    let mut call = bad.open(&Call::tool("progress", "{}").meta(r#""progressToken":1"#)).await;
    call.next().await.unwrap();
    let mut kept = good.open(&Call::tool("progress", "{}").meta(r#""progressToken":1"#)).await;
    kept.next().await.unwrap();

    mesh.revoke(name);
    assert!(listen.broken().await, "the listen");
    assert!(call.broken().await, "the call");
    assert!(poll.await.unwrap().is_err(), "the poll");
    assert!(bad.try_open(&Call::tool("echo", "{}")).await.is_err(), "a new connection");
    good.tool("go", "{}").await;
    assert_eq!(text_of(&kept.rest().await.json()), "done", "a call of another peer goes on");
}

#[tokio::test]
async fn a_revoked_peer_loses_what_it_has_open_and_nobody_else_does() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let tls = |name: &str| -> ClientTlsProvider {
        let (credentials, expected) = (mesh.credentials(name), mesh.id("fs"));
        Arc::new(move || credentials.client_config(&expected))
    };
    loses_what_is_open(&mesh, &sidecar, "bad-h2", Client::new(sidecar.address(), tls("bad-h2"))).await;
    loses_what_is_open(&mesh, &sidecar, "bad-h1", Client::http1(sidecar.address(), &tls("bad-h1"))).await;
    assert!(sidecar.metric("outrigger_connections_total{listener=\"mesh\",outcome=\"untrusted\"}").await >= 2.0);
    sidecar.stop().await;
}

#[tokio::test]
async fn new_certificates_are_taken_up_without_dropping_a_connection() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let expiry = "outrigger_certificate_expiry_timestamp_seconds{name=\"workload\"}";
    let before = sidecar.metric(expiry).await;
    let mut open = client.open(&Call::tool("progress", "{}").meta(r#""progressToken":1"#)).await;
    open.next().await.unwrap();

    std::fs::write(mesh.path().join("certs/fs.pem"), "nonsense").unwrap();
    let failed = "outrigger_reloads_total{outcome=\"failed\",what=\"certificates\"}";
    eventually("the bad file is noticed", || async { (sidecar.metric(failed).await >= 1.0).then_some(()) }).await;
    assert_eq!(
        sidecar.client(&mesh, "late").reply(&Call::tool("echo", "{}")).await.status,
        200,
        "the last good one stays"
    );

    mesh.issue("fs", Duration::from_secs(7200));
    eventually("the new one is used", || async { (sidecar.metric(expiry).await > before).then_some(()) }).await;
    // A session of its own: the tool of the first caller waits for it.
    assert_eq!(text_of(&client.tool("go", "{}").await), "gone");
    assert_eq!(text_of(&open.rest().await.json()), "done", "the call that was open goes on");
    assert_eq!(sidecar.client(&mesh, "later").reply(&Call::tool("echo", "{}")).await.status, 200);
    sidecar.stop().await;
}
