//! Limits and timeouts of the ingress.

use std::time::Duration;

use outrigger_config::sections::{
    self, CommonTimeouts, EntranceLimits, KIB, MIB, MINUTE, SECOND, SessionLimits, any_duration, how_many,
};
use outrigger_config::{Fields, doc, kinds};

/// What the ingress holds at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// What every entrance has.
    pub entrance: EntranceLimits,
    /// Sessions of legacy clients.
    pub sessions: usize,
    /// Sessions of one principal.
    pub sessions_per_principal: usize,
    /// What each session holds, and who listens.
    pub session: SessionLimits,
    /// Bytes of one page of a merged list.
    pub page_bytes: usize,
    /// Bytes of the merged instructions.
    pub instructions_bytes: usize,
    /// Bytes of what one service lists for one caller, where that depends on the caller.
    pub caller_list_bytes: usize,
    /// Bytes of all such lists that are kept.
    pub caller_lists_bytes: usize,
}

/// How long each step may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// What every entrance has.
    pub common: CommonTimeouts,
    /// A session that nobody uses.
    pub session_idle: Duration,
    /// A sidecar holding a question for its health open.
    pub health_wait: Duration,
    /// A lost service's catalog still being listed.
    pub stale_grace: Duration,
    /// Changes of lists gathered into one notification.
    pub list_changed_coalesce: Duration,
    /// A silent stream getting a sign of life.
    pub keepalive: Duration,
    /// What a broken stream held can be asked for this long.
    pub resume: Duration,
}

pub(super) fn read_limits(f: &mut Fields<'_>) -> Option<Limits> {
    let entrance = sections::entrance_limits(
        f,
        10_000,
        "an agent keeps one or two open, so thousands of agents; each costs memory for TLS and buffers",
    );
    let text = doc("Sessions of clients that speak 2025-11-25 or older; the one unused for longest gives way.");
    let text = text.because("as many as connections: each such client has one").env("OUTRIGGER_LIMIT_SESSIONS");
    let sessions = f.with_default("sessions", text, how_many(), 10_000);
    let text = doc("Sessions of one principal; its own oldest gives way.")
        .because("one client that forgets to end its sessions harms only itself");
    let sessions_per_principal = f.with_default("sessions_per_principal", text, how_many(), 100);
    // Who lowers `sessions` alone means both.
    let sessions_per_principal = sessions_per_principal.min(sessions);
    let session = sections::session_limits(
        f,
        (1000, "each holds a connection that does nothing else"),
        (100, "one for each of its sessions; a client that leaks them harms only itself"),
    );
    let text = doc("Bytes of one page of a merged list.")
        .because("the lists of most meshes fit one page; a client can parse it in one go");
    let page_bytes = f.with_default("page_bytes", text, kinds::bytes(16 * KIB..=64 * MIB), MIB);
    let text = doc("Bytes of the merged instructions; each service gets a fair share.")
        .because("every agent pays for them in its context, about 2,000 tokens");
    let instructions_bytes = f.with_default("instructions_bytes", text, kinds::bytes(0..=MIB), 8 * KIB);
    let text = doc("Bytes of what one service lists for one caller, where that depends on the caller.")
        .because("a few thousand tools; a sidecar keeps 2 MiB of each list");
    let caller_list_bytes = f.with_default("caller_list_bytes", text, kinds::bytes(KIB..=1024 * MIB), 8 * MIB);
    let text = doc("Bytes of lists that depend on their callers, kept for all of them; those unused for longest give way, and are asked for again.")
        .because("a thousand callers of services with twenty tools each");
    let caller_lists_bytes = f.with_default("caller_lists_bytes", text, kinds::bytes(KIB..=64 * 1024 * MIB), 64 * MIB);
    Some(Limits {
        entrance,
        sessions,
        sessions_per_principal,
        session,
        page_bytes,
        instructions_bytes,
        caller_list_bytes,
        caller_lists_bytes,
    })
}

pub(super) fn read_timeouts(f: &mut Fields<'_>) -> Option<Timeouts> {
    let common = sections::common_timeouts(f);
    let text = doc("A session that nobody uses.")
        .because("people leave a chat open over lunch; clients begin a new one by themselves");
    let session_idle = any_duration(f, "session_idle", text, 30 * MINUTE);
    let text = doc("A sidecar holding a question for its health open until something changes.")
        .because("two requests per minute and service at rest, and shorter than what proxies cut");
    let health_wait = f.with_default("health_wait", text, kinds::duration(SECOND..=5 * MINUTE), 30 * SECOND);
    let text = doc("The catalog of a service that is lost still being listed, marked as stale.")
        .because("a restart or a rolling update takes less; agents dislike lists that flicker");
    let stale_grace = f.with_default("stale_grace", text, kinds::duration(Duration::ZERO..=60 * MINUTE), 60 * SECOND);
    let text = doc("Changes of lists gathered into one notification.")
        .because("services that start together give one change, and nobody notices the wait");
    let list_changed_coalesce = f.with_default(
        "list_changed_coalesce",
        text,
        kinds::duration(Duration::ZERO..=MINUTE),
        Duration::from_millis(250),
    );
    let text = doc("A silent stream getting a comment line as a sign of life.")
        .because("load balancers cut silent connections after 30 to 60 s");
    let keepalive = any_duration(f, "keepalive", text, 15 * SECOND);
    let resume = sections::resume_timeout(f);
    Some(Timeouts { common, session_idle, health_wait, stale_grace, list_changed_coalesce, keepalive, resume })
}
