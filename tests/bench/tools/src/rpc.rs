//! MCP requests of 2026-07-28 and of 2025-11-25, and the answers of the upstream.

use serde_json::{Value, json};

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

/// A `tools/call`: about 300 bytes of JSON, as agents send them; less in a session, which was told who calls.
pub fn call(id: usize, tool: &str, era: Era) -> String {
    let mut params = json!({ "name": tool, "arguments": { "query": "x".repeat(40), "limit": 10 } });
    if era == Era::Modern {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": REVISION,
            "io.modelcontextprotocol/clientInfo": { "name": "load", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
        });
    }
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string()
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

/// The head's lines of a `tools/call`.
pub fn call_head(tool: &str, era: Era, session: &str) -> String {
    match era {
        Era::Modern => {
            format!("mcp-protocol-version: {REVISION}\r\nmcp-method: tools/call\r\nmcp-name: {tool}\r\n")
        }
        Era::Legacy => format!("mcp-protocol-version: {LEGACY_REVISION}\r\nmcp-session-id: {session}\r\n"),
    }
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

/// The upstream's answer to anything but `tools/call`; `None` for a notification.
pub fn answer(request: &Value, tools: &Value, era: Era) -> Option<Value> {
    let id = request.get("id").filter(|id| !id.is_null())?;
    let complete = |mut result: Value| {
        if era == Era::Modern {
            result["resultType"] = "complete".into();
            result["ttlMs"] = 60_000.into();
            result["cacheScope"] = "public".into();
        }
        json!({ "jsonrpc": "2.0", "id": id, "result": result })
    };
    let info = json!({ "name": "bench-upstream", "version": "1" });
    Some(match request["method"].as_str().unwrap_or_default() {
        "initialize" if era == Era::Legacy => complete(json!({
            "protocolVersion": LEGACY_REVISION,
            "capabilities": { "tools": {} },
            "serverInfo": info,
        })),
        "ping" if era == Era::Legacy => complete(json!({})),
        "server/discover" if era == Era::Modern => complete(json!({
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
