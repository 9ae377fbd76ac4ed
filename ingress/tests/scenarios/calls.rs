//! Calls: routing, names, traces, policy, limits, and what callers are told when a service fails.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::fake::{Fake, health, tools};
use crate::mesh::{Mesh, POLICY, eventually};

fn two() -> [(&'static str, Value); 2] {
    [("a", health(tools(&["read", "write"]))), ("b", health(tools(&["read"])))]
}

#[tokio::test]
async fn a_call_reaches_its_service_under_its_own_name() {
    let mesh = Mesh::start(&two()).await;
    for name in ["b__read", "b.read"] {
        let got = mesh.client.call(name).await;
        assert_eq!((got.status.as_u16(), got.json()["result"]["by"].clone()), (200, json!("b")));
        assert_eq!(got.json()["id"], "q1");
    }
    let seen = mesh.fake("b").seen();
    assert_eq!(seen[0].body["params"]["name"], "read");
    assert_eq!(seen[0].headers["mcp-name"], "read");
    assert_eq!(seen[0].headers["mcp-method"], "tools/call");
    assert_eq!(seen[0].headers["mcp-protocol-version"], "2026-07-28");
    assert!(mesh.fake("a").seen().is_empty());
    let single = mesh.client.ask("/s/a/mcp", "tools/call", json!({ "name": "write" })).await;
    assert_eq!(single.json()["result"]["by"], "a");
}

#[tokio::test]
async fn nothing_but_name_trace_and_session_changes() {
    let mesh = Mesh::start(&two()).await;
    let meta =
        r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}"#;
    let body = format!(
        "{{ \"params\" : {{\"x\":[1.0,1e3], \"name\":\"a__\\u0072ead\", \"arguments\":{{\"n\":12345678901234567890123,\"u\":\"\\ud83d\"}},\"_meta\":{{{meta},\"v/x\":{{\"b\":1,\"a\":2}}}}}},\"method\":\"tools/call\", \"id\":7, \"jsonrpc\":\"2.0\",\"extra\":null}}"
    );
    let mut request = mesh.client.request("/mcp", "tools/call", json!({ "name": "a__read" }));
    *request.body_mut() = outrigger_proxy::body::OutBody::full(body.clone());
    // The fake cannot read the lone surrogate; what counts is what reached it.
    mesh.client.send(request).await;
    let raw = String::from_utf8(mesh.fake("a").seen()[0].raw.to_vec()).unwrap();
    let (head, rest) = body.split_once("\"a__\\u0072ead\"").unwrap();
    let (middle, tail) = rest.split_once("\"_meta\"").unwrap();
    assert!(raw.starts_with(&format!("{head}\"read\"{middle}\"_meta\"")), "{raw}");
    let tail = tail.split_once("}}},").map(|(_, tail)| tail).unwrap();
    assert!(raw.ends_with(tail), "{raw}");
    assert!(raw.contains("\"v/x\":{\"b\":1,\"a\":2}") && raw.contains("12345678901234567890123"), "{raw}");
}

#[tokio::test]
async fn credentials_of_the_client_end_here() {
    let mesh = Mesh::start(&two()).await;
    let mut request = mesh.client.request(
        "/mcp",
        "tools/call",
        json!({ "name": "a__read",
        "_meta": { "outrigger.dev/session": "c.stolen", "outrigger.dev/other": 1 } }),
    );
    request.headers_mut().insert("cookie", "c=1".parse().unwrap());
    request.headers_mut().insert("x-forwarded-for", "1.2.3.4".parse().unwrap());
    assert_eq!(mesh.client.send(request).await.status, 200);
    let seen = mesh.fake("a").seen();
    for name in ["authorization", "cookie", "x-forwarded-for"] {
        assert!(!seen[0].headers.contains_key(name), "{name}");
    }
    let meta = &seen[0].body["params"]["_meta"];
    let tag = meta["outrigger.dev/session"].as_str().unwrap();
    assert!(tag.starts_with("p.") && !tag.contains("ada"), "{tag}");
    assert!(meta.get("outrigger.dev/other").is_none(), "{meta}");
    mesh.client.call("a__read").await;
    assert_eq!(mesh.fake("a").seen()[1].body["params"]["_meta"]["outrigger.dev/session"], tag);
}

#[tokio::test]
async fn traces_go_on_in_header_and_message() {
    let mesh = Mesh::start(&two()).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let with = json!({ "name": "a__read", "_meta": { "traceparent": parent, "tracestate": "up=1" } });
    mesh.client.ask("/mcp", "tools/call", with).await;
    let seen = mesh.fake("a").seen();
    let child = seen[0].body["params"]["_meta"]["traceparent"].as_str().unwrap().to_owned();
    assert!(child.contains(trace) && child != parent, "{child}");
    assert_eq!(seen[0].headers["traceparent"], child.as_str());
    let state = seen[0].headers["tracestate"].to_str().unwrap();
    assert!(state.ends_with("up=1") && state != "up=1", "{state}");
    let broken = json!({ "name": "a__read", "_meta": { "traceparent": "garbage", "tracestate": "up=1" } });
    assert_eq!(mesh.client.ask("/mcp", "tools/call", broken).await.status, 200);
    let meta = mesh.fake("a").seen()[1].body["params"]["_meta"].clone();
    assert!(meta["traceparent"].as_str().is_some_and(|made| made.len() == 55), "{meta}");
    assert!(meta.get("tracestate").is_none(), "{meta}");
}

#[tokio::test]
async fn hidden_and_unknown_things_answer_the_same() {
    let mesh = Mesh::start(&two()).await;
    let bob = mesh.client.as_bob();
    let mut answers = Vec::new();
    for name in ["a__write", "a__nothing", "b__read", "zzz__read", "plain"] {
        let got = bob.call(name).await;
        assert_eq!(got.status, 200);
        answers.push(String::from_utf8(got.body.to_vec()).unwrap().replace(name, "NAME"));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert!(answers[0].contains("-32602") && answers[0].contains("Unknown tool: NAME"), "{answers:?}");
    assert!(mesh.fake("a").seen().is_empty() && mesh.fake("b").seen().is_empty(), "nothing was sent");
    assert_eq!(bob.call("a__read").await.json()["result"]["by"], "a");
}

#[tokio::test]
async fn every_decision_is_audited_without_arguments() {
    let mesh = Mesh::start(&two()).await;
    mesh.client.ask("/mcp", "tools/call", json!({ "name": "a__read", "arguments": { "path": "secret-path" } })).await;
    mesh.client.ask("/mcp", "tools/call", json!({ "name": "a__fail" })).await;
    mesh.client.as_bob().call("a__write").await;
    let lines = mesh.audit(3).await;
    let said = |at: usize, key: &str| lines[at][key].clone();
    assert_eq!(
        (said(0, "who"), said(0, "decision"), said(0, "rule")),
        (json!("user:ada"), json!("allow"), json!("test/all"))
    );
    assert_eq!(
        (said(0, "service"), said(0, "capability"), said(0, "outcome")),
        (json!("a"), json!("read"), json!("ok"))
    );
    assert_eq!((said(0, "action"), said(0, "argument_digest").as_str().map(str::len)), (json!("tools/call"), Some(64)));
    assert_eq!(said(1, "outcome"), "tool_error");
    assert_eq!(
        (said(2, "who"), said(2, "decision"), said(2, "outcome")),
        (json!("user:bob"), json!("deny"), json!("denied"))
    );
    assert!(!format!("{lines:?}").contains("secret-path"));
    let access = mesh.lines("access.jsonl", 3).await;
    assert_eq!(
        (&access[0]["status"], &access[0]["path"], &access[0]["principal"]),
        (&json!(200), &json!("/mcp"), &json!("user:ada"))
    );
    assert_eq!(access[0]["trace_id"], lines[0]["trace_id"]);
}

#[tokio::test]
async fn conditions_decide_lists_by_hints_and_calls_by_arguments() {
    let without =
        "      - { name: readers, services: [a], capabilities: [\"read*\"], requires: [ { scope: read } ] }\n";
    let rules = POLICY.replace(without, "")
        + r#"      - name: readers
        services: [b]
        capabilities: ["*"]
        requires: [ { scope: read } ]
        when: annotations.readOnlyHint
      - { name: data, services: [b], capabilities: [write], when: "arguments.path.startsWith('/data/')" }
      - { name: never, effect: deny, services: ["*"], capabilities: ["*"], when: "has(arguments.force) && arguments.force" }
"#;
    let mut catalog = tools(&["read", "write", "wipe"]);
    catalog["tools"][0]["annotations"] = json!({ "readOnlyHint": true });
    let mesh = Mesh::with(&[("b", health(catalog))], &rules, "").await;
    let bob = mesh.client.as_bob();
    assert_eq!(bob.tools().await, ["b__read", "b__write"], "what some arguments could be allowed for is listed");
    let call = async |name: &str, arguments: &str| {
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        bob.ask("/mcp", "tools/call", json!({ "name": name, "arguments": arguments })).await
    };
    assert_eq!(call("b__read", "{}").await.json()["result"]["by"], "b");
    assert_eq!(call("b__write", r#"{"path":"/data/x"}"#).await.json()["result"]["by"], "b");
    for (name, arguments) in [
        ("b__write", r#"{"path":"/etc/x"}"#),
        ("b__write", r#"{"path":["/data/"]}"#),
        ("b__write", "{}"),
        ("b__write", r#"{"path":"/data/x","force":true}"#),
        ("b__read", r#"{"force":true}"#),
        ("b__read", r#"{"force":"yes"}"#),
        ("b__wipe", "{}"),
    ] {
        assert_eq!(call(name, arguments).await.json()["error"]["code"], -32602, "{name} {arguments}");
    }
    // Two members of one name: which of them counts is nobody's to choose.
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"b__write","arguments":{"path":"/data/x","path":"/etc/x"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    let mut request = bob.request("/mcp", "tools/call", json!({ "name": "b__write" }));
    *request.body_mut() = outrigger_proxy::body::OutBody::full(body);
    assert_eq!(bob.send(request).await.json()["error"]["code"], -32602);
    assert_eq!(mesh.fake("b").seen().len(), 2, "what is denied reaches nobody");
}

#[tokio::test]
async fn rates_are_limited_by_policy() {
    let limited = format!("{POLICY}  limits:\n    - {{ name: each, per: client, rate: \"1/h\", burst: 2 }}\n");
    let mesh = Mesh::with(&two(), &limited, "").await;
    for _ in 0..2 {
        assert_eq!(mesh.client.call("a__read").await.status, 200);
    }
    let refused = mesh.client.call("a__read").await;
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=3600).contains(&wait), "{wait}");
    let data = refused.json()["error"]["data"].clone();
    assert_eq!((&data["limit"], &data["reason"]), (&json!("test/each"), &json!("limited")));
    assert!(data["retryAfterMs"].as_u64().is_some());
    assert_eq!(mesh.client.as_bob().call("a__read").await.status, 200, "another client is not concerned");
    assert_eq!(mesh.client.tools().await.len(), 3, "lists are not calls");
}

#[tokio::test]
async fn budgets_are_spent_by_what_calls_cost() {
    let rules = POLICY
        .replace("requires: [ { scope: all } ] }", "requires: [ { scope: all } ], budget: { cost: 7, per: 1h } }")
        + "  costs:\n    - { services: [a], capabilities: [write], cost: 5 }\n";
    let mesh = Mesh::with(&two(), &rules, "").await;
    let with_budget = async |name: &str, budget: &str| {
        let mut request = mesh.client.request("/mcp", "tools/call", json!({ "name": name, "arguments": {} }));
        request.headers_mut().insert("x-mcpx-cost-budget", budget.parse().unwrap());
        mesh.client.send(request).await
    };
    assert_eq!(with_budget("a__write", "4").await.status, 400, "it costs more than its client wants to spend");
    assert_eq!(with_budget("a__write", "many").await.status, 400);
    assert_eq!(with_budget("a__write", "5").await.status, 200);
    assert_eq!(mesh.client.call("b__read").await.status, 200);
    let refused = mesh.client.call("a__write").await;
    assert_eq!((refused.status.as_u16(), refused.json()["error"]["data"]["limit"].clone()), (429, json!("test/all")));
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(mesh.client.call("b__read").await.status, 200, "what is left is left");
    let metrics = String::from_utf8(mesh.admin("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("outrigger_limited_total{limit=\"budget\",service=\"a\"} 2"), "{metrics}");
}

#[tokio::test]
async fn calls_at_once_are_limited_per_service() {
    let mesh = Mesh::with(&two(), POLICY, "limits: { in_flight: 1 }").await;
    let client = mesh.client.clone();
    let waiting = tokio::spawn(async move { client.call("a__wait").await });
    let state = std::sync::Arc::clone(&mesh.fake("a").state);
    eventually("the first call", || async { state.hanging.load(Ordering::SeqCst) == 1 }).await;
    let refused = mesh.client.call("a__read").await;
    assert_eq!((refused.status.as_u16(), refused.json()["error"]["data"]["service"].clone()), (429, json!("a")));
    assert_eq!(mesh.client.call("b__read").await.status, 200, "another service is not concerned");
    state.stream.send(None).unwrap();
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(mesh.client.call("a__read").await.status, 200, "there is room again");
}

#[tokio::test]
async fn a_service_that_fails_is_named_and_harms_no_other() {
    let mut mesh = Mesh::start(&two()).await;
    for name in ["a__html", "a__forbidden"] {
        let got = mesh.client.call(name).await;
        assert_eq!((got.status.as_u16(), got.json()["error"]["data"]["service"].clone()), (502, json!("a")), "{name}");
        assert!(!got.headers.contains_key("www-authenticate"));
    }
    mesh.fakes.remove("a").unwrap().kill().await;
    let got = mesh.client.call("a__read").await;
    assert_eq!((got.status.as_u16(), got.json()["error"]["data"]["service"].clone()), (503, json!("a")));
    assert_eq!(mesh.client.call("b__read").await.status, 200);
}

#[tokio::test]
async fn a_slow_service_runs_into_the_deadline() {
    let mesh = Mesh::with(&two(), POLICY, "timeouts: { request: 200ms }").await;
    let got = mesh.client.call("a__hang").await;
    assert_eq!((got.status.as_u16(), got.json()["error"]["data"]["service"].clone()), (504, json!("a")));
    let state = std::sync::Arc::clone(&mesh.fake("a").state);
    eventually("the call is cancelled", || async { state.cancelled.load(Ordering::SeqCst) == 1 }).await;
}

#[tokio::test]
async fn a_client_that_goes_away_before_its_answer_is_on_record() {
    let mesh = Mesh::start(&two()).await;
    let client = mesh.client.clone();
    let call = tokio::spawn(async move { client.call("a__hang").await });
    let state = std::sync::Arc::clone(&mesh.fake("a").state);
    eventually("the call", || async { state.hanging.load(Ordering::SeqCst) == 1 }).await;
    call.abort();
    assert_eq!(mesh.audit(1).await[0]["outcome"], "cancelled");
    let access = mesh.lines("access.jsonl", 1).await;
    assert_eq!((&access[0]["outcome"], &access[0]["principal"]), (&json!("cancelled"), &json!("user:ada")));
}

#[tokio::test]
async fn a_peer_with_another_name_gets_nothing() {
    let mut mesh = Mesh::start(&two()).await;
    let address = mesh.fakes.remove("a").unwrap().kill().await;
    let imposter = Fake::at("a", mesh.credentials("b"), health(tools(&["read"])), address).await;
    assert_eq!(mesh.client.call("a__read").await.status, 503);
    assert!(imposter.seen().is_empty());
}

#[tokio::test]
async fn another_replica_takes_over_when_nothing_was_sent() {
    let mesh = Mesh::start(&two()).await;
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let services = format!("services: {{ a: {{ addresses: [\"{dead}\", \"{}\"] }} }}", mesh.fake("a").address);
    // The same fake behind an ingress that also knows a replica where nobody listens.
    let mesh = mesh.another_ingress(&services).await;
    for _ in 0..8 {
        assert_eq!(mesh.client.call("a__read").await.status, 200);
    }
    assert_eq!(mesh.fake("a").seen().len(), 8);
}

#[tokio::test]
async fn sessions_stay_with_one_replica() {
    let mut stateful = health(tools(&["read"]));
    stateful["server"]["revision"] = json!("2025-06-18");
    let mesh = Mesh::start(&[("a", stateful.clone())]).await;
    let second = Fake::start("a", mesh.credentials("a"), stateful).await;
    let services =
        format!("services: {{ a: {{ addresses: [\"{}\", \"{}\"] }} }}", second.address, mesh.fake("a").address);
    let mesh = mesh.another_ingress(&services).await;
    // Both have answered by now, or the choice could still change.
    eventually("both replicas", || async {
        let page = mesh.admin("/catalog").await.json();
        page["services"]["a"]["replicas"].as_array().unwrap().iter().all(|replica| replica["status"] == "serving")
    })
    .await;
    for _ in 0..8 {
        assert_eq!(mesh.client.call("a__read").await.status, 200);
    }
    let counts = [mesh.fake("a").seen().len(), second.seen().len()];
    assert!(counts == [8, 0] || counts == [0, 8], "{counts:?}");
}

#[tokio::test]
async fn prompts_and_completions_are_routed_by_their_reference() {
    let b =
        json!({ "prompts": [{ "name": "p" }], "resource_templates": [{ "uriTemplate": "note:///{id}", "name": "n" }] });
    let mesh = Mesh::start(&[("a", health(tools(&["read"]))), ("b", health(b))]).await;
    assert_eq!(mesh.client.names("/mcp", "prompts/list", "prompts", "name").await, ["b__p"]);
    mesh.client.ask("/mcp", "prompts/get", json!({ "name": "b__p" })).await;
    let prompt = json!({ "ref": { "type": "ref/prompt", "name": "b__p" }, "argument": { "name": "x", "value": "y" } });
    mesh.client.ask("/mcp", "completion/complete", prompt).await;
    let template =
        json!({ "ref": { "type": "ref/resource", "uri": "note:///{id}" }, "argument": { "name": "id", "value": "1" } });
    mesh.client.ask("/mcp", "completion/complete", template).await;
    let seen = mesh.fake("b").seen();
    assert_eq!(seen[0].body["params"]["name"], "p");
    assert_eq!(seen[1].body["params"]["ref"], json!({ "type": "ref/prompt", "name": "p" }));
    assert_eq!(seen[2].body["params"]["ref"]["uri"], "note:///{id}");
    let unknown = json!({ "ref": { "type": "ref/prompt", "name": "zzz__p" }, "argument": {} });
    assert_eq!(mesh.client.ask("/mcp", "completion/complete", unknown).await.json()["error"]["code"], -32602);
    let wrong = json!({ "ref": { "type": "other" } });
    assert_eq!(mesh.client.ask("/mcp", "completion/complete", wrong).await.json()["error"]["code"], -32602);
}

#[tokio::test]
async fn resources_of_two_services_stay_apart() {
    let resources = |uris: &[&str]| {
        let list: Vec<_> = uris.iter().map(|uri| json!({ "uri": uri, "name": uri })).collect();
        health(json!({ "resources": list, "capabilities": { "resources": {} } }))
    };
    let mesh = Mesh::start(&[("a", resources(&["file:///x", "file:///a"])), ("b", resources(&["file:///x"]))]).await;
    let uris = mesh.client.names("/mcp", "resources/list", "resources", "uri").await;
    assert_eq!(uris, ["a+file:///x", "file:///a", "b+file:///x"]);
    for (uri, owner, original) in [("b+file:///x", "b", "file:///x"), ("file:///a", "a", "file:///a")] {
        let read = mesh.client.ask("/mcp", "resources/read", json!({ "uri": uri })).await.json();
        assert_eq!(
            read["result"]["contents"],
            json!([{ "uri": uri, "text": owner }]),
            "the URI is the one that was asked"
        );
        let seen = mesh.fake(owner).seen();
        assert_eq!(seen.last().unwrap().body["params"]["uri"], original);
        assert_eq!(seen.last().unwrap().headers["mcp-name"], original);
    }
    let gone = mesh.client.ask("/mcp", "resources/read", json!({ "uri": "b+file:///gone" })).await.json();
    assert_eq!(gone["error"]["data"]["uri"], "b+file:///gone", "legacy clients get -32002 by it");
    let ambiguous = mesh.client.ask("/mcp", "resources/read", json!({ "uri": "file:///x" })).await.json();
    assert_eq!(ambiguous["error"]["code"], -32602);
    let single = mesh.client.ask("/s/b/mcp", "resources/read", json!({ "uri": "file:///x" })).await.json();
    assert_eq!(single["result"]["contents"][0]["uri"], "file:///x");
}

#[tokio::test]
async fn mirrored_arguments_are_passed_on_when_they_say_one_thing() {
    let tool = json!({ "name": "query", "inputSchema": { "type": "object", "properties": {
        "region": { "type": "string", "x-mcp-header": "Region" } } } });
    let mesh = Mesh::start(&[("a", health(json!({ "tools": [tool] })))]).await;
    let ask = async |headers: &[(&'static str, &str)]| {
        let params = json!({ "name": "a__query", "arguments": { "region": "eu" } });
        let mut request = mesh.client.request("/mcp", "tools/call", params);
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        mesh.client.send(request).await
    };
    assert_eq!(ask(&[("mcp-param-region", "eu"), ("mcp-param-unknown", "?")]).await.status, 200);
    let seen = mesh.fake("a").seen();
    assert_eq!(
        (&seen[0].headers["mcp-param-region"], &seen[0].headers["mcp-param-unknown"]),
        (&"eu".parse().unwrap(), &"?".parse().unwrap())
    );
    let got = ask(&[("mcp-param-region", "eu"), ("mcp-param-region", "us")]).await;
    assert_eq!((got.status.as_u16(), got.json()["error"]["code"].clone()), (400, json!(-32020)));
    assert_eq!(mesh.fake("a").seen().len(), 1);
    // Whether they fit the body is for the sidecar to say, which gets them as they are.
    ask(&[("mcp-param-region", "us")]).await;
    assert_eq!(mesh.fake("a").seen()[1].headers["mcp-param-region"], "us");
}
