//! MCP requests of 2026-07-28 and of 2025-11-25, and the answers of the upstream.

use serde_json::{Value, json};

use crate::http1::find;

/// The result of every call: about 200 bytes.
const CONTENT: &str = r#"{"content":[{"type":"text","text":"01234567890123456789012345678901234567890123456789012345678901234567890123456789"}],"isError":false"#;

/// The revision that the benchmarks speak, unless they say otherwise.
pub const REVISION: &str = "2026-07-28";

/// The older revision that they speak as well.
pub const LEGACY_REVISION: &str = "2025-11-25";

/// What a client or a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Era {
    /// 2026-07-28.
    Modern,
    /// 2025-11-25.
    Legacy,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, Default)]
pub enum Asks {
    /// `tools/call`, answered at once.
    #[default]
    Call,
    /// `tools/call`, answered with an event stream without end: one event in so many microseconds, or with 0 as many as are read.
    Events(u64),
    /// `tools/list`, of which the first answer must hold so many tools.
    List(usize),
}

impl Asks {
    /// The method, which is also in the head.
    fn method(self) -> &'static str {
        match self {
            Self::Call | Self::Events(_) => "tools/call",
            Self::List(_) => "tools/list",
        }
    }

    /// The request. A `tools/call` has about 300 bytes of JSON, as agents send them; less in a session, which was told who calls.
    pub fn body(self, id: usize, tool: &str, era: Era) -> String {
        let mut params = match self {
            Self::Call => json!({ "name": tool, "arguments": { "query": "x".repeat(40), "limit": 10 } }),
            Self::Events(micros) => json!({
                "name": tool,
                "arguments": { "query": "x".repeat(40), "limit": 10, "micros": micros },
                "_meta": { "progressToken": id },
            }),
            Self::List(_) => json!({}),
        };
        if era == Era::Modern {
            let meta = &mut params["_meta"];
            meta["io.modelcontextprotocol/protocolVersion"] = REVISION.into();
            meta["io.modelcontextprotocol/clientInfo"] = json!({ "name": "load", "version": "1" });
            meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
        }
        json!({ "jsonrpc": "2.0", "id": id, "method": self.method(), "params": params }).to_string()
    }

    /// The head's lines.
    pub fn head(self, tool: &str, era: Era, session: &str) -> String {
        let method = self.method();
        match (era, self) {
            (Era::Legacy, _) => format!("mcp-protocol-version: {LEGACY_REVISION}\r\nmcp-session-id: {session}\r\n"),
            (Era::Modern, Self::List(_)) => format!("mcp-protocol-version: {REVISION}\r\nmcp-method: {method}\r\n"),
            (Era::Modern, _) => {
                format!("mcp-protocol-version: {REVISION}\r\nmcp-method: {method}\r\nmcp-name: {tool}\r\n")
            }
        }
    }
}

/// One event of such a stream: about 130 bytes, each as long as the others.
pub fn event(token: &str, progress: u64) -> String {
    format!(
        "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\
         \"params\":{{\"progressToken\":{token},\"progress\":{progress:>10},\"message\":\"working\"}}}}\n\n"
    )
}

/// The answer to a `tools/call`, which is not parsed; `None` for anything else.
pub fn called(body: &[u8], modern: bool) -> Option<String> {
    find(body, b"\"tools/call\"")?;
    let id = String::from_utf8_lossy(number(body, b"\"id\":").unwrap_or(b"1"));
    let kind = if modern { r#","resultType":"complete""# } else { "" };
    Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{CONTENT}{kind}}}}}"#))
}

/// What follows a name and its colon: a number, or a string without commas, which is all that proxies send.
pub fn number<'a>(body: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = &body[find(body, name)? + name.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b',' | b'}'))?;
    Some(&rest[..end])
}

/// The two messages that begin a session.
pub fn greeting() -> [String; 2] {
    let info = json!({ "name": "load", "version": "1" });
    let params = json!({ "protocolVersion": LEGACY_REVISION, "capabilities": {}, "clientInfo": info });
    [
        json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }).to_string(),
        json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string(),
    ]
}

/// A message as HTTP/1.1 bytes, with lines of the head that end with CRLF.
pub fn post(path: &str, head: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\n{head}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The upstream's tools. `name` tells apart those of several upstreams behind one ingress.
pub fn tools(count: usize) -> Value {
    let tool = |number| {
        json!({
            "name": format!("tool_{number}"),
            "description": format!("Tool number {number}. It takes a query and a limit and returns the records that match."),
            "inputSchema": {
                "type": "object",
                "properties": {
                    "query": { "type": "string", "description": "What to look for" },
                    "limit": { "type": "integer", "minimum": 1, "maximum": 100 },
                },
                "required": ["query"],
            },
        })
    };
    (0..count).map(tool).collect()
}

/// The answer of an upstream that speaks these to anything but `tools/call`; `None` for a notification.
pub fn answer(request: &Value, tools: &Value, eras: &[Era]) -> Option<Value> {
    let (modern, legacy) = (eras.contains(&Era::Modern), eras.contains(&Era::Legacy));
    let id = request.get("id").filter(|id| !id.is_null())?;
    let complete = |mut result: Value| {
        if modern {
            result["resultType"] = "complete".into();
            result["ttlMs"] = 60_000.into();
            result["cacheScope"] = "public".into();
        }
        json!({ "jsonrpc": "2.0", "id": id, "result": result })
    };
    let info = json!({ "name": "bench-upstream", "version": "1" });
    Some(match request["method"].as_str().unwrap_or_default() {
        "initialize" if legacy => complete(json!({
            "protocolVersion": LEGACY_REVISION,
            "capabilities": { "tools": {} },
            "serverInfo": info,
        })),
        "ping" if legacy => complete(json!({})),
        "server/discover" if modern => complete(json!({
            "supportedVersions": [REVISION],
            "capabilities": { "tools": {} },
            "_meta": { "io.modelcontextprotocol/serverInfo": info },
        })),
        "tools/list" => complete(json!({ "tools": tools })),
        method => {
            json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32601, "message": format!("no method {method}") } })
        }
    })
}
