//! What the webhook asks of its cluster, with few rights: namespaces (get), and one MutatingWebhookConfiguration (get, patch).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use outrigger_inject::Namespace;
use outrigger_runtime::Readiness;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::namespaces::{Namespaces, Unknown};
use super::version::Version;
use crate::kubernetes::{ApiServer, Content, Unsuccessful};

/// How often the configuration is looked at: somebody may apply the manifests anew, without the bundle.
const LOOK: Duration = Duration::from_secs(30);
/// The wait after a question that failed.
const REST: Duration = Duration::from_secs(5);
/// What is missing until API servers know the webhook, in `/readyz`.
pub(crate) const BLOCKER: &str = "webhook configuration";
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

/// The cluster around the webhook.
pub(crate) struct Cluster {
    server: ApiServer,
    namespaces: Namespaces,
}

impl Cluster {
    pub(crate) fn new(server: ApiServer) -> Self {
        Self { server, namespaces: Namespaces::default() }
    }

    /// What a namespace says for its pods, or said last.
    ///
    /// # Errors
    /// See [`Namespaces::get`].
    pub(crate) async fn namespace(&self, name: &str) -> Result<Namespace, Unknown> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(good) {
            return Err(Unknown::Unanswered("it is no name of a namespace".to_owned()));
        }
        let ask = async {
            let path = format!("/api/v1/namespaces/{name}");
            match self.server.ask(Method::GET, &path, None).await {
                Ok(object) => Ok(Namespace::of(&object)),
                Err(error) => {
                    let status = error.downcast_ref::<Unsuccessful>().map(|answer| answer.status);
                    let kind =
                        if status == Some(StatusCode::FORBIDDEN) { Unknown::Denied } else { Unknown::Unanswered };
                    Err(kind(format!("{error:#}")))
                }
            }
        };
        self.namespaces.get(name, ask).await
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

    /// Keeps the `caBundle` of a configuration as the authority's roots are, for ever. [`BLOCKER`] is set until it was so once.
    pub(crate) async fn keep_bundle(&self, name: &str, mut roots: watch::Receiver<String>, readiness: &Readiness) {
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
