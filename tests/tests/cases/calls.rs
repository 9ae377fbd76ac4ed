//! Cases 35, 36, 60 to 64, 88 and 89: calls whose client leaves, and servers that misbehave.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use outrigger_tests::{
    Call, eventually,
    http_server::{error, result, text},
    processes::written,
    sidecar::text_of,
    subjects::scripted,
    wait::within,
};
use serde_json::{Value, json};

use crate::world::{STRAY, World, call, modern, post, refused, said, tool, tools};

async fn seen(world: &World) -> Value {
    serde_json::from_str(&said(world, "fs__seen", "{}").await).unwrap()
}

async fn at_work(world: &World, n: u64) {
    eventually("calls at work", || async {
        (world.sidecars[0].health().await["load"]["in_flight"] == n).then_some(())
    })
    .await;
}

#[tokio::test]
async fn case_35_a_client_that_closes_its_stream_ends_the_call_everywhere() {
    let world = World::one(&format!("{}limits: {{ in_flight: 1 }}\n", scripted(&[]))).await;
    let stream = world.client().open(&Call::tool("fs__progress", "{}").meta(r#""progressToken":1"#)).await;
    at_work(&world, 1).await;
    drop(stream);
    at_work(&world, 0).await;
    assert_eq!(seen(&world).await["cancelled"].as_array().unwrap().len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn case_36_an_older_client_that_loses_its_connection_cancels_nothing() {
    let world = World::one(&scripted(&[])).await;
    for revision in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        let session = world.session(revision).await;
        let params = json!({"name": "fs__progress", "arguments": {}, "_meta": {"progressToken": 1}});
        let mut stream = session.begin("tools/call", &params).await;
        assert_eq!(stream.next().await.unwrap()["params"]["progress"], 1);
        drop(stream);
        // It still runs, until it ends by itself.
        let ask = async |id: u64, name: &str| {
            let call = tool(&json!(id), name, &json!({}));
            text_of(&post(world.client(), &session.headers, &call).await.json())
        };
        assert_eq!(ask(2, "fs__echo").await, "{}");
        assert_eq!(world.sidecars[0].health().await["load"]["in_flight"], 1, "{revision}");
        assert_eq!(ask(3, "fs__go").await, "gone");
        at_work(&world, 0).await;
        let seen: Value = serde_json::from_str(&ask(4, "fs__seen").await).unwrap();
        assert_eq!(seen["cancelled"], json!([]), "{revision}");
    }
    world.stop().await;
}

#[tokio::test]
async fn case_60_a_large_result_passes_and_one_over_the_limit_costs_only_its_call() {
    const MIB: usize = 1 << 20;
    let big = "x".repeat(30 * MIB);
    let server = modern(tools(&["t"]), move |received| {
        let big = big.clone();
        async move { text(&received, &big) }
    });
    let settings = format!("{}limits: {{ line_bytes: 64KiB }}\n", scripted(&[]));
    let world = World::of(&[("big", &server.setting()), ("fs", &settings)]).await;
    assert_eq!(said(&world, "big__t", "{}").await.len(), 30 * MIB);
    let pid = said(&world, "fs__pid", "{}").await;
    let over = call(&world, "fs__huge", r#"{"bytes":30000000}"#).await;
    refused(&over, 502, -32603);
    assert_eq!(over.json()["error"]["data"]["limit"], 65536, "{over:?}");
    assert_eq!(over.json()["error"]["data"]["service"], "fs");
    assert_eq!(said(&world, "fs__pid", "{}").await, pid, "the server and its pipe are still good");
    let session = world.session("2025-06-18").await;
    let old = session.ask("tools/call", &json!({"name": "fs__huge", "arguments": {"bytes": 70000}})).await;
    refused(&old, 200, -32603);
    world.stop().await;
}

#[tokio::test]
async fn case_61_what_is_not_mcp_on_stdout_is_skipped() {
    let world = World::one(&scripted(&["--banner", "--crlf"])).await;
    let pid = said(&world, "fs__pid", "{}").await;
    assert_eq!(said(&world, "fs__garbage", "{}").await, "clean");
    assert_eq!(said(&world, "fs__split", "{}").await, "grün €");
    assert_eq!(said(&world, "fs__huge", r#"{"bytes":200000}"#).await.len(), 200_000);
    assert_eq!(said(&world, "fs__echo", r#"{"a":"ü"}"#).await, r#"{"a": "ü"}"#);
    assert_eq!(said(&world, "fs__pid", "{}").await, pid);
    let counted = world.counted(0, r#"outrigger_upstream_errors_total{kind="protocol",service="fs"}"#).await;
    assert!(counted >= 5.0, "{counted}");
    world.stop().await;
}

#[tokio::test]
async fn case_63_a_server_that_ends_during_a_call_fails_it_and_is_started_again() {
    let files = tempfile::tempdir().unwrap();
    let pids = files.path().join("pids");
    let settings =
        format!("{}restart: {{ initial: 50ms, max: 100ms }}\n", scripted(&["--pids", pids.to_str().unwrap()]));
    let world = World::one(&settings).await;
    let listen = Call::new("subscriptions/listen").params(r#""notifications":{"resourceSubscriptions":["test://a"]}"#);
    let mut stream = world.client().open(&listen).await;
    let first = stream.next().await.unwrap();
    assert_eq!(first["params"]["notifications"]["resourceSubscriptions"], json!(["test://a"]), "{first}");
    said(&world, "fs__update", r#"{"uri":"test://a"}"#).await;
    assert_eq!(stream.next().await.unwrap()["params"]["uri"], "test://a");
    assert_eq!(said(&world, "fs__count", "{}").await, "1");
    let before = written(&pids).len();
    let died = call(&world, "fs__die", "{}").await;
    refused(&died, 502, -32603);
    assert!(died.json()["error"]["data"]["reason"].is_string(), "{died:?}");
    assert_eq!(said(&world, "fs__count", "{}").await, "1", "a new one, which was not told to die as well");
    assert!(written(&pids).len() <= before + 1, "the call was not made again");
    // Nobody can tell when the new server has been asked to tell of updates, so it tells of them until one is heard.
    let heard = async {
        loop {
            said(&world, "fs__update", r#"{"uri":"test://a"}"#).await;
            if let Ok(event) = tokio::time::timeout(Duration::from_millis(200), stream.next()).await {
                return event.unwrap();
            }
        }
    };
    let event = within("an update", heard).await;
    assert_eq!(
        (&event["method"], &event["params"]["uri"]),
        (&json!("notifications/resources/updated"), &json!("test://a"))
    );
    world.stop().await;
}

#[tokio::test]
async fn case_64_a_server_of_the_stateless_revision_that_asks_gets_no_answer() {
    let world = World::one(&scripted(&["--era", "modern"])).await;
    said(&world, "fs__outside", "{}").await;
    eventually("it is counted", || async { (world.counted(0, STRAY).await == 1.0).then_some(()) }).await;
    let heard = eventually("the server gives up", || async {
        seen(&world).await["seen"].as_array().unwrap().iter().find_map(|seen| seen.get("outside").cloned())
    })
    .await;
    assert_eq!(heard, json!({"error": "nobody answered"}));
    world.stop().await;
}

#[tokio::test]
async fn case_88_a_tool_that_is_gone_is_answered_by_its_server_and_leaves_the_lists() {
    let gone = Arc::new(AtomicBool::new(false));
    let there = gone.clone();
    let server = modern(json!({"capabilities": {"tools": {}}}), move |received| {
        let gone = there.load(Ordering::SeqCst);
        async move {
            match received.rpc_method().as_str() {
                "tools/list" => {
                    let names: &[&str] = if gone { &["stays"] } else { &["stays", "goes"] };
                    let mut list = tools(names)["tools/list"].clone();
                    list["resultType"] = json!("complete");
                    result(&received, list)
                }
                _ if gone => error(&received, 200, -32602, "Unknown tool: goes"),
                _ => text(&received, "here"),
            }
        }
    });
    let world = World::one(&server.setting()).await;
    assert_eq!(world.tools().await, ["fs__stays", "fs__goes"]);
    gone.store(true, Ordering::SeqCst);
    let reply = call(&world, "fs__goes", "{}").await;
    refused(&reply, 200, -32602);
    assert_eq!(reply.json()["error"]["message"], "Unknown tool: goes", "in the server's own words");
    eventually("it is not listed any more", || async { (world.tools().await == ["fs__stays"]).then_some(()) }).await;
    world.stop().await;
}

#[tokio::test]
async fn case_89_a_client_that_does_not_read_loses_progress_and_harms_nobody() {
    let world = World::one(&format!("{}session: shared\n", scripted(&[]))).await;
    let mut slow = world.client().open(&Call::tool("fs__flood", r#"{"n":200000}"#).meta(r#""progressToken":1"#)).await;
    slow.next().await.unwrap();
    for _ in 0..3 {
        assert_eq!(said(&world, "fs__echo", "{}").await, "{}", "the server's output is read all the same");
    }
    // The server has said everything by now, though nobody read it.
    eventually("the flood is over", || async { (seen(&world).await["flooded"] == 200_000).then_some(()) }).await;
    let mut told = 1;
    let mut last = Value::Null;
    while let Some(event) = slow.next().await {
        told += 1;
        last = event;
    }
    assert_eq!(text_of(&last), "flooded");
    assert!(told < 200_000, "{told} of 200000 were kept for a client that did not read");
    world.stop().await;
}
