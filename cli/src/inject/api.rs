//! The HTTP side: one path, bounded questions, and an answer to each (admission.k8s.io/v1).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use outrigger_proxy::body::OutBody;
use outrigger_proxy::reply;
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::InjectionOutcome;
use serde_json::{Value, json};

use super::config::Config;

/// Where API servers ask.
const PATH: &str = "/inject";
const VERSION: &str = "admission.k8s.io/v1";

/// What answers API servers.
pub(crate) struct Api {
    metrics: Arc<Metrics>,
    body_bytes: usize,
    body_timeout: Duration,
}

impl Api {
    pub(crate) fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        Self { metrics, body_bytes: config.serve.body_bytes, body_timeout: config.serve.body }
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
        let (question, version) = (&review["request"], &review["apiVersion"]);
        let Some(uid) = question["uid"].as_str().filter(|_| version == VERSION) else {
            self.metrics.injection(InjectionOutcome::Invalid);
            return refuse(StatusCode::BAD_REQUEST, "not an AdmissionReview of admission.k8s.io/v1 with a request");
        };
        let response = json!({"uid": uid, "allowed": true});
        let answer = json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response});
        reply::json(StatusCode::OK, answer.to_string())
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

fn refuse(status: StatusCode, message: &str) -> Response<OutBody> {
    reply::json(status, json!({"message": message}).to_string())
}
