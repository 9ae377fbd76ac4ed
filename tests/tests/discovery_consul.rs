//! An ingress that finds sidecars in a Consul catalog.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::consul::Consul;
use outrigger_tests::http_server::{HttpServer, text};
use outrigger_tests::{Call, Mesh, TestIngress, TestSidecar, eventually};
use serde_json::{Value, json};

fn server(name: &'static str) -> HttpServer {
    HttpServer::modern(move |asked| async move { text(&asked, name) })
}

/// Waits until exactly these are the replicas of a service.
async fn has(ingress: &TestIngress, service: &str, expected: &[&TestSidecar]) {
    let mut expected: Vec<_> = expected.iter().map(|sidecar| sidecar.address().to_string()).collect();
    expected.sort();
    eventually(&format!("{service} has {expected:?}"), || async {
        let page = ingress.catalog().await;
        let replicas = page["services"][service]["replicas"].as_array().cloned().unwrap_or_default();
        let mut found: Vec<_> = replicas.iter().map(|one| one["address"].as_str().unwrap().to_owned()).collect();
        found.sort();
        (found == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn instances_whose_checks_pass_are_called() {
    let (mesh, consul) = (Mesh::new(), Consul::start());
    let (one, two) = (server("one"), server("two"));
    let first = TestSidecar::of(&mesh, "fs", &one.setting()).await;
    let second = TestSidecar::of(&mesh, "fs", &two.setting()).await;
    let name = json!({"outrigger-service": "fs"});
    consul.register("files-1", "file-server", first.address(), &name, "passing");
    consul.register("wrong", "NOT_A_NAME", first.address(), &json!({}), "passing");
    // Neither of these two keeps others from being found.
    consul.nonsense("nonsense-1", "nonsense");
    let ingress = TestIngress::over(&mesh, &[], &consul.settings(mesh.path())).await;
    has(&ingress, "fs", &[&first]).await;
    eventually("it is called", || async {
        let reply: Value = ingress.client.reply(&Call::tool("fs__t", "{}")).await.json();
        (reply["result"]["content"][0]["text"] == "one").then_some(())
    })
    .await;
    eventually("both mistakes are counted", || async {
        ingress.admin("/metrics").await.contains("outrigger_discovery_mistakes{source=\"consul\"} 2").then_some(())
    })
    .await;
    consul.register("files-2", "file-server", second.address(), &name, "critical");
    consul.register("files-2", "file-server", second.address(), &name, "passing");
    has(&ingress, "fs", &[&first, &second]).await;
    consul.register("files-1", "file-server", first.address(), &name, "critical");
    has(&ingress, "fs", &[&second]).await;
    // It counts anew; then it is away, and what is known stays.
    consul.restore();
    consul.register("files-1", "file-server", first.address(), &name, "passing");
    has(&ingress, "fs", &[&first, &second]).await;
    consul.away(true);
    eventually("it is missed", || async {
        let page = ingress.admin("/metrics").await;
        let line =
            page.lines().find_map(|line| line.strip_prefix("outrigger_discovery_failures_total{source=\"consul\"} "));
        (line?.parse::<f64>().unwrap() > 2.0).then_some(())
    })
    .await;
    has(&ingress, "fs", &[&first, &second]).await;
    consul.deregister("files-2");
    consul.away(false);
    has(&ingress, "fs", &[&first]).await;
    let held = consul.asked("/v1/health/service/file-server?").into_iter().filter(|one| !one.path.contains("index=0"));
    assert!(held.count() > 0, "questions are held");
    consul.deregister("files-1");
    eventually("nobody is left", || async {
        let reply: Value = ingress.client.reply(&Call::tool("fs__t", "{}")).await.json();
        (reply["error"]["data"]["reason"] == "unavailable").then_some(())
    })
    .await;
    for sidecar in [first, second] {
        sidecar.stop().await;
    }
    ingress.stop().await;
}
