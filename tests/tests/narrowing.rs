//! What clients of each revision are told by a server of the newest one, on the merged endpoint; and how long they may keep
//! lists that are made of several.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::net::SocketAddr;

use outrigger_tests::{
    Call, Client, Mesh, Session, TestIngress, TestSidecar,
    http_server::{HttpServer, Received, error, result},
};
use serde_json::{Value, json};

const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

fn tools() -> Value {
    json!([
        {"name": "t", "title": "T", "icons": [{"src": "data:,x"}], "annotations": {"readOnlyHint": true},
         "_meta": {"k": 1}, "inputSchema": {"type": "object"}, "outputSchema": {"type": "object"}},
        {"name": "list", "inputSchema": {"type": "object"}, "outputSchema": {"type": "array"}},
    ])
}

fn blocks() -> [Value; 3] {
    [
        json!({"type": "text", "text": "t", "annotations": {"priority": 1}}),
        json!({"type": "resource_link", "uri": "n:///x", "name": "x"}),
        json!({"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}),
    ]
}

/// A server that uses everything that the newest revision has; its lists have these hints.
fn rich(hints: Value) -> HttpServer {
    HttpServer::start(move |received: Received| {
        let hints = hints.clone();
        async move {
            let params = received.json()["params"].clone();
            let complete = |mut value: Value, hints: &Value| {
                value["resultType"] = json!("complete");
                for (name, hint) in hints.as_object().into_iter().flatten() {
                    value[name] = hint.clone();
                }
                result(&received, value)
            };
            let never = json!({"ttlMs": 0, "cacheScope": "private"});
            let (method, name) = (received.rpc_method(), params["name"].as_str().unwrap_or_default().to_owned());
            match (method.as_str(), name.as_str()) {
                ("server/discover", _) => complete(
                    json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}, "resources": {}, "prompts": {}}}),
                    &never,
                ),
                ("tools/list", _) => complete(json!({"tools": tools()}), &hints),
                ("resources/list", _) => {
                    complete(json!({"resources": [{"uri": "n:///x", "name": "x", "title": "X", "size": 1}]}), &hints)
                }
                ("resources/templates/list", _) => complete(json!({"resourceTemplates": []}), &hints),
                ("prompts/list", _) => complete(json!({"prompts": [{"name": "p", "title": "P"}]}), &hints),
                ("resources/read", _) => complete(json!({"contents": [{"uri": "n:///x", "text": "x"}]}), &hints),
                ("prompts/get", _) => {
                    let messages: Vec<_> = blocks().map(|content| json!({"role": "user", "content": content})).into();
                    complete(json!({"messages": messages}), &json!({}))
                }
                ("tools/call", "list") => complete(json!({"content": [], "structuredContent": [1, 2]}), &json!({})),
                ("tools/call", _) if params["arguments"]["ask"].is_null() => complete(
                    json!({"content": blocks(), "structuredContent": {"a": 1}, "_meta": {"k": 1}, "isError": false}),
                    &json!({}),
                ),
                ("tools/call", _) if params["inputResponses"].is_null() => {
                    let content = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
                    let ask = json!({"messages": [{"role": "user", "content": content}], "maxTokens": 1});
                    let ask = json!({"r": {"method": "sampling/createMessage", "params": ask}});
                    let asked = json!({"resultType": "input_required", "inputRequests": ask, "requestState": "s"});
                    result(&received, asked)
                }
                ("tools/call", _) => {
                    complete(json!({"content": [], "_meta": {"got": params["inputResponses"]}}), &json!({}))
                }
                _ => error(&received, 404, -32601, "no"),
            }
        }
    })
}

/// Parts of a mesh that must live as long as the test.
struct World {
    ingress: TestIngress,
    _mesh: Mesh,
    _sidecars: Vec<TestSidecar>,
}

impl World {
    async fn of(servers: &[(&str, &HttpServer)]) -> Self {
        let mesh = Mesh::new();
        let mut sidecars = Vec::new();
        let mut addresses: Vec<(&str, Vec<SocketAddr>)> = Vec::new();
        for (name, server) in servers {
            let sidecar = TestSidecar::of(&mesh, name, &server.setting()).await;
            addresses.push((name, vec![sidecar.address()]));
            sidecars.push(sidecar);
        }
        Self { ingress: TestIngress::over(&mesh, &addresses, "").await, _mesh: mesh, _sidecars: sidecars }
    }

    fn client(&self) -> &Client {
        &self.ingress.client
    }
}

/// What every result to a legacy client must be without, besides what the test is about.
fn plain(result: &Value) {
    for member in ["resultType", "ttlMs", "cacheScope"] {
        assert!(result.get(member).is_none(), "{member}: {result}");
    }
}

async fn ask(session: &Session, method: &str, params: Value) -> Value {
    let reply = session.ask(method, &params).await.json();
    plain(&reply["result"]);
    reply["result"].clone()
}

#[tokio::test]
async fn each_revision_is_told_what_it_has_a_form_for() {
    let server = rich(json!({"ttlMs": 60_000, "cacheScope": "public"}));
    let world = World::of(&[("fs", &server)]).await;
    let link = json!({"type": "text", "text": "n:///x"});
    let note = json!({"type": "text", "text": "[audio, audio/wav: left out, because revision 2024-11-05 has none]"});
    let [text, modern_link, audio] = blocks();
    // Per revision: blocks, whether there is structured content.
    let table = [
        ([&text, &link, &note], false),
        ([&text, &link, &audio], false),
        ([&text, &modern_link, &audio], true),
        ([&text, &modern_link, &audio], true),
    ];
    for (revision, (blocks, structured)) in LEGACY.into_iter().zip(table) {
        let session = Session::open(world.client(), revision, &json!({"sampling": {}})).await;
        let listed = ask(&session, "tools/list", json!({})).await;
        let mut expected = tools();
        expected[0]["name"] = json!("fs__t");
        expected[1]["name"] = json!("fs__list");
        expected[1].as_object_mut().unwrap().remove("outputSchema");
        if !structured {
            expected[0].as_object_mut().unwrap().remove("outputSchema");
        }
        assert_eq!(listed["tools"], expected, "{revision}");

        let called = ask(&session, "tools/call", json!({"name": "fs__t", "arguments": {}})).await;
        assert_eq!(called["content"], json!(blocks), "{revision}");
        assert_eq!(called.get("structuredContent").is_some(), structured, "{revision}: {called}");
        assert_eq!((&called["isError"], &called["_meta"]["k"]), (&json!(false), &json!(1)), "{revision}");
        let called = ask(&session, "tools/call", json!({"name": "fs__list", "arguments": {}})).await;
        assert_eq!(called["content"], json!([{"type": "text", "text": "[1,2]"}]), "{revision}");
        assert!(called.get("structuredContent").is_none(), "{revision}: {called}");

        let prompt = ask(&session, "prompts/get", json!({"name": "fs__p"})).await;
        let contents: Vec<_> = prompt["messages"].as_array().unwrap().iter().map(|m| &m["content"]).collect();
        assert_eq!(contents, blocks, "{revision}");
        let read = ask(&session, "resources/read", json!({"uri": "n:///x"})).await;
        assert_eq!(read["contents"], json!([{"uri": "n:///x", "text": "x"}]));
        let resources = ask(&session, "resources/list", json!({})).await;
        assert_eq!(resources["resources"], json!([{"uri": "n:///x", "name": "x", "title": "X", "size": 1}]));
        ask(&session, "prompts/list", json!({})).await;
        ask(&session, "ping", json!({})).await;
    }
    world.ingress.stop().await;
}

#[tokio::test]
async fn models_of_older_clients_are_asked_block_by_block() {
    let server = rich(json!({}));
    let world = World::of(&[("fs", &server)]).await;
    for (revision, messages) in LEGACY.into_iter().zip([2, 2, 2, 1]) {
        let session = Session::open(world.client(), revision, &json!({"sampling": {}})).await;
        let mut stream = session.begin("tools/call", &json!({"name": "fs__t", "arguments": {"ask": true}})).await;
        let asked = stream.next().await.unwrap();
        assert_eq!(asked["method"], "sampling/createMessage", "{revision}: {asked}");
        let got = asked["params"]["messages"].as_array().unwrap();
        assert_eq!(got.len(), messages, "{revision}: {asked}");
        assert_eq!(got[0]["content"].is_array(), messages == 1, "{revision}: {asked}");
        let answer = json!({"role": "assistant", "content": {"type": "text", "text": "x"}, "model": "m"});
        let told = json!({"jsonrpc": "2.0", "id": asked["id"], "result": answer});
        assert_eq!(session.tell(&told).await, 202);
        let done = stream.next().await.unwrap();
        assert_eq!(done["result"]["_meta"]["got"], json!({"r": answer}), "{revision}: {done}");
    }
    world.ingress.stop().await;
}

/// `ttlMs` and `cacheScope` of a list on the merged endpoint.
async fn kept(world: &World, method: &str) -> (u64, String) {
    let listed = world.client().reply(&Call::new(method)).await.json();
    let result = &listed["result"];
    (result["ttlMs"].as_u64().unwrap_or_else(|| panic!("{listed}")), result["cacheScope"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_merged_list_is_kept_as_long_as_its_shortest_part_and_by_whom_the_most_private_allows() {
    let long = rich(json!({"ttlMs": 3_600_000, "cacheScope": "public"}));
    let short = rich(json!({"ttlMs": 600_000, "cacheScope": "public"}));
    let own = rich(json!({"ttlMs": 3_600_000, "cacheScope": "private"}));
    let silent = HttpServer::legacy(|received: Received| async move { error(&received, 404, -32601, "no") });
    let lists = ["tools/list", "resources/list", "resources/templates/list", "prompts/list"];

    let world = World::of(&[("long", &long), ("short", &short)]).await;
    for method in lists {
        let (ttl, scope) = kept(&world, method).await;
        assert!((1..=600_000).contains(&ttl), "{method}: what is left of the shorter one, not {ttl}");
        assert_eq!(scope, "public", "{method}");
    }
    let read = world.client().reply(&Call::read("long+n:///x")).await.json();
    assert_eq!((&read["result"]["ttlMs"], &read["result"]["cacheScope"]), (&json!(3_600_000), &json!("public")));
    world.ingress.stop().await;

    let world = World::of(&[("long", &long), ("own", &own)]).await;
    for method in lists {
        let (ttl, scope) = kept(&world, method).await;
        assert!((600_001..=3_600_000).contains(&ttl), "{method}: {ttl}");
        assert_eq!(scope, "private", "{method}");
    }
    world.ingress.stop().await;

    // An older server says nothing: its tools may change at any time, and be for one caller alone. It has no prompts.
    let world = World::of(&[("long", &long), ("old", &silent)]).await;
    assert_eq!(kept(&world, "tools/list").await, (0, "private".to_owned()));
    let (ttl, scope) = kept(&world, "prompts/list").await;
    assert!(ttl > 600_000 && scope == "public", "{ttl} {scope}");
    world.ingress.stop().await;
}
