//! An ingress in this process, in front of sidecars.

use std::net::SocketAddr;

use outrigger_ingress::{Running, config::Config};
use serde_json::Value;

use crate::{Client, Mesh, client::plain, eventually};

/// A running ingress in front of some sidecars. Whoever connects is the anonymous principal.
pub struct TestIngress {
    running: Running,
    /// Speaks to it.
    pub client: Client,
}

impl TestIngress {
    /// Starts one for the service `fs`, and waits until it has heard of every replica; `settings` is further YAML.
    pub async fn start(mesh: &Mesh, replicas: &[SocketAddr], settings: &str) -> Self {
        Self::over(mesh, &[("fs", replicas.to_vec())], settings).await
    }

    /// Starts one for several services.
    pub async fn over(mesh: &Mesh, services: &[(&str, Vec<SocketAddr>)], settings: &str) -> Self {
        let policy = mesh.path().join("ingress-policy.yaml");
        let rules =
            "rules: [ { name: all, services: [\"*\"], capabilities: [\"*\"], requires: [ { anonymous: true } ] } ]";
        let document = format!(
            "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: clients }}\nspec:\n  authorization: {{ {rules} }}\n"
        );
        std::fs::write(&policy, document).unwrap();
        let list =
            |addresses: &[SocketAddr]| addresses.iter().map(|a| format!("\"{a}\"")).collect::<Vec<_>>().join(", ");
        let services: String = services
            .iter()
            .map(|(name, addresses)| format!("  {name}: {{ addresses: [{}] }}\n", list(addresses)))
            .collect();
        let services = if services.is_empty() { String::new() } else { format!("services:\n{services}") };
        let text = format!(
            "listen: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\nanonymous: true\naudit: off\npolicy: [{}]\n\
             {services}{}{settings}",
            policy.display(),
            mesh.identity_section("ingress"),
        );
        let config = Config::from_sources(Some(("ingress.yaml", &text)), &|_| None);
        let config = config.unwrap_or_else(|e| panic!("{e}\n{text}"));
        let running = outrigger_ingress::start(config).await.unwrap_or_else(|e| panic!("{e}"));
        let admin = plain(running.admin);
        eventually("the ingress knows every replica", || async {
            let page: Value = admin.get("/catalog", &[]).await.json();
            let known = |service: &Value| {
                let replicas = service["replicas"].as_array().map_or(&[][..], Vec::as_slice);
                let all = |of: &[&str]| replicas.iter().all(|r| r["status"].as_str().is_some_and(|s| of.contains(&s)));
                // What a replica offers counts a moment after it has said so.
                all(&["serving", "degraded"])
                    && (replicas.is_empty() || !all(&["serving"]) || service["catalog"] == "fresh")
            };
            page["services"].as_object()?.values().all(known).then_some(())
        })
        .await;
        let client = plain(running.mcp);
        Self { running, client }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.running.mcp
    }

    /// Where sidecars register.
    pub fn registration(&self) -> SocketAddr {
        self.running.registration.unwrap_or_else(|| panic!("`registration.listen` is not set"))
    }

    /// The `/catalog` page.
    pub async fn catalog(&self) -> Value {
        plain(self.running.admin).get("/catalog", &[]).await.json()
    }

    /// A page of the admin port.
    pub async fn admin(&self, path: &str) -> String {
        let reply = plain(self.running.admin).get(path, &[]).await;
        String::from_utf8_lossy(&reply.body).into_owned()
    }

    /// Stops as SIGTERM does.
    pub async fn stop(self) {
        self.running.drain().await;
    }
}
