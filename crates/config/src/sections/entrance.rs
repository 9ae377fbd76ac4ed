//! Limits and timeouts of everything that accepts MCP over HTTP.

use std::time::Duration;

use crate::fields::{Doc, Fields, doc};
use crate::kinds::{self, Kind};

/// 1024 bytes.
pub const KIB: usize = 1 << 10;
/// 1024 KiB.
pub const MIB: usize = 1 << 20;
/// One second.
pub const SECOND: Duration = Duration::from_secs(1);
/// Sixty seconds.
pub const MINUTE: Duration = Duration::from_secs(60);
/// Sixty minutes.
pub const HOUR: Duration = Duration::from_secs(3600);

/// What one entrance holds at most. Passing one is an error for the one that passed it, and for nobody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntranceLimits {
    /// Open connections.
    pub connections: usize,
    /// Bytes of a request's header.
    pub header_bytes: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of one event of a stream.
    pub event_bytes: usize,
    /// Calls at work at once, per service.
    pub in_flight: usize,
    /// Requests on one connection before it is closed politely.
    pub requests_per_connection: u64,
}

/// How long each step may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommonTimeouts {
    /// TLS handshake.
    pub handshake: Duration,
    /// Request header.
    pub header: Duration,
    /// Request body.
    pub body: Duration,
    /// A whole call, unless something flows.
    pub request: Duration,
    /// Connecting to a peer, TLS included.
    pub connect: Duration,
    /// A client connection without a request.
    pub idle: Duration,
    /// A client that takes nothing of what waits for it.
    pub stalled: Duration,
    /// Calls finishing after SIGTERM.
    pub drain: Duration,
}

/// A duration setting of 1 ms to 7 days.
pub fn any_duration(f: &mut Fields<'_>, name: &'static str, doc: Doc, default: Duration) -> Duration {
    f.with_default(name, doc, kinds::duration(Duration::from_millis(1)..=24 * 7 * HOUR), default)
}

/// A size setting of 1 KiB to 1 GiB.
pub fn sized(f: &mut Fields<'_>, name: &'static str, doc: Doc, default: usize) -> usize {
    f.with_default(name, doc, kinds::bytes(KIB..=1024 * MIB), default)
}

/// A count of 1 to a million.
pub fn how_many() -> Kind<usize> {
    kinds::count(1..=1_000_000)
}

/// Reads the limits that every entrance has, from a `limits` section. `connections` is the one that differs by place.
pub fn entrance_limits(f: &mut Fields<'_>, connections: usize, reason: &'static str) -> EntranceLimits {
    let text = doc("Open client connections; further ones are closed at once.").because(reason);
    let connections = f.with_default("connections", text.env("OUTRIGGER_LIMIT_CONNECTIONS"), how_many(), connections);
    let text =
        doc("Bytes of a request's header.").because("tokens reach 8 KiB and carried headers of a trace are small");
    let header_bytes = f.with_default("header_bytes", text, kinds::bytes(4 * KIB..=MIB), 32 * KIB);
    let text = doc("Bytes of a request's body.")
        .because("tool arguments hold text and small files; it bounds memory per call");
    let body_bytes = sized(f, "body_bytes", text.env("OUTRIGGER_LIMIT_BODY"), 4 * MIB);
    let text = doc("Bytes of one message in a reply or stream.")
        .because("results hold pictures and documents, larger than arguments");
    let event_bytes = sized(f, "event_bytes", text, 16 * MIB);
    let text = doc("Calls at work at once, per service; a further one is refused with the time to wait.")
        .because("more than a tool server of one process works on at once; a queue would only hide that")
        .env("OUTRIGGER_LIMIT_IN_FLIGHT");
    let in_flight = f.with_default("in_flight", text, how_many(), 256);
    let text = doc("Requests on one connection before it is closed politely.")
        .because("rare enough to cost nothing, yet clients of a busy mesh find new replicas in the end");
    let requests_per_connection =
        f.with_default("requests_per_connection", text, kinds::integer(1..=u64::from(u32::MAX)), 100_000);
    EntranceLimits { connections, header_bytes, body_bytes, event_bytes, in_flight, requests_per_connection }
}

/// Reads the timeouts that every entrance has, from a `timeouts` section.
pub fn common_timeouts(f: &mut Fields<'_>) -> CommonTimeouts {
    let text = doc("A TLS handshake.").because("a slow mobile network needs 2 s; more is somebody holding a place");
    let handshake = any_duration(f, "handshake", text, 10 * SECOND);
    let text =
        doc("A request's header, from its first byte.").because("headers fit a few packets; stops slow-header attacks");
    let header = any_duration(f, "header", text, 10 * SECOND);
    let text = doc("A request's body.").because("4 MiB in 30 s is 1.1 Mbit/s");
    let body = any_duration(f, "body", text, 30 * SECOND);
    let text = doc("A call without any sign of life; each progress notification or part of a reply begins it anew.")
        .because("tools that work for minutes are common; SDK clients give up after 1 to 5 minutes themselves")
        .env("OUTRIGGER_REQUEST_TIMEOUT");
    let request = any_duration(f, "request", text, 5 * MINUTE);
    let text = doc("Connecting to a peer, its TLS handshake included.")
        .because("peers are one hop away: a lost first packet costs 1 s, and another replica may be well");
    let connect = any_duration(f, "connect", text, 2 * SECOND);
    let text =
        doc("A client connection without a request.").because("clients pause between calls; a place costs little");
    let idle = any_duration(f, "idle", text, 60 * SECOND);
    let text = doc("A client taking nothing of an answer or stream that waits for it; then it is cut off.")
        .because("longer than a phone is without a network in a lift; what waits holds the place of a call");
    let stalled = any_duration(f, "stalled", text, MINUTE);
    let text = doc("Calls finishing after SIGTERM, before they are cut.")
        .because("Kubernetes kills after 30 s; 5 s remain for stopping children")
        .env("OUTRIGGER_DRAIN_TIMEOUT");
    let drain = any_duration(f, "drain", text, 25 * SECOND);
    CommonTimeouts { handshake, header, body, request, connect, idle, stalled, drain }
}

/// Declares `header_checks`; the value is whether they are tolerant.
pub fn header_checks(f: &mut Fields<'_>) -> bool {
    let text = doc(
        "Headers of 2026-07-28 that repeat what the body says (`MCP-Protocol-Version`, `Mcp-Method`, `Mcp-Name`, \
         `Mcp-Param-*`): `strict` refuses a request in which one is missing or differs, `tolerant` does not look at them.",
    );
    let text = text.because("the revision demands it, and proxies in between may have decided by them");
    f.with_default("header_checks", text.env("OUTRIGGER_HEADER_CHECKS"), tolerance(), false)
}

/// The choices of a `header_checks` setting; the value is whether they are tolerant.
pub fn tolerance() -> Kind<bool> {
    kinds::choice(&[("strict", false), ("tolerant", true)])
}

/// Reads the `http_sse` setting; `env` is its variable where it has one.
pub fn http_sse(f: &mut Fields<'_>, env: Option<&'static str>) -> bool {
    let text = doc(
        "Clients may also use HTTP+SSE, the transport of 2024-11-05: the event stream is at `sse` beside each `mcp`, and \
         messages are posted to `messages`.",
    );
    let text = text.because("new clients do not need it, and a stream that breaks takes its session along");
    let text = env.map_or(text, |name| text.env(name));
    f.with_default("http_sse", text, kinds::boolean(), false)
}
