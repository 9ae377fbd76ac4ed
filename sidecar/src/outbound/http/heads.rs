//! The heads that the proxy writes: requests to destinations, replies to clients, refusals.

use outrigger_egress::reply::Reply;
use outrigger_egress::request::{Field, Framing, Request, has_word, named};
use outrigger_telemetry::TraceContext;
use serde::Serialize;

use super::super::credentials::Added;
use super::super::mesh;
use super::super::record::Record;
use super::super::refusal::Refusal;
use super::super::target::Target;
use super::{HTTP, HTTPS};

/// The answer to a CONNECT.
pub(super) const CONNECTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Fields that concern one connection only (RFC 9110 section 7.6.1), or that we write ourselves.
const NOT_PASSED_ON: [&str; 12] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-authentication-info",
    "te",
    "trailer",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "host",
];

/// Fields by which some servers take a request for one with another method or path; many servers read `_` as `-`.
const OTHERWISE: [&str; 5] =
    ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];

/// Whether a destination may take the request for another one than a rule looks at.
pub(super) fn means_another(asked: &Request<'_>) -> bool {
    let read = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    asked.fields.iter().any(|field| OTHERWISE.iter().any(|name| field.name.bytes().map(read).eq(name.bytes())))
}

/// The head of a request as the destination gets it, with this span where it has none and the destination is of the mesh.
pub(super) fn request(
    asked: &Request<'_>,
    target: &Target,
    (path, tls): (&str, bool),
    span: &TraceContext,
    added: &[Added],
) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    let usual = if tls { HTTPS } else { HTTP };
    let host = if target.port == usual { target.host.to_string() } else { target.to_string() };
    head.extend_from_slice(format!("{} {path} HTTP/1.1\r\nHost: {host}\r\n", asked.method).as_bytes());
    let replaced = |field: &Field<'_>| added.iter().any(|own| own.name.eq_ignore_ascii_case(field.name));
    let kept: Vec<Field<'_>> = asked.fields.iter().copied().filter(|field| !replaced(field)).collect();
    passed_on(&mut head, &kept, &[]);
    for own in added {
        head.extend_from_slice(own.name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(&own.value);
        head.extend_from_slice(b"\r\n");
    }
    if mesh::service(target).is_some() && named(&asked.fields, "traceparent").next().is_none() {
        head.extend_from_slice(b"traceparent: ");
        head.extend_from_slice(&span.format());
        head.extend_from_slice(b"\r\n");
    }
    framing(&mut head, asked.framing);
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    head
}

/// The head of a reply as the client gets it.
pub(super) fn reply(reply: &Reply<'_>, keep_alive: bool, to_head: bool) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(format!("HTTP/1.1 {} {}\r\n", reply.status, reply.reason).as_bytes());
    // Where there is no body, a length says what it would have been.
    let told = (to_head || reply.status == 304) && named(&reply.fields, "content-length").count() == 1;
    passed_on(&mut head, &reply.fields, if told { &["content-length"] } else { &[] });
    if !told && reply.status >= 200 && reply.status != 204 && reply.status != 304 {
        if reply.framing == Framing::Empty {
            head.extend_from_slice(b"Content-Length: 0\r\n");
        }
        framing(&mut head, reply.framing);
    }
    if reply.status >= 200 {
        head.extend_from_slice(if keep_alive { b"Connection: keep-alive\r\n" } else { b"Connection: close\r\n" });
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn passed_on(head: &mut Vec<u8>, fields: &[Field<'_>], also: &[&str]) {
    let is = |field: &Field<'_>, name: &str| field.name.eq_ignore_ascii_case(name);
    for field in fields {
        let kept = also.iter().any(|name| is(field, name));
        let hop = NOT_PASSED_ON.iter().any(|name| is(field, name))
            || named(fields, "connection").any(|list| has_word(list, field.name));
        if hop && !kept {
            continue;
        }
        head.extend_from_slice(field.name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(field.value);
        head.extend_from_slice(b"\r\n");
    }
}

fn framing(head: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::Length(length) => head.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes()),
        Framing::Chunked => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::Empty | Framing::UntilClose => {}
    }
}

/// The body of a refusal.
#[derive(Serialize)]
struct Told<'t> {
    reason: &'t str,
    host: &'t str,
    rule: Option<&'t str>,
    service: &'t str,
    hint: &'t str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<&'t str>,
}

/// A whole reply that says why not, and what to do about it.
pub(super) fn refusal(service: &str, refusal: &Refusal, record: &Record) -> Vec<u8> {
    let told = refusal.why.told();
    let body = Told {
        reason: told.reason,
        host: record.asked_for(),
        rule: refusal.rule.as_ref().map(|rule| rule.as_str()),
        service,
        hint: &refusal.why.hint(),
        tool: match record.behind().tools.as_slice() {
            [tool] => Some(tool),
            _ => None,
        },
    };
    let mut body = serde_json::to_vec(&body).unwrap_or_default();
    body.push(b'\n');
    // RFC 9110 section 10.2.3: whole seconds, and no sooner than it makes sense.
    let retry = refusal.why.retry_after().map(|wait| format!("Retry-After: {}\r\n", wait.as_secs() + 1));
    // RFC 9110 section 15.5.8.
    let wanted = if told.status == 407 { "Proxy-Authenticate: Basic realm=\"outrigger\"\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}{wanted}Connection: close\r\n\r\n",
        told.status,
        phrase(told.status),
        body.len(),
        retry.unwrap_or_default()
    );
    let mut reply = head.into_bytes();
    reply.append(&mut body);
    reply
}

fn phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Refused")
}
