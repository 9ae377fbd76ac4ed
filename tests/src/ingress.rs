//! An ingress in this process, in front of sidecars.

use std::net::SocketAddr;

use outrigger_ingress::{Running, config::Config};
use serde_json::Value;

use crate::{Client, Mesh, client::plain, eventually};

/// A running ingress whose service `fs` is at some sidecars. Whoever connects is the anonymous principal.
pub struct TestIngress {
    running: Running,
    /// Speaks to it.
    pub client: Client,
}

impl TestIngress {
    /// Starts one, and waits until it has heard of every replica; `settings` is further YAML.
    pub async fn start(mesh: &Mesh, replicas: &[SocketAddr], settings: &str) -> Self {
        let policy = mesh.path().join("ingress-policy.yaml");
        let rules =
            "rules: [ { name: all, services: [\"*\"], capabilities: [\"*\"], requires: [ { anonymous: true } ] } ]";
        let document = format!(
            "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: clients }}\nspec:\n  authorization: {{ {rules} }}\n"
        );
        std::fs::write(&policy, document).unwrap();
        let addresses: Vec<String> = replicas.iter().map(ToString::to_string).collect();
        let text = format!(
            "listen: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\nanonymous: true\naudit: off\npolicy: [{}]\n\
             services: {{ fs: {{ addresses: {} }} }}\n{}{settings}",
            policy.display(),
            serde_json::to_string(&addresses).unwrap(),
            mesh.identity_section("ingress"),
        );
        let config = Config::from_sources(Some(("ingress.yaml", &text)), &|_| None);
        let config = config.unwrap_or_else(|e| panic!("{e}\n{text}"));
        let running = outrigger_ingress::start(config).await.unwrap_or_else(|e| panic!("{e}"));
        let admin = plain(running.admin);
        eventually("the ingress knows every replica", || async {
            let page: Value = admin.get("/catalog", &[]).await.json();
            let known =
                page["services"]["fs"]["replicas"].as_array()?.iter().all(|replica| replica["status"] == "serving");
            known.then_some(())
        })
        .await;
        let client = plain(running.mcp);
        Self { running, client }
    }

    /// Stops as SIGTERM does.
    pub async fn stop(self) {
        self.running.drain().await;
    }
}
