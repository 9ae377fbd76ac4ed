//! JSON-RPC errors that we originate: codes, and how they are written.
//!
//! Codes that the specification fixes keep their meaning. Our own lie outside -32768..-32000, as the specification
//! asks of implementations (basic, "error codes"), and `data` always has a `reason`.

use bytes::Bytes;

use crate::json::{quote, write_string};

/// The text is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// Not a request.
pub const INVALID_REQUEST: i64 = -32600;
/// No such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// Bad parameters; also an unknown tool, prompt or resource in modern MCP.
pub const INVALID_PARAMS: i64 = -32602;
/// Something failed on the way.
pub const INTERNAL: i64 = -32603;
/// Resource not found, in legacy revisions.
pub const LEGACY_RESOURCE_NOT_FOUND: i64 = -32002;
/// A mirrored header differs from the body (2026-07-28).
pub const HEADER_MISMATCH: i64 = -32020;
/// The client did not declare a capability that the request needs (2026-07-28).
pub const MISSING_CAPABILITY: i64 = -32021;
/// The protocol version is not supported (2026-07-28).
pub const UNSUPPORTED_VERSION: i64 = -32022;
/// Ours: policy does not allow it.
pub const DENIED: i64 = -31403;
/// Ours: a rate or concurrency limit was reached.
pub const LIMITED: i64 = -31429;
/// Ours: the service cannot be reached or is not ready.
pub const UNAVAILABLE: i64 = -31503;
/// Ours: the service did not answer in time.
pub const TIMEOUT: i64 = -31504;

/// An error reply that we make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcError {
    /// JSON-RPC code.
    pub code: i64,
    /// Text for the caller.
    pub message: String,
    /// Members of `data`, as (name, raw JSON).
    pub data: Vec<(&'static str, String)>,
}

impl RpcError {
    /// An error without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: Vec::new() }
    }

    /// Adds a text member to `data`.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.data.push((name, quote(value)));
        self
    }

    /// Adds a raw JSON member to `data`.
    #[must_use]
    pub fn with_raw(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.data.push((name, value.into()));
        self
    }

    /// The `error` object.
    pub fn object(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96 + self.message.len());
        out.extend_from_slice(b"{\"code\":");
        out.extend_from_slice(self.code.to_string().as_bytes());
        out.extend_from_slice(b",\"message\":");
        write_string(&mut out, &self.message);
        if !self.data.is_empty() {
            out.extend_from_slice(b",\"data\":{");
            for (i, (name, value)) in self.data.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(&mut out, name);
                out.push(b':');
                out.extend_from_slice(value.as_bytes());
            }
            out.push(b'}');
        }
        out.push(b'}');
        out
    }

    /// The whole reply; without an id when the request's could not be read.
    pub fn reply(&self, id: Option<&[u8]>) -> Bytes {
        let mut out = Vec::with_capacity(160 + self.message.len());
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\"");
        if let Some(id) = id {
            out.extend_from_slice(b",\"id\":");
            out.extend_from_slice(id);
        }
        out.extend_from_slice(b",\"error\":");
        out.extend_from_slice(&self.object());
        out.push(b'}');
        Bytes::from(out)
    }
}

/// A reply that carries a result.
pub fn result_reply(id: &[u8], result: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(40 + id.len() + result.len());
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id);
    out.extend_from_slice(b",\"result\":");
    out.extend_from_slice(result);
    out.push(b'}');
    Bytes::from(out)
}

/// A reply that carries an error, raw.
pub fn error_reply(id: &[u8], object: &[u8]) -> Bytes {
    [&b"{\"jsonrpc\":\"2.0\",\"id\":"[..], id, b",\"error\":", object, b"}"].concat().into()
}

/// A request that we originate; `params` is raw JSON.
pub fn request(id: &[u8], method: &str, params: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(64 + params.len());
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id);
    out.extend_from_slice(b",\"method\":");
    write_string(&mut out, method);
    out.extend_from_slice(b",\"params\":");
    out.extend_from_slice(params);
    out.push(b'}');
    Bytes::from(out)
}

/// A notification that we originate; `params` is raw JSON.
pub fn notification(method: &str, params: Option<&[u8]>) -> Bytes {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"method\":");
    write_string(&mut out, method);
    if let Some(params) = params {
        out.extend_from_slice(b",\"params\":");
        out.extend_from_slice(params);
    }
    out.push(b'}');
    Bytes::from(out)
}
