//! MCP requests of the revision 2026-07-28, and the answers of the upstream.

use serde_json::{Value, json};

/// The revision that the benchmarks speak.
pub const REVISION: &str = "2026-07-28";

/// A `tools/call` as HTTP/1.1 bytes: about 300 bytes of JSON, as agents send them.
pub fn call_request(path: &str, tool: &str) -> Vec<u8> {
    let body = json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": tool,
            "arguments": { "query": "x".repeat(40), "limit": 10 },
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": REVISION,
                "io.modelcontextprotocol/clientInfo": { "name": "load", "version": "1" },
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    })
    .to_string();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\nmcp-protocol-version: {REVISION}\r\n\
         mcp-method: tools/call\r\nmcp-name: {tool}\r\ncontent-length: {}\r\n\r\n{body}",
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

/// The upstream's answer to anything but `tools/call`; `None` for a notification.
pub fn answer(request: &Value, tools: &Value) -> Option<Value> {
    let id = request.get("id").filter(|id| !id.is_null())?;
    let complete = |mut result: Value| {
        result["resultType"] = "complete".into();
        result["ttlMs"] = 60_000.into();
        result["cacheScope"] = "public".into();
        json!({ "jsonrpc": "2.0", "id": id, "result": result })
    };
    let info = json!({ "name": "bench-upstream", "version": "1" });
    Some(match request["method"].as_str().unwrap_or_default() {
        "server/discover" => complete(json!({
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
