//! Whom an ingress believes that knows services: an API server and a Consul whose certificates are for their names and from the
//! authority that is configured. Nobody else sees its token.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::consul::Consul;
use outrigger_tests::http_server::{HttpServer, text};
use outrigger_tests::kube_api::TOKEN;
use outrigger_tests::{KubeApi, Mesh, TestIngress, TestSidecar, eventually};
use serde_json::json;

/// How many times somebody could not be asked.
async fn fails(ingress: &TestIngress, source: &str) {
    eventually(&format!("{source} cannot be asked"), || async {
        let page = ingress.admin("/metrics").await;
        let name = format!("outrigger_discovery_failures_total{{source=\"{source}\"}} ");
        let count = page.lines().find_map(|line| line.strip_prefix(&name))?.parse::<f64>().ok()?;
        (count >= 2.0).then_some(())
    })
    .await;
}

async fn has_fs(ingress: &TestIngress) {
    eventually("fs is found", || async {
        ingress.catalog().await["services"]["fs"]["replicas"][0].is_object().then_some(())
    })
    .await;
}

/// `localhost` at the port of a server.
fn named(address: &str) -> String {
    format!("localhost:{}", address.rsplit_once(':').unwrap().1)
}

#[tokio::test]
async fn an_api_server_is_known_by_its_name_and_authority() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let server = HttpServer::modern(|asked| async move { text(&asked, "one") });
    let sidecar = TestSidecar::of(&mesh, "fs", &server.setting()).await;
    let token = mesh.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    for (signed_by, host, good) in
        [(&mesh, "localhost", true), (&other, "localhost", false), (&mesh, "elsewhere", false)]
    {
        let api = KubeApi::over(Some(signed_by.server_tls(host)));
        api.service("files", &json!({"outrigger.dev/service": "fs"}));
        api.slice("files-1", "files", sidecar.address(), true);
        let (at, ca, token) = (named(&api.url()), mesh.roots(), token.display());
        let settings = format!(
            "discovery:\n  kubernetes: {{ url: \"https://{at}\", ca: {}, token_file: {token}, namespaces: [tools], any_address: true }}\n",
            ca.display()
        );
        let ingress = TestIngress::over(&mesh, &[], &settings).await;
        if good {
            has_fs(&ingress).await;
        } else {
            fails(&ingress, "kubernetes").await;
            assert!(ingress.catalog().await["services"]["fs"].is_null());
            assert!(api.asked("/", "").is_empty(), "nothing was asked of somebody else, and no token was shown");
        }
        ingress.stop().await;
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn a_consul_is_known_by_its_name_and_authority() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let server = HttpServer::modern(|asked| async move { text(&asked, "one") });
    let sidecar = TestSidecar::of(&mesh, "fs", &server.setting()).await;
    let token = mesh.path().join("token");
    std::fs::write(&token, outrigger_tests::consul::TOKEN).unwrap();
    for (signed_by, host, good) in
        [(&mesh, "localhost", true), (&other, "localhost", false), (&mesh, "elsewhere", false)]
    {
        let consul = Consul::over(Some(signed_by.server_tls(host)));
        consul.register("fs-1", "fs", sidecar.address(), &json!({}), "passing");
        let (at, ca, token) = (named(&consul.authority()), mesh.roots(), token.display());
        let settings = format!(
            "discovery:\n  consul: {{ address: \"consul+tls://{at}\", ca: {}, token_file: {token}, any_address: true }}\n",
            ca.display()
        );
        let ingress = TestIngress::over(&mesh, &[], &settings).await;
        if good {
            has_fs(&ingress).await;
        } else {
            fails(&ingress, "consul").await;
            assert!(ingress.catalog().await["services"]["fs"].is_null());
            assert!(consul.asked("/").is_empty(), "nothing was asked of somebody else, and no token was shown");
        }
        ingress.stop().await;
    }
    sidecar.stop().await;
}
