//! Cases 73 and 78 to 80: who is believed, and traces.

use http::{Method, Request};
use outrigger_proxy::body::OutBody;
use outrigger_tests::{
    Call, Session,
    http_server::{HttpServer, Received, text},
    sidecar::text_of,
    subjects::scripted,
};
use serde_json::{Value, json};

use crate::world::{World, legacy, modern, post, tool, tools};

#[tokio::test]
async fn case_73_other_origins_and_hosts_are_refused() {
    let world = World::with(&[("fs", &scripted(&[]))], "allowed_origins: [\"https://app.example.com\"]\n").await;
    let ask = async |name: &'static str, value: &str| {
        let mut request = Request::new(OutBody::full(Call::tool("fs__echo", "{}").bytes()));
        *request.headers_mut() = Call::tool("fs__echo", "{}").fields();
        request.headers_mut().insert(name, value.parse().unwrap());
        world.client().send(Method::POST, "/mcp", request).await.unwrap().status.as_u16()
    };
    let own = world.ingress.address();
    for bad in [
        "null",
        "https://evil.example.com",
        "https://app.example.com:8443",
        "http://app.example.com",
        &format!("http://localhost:{}", own.port() ^ 1),
        "http://127.0.0.1",
    ] {
        assert_eq!(ask("origin", bad).await, 403, "{bad}");
    }
    for good in [format!("http://{own}"), format!("http://localhost:{}", own.port()), "https://app.example.com".into()]
    {
        assert_eq!(ask("origin", &good).await, 200, "{good}");
    }
    for bad in ["evil.example.com", "evil.example.com:80", "127.0.0.1.evil.com"] {
        assert_eq!(ask("host", bad).await, 403, "{bad}");
    }
    world.stop().await;
}

/// The SHA-256 of `client-secret`.
const SECRET: &str = "fdce8e4a65b70d186bd77cba2e0c580dcf1c6497da9f1b70eed849497e1f8ba2";

#[tokio::test]
async fn case_78_the_clients_credentials_never_reach_a_server() {
    let answer = |received: Received| async move { text(&received, "called") };
    let (new, old) = (modern(tools(&["t"]), answer), legacy("2025-06-18", tools(&["t"]), answer));
    let tokens = format!("tokens: [ {{ subject: ada, sha256: {SECRET} }} ]\n");
    let world = World::with(&[("new", &new.setting()), ("old", &old.setting())], &tokens).await;
    let secret = "Bearer client-secret";
    for name in ["new__t", "old__t"] {
        let spoken = Call::tool(name, "{}").header("authorization", secret).header("cookie", "secret=1");
        let reply = world.client().reply(&spoken.header("proxy-authorization", secret)).await;
        assert_eq!(text_of(&reply.json()), "called");
    }
    let all = |server: &HttpServer| server.received();
    for received in all(&new).into_iter().chain(all(&old)) {
        for name in ["authorization", "cookie", "proxy-authorization"] {
            assert_eq!(received.header(name), "", "{received:?}");
        }
        let whole = format!("{:?} {}", received.headers, String::from_utf8_lossy(&received.body));
        assert!(!whole.contains("secret"), "{whole}");
    }
    assert_eq!((new.received_of("tools/call").len(), old.received_of("tools/call").len()), (1, 1));
    world.stop().await;
}

async fn line(world: &World, meta: &str) -> Value {
    let mut call = Call::tool("fs__line", "{}");
    if !meta.is_empty() {
        call = call.meta(meta);
    }
    let reply = world.client().reply(&call).await;
    assert_eq!(reply.status, 200);
    serde_json::from_str(&text_of(&reply.json())).unwrap()
}

#[tokio::test]
async fn case_79_a_trace_context_that_is_none_is_replaced_and_the_request_served() {
    let world = World::one(&scripted(&[])).await;
    let zero = format!("\"00-{}-00f067aa0ba902b7-01\"", "0".repeat(32));
    for garbage in ["\"garbage\"", "17", "null", "{}", &zero] {
        let line = line(&world, &format!("\"traceparent\":{garbage}")).await;
        let made = line["params"]["_meta"]["traceparent"].as_str().unwrap();
        let parts: Vec<_> = made.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{made}");
        assert_ne!(parts[1], "0".repeat(32));
    }
    let known = "4bf92f3577b34da6a3ce929d0e0e4736";
    let line = line(&world, &format!("\"traceparent\":\"00-{known}-00f067aa0ba902b7-01\"")).await;
    assert!(line["params"]["_meta"]["traceparent"].as_str().unwrap().contains(known), "a good one goes on");
    world.stop().await;
}

#[tokio::test]
async fn case_80_a_request_without_parameters_gets_a_trace_and_nothing_else() {
    let server = modern(json!({"capabilities": {"tools": {}}}), |received| async move {
        let params = received.json()["params"].clone();
        let tool = json!({"name": params.to_string(), "inputSchema": {"type": "object"}});
        outrigger_tests::http_server::result(&received, json!({"resultType": "complete", "tools": [tool]}))
    });
    let world = World::one(&format!("{}catalog: {{ mode: per_caller }}\n", server.setting())).await;
    let client = world.sidecars[0].ready_client(&world.mesh).await;
    let session = Session::open(&client, "2025-06-18", &json!({})).await;
    let before = server.received_of("tools/list").len();
    let bare = post(&client, &session.headers, r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await;
    assert_eq!(bare.status, 200, "{bare:?}");
    let told = server.received_of("tools/list").split_off(before).pop().unwrap().json();
    let params = told["params"].as_object().unwrap();
    assert_eq!(params.keys().collect::<Vec<_>>(), ["_meta"], "{told}");
    assert_eq!(params["_meta"]["traceparent"].as_str().unwrap().len(), 55);
    // A call of an older client without any `_meta`, at an older server: the trace is all that is added.
    let world = World::one(&scripted(&[])).await;
    let session = world.session("2025-06-18").await;
    let reply = post(world.client(), &session.headers, &tool(&json!(1), "fs__line", &json!({"x": 1}))).await;
    let line: Value = serde_json::from_str(&text_of(&reply.json())).unwrap();
    let params = line["params"].as_object().unwrap();
    let mut members: Vec<_> = params.keys().collect();
    members.sort();
    assert_eq!(members, ["_meta", "arguments", "name"]);
    assert_eq!(params["_meta"].as_object().unwrap().keys().collect::<Vec<_>>(), ["traceparent"], "{line}");
    assert_eq!((&params["name"], &params["arguments"]), (&json!("line"), &json!({"x": 1})));
    world.stop().await;
}
