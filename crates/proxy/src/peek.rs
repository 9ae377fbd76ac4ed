//! peek: read a bounded body, find the envelope, and check headers against it.
//!
//! Both proxies do the same checks on every request: the ingress because it is the edge, the sidecar because it is
//! the last hop before the server. Nothing later in a request looks at a header that was not checked here.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use hyper::body::Incoming;
use outrigger_mcp::{
    bridge::log_level::LogLevel,
    envelope::{Message, Meta, Shape},
    headers::{self, decode, single},
    method::Method,
    revision::Revision,
};

use crate::{
    body::{ReadError, read_bounded},
    failure::Failure,
};

/// Bounds for reading a request.
#[derive(Debug, Clone, Copy)]
pub struct PeekLimits {
    /// Largest body in bytes.
    pub body_bytes: usize,
    /// Time for the whole body.
    pub body_timeout: Duration,
}

/// What becomes of the headers of the stateless revision that repeat what the body says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderChecks {
    /// They must be there and agree with the body, as the revision demands.
    #[default]
    Strict,
    /// They are not looked at: the body alone decides, and whatever is sent on is made from it. For clients that leave
    /// them out or send those of an earlier message.
    Tolerant,
}

impl HeaderChecks {
    /// By a setting.
    pub fn of(tolerant: bool) -> Self {
        if tolerant { Self::Tolerant } else { Self::Strict }
    }
}

/// A request that was refused, with the id to answer to where one could be read.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub failure: Failure,
    /// The raw id of the message.
    pub id: Option<Bytes>,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { failure, id: None }
    }
}

/// What the client takes for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// `application/json`.
    pub json: bool,
    /// `text/event-stream`.
    pub stream: bool,
}

/// Reads the `Accept` header. Absent or `*/*` means both.
///
/// # Errors
/// [`Failure::NotAcceptable`] when neither fits.
pub fn accepts(map: &HeaderMap) -> Result<Accepts, Failure> {
    let mut found = Accepts { json: false, stream: false };
    let mut any = false;
    for value in map.get_all(header::ACCEPT) {
        any = true;
        for range in value.to_str().unwrap_or_default().split(',') {
            let media = range.split(';').next().unwrap_or_default().trim();
            let is = |one: &str| media.eq_ignore_ascii_case(one);
            found.json |= is("*/*") || is("application/json") || is("application/*");
            found.stream |= is("*/*") || is("text/event-stream") || is("text/*");
        }
    }
    if !any {
        return Ok(Accepts { json: true, stream: true });
    }
    if found.json || found.stream { Ok(found) } else { Err(Failure::NotAcceptable) }
}

/// Reads the body of a POST after checking that it is declared as plain JSON.
///
/// # Errors
/// For a wrong content type or encoding, and a body that is too large, slow or broken.
pub async fn bytes(map: &HeaderMap, body: &mut Incoming, limits: &PeekLimits) -> Result<Bytes, Failure> {
    declared_json(map)?;
    read_bounded(body, limits.body_bytes, limits.body_timeout).await.map_err(|error| match error {
        ReadError::TooLarge { limit } => Failure::BodyTooLarge(limit),
        ReadError::Timeout { .. } => Failure::BodyTimeout,
        ReadError::Broken(_) => Failure::BodyBroken,
    })
}

fn declared_json(map: &HeaderMap) -> Result<(), Failure> {
    let kind = map.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Failure::MediaType);
    }
    match map.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => Err(Failure::ContentEncoding),
        _ => Ok(()),
    }
}

/// The one value of a header that mirrors the body, decoded.
///
/// # Errors
/// [`Failure::HeaderMismatch`] when copies differ or the value is not readable.
pub fn mirrored<'m>(map: &'m HeaderMap, name: &str) -> Result<Option<std::borrow::Cow<'m, str>>, Failure> {
    let mismatch = |e: headers::HeaderError| Failure::HeaderMismatch(format!("Header mismatch: {name} {e}"));
    match single(map.get_all(name).iter().map(http::HeaderValue::as_bytes)).map_err(mismatch)? {
        Some(value) => decode(value).map(Some).map_err(mismatch),
        None => Ok(None),
    }
}

/// Checks a request of the stateless revision: `_meta`, version, and the mirrored headers (basic/transports,
/// "Standard headers"; 2026-07-28).
///
/// # Errors
/// The failure that the revision prescribes for each mistake.
pub fn modern(map: &HeaderMap, message: &Message, checks: HeaderChecks) -> Result<(), Failure> {
    let version = check_meta(message)?;
    if checks == HeaderChecks::Tolerant {
        return match version {
            Some(version) if version != Revision::MODERN.as_str() => {
                Err(Failure::UnsupportedVersion(version.into_owned()))
            }
            _ => Ok(()),
        };
    }
    let Some(declared) = mirrored(map, headers::PROTOCOL_VERSION)? else {
        return Err(Failure::HeaderMismatch("Header mismatch: MCP-Protocol-Version is missing".into()));
    };
    if let Some(version) = &version
        && *version != declared
    {
        return Err(Failure::HeaderMismatch(format!(
            "Header mismatch: MCP-Protocol-Version is {declared} but _meta says {version}"
        )));
    }
    if declared != Revision::MODERN.as_str() {
        return Err(Failure::UnsupportedVersion(declared.into_owned()));
    }
    match mirrored(map, headers::METHOD)? {
        Some(method) if method == message.method_name() => {}
        Some(_) => {
            return Err(Failure::HeaderMismatch("Header mismatch: Mcp-Method differs from the body's method".into()));
        }
        None => return Err(Failure::HeaderMismatch("Header mismatch: Mcp-Method is missing".into())),
    }
    if let Some(target) = message.target().filter(|_| mirrors_name(message.method)) {
        match mirrored(map, headers::NAME)? {
            Some(name) if name == target => {}
            Some(_) => return Err(Failure::HeaderMismatch("Header mismatch: Mcp-Name differs from the body".into())),
            None => return Err(Failure::HeaderMismatch("Header mismatch: Mcp-Name is missing".into())),
        }
    }
    Ok(())
}

/// Whether a method's target is mirrored in `Mcp-Name`.
pub fn mirrors_name(method: Method) -> bool {
    matches!(
        method,
        Method::ToolsCall
            | Method::PromptsGet
            | Method::ResourcesRead
            | Method::TasksGet
            | Method::TasksUpdate
            | Method::TasksCancel
    )
}

fn check_meta(message: &Message) -> Result<Option<std::borrow::Cow<'_, str>>, Failure> {
    let version = message.meta_text(Meta::ProtocolVersion);
    if message.shape != Shape::Request {
        return Ok(version);
    }
    if version.is_none() {
        return Err(Failure::MissingMeta(format!(
            "_meta[\"io.modelcontextprotocol/protocolVersion\"] is required; supported: {}",
            Revision::MODERN.as_str()
        )));
    }
    match message.meta().get(Meta::ClientCapabilities) {
        Some(span) if message.raw(span).first() == Some(&b'{') => {}
        _ => {
            return Err(Failure::MissingMeta(
                "_meta[\"io.modelcontextprotocol/clientCapabilities\"] is required and must be an object".into(),
            ));
        }
    }
    if message.meta().get(Meta::LogLevel).is_some()
        && message.meta_text(Meta::LogLevel).and_then(|level| LogLevel::parse(&level)).is_none()
    {
        return Err(Failure::MissingMeta("_meta[\"io.modelcontextprotocol/logLevel\"] is not a log level".into()));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        map
    }

    fn call(meta: &str) -> Message {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"検索","_meta":{{{meta}}}}}}}"#
        );
        Message::parse(Bytes::from(text)).unwrap()
    }

    const META: &str =
        r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}"#;
    const NAME: &str = "=?base64?5qSc57Si?=";

    #[test]
    fn a_good_request_passes() {
        let map = headers(&[("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", NAME)]);
        assert!(modern(&map, &call(META), HeaderChecks::Strict).is_ok());
    }

    #[test]
    fn each_mistake_has_its_code() {
        let good = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", NAME)];
        let code = |list: &[(&'static str, &str)], meta: &str| {
            modern(&headers(list), &call(meta), HeaderChecks::Strict).unwrap_err().rpc().code
        };
        assert_eq!(code(&good, ""), -32602);
        assert_eq!(code(&good[1..], META), -32020);
        assert_eq!(code(&good[..2], META), -32020);
        assert_eq!(code(&[good[0], ("mcp-method", "TOOLS/CALL"), good[2]], META), -32020);
        assert_eq!(code(&[good[0], good[1], ("mcp-name", "other")], META), -32020);
        assert_eq!(code(&[good[0], good[1], ("mcp-name", "=?base64?xx?=")], META), -32020);
        assert_eq!(code(&[good[0], good[1], good[1], ("mcp-method", "tools/list"), good[2]], META), -32020);
        let newer = META.replace("2026-07-28", "2027-01-01");
        assert_eq!(code(&[("mcp-protocol-version", "2027-01-01"), good[1], good[2]], &newer), -32022);
        assert_eq!(code(&good, &newer), -32020);
        assert_eq!(code(&good, &format!("{META},\"io.modelcontextprotocol/logLevel\":\"loud\"")), -32602);
    }

    #[test]
    fn tolerance_looks_at_the_body_alone() {
        let tolerant = |list: &[(&'static str, &str)], meta: &str| {
            modern(&headers(list), &call(meta), HeaderChecks::Tolerant).map_err(|failure| failure.rpc().code)
        };
        assert_eq!(tolerant(&[], META), Ok(()));
        assert_eq!(tolerant(&[("mcp-method", "server/discover"), ("mcp-name", "other")], META), Ok(()));
        assert_eq!(tolerant(&[("mcp-protocol-version", "2025-11-25")], META), Ok(()));
        // A header does not stand for what the body must say.
        assert_eq!(tolerant(&[("mcp-protocol-version", "2026-07-28")], ""), Err(-32602));
        assert_eq!(
            tolerant(&[("mcp-protocol-version", "2026-07-28")], &META.replace("2026-07-28", "2027-01-01")),
            Err(-32022)
        );
    }

    #[test]
    fn accept_is_read_as_a_list() {
        assert_eq!(
            accepts(&headers(&[("accept", "application/json, text/event-stream")])).unwrap(),
            Accepts { json: true, stream: true }
        );
        assert_eq!(
            accepts(&headers(&[("accept", "application/json;q=0.5")])).unwrap(),
            Accepts { json: true, stream: false }
        );
        assert_eq!(
            accepts(&headers(&[("accept", "Application/JSON, text/html"), ("accept", "TEXT/*")])).unwrap(),
            Accepts { json: true, stream: true }
        );
        assert!(accepts(&headers(&[("accept", "*/*")])).unwrap().stream);
        assert!(accepts(&headers(&[])).unwrap().stream);
        assert!(accepts(&headers(&[("accept", "text/html")])).is_err());
    }
}
