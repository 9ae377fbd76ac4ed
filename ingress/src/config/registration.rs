//! How sidecars register themselves.

use std::net::SocketAddr;

use outrigger_config::{Fields, doc, kinds};

/// Who may register, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Where sidecars connect, over mTLS; nobody can register without it.
    pub listen: Option<SocketAddr>,
    /// Patterns of service names that may.
    pub services: Vec<String>,
    /// Whether a sidecar may name another host than the one from which it registers.
    pub any_address: bool,
    /// Services that register at most.
    pub max_services: usize,
    /// Replicas of each at most.
    pub max_replicas: usize,
}

pub(super) fn read(f: &mut Fields<'_>) -> Option<Registration> {
    let text =
        doc("Where sidecars register themselves, over mTLS.").because("only the services of `services` are known");
    let text = text.env("OUTRIGGER_REGISTRATION_LISTEN").example("0.0.0.0:8444");
    let listen = f.optional("listen", text, kinds::listen());
    let text = doc("Names of services that may register; `*` stands for any characters.");
    let reason = "a sidecar can register only under the name in its certificate, which the authority gave it";
    let text = text.because(reason).env("OUTRIGGER_REGISTRATION_SERVICES");
    let services = f.with_default("services", text, kinds::list_of(kinds::text()), vec!["*".to_owned()]);
    for pattern in &services {
        if outrigger_policy::glob::Glob::new(pattern).is_err() {
            f.mistake("services", format!("`{pattern}` is no pattern"), "write a name such as `fs`, or `team-*`");
        }
    }
    let text = doc("Whether a sidecar may name another host than the one from which it registers.");
    let reason = "this ingress dials what it is told, and a sidecar that was taken over should not aim it at others";
    let any_address = f.with_default("any_address", text.because(reason), kinds::boolean(), false);
    let text = doc("Services that register at most.").because("each has its lists in memory here");
    let max_services = f.with_default("max_services", text, kinds::count(1..=100_000), 5000);
    let text = doc("Replicas of one service that register at most.").because("each costs a connection and a task here");
    let max_replicas = f.with_default("max_replicas", text, kinds::count(1..=10_000), 256);
    Some(Registration { listen, services, any_address, max_services, max_replicas })
}
