//! What the webhook asks of its cluster, with few rights: namespaces (get), and one MutatingWebhookConfiguration (get, patch).

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use outrigger_inject::Namespace;
use outrigger_runtime::Readiness;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::version::Version;
use crate::kubernetes::{ApiServer, Content};

/// For what a namespace says: the API server waits for us meanwhile.
const NAMESPACE_PATIENCE: Duration = Duration::from_secs(2);
/// How long what a namespace said counts: a person who annotates one and then creates a pod is not much faster.
const NAMESPACE_LIFE: Duration = Duration::from_secs(2);
/// Namespaces that are remembered.
const MAX_NAMESPACES: usize = 1024;
/// How often the configuration is looked at: somebody may apply the manifests anew, without the bundle.
const LOOK: Duration = Duration::from_secs(30);
/// The wait after a question that failed.
const REST: Duration = Duration::from_secs(5);
/// What is missing until API servers know the webhook, in `/readyz`.
const BLOCKER: &str = "webhook configuration";
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

/// The cluster around the webhook.
pub(crate) struct Cluster {
    server: ApiServer,
    known: Mutex<HashMap<String, (Instant, Namespace)>>,
}

impl Cluster {
    pub(crate) fn new(server: ApiServer) -> Self {
        Self { server, known: Mutex::default() }
    }

    /// What a namespace says for its pods.
    pub(crate) async fn namespace(&self, name: &str) -> anyhow::Result<Namespace> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        anyhow::ensure!(!name.is_empty() && name.len() <= 63 && name.bytes().all(good), "it is no name of a namespace");
        // Held while it is asked for: pods of one namespace come together, and one question is enough.
        let mut known = self.known.lock().await;
        if let Some((_, namespace)) = known.get(name).filter(|(asked, _)| asked.elapsed() < NAMESPACE_LIFE) {
            return Ok(namespace.clone());
        }
        let path = format!("/api/v1/namespaces/{name}");
        let asked = tokio::time::timeout(NAMESPACE_PATIENCE, self.server.ask(Method::GET, &path, None)).await;
        let namespace = Namespace::of(&asked.map_err(|_| anyhow::anyhow!("no answer in time"))??);
        if known.len() >= MAX_NAMESPACES {
            known.clear();
        }
        known.insert(name.to_owned(), (Instant::now(), namespace.clone()));
        Ok(namespace)
    }

    /// The version of the cluster, asked for until it answers.
    pub(crate) async fn version(&self) -> Version {
        let mut told = false;
        loop {
            let answer = self.server.ask(Method::GET, "/version", None).await;
            let version = answer.as_ref().ok().and_then(|answer| {
                Version::of(answer["major"].as_str().unwrap_or_default(), answer["minor"].as_str().unwrap_or_default())
            });
            match (version, answer) {
                (Some(version), _) => return version,
                (None, answer) if !told => {
                    let error = answer.err().map_or_else(|| "it names none".to_owned(), |error| format!("{error:#}"));
                    tracing::warn!(error, "the version of the cluster is not known yet; native sidecars are assumed");
                    told = true;
                }
                (None, _) => {}
            }
            tokio::time::sleep(REST).await;
        }
    }

    /// Keeps the `caBundle` of a configuration as the authority's roots are, for ever.
    pub(crate) async fn keep_bundle(&self, name: &str, mut roots: watch::Receiver<String>, readiness: &Readiness) {
        readiness.set(BLOCKER, Err("not looked at yet".into()));
        let mut told = String::new();
        loop {
            let bundle = STANDARD.encode(roots.borrow_and_update().as_bytes());
            let rest = match self.set_bundle(name, &bundle).await {
                Ok(changed) => {
                    if changed {
                        tracing::info!(configuration = name, "the API server knows the roots of the webhook now");
                    }
                    readiness.set(BLOCKER, Ok(()));
                    told.clear();
                    LOOK
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    if error != told {
                        tracing::error!(
                            error,
                            "the caBundle of the MutatingWebhookConfiguration `{name}` cannot be set; the injector needs the \
                             rights to get and patch it"
                        );
                        told = error;
                    }
                    REST
                }
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                changed = roots.changed() => if changed.is_err() {
                    // Nobody brings others; somebody may still take these away.
                    tokio::time::sleep(rest).await;
                },
            }
        }
    }

    /// Returns whether it was something else.
    async fn set_bundle(&self, name: &str, bundle: &str) -> anyhow::Result<bool> {
        let path = format!("{CONFIGURATIONS}/{name}");
        let present = self.server.ask(Method::GET, &path, None).await?;
        let webhooks = present["webhooks"].as_array().map(Vec::as_slice).unwrap_or_default();
        anyhow::ensure!(!webhooks.is_empty(), "it has no webhooks");
        let stale = webhooks.iter().filter(|it| it["clientConfig"]["caBundle"].as_str() != Some(bundle));
        let patches: Vec<Value> =
            stale.map(|it| json!({"name": it["name"], "clientConfig": {"caBundle": bundle}})).collect();
        if patches.is_empty() {
            return Ok(false);
        }
        let content = Content { kind: "application/strategic-merge-patch+json", value: json!({"webhooks": patches}) };
        self.server.ask(Method::PATCH, &path, Some(content)).await?;
        Ok(true)
    }
}
