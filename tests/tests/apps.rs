//! MCP Apps through the merged endpoint: pages (`ui://`) pass untouched, and tools name them as they can be read there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_proxy::body::OutBody;
use outrigger_tests::{
    Call, Mesh, Session, TestIngress, TestSidecar,
    http_server::{HttpServer, Received, error, result},
};
use serde_json::{Value, json};

const PAGE: &str = "text/html;profile=mcp-app";
const UI: &str = "io.modelcontextprotocol/ui";

/// What a host that shows pages declares.
fn able() -> Value {
    json!({"extensions": {UI: {"mimeTypes": [PAGE]}}})
}

/// A server with two pages, of which one has the same name at the other server, a tool for each, and one tool whose page
/// is in no list.
fn server(name: &'static str) -> HttpServer {
    let own = format!("ui://{name}/view");
    let tool = |name: &str, meta: Value| json!({"name": name, "inputSchema": {"type": "object"}, "_meta": meta});
    let page = |uri: &str| json!({"uri": uri, "name": "p", "mimeType": PAGE});
    let tools = json!([
        tool("same", json!({"ui": {"resourceUri": "ui://view", "visibility": ["app"]}, "ui/resourceUri": "ui://view"})),
        tool("own", json!({"ui": {"resourceUri": own}})),
        tool("unlisted", json!({"ui/resourceUri": "ui://hidden"})),
    ]);
    let resources = json!([page("ui://view"), page(&own)]);
    HttpServer::start(move |received: Received| {
        let (tools, resources) = (tools.clone(), resources.clone());
        async move {
            let params = received.json()["params"].clone();
            let complete = |mut value: Value| {
                value["resultType"] = json!("complete");
                result(&received, value)
            };
            match received.rpc_method().as_str() {
                "server/discover" => {
                    complete(json!({"supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "private",
                    "capabilities": {"tools": {}, "resources": {}, "extensions": {UI: {}, "com.example/x": {}}}}))
                }
                "tools/list" => complete(json!({"tools": tools, "ttlMs": 0, "cacheScope": "public"})),
                "resources/list" => complete(json!({"resources": resources, "ttlMs": 0, "cacheScope": "public"})),
                "resources/read" => {
                    complete(json!({"ttlMs": 0, "cacheScope": "public", "contents": [{"uri": params["uri"],
                    "mimeType": PAGE, "text": format!("<p>{name}</p>"), "_meta": {"ui": {"csp": {"connectDomains": ["x"]}}}}]}))
                }
                "tools/call" => complete(json!({"content": [], "_meta": {"ui": {"resourceUri": "ui://view"}},
                    "structuredContent": {"declared": params["_meta"]["io.modelcontextprotocol/clientCapabilities"]}})),
                _ => error(&received, 404, -32601, "no"),
            }
        }
    })
}

/// The pages that the tools of a list name, by tool.
fn pages(listed: &Value) -> Value {
    let tools = listed["result"]["tools"].as_array().unwrap_or_else(|| panic!("{listed}"));
    let page =
        |tool: &Value| json!([tool["name"], tool["_meta"]["ui"]["resourceUri"], tool["_meta"]["ui/resourceUri"]]);
    tools.iter().map(page).collect()
}

#[tokio::test]
async fn tools_name_their_pages_as_the_merged_endpoint_lists_them() {
    let mesh = Mesh::new();
    let (one, two) = (server("one"), server("two"));
    let sidecars =
        [TestSidecar::of(&mesh, "one", &one.setting()).await, TestSidecar::of(&mesh, "two", &two.setting()).await];
    let services = [("one", vec![sidecars[0].address()]), ("two", vec![sidecars[1].address()])];
    let ingress = TestIngress::over(&mesh, &services, "").await;
    let modern = |call: Call| call.capabilities(&able().to_string());
    let discovered = ingress.client.reply(&modern(Call::new("server/discover"))).await.json();
    assert_eq!(discovered["result"]["capabilities"]["extensions"], json!({UI: {}}), "{discovered}");

    let expected = json!([
        ["one__same", "ui://one+ui://view", "ui://one+ui://view"],
        ["one__own", "ui://one/view", null],
        ["one__unlisted", null, "ui://one+ui://hidden"],
        ["two__same", "ui://two+ui://view", "ui://two+ui://view"],
        ["two__own", "ui://two/view", null],
        ["two__unlisted", null, "ui://two+ui://hidden"],
    ]);
    assert_eq!(pages(&ingress.client.reply(&modern(Call::new("tools/list"))).await.json()), expected);
    let listed = ingress.client.reply(&modern(Call::new("resources/list"))).await.json();
    let uris: Vec<_> = listed["result"]["resources"].as_array().unwrap().iter().map(|page| &page["uri"]).collect();
    assert_eq!(uris, ["ui://one+ui://view", "ui://one/view", "ui://two+ui://view", "ui://two/view"]);
    for (uri, own, text) in [
        ("ui://two+ui://view", "ui://view", "<p>two</p>"),
        ("ui://one/view", "ui://one/view", "<p>one</p>"),
        ("ui://two+ui://hidden", "ui://hidden", "<p>two</p>"),
    ] {
        let read = ingress.client.reply(&modern(Call::read(uri))).await.json();
        let csp = json!({"ui": {"csp": {"connectDomains": ["x"]}}});
        let page = json!({"uri": uri, "mimeType": PAGE, "text": text, "_meta": csp});
        assert_eq!(read["result"]["contents"], json!([page]), "{read}");
        let server = if text.contains("one") { &one } else { &two };
        assert_eq!(server.received_of("resources/read").pop().unwrap().json()["params"]["uri"], own);
    }
    let called = ingress.client.reply(&modern(Call::tool("two__same", "{}"))).await.json();
    assert_eq!(called["result"]["_meta"]["ui"]["resourceUri"], "ui://two+ui://view", "{called}");
    assert_eq!(
        called["result"]["structuredContent"]["declared"],
        able(),
        "the server hears of a host that shows pages"
    );

    // One service alone keeps its names.
    let call = modern(Call::new("tools/list"));
    let mut request = http::Request::new(OutBody::full(call.bytes()));
    *request.headers_mut() = call.fields();
    let listed = ingress.client.send(http::Method::POST, "/s/two/mcp", request).await.unwrap().rest().await.json();
    assert_eq!(pages(&listed)[0], json!(["same", "ui://view", "ui://view"]));

    // Hosts of 2025-11-25 have pages too.
    let session = Session::open(&ingress.client, "2025-11-25", &able()).await;
    assert_eq!(pages(&session.ask("tools/list", &json!({})).await.json()), expected);
    let called = session.tool("one__same", &json!({})).await;
    assert_eq!(called["result"]["_meta"]["ui"]["resourceUri"], "ui://one+ui://view", "{called}");
    assert_eq!(called["result"]["structuredContent"]["declared"], able());
    let params =
        json!({"protocolVersion": "2025-11-25", "capabilities": able(), "clientInfo": {"name": "h", "version": "1"}});
    let greeted = session.ask("initialize", &params).await.json();
    assert_eq!(greeted["result"]["capabilities"]["extensions"], json!({UI: {}}), "{greeted}");
    ingress.stop().await;
}
