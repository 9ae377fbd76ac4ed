//! Which era a request belongs to. The order matters: clients of one era send things of the other (probes, old headers).

use crate::failure::Failure;
use http::{HeaderMap, Method};
use outrigger_mcp::envelope::{Message, Meta, Rejected};
use outrigger_mcp::headers::{METHOD, PROTOCOL_VERSION, SESSION_ID};
use outrigger_mcp::method;
use outrigger_mcp::revision::{Revision, looks_modern};

use super::seam::Era;

/// Tells the era of a request. `minted` says whether a session id is one of ours.
///
/// # Errors
/// Neither era serves the HTTP method, or nothing says which revision is spoken.
pub fn detect(
    method: &Method,
    headers: &HeaderMap,
    message: Option<&Result<Message, Rejected>>,
    minted: impl Fn(&str) -> bool,
) -> Result<Era, Failure> {
    let session = headers.get(SESSION_ID);
    if *method != Method::POST {
        let legacy = session.is_some() && (*method == Method::GET || *method == Method::DELETE);
        return if legacy { Ok(Era::Legacy) } else { Err(Failure::MethodNotAllowed("POST")) };
    }
    if session.and_then(|id| id.to_str().ok()).is_some_and(minted) {
        return Ok(Era::Legacy);
    }
    let version = headers.get(PROTOCOL_VERSION).map(|version| version.to_str().unwrap_or_default().trim());
    let message = message.and_then(|message| message.as_ref().ok());
    if version.is_some_and(looks_modern) || message.is_some_and(|m| m.meta().get(Meta::ProtocolVersion).is_some()) {
        return Ok(Era::Modern);
    }
    if session.is_some() || message.is_some_and(|message| message.method == method::Method::Initialize) {
        return Ok(Era::Legacy);
    }
    if headers.contains_key(METHOD) {
        return Ok(Era::Modern);
    }
    if version.is_some() {
        return Ok(Era::Legacy);
    }
    Err(undeclared())
}

/// The answer when nothing says which revision is spoken.
fn undeclared() -> Failure {
    let known: Vec<&str> = Revision::ALL.iter().rev().map(|revision| revision.as_str()).collect();
    Failure::HeaderMismatch(format!(
        "MCP-Protocol-Version is missing, and there is no session; supported versions: {}",
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    const INITIALIZE: &str =
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#;
    const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

    fn post(body: &'static str, list: &[(&'static str, &str)]) -> Option<Era> {
        ask(Method::POST, Some(body), list)
    }

    fn ask(method: Method, body: Option<&'static str>, list: &[(&'static str, &str)]) -> Option<Era> {
        let mut headers = HeaderMap::new();
        list.iter().for_each(|(name, value)| drop(headers.insert(*name, value.parse().unwrap())));
        let message = body.map(|body| Message::parse(body.into()));
        detect(&method, &headers, message.as_ref(), |id| id == "ours").ok()
    }

    #[test]
    fn markers_of_the_modern_revision() {
        assert_eq!(post(META, &[]), Some(Era::Modern), "even initialize");
        assert_eq!(post(LIST, &[("mcp-protocol-version", "2026-07-28")]), Some(Era::Modern));
        assert_eq!(post(LIST, &[("mcp-protocol-version", "2027-01-01")]), Some(Era::Modern));
        assert_eq!(post(LIST, &[("mcp-method", "tools/list")]), Some(Era::Modern));
        assert_eq!(post(META, &[("mcp-session-id", "theirs")]), Some(Era::Modern));
        assert_eq!(post("{", &[("mcp-protocol-version", "2026-07-28")]), Some(Era::Modern));
    }

    #[test]
    fn markers_of_older_revisions() {
        assert_eq!(post(META, &[("mcp-session-id", "ours")]), Some(Era::Legacy));
        assert_eq!(post(INITIALIZE, &[]), Some(Era::Legacy));
        assert_eq!(post(INITIALIZE, &[("mcp-method", "initialize")]), Some(Era::Legacy), "probes send it");
        assert_eq!(post(LIST, &[("mcp-protocol-version", "2025-11-25")]), Some(Era::Legacy));
        assert_eq!(post(LIST, &[("mcp-session-id", "gone")]), Some(Era::Legacy));
        assert_eq!(post("[]", &[("mcp-session-id", "ours")]), Some(Era::Legacy));
        for method in [Method::GET, Method::DELETE] {
            assert_eq!(ask(method.clone(), None, &[("mcp-session-id", "x")]), Some(Era::Legacy));
            assert_eq!(ask(method, None, &[]), None);
        }
    }

    #[test]
    fn nothing_says_anything() {
        assert_eq!(post(LIST, &[]), None);
        assert_eq!(post("{", &[]), None);
        assert_eq!(ask(Method::PUT, None, &[("mcp-session-id", "ours")]), None);
    }
}
