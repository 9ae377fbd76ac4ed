//! What was permitted once need not be so for ever: tunnels are held against the rules again when those change, and where
//! a rule is for tools, when calls begin and end.

use std::sync::Arc;

use outrigger_policy::egress::{Allowed, Ask, Request};

use super::Outbound;
use super::authorize::{Permitted, refused};
use super::identify::Behind;
use super::refusal::{Refusal, Why};
use crate::config::Mode;

impl Outbound {
    /// Resolves when a tunnel may be no longer, with the reason. `behind` is what it was opened for.
    pub(super) async fn revoked(&self, permitted: &Permitted, behind: &Behind) -> Refusal {
        let mut in_force = Arc::clone(&permitted.in_force);
        // Before the first look, or what happens between the two is missed.
        let mut calls = self.calls.changes();
        loop {
            // For as long as a call of such a tool is at work, and no longer; one that was opened outside any call, or under
            // rules that do not ask, is nobody's in particular.
            let now = if permitted.for_tools { self.calls.behind_child(behind.child()) } else { behind.clone() };
            let names = now.names();
            let ask = Ask {
                host: &permitted.target.host,
                port: permitted.target.port,
                tools: now.as_tools(&names),
                request: Request::Sealed,
                addresses: &permitted.addresses,
            };
            let refusal = match in_force.rules.decide(&ask) {
                Ok(Allowed { rule, .. })
                    if (rule.raw || !permitted.raw) && (rule.ech || !permitted.ech) && !rule.inspect =>
                {
                    None
                }
                Ok(allowed) => Some(Refusal { why: Why::Revoked, rule: Some(allowed.rule.id.clone()) }),
                Err(denied) => Some(refused(&denied, &now)),
            };
            if let (Some(refusal), Mode::Enforce) = (refusal, in_force.mode) {
                return refusal;
            }
            tokio::select! {
                () = in_force.replaced.cancelled() => in_force = self.in_force(),
                // The sender lives as long as we do.
                _ = calls.changed(), if permitted.for_tools => {}
            }
        }
    }
}
