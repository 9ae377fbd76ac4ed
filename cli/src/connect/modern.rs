//! Clients of 2026-07-28 and later: the headers that HTTP wants and stdio does not have.
//!
//! Source: MCP 2026-07-28, basic/transports/streamable-http, "Standard Headers" and "Custom Headers from Tool Parameters".

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use outrigger_mcp::envelope::{Field, Message, Meta, Param};
use outrigger_mcp::headers::{self, encode};
use outrigger_mcp::json::{decode_string, elements, member};
use outrigger_mcp::method::Method;
use outrigger_mcp::param_headers::ParamHeaders;

/// Tools whose mirrored arguments are kept: more than an agent can choose among.
const MAX_TOOLS: usize = 10_000;

/// Whether a message speaks a modern revision: each of its requests says so.
pub(super) fn is_modern(message: &Message) -> bool {
    message.meta().get(Meta::ProtocolVersion).is_some()
}

/// The mirrored arguments of the tools that were listed.
#[derive(Default)]
pub(crate) struct Tools(Mutex<HashMap<String, ParamHeaders>>);

impl Tools {
    /// Learns from the response to a `tools/list`.
    pub(super) fn learn(&self, response: &Message) {
        let Some(tools) = response.results().get(Field::Tools) else {
            return;
        };
        let body = response.body();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for tool in elements(body, tools).unwrap_or_default() {
            let Some(name) = member(body, tool, "name").and_then(|name| decode_string(name.of(body))) else {
                continue;
            };
            let schema = member(body, tool, "inputSchema");
            // A tool with wrong annotations cannot be called; the client sees why when it tries.
            match schema.and_then(|schema| ParamHeaders::compile(schema.of(body)).ok().flatten()) {
                Some(mirrored) if known.len() < MAX_TOOLS => drop(known.insert(name.into_owned(), mirrored)),
                _ => drop(known.remove(name.as_ref())),
            }
        }
    }

    /// The headers of a message.
    pub(crate) fn headers(&self, message: &Message) -> HeaderMap {
        let mut map = HeaderMap::new();
        let mut set = |name: &str, text: &str| {
            // `encode` gives visible ASCII only, and names come from our constants or a checked schema.
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&encode(text))) {
                map.insert(name, value);
            }
        };
        if let Some(version) = message.meta_text(Meta::ProtocolVersion) {
            set(headers::PROTOCOL_VERSION, &version);
        }
        set(headers::METHOD, &message.method_name());
        let Some(target) = message.target() else {
            return map;
        };
        set(headers::NAME, &target);
        if message.method == Method::ToolsCall {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let arguments = message.params().get(Param::Arguments).map(|span| message.raw(span));
            for (name, value) in known.get(target.as_ref()).map(|tool| tool.generate(arguments)).unwrap_or_default() {
                // Encoded already.
                if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
                    map.insert(name, value);
                }
            }
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;

    #[test]
    fn headers_mirror_the_body() {
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"größe","arguments":{{"where":"eu"}},{META}}}}}"#
        );
        let call = message(&call);
        let tools = Tools::default();
        let headers = tools.headers(&call);
        assert_eq!(headers["mcp-protocol-version"], "2026-07-28");
        assert_eq!(headers["mcp-method"], "tools/call");
        assert_eq!(headers["mcp-name"], "=?base64?Z3LDtsOfZQ==?=");
        assert_eq!(headers.len(), 3);
        let list = |annotation: &str| {
            message(&format!(
                r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{{"name":"größe","inputSchema":{{"type":"object","properties":{{"where":{{"type":"string"{annotation}}}}}}}}}]}}}}"#
            ))
        };
        tools.learn(&list(r#","x-mcp-header":"Region""#));
        assert_eq!(tools.headers(&call)["mcp-param-region"], "eu");
        tools.learn(&list(""));
        assert_eq!(tools.headers(&call).len(), 3);
    }

    #[test]
    fn the_era_is_in_the_message() {
        assert!(is_modern(&message(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{{META}}}}}"#))));
        assert!(!is_modern(&message(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)));
    }
}
