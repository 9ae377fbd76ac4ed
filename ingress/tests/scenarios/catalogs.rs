//! What is listed: merge, naming, visibility, pages, description, partial failure.

use serde_json::json;

use crate::fake::{Fake, health, per_caller, tools};
use crate::mesh::{Mesh, eventually};

#[tokio::test]
async fn services_are_merged_in_order_under_their_names() {
    let mesh = Mesh::start(&[("a", health(tools(&["read", "write"]))), ("b", health(tools(&["read"])))]).await;
    assert_eq!(mesh.client.tools().await, ["a__read", "a__write", "b__read"]);
    assert_eq!(mesh.client.names("/s/b/mcp", "tools/list", "tools", "name").await, ["read"]);
    let listed = mesh.client.ask("/mcp", "tools/list", json!({})).await.json();
    assert_eq!(listed["id"], "q1");
    let result = &listed["result"];
    assert_eq!(result["_meta"]["outrigger.dev/services"], json!({ "a": "ok", "b": "ok" }));
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "outrigger");
    assert_eq!((&result["cacheScope"], &result["resultType"]), (&json!("private"), &json!("complete")));
    assert!(result["ttlMs"].is_u64() && result.get("nextCursor").is_none());
    // Nothing of this asked the services themselves.
    assert!(mesh.fake("a").seen().is_empty());
}

#[tokio::test]
async fn definitions_keep_their_bytes() {
    let odd = json!({ "name": "read", "inputSchema": { "type": "object" }, "x-new": [1.50, { "z": 1, "a": 2 }] });
    let mesh = Mesh::start(&[("a", health(json!({ "tools": [odd] })))]).await;
    let body = mesh.client.ask("/mcp", "tools/list", json!({})).await.body;
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(text.contains(&odd.to_string().replace("\"read\"", "\"a__read\"")), "{text}");
}

#[tokio::test]
async fn lists_show_only_what_may_be_used() {
    let mesh = Mesh::start(&[("a", health(tools(&["read", "write"]))), ("b", health(tools(&["read"])))]).await;
    let bob = mesh.client.as_bob();
    assert_eq!(bob.tools().await, ["a__read"]);
    let listed = bob.ask("/mcp", "tools/list", json!({})).await.json();
    assert_eq!(listed["result"]["_meta"]["outrigger.dev/services"], json!({ "a": "ok" }));
    let described = bob.ask("/mcp", "server/discover", json!({})).await;
    assert!(!String::from_utf8_lossy(&described.body).contains("\"b\""), "{described:?}");
    // A service of which nothing is allowed answers as one that does not exist.
    let hidden = bob.ask("/s/b/mcp", "tools/list", json!({})).await;
    let unknown = bob.ask("/s/zzz/mcp", "tools/list", json!({})).await;
    assert_eq!((hidden.status.as_u16(), &hidden.body), (404, &unknown.body));
}

#[tokio::test]
async fn long_lists_come_in_pages_with_our_own_cursors() {
    let big = "x".repeat(400_000);
    let tool = |name: &str| json!({ "name": name, "description": big, "inputSchema": { "type": "object" } });
    let all = json!({ "tools": [tool("read1"), tool("read2"), tool("read3"), tool("read4")] });
    let mesh = Mesh::start(&[("a", health(all))]).await;
    let first = mesh.client.ask("/mcp", "tools/list", json!({})).await.json();
    let cursor = first["result"]["nextCursor"].as_str().expect("a second page").to_owned();
    let second = mesh.client.ask("/mcp", "tools/list", json!({ "cursor": cursor })).await.json();
    let count = |page: &serde_json::Value| page["result"]["tools"].as_array().unwrap().len();
    assert_eq!(count(&first) + count(&second), 4);
    let refused = |got: crate::mesh::Got| got.json()["error"]["code"].clone();
    let bob = mesh.client.as_bob();
    assert_eq!(refused(bob.ask("/mcp", "tools/list", json!({ "cursor": cursor })).await), -32602, "somebody else's");
    assert_eq!(refused(mesh.client.ask("/mcp", "prompts/list", json!({ "cursor": cursor })).await), -32602);
    assert_eq!(refused(mesh.client.ask("/s/a/mcp", "tools/list", json!({ "cursor": cursor })).await), -32602);
    assert_eq!(refused(mesh.client.ask("/mcp", "tools/list", json!({ "cursor": "" })).await), -32602);
    assert_eq!(refused(mesh.client.ask("/mcp", "tools/list", json!({ "cursor": 7 })).await), -32602);
    mesh.fake("a").publish(health(tools(&["other"])));
    eventually("the new list", || async { mesh.client.tools().await == ["a__other"] }).await;
    assert_eq!(refused(mesh.client.ask("/mcp", "tools/list", json!({ "cursor": cursor })).await), -32602, "outdated");
}

#[tokio::test]
async fn the_mesh_describes_itself_and_each_service_as_itself() {
    let mut a = tools(&["read"]);
    a["instructions"] = json!("Use a.");
    a["server_info"] = json!({ "name": "alpha", "version": "9" });
    a["capabilities"] = json!({ "tools": { "listChanged": false }, "logging": {} });
    let b = json!({ "prompts": [{ "name": "p" }], "instructions": "Use b." });
    let mesh = Mesh::start(&[("a", health(a)), ("b", health(b))]).await;
    let merged = mesh.client.ask("/mcp", "server/discover", json!({})).await.json()["result"].clone();
    let versions = ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
    assert_eq!(merged["supportedVersions"], json!(versions));
    assert_eq!(
        merged["capabilities"],
        json!({ "tools": { "listChanged": true }, "prompts": { "listChanged": true }, "logging": {} })
    );
    assert_eq!(merged["instructions"], "# a\n\nUse a.\n\n# b\n\nUse b.");
    assert_eq!(merged["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "outrigger");
    let single = mesh.client.ask("/s/a/mcp", "server/discover", json!({})).await.json()["result"].clone();
    assert_eq!(single["capabilities"], json!({ "tools": { "listChanged": false }, "logging": {} }));
    assert_eq!(single["instructions"], "Use a.");
    assert_eq!(single["_meta"]["io.modelcontextprotocol/serverInfo"], json!({ "name": "alpha", "version": "9" }));
}

#[tokio::test]
async fn a_lost_service_is_listed_stale_then_dropped_and_comes_back() {
    let both = [("a", health(tools(&["read"]))), ("b", health(tools(&["read"])))];
    let mut mesh = Mesh::with(&both, crate::mesh::POLICY, "timeouts: { stale_grace: 1500ms }").await;
    let state = async |mesh: &Mesh| {
        let listed = mesh.client.ask("/mcp", "tools/list", json!({})).await.json();
        listed["result"]["_meta"]["outrigger.dev/services"]["b"].as_str().unwrap().to_owned()
    };
    let address = mesh.fakes.remove("b").unwrap().kill().await;
    eventually("stale", || async { state(&mesh).await == "stale" }).await;
    assert_eq!(mesh.client.tools().await, ["a__read", "b__read"]);
    eventually("dropped", || async { state(&mesh).await == "down: it cannot be reached" }).await;
    assert_eq!(mesh.client.tools().await, ["a__read"]);
    let alone = mesh.client.ask("/s/b/mcp", "tools/list", json!({})).await;
    assert_eq!(alone.status, 503);
    assert_eq!(alone.json()["error"]["data"]["service"], "b");
    let back = Fake::at("b", mesh.credentials("b"), health(tools(&["other"])), address).await;
    eventually("fresh", || async { mesh.client.tools().await == ["a__read", "b__other"] }).await;
    drop(back);
}

#[tokio::test]
async fn a_server_that_is_down_says_why() {
    let mesh =
        Mesh::start(&[("a", json!({ "status": "down", "reason": "the server exited with 1", "catalog": null }))]).await;
    let listed = mesh.client.ask("/mcp", "tools/list", json!({})).await;
    assert_eq!(listed.status, 503, "nothing at all can be listed");
    assert_eq!(listed.json()["error"]["message"], "the service a is not available: the server exited with 1");
    assert_eq!(mesh.client.ask("/mcp", "server/discover", json!({})).await.status, 200);
    let called = mesh.client.call("a__read").await;
    assert_eq!((called.status.as_u16(), called.json()["error"]["data"]["service"].clone()), (503, json!("a")));
}

#[tokio::test]
async fn the_admin_page_shows_everything() {
    let mesh = Mesh::start(&[("a", health(tools(&["read", "write"])))]).await;
    let page = mesh.admin("/catalog").await.json();
    assert_eq!(page["services"]["a"]["status"], "ok");
    assert_eq!(page["services"]["a"]["counts"]["tools"], 2);
    assert_eq!(page["exposed"]["tools"], json!(["a__read", "a__write"]));
    assert_eq!(mesh.admin("/readyz").await.status, 200);
    let metrics = String::from_utf8(mesh.admin("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("outrigger_catalog_state{service=\"a\",state=\"fresh\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_service_of_which_the_caller_may_use_nothing_is_asked_nothing() {
    let lists = || per_caller(tools(&["read", "write"]));
    let mesh = Mesh::start(&[("a", lists()), ("b", lists())]).await;
    assert_eq!(mesh.client.as_bob().tools().await, ["a__read"]);
    assert!(!mesh.fake("a").seen().is_empty(), "its lists are the caller's own");
    assert!(mesh.fake("b").seen().is_empty());
    assert_eq!(mesh.client.tools().await, ["a__read", "a__write", "b__read", "b__write"]);
    assert!(!mesh.fake("b").seen().is_empty());
}
