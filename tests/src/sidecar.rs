//! A sidecar in this process.

use std::{path::PathBuf, sync::Arc};

use outrigger_mcp::envelope::Message;
use outrigger_runtime::drain::DrainOutcome;
use outrigger_sidecar::{Sidecar, StartError, config::Config};
use serde_json::Value;

use crate::{Client, Mesh, client::plain, eventually};

/// A policy that lets everybody do everything.
pub const OPEN: &str = "  authorization: { rules: [ { name: all, services: [\"*\"], capabilities: [\"*\"] } ] }\n";

/// A running sidecar, of the service `fs` unless a test names another.
pub struct TestSidecar {
    sidecar: Sidecar,
    service: String,
    /// Its policy file.
    pub policy: PathBuf,
    admin: Client,
}

impl TestSidecar {
    /// Starts a sidecar with an open policy; `settings` is YAML and must name the server.
    pub async fn start(mesh: &Mesh, settings: &str) -> Self {
        Self::with_policy(mesh, OPEN, settings).await
    }

    /// Starts the sidecar of another service with an open policy.
    pub async fn of(mesh: &Mesh, service: &str, settings: &str) -> Self {
        Self::launch(mesh, service, OPEN, settings).await.unwrap_or_else(|e| panic!("{service} does not start: {e}"))
    }

    /// Starts one with a policy: the YAML under `spec:`.
    pub async fn with_policy(mesh: &Mesh, policy: &str, settings: &str) -> Self {
        match Self::try_start(mesh, policy, settings).await {
            Ok(sidecar) => sidecar,
            Err(error) => panic!("the sidecar does not start: {error}"),
        }
    }

    /// Starts one, or says why not.
    ///
    /// # Errors
    /// What [`outrigger_sidecar::start()`] says.
    pub async fn try_start(mesh: &Mesh, policy: &str, settings: &str) -> Result<Self, StartError> {
        Self::launch(mesh, "fs", policy, settings).await
    }

    async fn launch(mesh: &Mesh, service: &str, policy: &str, settings: &str) -> Result<Self, StartError> {
        let policy = mesh.policy(policy);
        let audit = if settings.contains("audit:") {
            String::new()
        } else {
            format!("audit: {}\n", Self::audit(mesh, service).display())
        };
        let text = format!(
            "service: {service}\nlisten: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\n{audit}policy: [{}]\n{}{settings}",
            policy.display(),
            mesh.identity_section(service),
        );
        let config = Config::from_sources(Some(("sidecar.yaml", &text)), &|_| None).unwrap_or_else(|e| panic!("{e}"));
        let sidecar = outrigger_sidecar::start(config, None).await?;
        let admin = plain(sidecar.admin);
        Ok(Self { sidecar, service: service.to_owned(), policy, admin })
    }

    /// Where the decisions about calls of a service are written.
    pub fn audit(mesh: &Mesh, service: &str) -> PathBuf {
        mesh.path().join(format!("audit-{service}.jsonl"))
    }

    /// A client that connects as `name`.
    pub fn client(&self, mesh: &Mesh, name: &str) -> Client {
        let credentials = mesh.credentials(name);
        let expected = mesh.id(&self.service);
        Client::new(self.sidecar.mesh, Arc::new(move || credentials.client_config(&expected)))
    }

    /// A client that connects as the ingress, once the server has been learned.
    pub async fn ready_client(&self, mesh: &Mesh) -> Client {
        let client = self.client(mesh, "ingress");
        eventually("the sidecar is ready", || async { self.sidecar.readiness.ready().then_some(()) }).await;
        client
    }

    /// Where the mesh connects.
    pub fn address(&self) -> std::net::SocketAddr {
        self.sidecar.mesh
    }

    /// Where the server finds its proxy.
    pub fn egress(&self) -> Option<std::net::SocketAddr> {
        self.sidecar.egress
    }

    /// A page of the admin port, and its status.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        let reply = self.admin.get(path, &[]).await;
        (reply.status.as_u16(), String::from_utf8_lossy(&reply.body).into_owned())
    }

    /// The value of a line of `/metrics`, such as `outrigger_reloads_total{outcome="failed",what="policy"}`; zero
    /// while it has not happened.
    ///
    /// # Panics
    /// When there is no metric of that name at all.
    pub async fn metric(&self, line: &str) -> f64 {
        let (_, text) = self.admin("/metrics").await;
        let name = line.split('{').next().unwrap_or(line);
        assert!(text.contains(&format!("# TYPE {name} ")), "there is no metric {name}");
        text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0.0)
    }

    /// The health document as the admin port shows it.
    pub async fn health(&self) -> Value {
        serde_json::from_str(&self.admin("/catalog").await.1).unwrap()
    }

    /// Waits until the health document satisfies `wanted`, and returns it.
    pub async fn health_where(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || async { Some(self.health().await).filter(&wanted) }).await
    }

    /// Stops as SIGTERM does.
    pub async fn stop(self) -> DrainOutcome {
        self.sidecar.stop(std::future::pending()).await
    }
}

/// The text of the first content of a tool's result.
///
/// # Panics
/// When there is none.
pub fn text_of(reply: &Value) -> String {
    match reply.pointer("/result/content/0/text") {
        Some(Value::String(text)) => text.clone(),
        _ => panic!("no text in {reply}"),
    }
}

/// Parses what must be a message.
pub fn message(bytes: &bytes::Bytes) -> Message {
    Message::parse(bytes.clone()).unwrap_or_else(|e| panic!("{:?} in {bytes:?}", e.error))
}
