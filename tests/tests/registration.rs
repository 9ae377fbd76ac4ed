//! Sidecars that make themselves known: they come, multiply, go, crash, and pretend.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, Request};
use outrigger_proxy::body::OutBody;
use outrigger_tests::http_server::{HttpServer, text};
use outrigger_tests::{Call, Client, Mesh, TestIngress, TestSidecar, eventually};
use serde_json::Value;

const REGISTRATION: &str = "registration: { listen: \"127.0.0.1:0\" }\n";

/// A server whose tool `t` says its name.
fn server(name: &'static str) -> HttpServer {
    HttpServer::modern(move |asked| async move { text(&asked, name) })
}

fn registering(server: &HttpServer, ingresses: &[SocketAddr], more: &str) -> String {
    let list = ingresses.iter().map(|at| format!("\"{at}\"")).collect::<Vec<_>>().join(", ");
    format!("{}register: {{ ingress: [{list}]{more} }}\n", server.setting())
}

/// The addresses of the replicas of a service that serve.
async fn serving(ingress: &TestIngress, service: &str) -> Vec<String> {
    let page = ingress.catalog().await;
    let replicas = page["services"][service]["replicas"].as_array().cloned().unwrap_or_default();
    let good = replicas.iter().filter(|one| one["status"] == "serving" && one["unreachable"].is_null());
    good.map(|one| one["address"].as_str().unwrap().to_owned()).collect()
}

async fn serve(ingress: &TestIngress, service: &str, count: usize) -> Vec<String> {
    eventually(&format!("{count} replicas of {service}"), || async {
        Some(serving(ingress, service).await).filter(|replicas| replicas.len() == count)
    })
    .await
}

async fn tools(ingress: &TestIngress) -> Vec<String> {
    let reply: Value = ingress.client.reply(&Call::new("tools/list")).await.json();
    let tools = reply["result"]["tools"].as_array().cloned().unwrap_or_default();
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

async fn registered(sidecar: &TestSidecar) -> f64 {
    sidecar.metric("outrigger_registrations").await
}

/// Says something to the registration endpoint as a member of the mesh.
async fn say(mesh: &Mesh, ingress: &TestIngress, who: &str, body: &str) -> (u16, String) {
    let (credentials, expected) = (mesh.credentials(who), mesh.id("ingress"));
    let client = Client::new(ingress.registration(), Arc::new(move || credentials.client_config(&expected)));
    let request = Request::new(OutBody::full(body.to_owned()));
    let reply = client.send(Method::POST, "/mesh/v1/register", request).await.unwrap();
    let reply = reply.rest().await;
    (reply.status.as_u16(), String::from_utf8_lossy(&reply.body).into_owned())
}

#[tokio::test]
async fn sidecars_come_and_go_by_themselves() {
    let mesh = Mesh::new();
    let ingress = TestIngress::over(&mesh, &[], REGISTRATION).await;
    let (one, two) = (server("one"), server("two"));
    let settings = registering(&one, &[ingress.registration()], "");
    let first = TestSidecar::of(&mesh, "fs", &settings).await;
    serve(&ingress, "fs", 1).await;
    eventually("the tools of fs are listed", || async { (tools(&ingress).await == ["fs__t"]).then_some(()) }).await;
    let other = TestSidecar::of(&mesh, "notes", &registering(&two, &[ingress.registration()], "")).await;
    serve(&ingress, "notes", 1).await;
    // Another replica of the same service.
    let second = TestSidecar::of(&mesh, "fs", &registering(&two, &[ingress.registration()], "")).await;
    let both = serve(&ingress, "fs", 2).await;
    eventually("it counts", || async { (registered(&first).await == 1.0).then_some(()) }).await;
    assert!(ingress.admin("/metrics").await.contains("outrigger_registrations 3"));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let reply: Value = ingress.client.reply(&Call::tool("fs__t", "{}")).await.json();
        seen.insert(reply["result"]["content"][0]["text"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["one", "two"], "both get calls");
    // One leaves in peace; nobody who calls meanwhile notices.
    let calls = async {
        for _ in 0..100 {
            let reply: Value = ingress.client.reply(&Call::tool("fs__t", "{}")).await.json();
            assert!(reply["result"]["content"].is_array(), "{reply}");
        }
    };
    let gone = first.address().to_string();
    let ((), _) = tokio::join!(calls, first.stop());
    let left = serve(&ingress, "fs", 1).await;
    assert!(both.contains(&gone) && !left.contains(&gone), "{left:?}");
    // The last one leaves: what it had is listed for a while, and calls are refused with a reason.
    second.stop().await;
    eventually("fs is known to be gone", || async {
        let reply: Value = ingress.client.reply(&Call::tool("fs__t", "{}")).await.json();
        (reply["error"]["data"]["reason"] == "unavailable").then_some(())
    })
    .await;
    assert_eq!(tools(&ingress).await.len(), 2, "stale");
    other.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn an_ingress_that_starts_again_learns_of_everybody_and_every_ingress_knows() {
    let mesh = Mesh::new();
    let (a, b) = (TestIngress::over(&mesh, &[], REGISTRATION).await, TestIngress::over(&mesh, &[], REGISTRATION).await);
    let server = server("one");
    let at = a.registration();
    let sidecar = TestSidecar::of(&mesh, "fs", &registering(&server, &[at, b.registration()], "")).await;
    serve(&a, "fs", 1).await;
    serve(&b, "fs", 1).await;
    eventually("both count", || async { (registered(&sidecar).await == 2.0).then_some(()) }).await;
    a.stop().await;
    eventually("one is left", || async { (registered(&sidecar).await == 1.0).then_some(()) }).await;
    let a = TestIngress::over(&mesh, &[], &format!("registration: {{ listen: \"{at}\" }}\n")).await;
    serve(&a, "fs", 1).await;
    assert_eq!(serving(&b, "fs").await.len(), 1, "nothing changed there");
    sidecar.stop().await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn nobody_registers_as_somebody_else_or_elsewhere() {
    let mesh = Mesh::new();
    let settings =
        "registration: { listen: \"127.0.0.1:0\", services: [\"fs\", \"team-*\"], max_services: 1, max_replicas: 1 }\n";
    let ingress = TestIngress::over(&mesh, &[], settings).await;
    for (who, body, status, why) in [
        ("fs", r#"{"service":"team-a","port":1}"#, 403, "the certificate is for"),
        ("notes", r#"{"service":"notes","port":1}"#, 403, "`notes` may not register here"),
        ("fs", r#"{"service":"fs","port":1,"host":"10.0.0.9"}"#, 403, "registration.any_address"),
        ("fs", r#"{"service":"fs","port":0}"#, 400, "no address"),
        ("fs", r#"{"service":"fs"}"#, 400, "port"),
        ("fs", r#"{"service":"FS","port":1}"#, 400, "no name of a service"),
        ("fs", "nonsense", 400, "not valid"),
        ("fs", &format!("\"{}\"", "x".repeat(5000)), 400, "not valid"),
    ] {
        let (got, said) = say(&mesh, &ingress, who, body).await;
        assert_eq!(got, status, "{body}: {said}");
        assert!(said.contains(why), "{body}: {said}");
    }
    assert!(ingress.catalog().await["services"].as_object().unwrap().is_empty());
    let server = server("one");
    let sidecar = TestSidecar::of(&mesh, "fs", &registering(&server, &[ingress.registration()], "")).await;
    serve(&ingress, "fs", 1).await;
    let full = say(&mesh, &ingress, "fs", r#"{"service":"fs","port":1}"#).await;
    assert!(full.0 == 503 && full.1.contains("registration.max_replicas"), "{full:?}");
    let full = say(&mesh, &ingress, "team-a", r#"{"service":"team-a","port":1}"#).await;
    assert!(full.0 == 503 && full.1.contains("registration.max_services"), "{full:?}");
    sidecar.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_registers_joins_those_of_the_settings() {
    let mesh = Mesh::new();
    let (one, two) = (server("one"), server("two"));
    let fixed = TestSidecar::start(&mesh, &one.setting()).await;
    let settings = "registration: { listen: \"127.0.0.1:0\", any_address: true }\n";
    let ingress = TestIngress::start(&mesh, &[fixed.address()], settings).await;
    let more = TestSidecar::of(&mesh, "fs", &registering(&two, &[ingress.registration()], "")).await;
    serve(&ingress, "fs", 2).await;
    // One that says where it is: by the name of the host, which is another replica to us.
    let named = ", advertise: \"localhost:1\"";
    let third = TestSidecar::of(&mesh, "fs", &registering(&two, &[ingress.registration()], named)).await;
    eventually("it is among the replicas", || async {
        let page = ingress.catalog().await;
        let replicas = page["services"]["fs"]["replicas"].as_array()?.clone();
        replicas.iter().any(|one| one["address"] == "localhost:1").then_some(())
    })
    .await;
    third.stop().await;
    more.stop().await;
    eventually("the one of the settings stays", || async {
        (serving(&ingress, "fs").await == [fixed.address().to_string()]).then_some(())
    })
    .await;
    fixed.stop().await;
    ingress.stop().await;
}
