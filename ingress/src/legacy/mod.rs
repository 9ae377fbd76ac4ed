//! Clients of older revisions: handshake, sessions, and translation to the modern revision.

use std::sync::Arc;

use http::Response;
use outrigger_proxy::body::OutBody;
use outrigger_proxy::failure::Failure;
use outrigger_proxy::reply::{self, Dialect};
use outrigger_telemetry::Metrics;

use crate::config::{Limits, Timeouts};
use crate::core::{Caller, Inbound, Route};
use crate::gateway::Gateway;

/// The sessions of legacy clients. The gateway owns it: [`Gateway::sessions`].
#[derive(Debug)]
pub struct Sessions {}

impl Sessions {
    /// No session yet.
    pub fn new(_limits: &Limits, _timeouts: &Timeouts, _metrics: &Arc<Metrics>) -> Self {
        Self {}
    }

    /// Whether we could have made this session id, alive or not: then the request is a legacy one, whatever else it
    /// says.
    pub fn minted(&self, _id: &str) -> bool {
        false
    }

    /// Ends idle sessions until the drain is over. Runs as a task of the ingress.
    pub async fn sweep(&self) {
        std::future::pending().await
    }
}

/// Serves one HTTP request of a legacy client. The response's body must not have an `on_end` hook: the gateway sets one.
pub async fn serve(_gateway: &Arc<Gateway>, _caller: Caller, _route: Route, request: Inbound) -> Response<OutBody> {
    let id = request.message.and_then(|message| message.map_or_else(|rejected| rejected.id, |message| message.id()));
    let text = "this revision is not served yet; use 2026-07-28".to_owned();
    reply::failure(&Failure::NoSession(text), id.as_deref(), Dialect::Legacy)
}
