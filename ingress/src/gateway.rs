//! The composition of the ingress: one request from its head to its reply.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderMap, Response};
use outrigger_mcp::envelope::Message;
use outrigger_proxy::body::OutBody;
use outrigger_proxy::failure::Failure;
use outrigger_proxy::reply::{self, Dialect};
use outrigger_runtime::DrainWatcher;
use outrigger_telemetry::Metrics;

use crate::changes::Changes;
use crate::config::{Limits, Timeouts};
use crate::core::{Answer, Caller, Route, Wanted};
use crate::legacy::Sessions;
use crate::policy::PolicyState;

/// Everything that requests share.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) policy: ArcSwap<PolicyState>,
    pub(crate) sessions: Sessions,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) draining: DrainWatcher,
}

impl Gateway {
    /// Serves one modern message, which must be valid (built by us, or checked), and gives the answer as messages.
    /// `subscriptions/listen` is not served here: use [`Gateway::changes`].
    ///
    /// # Errors
    /// Whatever ends a request early; nothing was recorded by the caller then, everything by us.
    pub async fn call(&self, _caller: &Caller, _route: &Route, _message: Message) -> Result<Answer, Failure> {
        Err(Failure::Internal("not served yet".into()))
    }

    /// Serves one modern message of a modern client: the answer's bytes are relayed as they come.
    pub async fn respond(&self, _caller: &Caller, _route: &Route, message: Message, _headers: &HeaderMap) -> Response<OutBody> {
        reply::failure(&Failure::Internal("not served yet".into()), message.id().as_deref(), Dialect::Modern)
    }

    /// What changes for a caller on a route: of the lists that it sees, and of resources that it names. Costs nothing
    /// upstream unless resources or a session are wanted.
    pub fn changes(self: &Arc<Self>, caller: &Caller, route: &Route, wanted: Wanted) -> Changes {
        Changes::new(self, caller, route, wanted)
    }

    /// Limits of the configuration.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Timeouts of the configuration.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The policy in force now; within a request use [`Caller::policy`].
    pub fn policy(&self) -> Arc<PolicyState> {
        self.policy.load_full()
    }

    /// The sessions of legacy clients.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// All metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Tells of the shutdown.
    pub fn draining(&self) -> &DrainWatcher {
        &self.draining
    }
}
