//! Limits, timeouts, restarts and catalog settings of the sidecar.

use std::time::Duration;

use outrigger_config::kinds::Kind;
use outrigger_config::sections::{
    self, CommonTimeouts, EntranceLimits, HOUR, KIB, MIB, MINUTE, SECOND, SessionLimits, any_duration, how_many, sized,
};
use outrigger_config::{Fields, doc, kinds};

/// What the sidecar holds at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// What every entrance has.
    pub entrance: EntranceLimits,
    /// Bytes of one line from a stdio server.
    pub line_bytes: usize,
    /// Sessions kept with the server.
    pub sessions: usize,
    /// Those of one principal.
    pub sessions_per_principal: usize,
    /// Child processes.
    pub children: usize,
    /// Those of one principal.
    pub children_per_principal: usize,
    /// Calls that wait for their client's answer.
    pub parked_calls: usize,
    /// Those of one principal.
    pub parked_calls_per_principal: usize,
    /// Sessions of clients that reach the sidecar itself.
    pub client_sessions: usize,
    /// Those of one principal.
    pub client_sessions_per_principal: usize,
    /// What each of these holds, and who listens.
    pub session: SessionLimits,
    /// Tasks that are followed.
    pub tasks: usize,
}

/// How long each step may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// What every entrance has.
    pub common: CommonTimeouts,
    /// A connection to the server kept for the next call.
    pub upstream_idle: Duration,
    /// The server's answer to a probe or handshake.
    pub probe: Duration,
    /// A session with the server that nobody uses.
    pub session_idle: Duration,
    /// A session of a client that it does not use.
    pub client_session_idle: Duration,
    /// The life of a task on a server of 2025-11-25.
    pub task: Duration,
    /// A client answering what the server asks, while its call waits.
    pub answer: Duration,
    /// What a broken stream held can be asked for this long.
    pub resume: Duration,
    /// A child ending by itself, and again after SIGTERM.
    pub child_stop: Duration,
}

/// Exponential back-off of a child that ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// The first wait.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
    /// A child that lived this long begins with the first wait again.
    pub reset_after: Duration,
}

/// Whose lists the sidecar offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogMode {
    /// One catalog for all, and what sessions say is different in them.
    Shared,
    /// The server's lists depend on who asks; they are asked for per caller.
    PerCaller,
}

/// How the server's lists are learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// Whose lists the sidecar offers.
    pub mode: CatalogMode,
    /// Lists are fetched again this often, besides `list_changed`.
    pub refresh: Duration,
    /// Pages of one list.
    pub pages: usize,
    /// Items of all lists.
    pub items: usize,
    /// Bytes of all definitions.
    pub bytes: usize,
    /// Bytes of one list that is one caller's own.
    pub caller_bytes: usize,
}

pub(super) fn read_limits(f: &mut Fields<'_>) -> Option<Limits> {
    let entrance =
        sections::entrance_limits(f, 1024, "callers are a few ingresses and services, which share connections");
    let text = doc("Bytes of one line from a stdio server.").because("a line is a whole message, so as `event_bytes`");
    let line_bytes = sized(f, "line_bytes", text, 16 * MIB);
    let text = doc("Sessions kept with the server; of whoever has most, the one unused for longest gives way.")
        .because("with `per_principal` one for each caller");
    let sessions = f.with_default("sessions", text, how_many(), 64);
    let text = doc("Sessions kept for one principal; its own that is unused for longest gives way.")
        .because("a quarter is left for others");
    let sessions_per_principal = f.with_default("sessions_per_principal", text, how_many(), 48).min(sessions);
    let text = doc("Child processes at once, with `command`.").because("a Node or Python server takes 50 MiB and more");
    let children = f.with_default("children", text.env("OUTRIGGER_LIMIT_CHILDREN"), kinds::count(1..=1024), 16);
    let text = doc("Tasks that clients of 2026-07-28 have on a server of 2025-11-25; 64 of one client.")
        .because("each keeps its session with the server");
    let tasks = f.with_default("tasks", text, how_many(), 1024);
    let text = doc("Child processes for one principal; its own that is unused for longest gives way.")
        .because("a quarter is left for others");
    let children_per_principal = f.with_default("children_per_principal", text, kinds::count(1..=1024), 12);
    let text = doc("Calls that wait for their client to answer a question of the server.")
        .because("each holds a session of the server for up to `timeouts.answer`");
    let parked_calls = f.with_default("parked_calls", text, how_many(), 1024);
    let text = doc("Those of one principal.").because("a client that forgets to answer harms only itself");
    let parked_calls_per_principal =
        f.with_default("parked_calls_per_principal", text, how_many(), 64).min(parked_calls);
    let text = doc("Sessions of clients that reach the sidecar itself and speak 2025-11-25 or older; the one unused for longest gives way.")
        .because("such clients are services that call each other, one or two sessions each");
    let client_sessions = f.with_default("client_sessions", text, how_many(), 256);
    let text = doc("Such sessions of one principal; its own oldest gives way.")
        .because("one client that forgets to end its sessions harms only itself");
    let client_sessions_per_principal = f.with_default("client_sessions_per_principal", text, how_many(), 64);
    let session = sections::session_limits(
        f,
        (2000, "those that two ingresses let in: what they open for one listen or session of a client has one place"),
        (200, "those that two ingresses let in, too; counted by who stands behind an ingress"),
    );
    Some(Limits {
        entrance,
        line_bytes,
        sessions,
        sessions_per_principal,
        children,
        children_per_principal,
        parked_calls,
        parked_calls_per_principal,
        client_sessions,
        client_sessions_per_principal,
        session,
        tasks,
    })
}

pub(super) fn read_timeouts(f: &mut Fields<'_>) -> Option<Timeouts> {
    let common = sections::common_timeouts(f);
    let text = doc("A connection to the server kept for the next call.")
        .because("Node closes after 5 s: reusing a connection that closes just then fails a call");
    let upstream_idle = any_duration(f, "upstream_idle", text, 4 * SECOND);
    let text = doc("The server's answer to a probe, a handshake or a list.")
        .because("a server that starts cold answers in 2 s");
    let probe = any_duration(f, "probe", text, 5 * SECOND);
    let text = doc("A session with the server, or its child process, that nobody uses.")
        .because("long enough for a person to think, short enough to give memory back");
    let session_idle = any_duration(f, "session_idle", text, 5 * MINUTE);
    let text = doc("A session of a client that reaches the sidecar itself, and does not use it.")
        .because("agents pause for minutes, and begin a new session without trouble after more");
    let client_session_idle = any_duration(f, "client_session_idle", text, 30 * MINUTE);
    let text = doc("A child ending after its input is closed, and again after SIGTERM; then it is killed.")
        .because("servers save files within a second or two");
    let child_stop = any_duration(f, "child_stop", text, 5 * SECOND);
    let text = doc("The life of a task on a server of 2025-11-25, and how long the result of one is waited for.")
        .because("work that takes longer outlives most sessions");
    let task = any_duration(f, "task", text, HOUR);
    let text = doc("A client answering what the server asks of it, while its call waits; then the call is cancelled.")
        .because("a person reads and fills in a form; each such call holds a session with the server");
    let answer = any_duration(f, "answer", text, 5 * MINUTE);
    let resume = sections::resume_timeout(f);
    Some(Timeouts { common, upstream_idle, probe, session_idle, client_session_idle, task, answer, resume, child_stop })
}

pub(super) fn read_restart(f: &mut Fields<'_>) -> Option<Restart> {
    let text =
        doc("The wait before the first restart; it doubles each time.").because("a single crash is hardly noticed");
    let initial = any_duration(f, "initial", text, Duration::from_millis(200));
    let text =
        doc("The longest wait.").because("a broken server costs little, and works within half a minute of its repair");
    let max = any_duration(f, "max", text, 30 * SECOND);
    let text = doc("A child that lived this long begins with the first wait again.").because("twice the longest wait");
    let reset_after = any_duration(f, "reset_after", text, MINUTE);
    if initial > max {
        f.mistake("initial", "the first wait is longer than the longest", "make `initial` at most `max`");
    }
    Some(Restart { initial, max, reset_after })
}

pub(super) fn read_catalog(f: &mut Fields<'_>) -> Option<Catalog> {
    let text = doc(
        "`shared`: one catalog for all, and besides it the lists of sessions that say that theirs have changed. `per_caller`: the server's lists depend on who asks, so each caller's are asked for.",
    );
    let modes = catalog_mode();
    let text = text.because("nearly every server lists the same for everybody").env("OUTRIGGER_CATALOG");
    let mode = f.with_default("mode", text, modes, CatalogMode::Shared);
    let text = doc("Lists are fetched again this often, besides on `list_changed`.")
        .because("many servers change their lists and never say so; a fetch costs them milliseconds");
    let refresh = f.with_default("refresh", text, kinds::duration(SECOND..=24 * HOUR), 5 * MINUTE);
    let text = doc("Pages of one list.").because("ends a server that gives a next cursor for ever");
    let pages = f.with_default("pages", text, how_many(), 100);
    let text = doc("Items of one list (tools, prompts, resources or templates).")
        .because("an agent cannot choose among more; large resource trees use templates");
    let items = f.with_default("items", text, how_many(), 10_000);
    let text = doc("Bytes of one list's definitions.").because("3 KiB for each of 10,000 items");
    let bytes = f.with_default("bytes", text, kinds::bytes(64 * KIB..=1024 * MIB), 32 * MIB);
    let text = doc("Bytes of one list's definitions where it is one caller's own; each session may have such lists.")
        .because("a thousand tools, and a hundred sessions of them fit the memory of a small machine");
    let caller_bytes = f.with_default("caller_bytes", text, kinds::bytes(KIB..=256 * MIB), 2 * MIB);
    Some(Catalog { mode, refresh, pages, items, bytes, caller_bytes })
}

/// The kind of a `catalog` setting.
pub fn catalog_mode() -> Kind<CatalogMode> {
    kinds::choice(&[("shared", CatalogMode::Shared), ("per_caller", CatalogMode::PerCaller)])
}
