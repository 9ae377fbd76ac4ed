//! The HTTP side: one path, bounded questions, and an answer to each (admission.k8s.io/v1).

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use outrigger_inject::review::{VERSION, is_exempt, question};
use outrigger_inject::{Namespace, Settings};
use outrigger_proxy::body::OutBody;
use outrigger_proxy::reply;
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::InjectionOutcome;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::config::Config;
use super::namespaces::Unknown;
use super::review::{self, Answered};

/// Where API servers ask.
const PATH: &str = "/inject";

/// What answers API servers.
pub(crate) struct Api {
    metrics: Arc<Metrics>,
    cluster: Arc<Cluster>,
    settings: Arc<ArcSwap<Settings>>,
    exempt: Vec<String>,
    body_bytes: usize,
    body_timeout: Duration,
}

impl Api {
    pub(crate) fn new(
        config: &Config,
        metrics: Arc<Metrics>,
        cluster: Arc<Cluster>,
        settings: Arc<ArcSwap<Settings>>,
    ) -> Self {
        let (body_bytes, body_timeout) = (config.serve.body_bytes, config.serve.body);
        // What the injector itself needs to run must not wait for it.
        let own = std::env::var("POD_NAMESPACE").ok();
        let exempt = config.serve.exempt.iter().cloned().chain(own).collect();
        Self { metrics, cluster, settings, exempt, body_bytes, body_timeout }
    }

    /// Answers a request.
    pub(crate) async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Response<OutBody> {
        match (request.uri().path(), request.method()) {
            (PATH, &Method::POST) => {}
            (PATH, _) => return refuse(StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview"),
            _ => return refuse(StatusCode::NOT_FOUND, "an injector has /inject"),
        }
        let review = match self.body(request).await {
            Ok(body) => serde_json::from_slice::<Value>(&body).unwrap_or_default(),
            Err(refused) => return refused,
        };
        let Some((uid, question)) = question(&review) else {
            self.metrics.injection(InjectionOutcome::Invalid);
            return refuse(StatusCode::BAD_REQUEST, "not an AdmissionReview of admission.k8s.io/v1 with a request");
        };
        let answered = match self.answer(uid, question).await {
            Ok(answered) => answered,
            Err(unknown) => {
                self.metrics.injection(InjectionOutcome::Unanswered);
                let why = format!("what the namespace of the pod says is not known: {}", unknown.why());
                return refuse(StatusCode::INTERNAL_SERVER_ERROR, &why);
            }
        };
        self.metrics.injection(answered.outcome);
        let metadata = &question["object"]["metadata"];
        let pod = metadata["name"].as_str().or_else(|| metadata["generateName"].as_str()).unwrap_or_default();
        let namespace = question["namespace"].as_str().unwrap_or_default();
        match &answered.refusal {
            Some(why) => tracing::warn!(namespace, pod, why, "refused a pod"),
            None if answered.outcome == InjectionOutcome::Injected => tracing::info!(namespace, pod, "injected"),
            None => tracing::debug!(namespace, pod, outcome = answered.outcome.as_str(), "left alone"),
        }
        let answer = json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": answered.response});
        reply::json(StatusCode::OK, answer.to_string())
    }

    /// An error is no answer: `failurePolicy` decides then what becomes of a pod whose namespace may want a sidecar for it.
    async fn answer(&self, uid: &str, question: &Value) -> Result<Answered, Unknown> {
        if is_exempt(question, &self.exempt) {
            return Ok(review::untouched(uid, InjectionOutcome::Exempt));
        }
        let name = question["namespace"].as_str().unwrap_or_default();
        let unknown = match self.cluster.namespace(name).await {
            Ok(namespace) => return Ok(review::answer(uid, question, &namespace, &self.settings.load())),
            Err(unknown) => unknown,
        };
        // Without a right to know, and for a pod that says itself what it wants, what the pod says is all there is.
        if matches!(unknown, Unknown::Unanswered(_)) && !outrigger_inject::speaks(&question["object"]) {
            return Err(unknown);
        }
        let mut answered = review::answer(uid, question, &Namespace::default(), &self.settings.load());
        let warning = "outrigger: the annotations of the namespace could not be read; only those of the pod count";
        if let Some(warnings) = answered.response["warnings"].as_array_mut() {
            warnings.push(warning.into());
        } else {
            answered.response["warnings"] = json!([warning]);
        }
        Ok(answered)
    }

    async fn body(&self, request: Request<Incoming>) -> Result<Bytes, Response<OutBody>> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if kind.is_none_or(|kind| kind.split(';').next().map(str::trim) != Some("application/json")) {
            return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json"));
        }
        let read = Limited::new(request.into_body(), self.body_bytes).collect();
        match tokio::time::timeout(self.body_timeout, read).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let most = format!("the question has more than {} bytes (`limits.body_bytes`)", self.body_bytes);
                Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, &most))
            }
            Ok(Err(_)) => Err(refuse(StatusCode::BAD_REQUEST, "the question broke off")),
            Err(_) => Err(refuse(StatusCode::REQUEST_TIMEOUT, "the question did not arrive in time")),
        }
    }
}

/// API servers pass on what is plain text, and of anything else say `unknown` to the person who made the pod.
fn refuse(status: StatusCode, message: &str) -> Response<OutBody> {
    reply::text(status, message.to_owned())
}
