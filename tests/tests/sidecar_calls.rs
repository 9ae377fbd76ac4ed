//! What passes through a call: bytes, ids, progress, logs, cancellation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::sync::Arc;

use outrigger_mcp::envelope::Message;
use outrigger_tests::{
    Call, Client, Mesh, TestSidecar, eventually,
    http_server::{HttpServer, event, result, status, stream, text},
    sidecar::text_of,
    subjects::scripted,
    wait::within,
};
use serde_json::{Value, json};
use tokio::sync::Notify;

/// What the scripted server remembers.
async fn seen(client: &Client) -> Value {
    serde_json::from_str(&text_of(&client.tool("seen", "{}").await)).unwrap()
}

#[tokio::test]
async fn ids_come_back_as_they_were_written() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    for id in ["1", "\"1\"", "0", "-5", "123456789012345678901234567890", r#""a\u0062\"c""#, "\"ü\""] {
        for call in [Call::tool("echo", "{}"), Call::new("tools/list"), Call::tool("nope", "{}"), Call::new("no/such")]
        {
            let reply = client.reply(&call.id(Some(id))).await;
            let message = Message::parse(reply.body.clone()).unwrap();
            assert_eq!(message.id().as_deref(), Some(id.as_bytes()), "{:?}", reply.body);
        }
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn a_string_and_a_number_that_look_the_same_are_two_calls() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let (a, b) = (Call::tool("echo", "{\"a\":1}").id(Some("1")), Call::tool("echo", "{\"a\":2}").id(Some("\"1\"")));
    let (a, b) = tokio::join!(client.reply(&a), client.reply(&b));
    assert_eq!((a.json()["id"].clone(), text_of(&a.json())), (json!(1), "{\"a\": 1}".to_owned()));
    assert_eq!((b.json()["id"].clone(), text_of(&b.json())), (json!("1"), "{\"a\": 2}".to_owned()));
    sidecar.stop().await;
}

#[tokio::test]
async fn unknown_members_and_spellings_of_numbers_survive_both_ways() {
    const ARGUMENTS: &str =
        r#"{"n":1.0,"big":123456789012345678901234567890,"e":1E+2,"z":0,"a":"\u00e9\/","o":{"b":[],"a":null}}"#;
    const RESULT: &str = r#"{"content":[],"futureField":{"n":1.50,"big":98765432109876543210},"z":1,"a":"\u00e9"}"#;
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let call = Call::tool("line", ARGUMENTS).params(r#""futureParam":{"x":1.00}"#).meta(r#""com.example/x":2.50"#);
    let line = text_of(&client.reply(&call).await.json());
    for kept in [ARGUMENTS, r#""futureParam":{"x":1.00}"#, r#""com.example/x":2.50"#] {
        assert!(line.contains(kept), "{kept} is missing in {line}");
    }
    assert!(!line.contains("io.modelcontextprotocol/"), "a legacy server sees nothing of the modern leg: {line}");
    let arguments = json!({ "result": RESULT }).to_string();
    let reply = client.reply(&Call::tool("raw", &arguments)).await;
    let body = String::from_utf8(reply.body.to_vec()).unwrap();
    assert!(body.contains(&RESULT[1..RESULT.len() - 1]), "{body}");
    assert_eq!(reply.json()["result"]["resultType"], "complete");
    let tools = client.reply(&Call::new("tools/list")).await.body;
    assert!(String::from_utf8_lossy(&tools).contains(r#""x-unknown": 1.0"#), "definitions are the server's own bytes");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_modern_http_server_gets_the_same_bytes_and_its_reply_is_passed_on_as_it_is() {
    const REPLY: &str = r#"{"jsonrpc":"2.0", "id":1, "result":{"resultType":"later","n":1.50}, "extra":1}"#;
    let server = HttpServer::modern(|_| async { outrigger_proxy::reply::json(http::StatusCode::OK, REPLY) });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    let call = Call::tool("t", r#"{"n":1.0}"#)
        .params(r#""future":1.00"#)
        .header("authorization", "Bearer secret")
        .header("cookie", "a=b");
    assert_eq!(client.reply(&call).await.body, REPLY);
    let got = server.received_of("tools/call").pop().unwrap();
    let body = String::from_utf8(got.body.to_vec()).unwrap();
    assert!(body.contains(r#""arguments":{"n":1.0},"future":1.00"#), "{body}");
    assert_eq!((got.header("mcp-name"), got.header("mcp-method")), ("t", "tools/call"));
    assert!(got.header("authorization").is_empty() && got.header("cookie").is_empty(), "credentials stay here");
    sidecar.stop().await;
}

#[tokio::test]
async fn progress_arrives_while_the_tool_still_runs() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let mut stream = client.open(&Call::tool("progress", "{}").meta(r#""progressToken":"mine""#)).await;
    let first = stream.next().await.unwrap();
    assert_eq!(first["params"], json!({"progressToken": "mine", "progress": 1, "message": "häß"}));
    assert_eq!(stream.headers["x-accel-buffering"], "no");
    // The tool goes on only now, so the event above cannot have been held back to the end.
    assert_eq!(text_of(&client.tool("go", "{}").await), "gone");
    assert_eq!(stream.next().await.unwrap()["params"]["progress"], 2);
    assert_eq!(text_of(&stream.next().await.unwrap()), "done");
    assert!(stream.next().await.is_none());
    sidecar.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_json_only_gets_the_reply_alone() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let call = Call::tool("flood", r#"{"n":3}"#)
        .meta(r#""progressToken":1"#)
        .without("accept")
        .header("accept", "application/json");
    let reply = client.reply(&call).await;
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(text_of(&reply.json()), "flooded");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_flood_of_progress_harms_neither_its_call_nor_others() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let mut slow = client.open(&Call::tool("flood", r#"{"n":60000}"#).meta(r#""progressToken":1"#)).await;
    slow.next().await.unwrap();
    // Nobody reads that stream now; the server's output must be read all the same.
    for _ in 0..3 {
        assert_eq!(text_of(&client.tool("echo", "{}").await), "{}");
    }
    let reply = slow.rest().await;
    assert_eq!(text_of(&reply.json()), "flooded");
    sidecar.stop().await;
}

#[tokio::test]
async fn log_messages_come_from_the_level_that_was_asked_for() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let levels = |reply: &outrigger_tests::Reply| -> Vec<String> {
        reply.events.iter().filter_map(|e| Some(e["params"]["level"].as_str()?.to_owned())).collect()
    };
    let call = Call::tool("logs", "{}");
    assert_eq!(levels(&client.reply(&call).await), Vec::<String>::new(), "none unless asked for");
    assert_eq!(levels(&client.reply(&call.clone().log_level("warning")).await), ["warning", "error"]);
    assert_eq!(levels(&client.reply(&call.log_level("debug")).await), ["debug", "info", "warning", "error"]);
    let wrong = client.reply(&Call::tool("logs", "{}").log_level("loud")).await;
    assert_eq!(wrong.error_code(), -32602);
    sidecar.stop().await;
}

#[tokio::test]
async fn closing_the_stream_cancels_at_a_stdio_server_and_frees_the_slot() {
    let mesh = Mesh::new();
    let settings = format!("{}limits: {{ in_flight: 1 }}\n", scripted(&[]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    // Once with a stream open already, once before any byte of an answer.
    let stream = client.open(&Call::tool("progress", "{}").meta(r#""progressToken":1"#)).await;
    assert_eq!(client.reply(&Call::tool("echo", "{}")).await.status, 429);
    drop(stream);
    eventually("the slot is free", || async { (sidecar.health().await["load"]["in_flight"] == 0).then_some(()) }).await;
    assert_eq!(seen(&client).await["cancelled"].as_array().unwrap().len(), 1);

    let impatient = client.clone();
    let call = tokio::spawn(async move { impatient.reply(&Call::tool("never", "{}")).await });
    eventually("the call runs", || async { (sidecar.health().await["load"]["in_flight"] == 1).then_some(()) }).await;
    call.abort();
    eventually("the slot is free again", || async { (sidecar.health().await["load"]["in_flight"] == 0).then_some(()) })
        .await;
    assert_eq!(seen(&client).await["cancelled"].as_array().unwrap().len(), 2);
    // On record as well, whether there was an answer to end or not.
    for tool in ["progress", "never"] {
        let line = format!(
            r#"outrigger_requests_total{{capability="{tool}",method="tools/call",outcome="cancelled",service="fs"}}"#
        );
        assert_eq!(sidecar.metric(&line).await, 1.0, "{tool}");
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn a_call_at_its_deadline_is_cancelled_at_its_server() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    // The session is open: what is not sent yet at the deadline needs no cancellation.
    client.tool("echo", "{}").await;
    let late = client.reply(&Call::tool("never", "{}").header("x-mcpx-deadline-ms", "1000")).await;
    assert_eq!((late.status.as_u16(), late.error_code()), (504, -31504));
    assert_eq!(late.json()["error"]["data"]["reason"], "deadline");
    eventually("the server is told", || async {
        seen(&client).await["cancelled"].as_array().filter(|c| c.len() == 1).map(drop)
    })
    .await;
    // In time, and with nonsense, it is as without.
    for told in ["60000", "soon", "-1", ""] {
        let got = client.reply(&Call::tool("echo", "{}").header("x-mcpx-deadline-ms", told)).await;
        assert_eq!(got.status, 200, "{told}");
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn closing_the_stream_closes_the_one_to_a_modern_http_server() {
    let left = Arc::new(Notify::new());
    let tell = left.clone();
    let server = HttpServer::modern(move |_| {
        let tell = tell.clone();
        async move {
            let (sender, response) = stream();
            tokio::spawn(async move {
                let first = json!({"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}});
                sender.send(event(&first)).await.unwrap();
                sender.gone().await;
                tell.notify_one();
            });
            response
        }
    });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    let mut stream = client.open(&Call::tool("t", "{}").meta(r#""progressToken":1"#)).await;
    assert_eq!(stream.next().await.unwrap()["params"]["progress"], 1);
    drop(stream);
    within("the server sees its stream closed", left.notified()).await;
    eventually("the slot is free", || async { (sidecar.health().await["load"]["in_flight"] == 0).then_some(()) }).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_legacy_http_server_is_told_of_a_cancellation_before_and_after_it_began_to_answer() {
    for streams in [false, true] {
        let server = HttpServer::legacy(move |received| async move {
            if !streams {
                return std::future::pending().await;
            }
            let (sender, response) = stream();
            tokio::spawn(async move {
                let token = received.json()["params"]["_meta"]["progressToken"].clone();
                let first = json!({"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":token,"progress":1}});
                sender.send(event(&first)).await.unwrap();
                std::future::pending::<()>().await;
            });
            response
        });
        let mesh = Mesh::new();
        let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
        let client = sidecar.ready_client(&mesh).await;
        let caller = client.clone();
        let call = tokio::spawn(async move {
            let mut stream = caller.open(&Call::tool("t", "{}").meta(r#""progressToken":1"#)).await;
            stream.next().await;
            stream
        });
        if streams {
            drop(call.await.unwrap());
        } else {
            eventually("the call arrived", || async { server.received_of("tools/call").pop() }).await;
            call.abort();
        }
        let sent =
            eventually("the cancellation", || async { server.received_of("notifications/cancelled").pop() }).await;
        let id = server.received_of("tools/call").pop().unwrap().json()["id"].clone();
        assert_eq!(sent.json()["params"]["requestId"], id, "streams: {streams}");
        assert_eq!(sent.header("mcp-session-id"), "s1");
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn a_session_that_the_http_server_forgot_is_opened_again_and_the_call_is_made_once_more() {
    let forgot = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let server = HttpServer::legacy(move |received| {
        let first = !forgot.swap(true, std::sync::atomic::Ordering::SeqCst);
        async move { if first { status(404) } else { text(&received, "again") } }
    });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(text_of(&client.tool("t", "{}").await), "again");
    assert_eq!(server.received_of("tools/call").len(), 2);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_call_is_never_made_twice_because_a_connection_broke() {
    let server = HttpServer::modern(|_| async {
        let (sender, response) = stream();
        drop(sender);
        response
    });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    let mut stream = client.open(&Call::tool("t", "{}")).await;
    assert!(stream.next().await.is_none());
    assert_eq!(server.received_of("tools/call").len(), 1);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_server_that_is_gone_is_named_and_found_again() {
    let server = HttpServer::legacy(|received| async move { text(&received, "here") });
    let mesh = Mesh::new();
    let settings = format!("{}restart: {{ initial: 50ms, max: 100ms }}\n", server.setting());
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(text_of(&client.tool("t", "{}").await), "here");
    drop(server);
    let reply = eventually("the failure shows", || async {
        let reply = client.reply(&Call::tool("t", "{}")).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert!(matches!(reply.status.as_u16(), 502 | 503), "{reply:?}");
    assert_eq!(reply.json()["error"]["data"]["service"], "fs");
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("fs"));
    sidecar.health_where("the health document says so", |h| h["status"] == "down").await;
    assert_eq!(client.reply(&Call::new("tools/list")).await.status, 200, "the last catalog is still served");
    sidecar.stop().await;
}

#[tokio::test]
async fn http1_and_http2_carry_the_same() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let h2 = sidecar.ready_client(&mesh).await;
    let (credentials, expected) = (mesh.credentials("ingress"), mesh.id("fs"));
    let tls: outrigger_proxy::dial::ClientTlsProvider = Arc::new(move || credentials.client_config(&expected));
    let h1 = Client::http1(sidecar.address(), &tls);
    for client in [h1, h2] {
        let mut stream = client.open(&Call::tool("flood", r#"{"n":3}"#).meta(r#""progressToken":1"#)).await;
        assert_eq!(stream.next().await.unwrap()["params"]["progress"], 0);
        assert_eq!(stream.rest().await.events.len(), 3);
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn a_large_reply_streams_through_a_modern_http_server() {
    let big = "x".repeat(8 << 20);
    let server = HttpServer::modern(move |received| {
        let big = big.clone();
        async move { result(&received, json!({"resultType": "complete", "content": [{"type": "text", "text": big}]})) }
    });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(text_of(&client.tool("t", "{}").await).len(), 8 << 20);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_relayed_stream_that_ends_without_its_result_says_so() {
    let server = HttpServer::modern(|_| async {
        let (sender, response) = stream();
        let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}});
        sender.send(event(&progress)).await.unwrap();
        // As when a process dies whose answer has no length: the end looks like any other.
        sender.finish().await.unwrap();
        response
    });
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
    let client = sidecar.ready_client(&mesh).await;
    let mut stream = client.open(&Call::tool("t", "{}").id(Some("\"q\""))).await;
    assert_eq!(stream.next().await.unwrap()["method"], "notifications/progress");
    let last = stream.next().await.expect("an error in place of the result");
    assert_eq!((&last["id"], &last["error"]["data"]["service"]), (&json!("q"), &json!("fs")), "{last}");
    assert_eq!(stream.next().await, None);
    counted(&sidecar, "rpc_error").await;
    sidecar.stop().await;
}

#[tokio::test]
async fn what_a_relayed_reply_says_is_recorded() {
    const FAILED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true}}"#;
    const ERROR: &str = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no"}}"#;
    for (reply, outcome) in [(FAILED, "tool_error"), (ERROR, "rpc_error")] {
        let server = HttpServer::modern(move |_| async move {
            let (sender, response) = stream();
            sender.send(event(&serde_json::from_str(reply).unwrap())).await.unwrap();
            sender.finish().await.unwrap();
            response
        });
        let mesh = Mesh::new();
        let sidecar = TestSidecar::start(&mesh, &server.setting()).await;
        let client = sidecar.ready_client(&mesh).await;
        client.open(&Call::tool("t", "{}")).await.rest().await;
        counted(&sidecar, outcome).await;
        sidecar.stop().await;
    }
}

/// Waits until one call of the tool `t` is counted with this outcome.
async fn counted(sidecar: &TestSidecar, outcome: &str) {
    let line = format!(
        "outrigger_requests_total{{capability=\"t\",method=\"tools/call\",outcome=\"{outcome}\",service=\"fs\"}}"
    );
    eventually(outcome, || async { (sidecar.metric(&line).await == 1.0).then_some(()) }).await;
}
