//! stdio servers that misbehave: only the call concerned fails, and it says whose fault it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::{
    Call, Client, Mesh, Reply, TestSidecar, eventually,
    processes::{runs, written},
    sidecar::text_of,
    subjects::scripted,
};

const QUICK: &str = "restart: { initial: 50ms, max: 200ms }\n";

async fn pid(client: &Client) -> u32 {
    text_of(&client.tool("pid", "{}").await).parse().unwrap()
}

fn names_the_service(reply: &Reply) {
    let error = &reply.json()["error"];
    assert_eq!(error["data"]["service"], "fs", "{reply:?}");
    assert!(error["message"].as_str().unwrap().contains("fs"), "{reply:?}");
}

#[tokio::test]
async fn garbage_on_stdout_is_skipped() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let before = pid(&client).await;
    assert_eq!(text_of(&client.tool("garbage", "{}").await), "clean");
    assert_eq!(text_of(&client.tool("split", "{}").await), "grün €");
    assert_eq!(pid(&client).await, before, "the child was not restarted");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_line_over_the_limit_fails_only_its_call() {
    let mesh = Mesh::new();
    let settings = format!("{}limits: {{ line_bytes: 64KiB }}\n", scripted(&[]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let before = pid(&client).await;
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.tool("sleep", r#"{"ms":500}"#).await }
    });
    let reply = client.reply(&Call::tool("huge", r#"{"bytes":3000000}"#)).await;
    assert_eq!((reply.status.as_u16(), reply.error_code()), (502, -32603));
    names_the_service(&reply);
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("65536"), "{reply:?}");
    assert_eq!(text_of(&slow.await.unwrap()), "slept", "the other call is not affected");
    assert_eq!(pid(&client).await, before);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_child_that_dies_fails_its_calls_and_the_next_one_works() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &format!("{}{QUICK}", scripted(&[]))).await;
    let client = sidecar.ready_client(&mesh).await;
    let before = pid(&client).await;
    let other = sidecar.client(&mesh, "other");
    let elsewhere = tokio::spawn(async move { other.tool("sleep", r#"{"ms":700}"#).await });
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.reply(&Call::tool("never", "{}")).await }
    });
    eventually("both calls run", || async { (sidecar.health().await["load"]["in_flight"] == 2).then_some(()) }).await;
    let died = client.reply(&Call::tool("die", "{}")).await;
    for reply in [died, waiting.await.unwrap()] {
        assert_eq!((reply.status.as_u16(), reply.error_code()), (502, -32603));
        names_the_service(&reply);
    }
    assert_eq!(text_of(&elsewhere.await.unwrap()), "slept", "another principal's session goes on");
    assert_ne!(pid(&client).await, before);
    eventually("the dead child is gone", || async { (!runs(before)).then_some(()) }).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn the_main_child_is_restarted_with_back_off_and_the_health_document_tells() {
    let mesh = Mesh::new();
    let pids = mesh.path().join("pids");
    let settings = format!("{}{QUICK}session: shared\n", scripted(&["--pids", pids.to_str().unwrap()]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let died = client.reply(&Call::tool("die", "{}")).await;
    names_the_service(&died);
    eventually("a second child", || async { (written(&pids).len() == 2).then_some(()) }).await;
    sidecar.health_where("serving again", |h| h["status"] == "serving").await;
    assert_eq!(text_of(&client.tool("echo", "{}").await), "{}");
    assert!(sidecar.metric("outrigger_child_restarts_total{service=\"fs\"}").await >= 1.0);
    sidecar.stop().await;
}

#[tokio::test]
async fn per_principal_sessions_work_again_after_the_main_child_died() {
    let mesh = Mesh::new();
    let pids = mesh.path().join("pids");
    let sidecar = TestSidecar::start(&mesh, &format!("{}{QUICK}", scripted(&["--pids", pids.to_str().unwrap()]))).await;
    let client = sidecar.ready_client(&mesh).await;
    let mine = pid(&client).await;
    let main = written(&pids)[0];
    assert_ne!(main, mine);
    for victim in [main, mine] {
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(victim as i32).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
    }
    let reply = eventually("calls work again", || async {
        let reply = client.reply(&Call::tool("pid", "{}")).await;
        reply.status.is_success().then_some(reply)
    })
    .await;
    assert_ne!(text_of(&reply.json()), mine.to_string());
    sidecar.health_where("serving again", |h| h["status"] == "serving").await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_child_that_dies_at_once_is_tried_with_growing_pauses() {
    let mesh = Mesh::new();
    let pids = mesh.path().join("pids");
    let settings = format!(
        "{}era: legacy\nrestart: {{ initial: 200ms, max: 1h }}\n",
        scripted(&["--die-at-start", "--pids", pids.to_str().unwrap()])
    );
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let began = tokio::time::Instant::now();
    eventually("four tries", || async { (written(&pids).len() >= 4).then_some(()) }).await;
    // 200 + 400 + 800 ms lie between the first and the fourth; without back-off it would be a fraction.
    assert!(began.elapsed().as_millis() >= 1200, "{:?}", began.elapsed());
    let health = sidecar.health().await;
    assert_eq!(health["status"], "down");
    assert!(health["reason"].as_str().is_some_and(|r| !r.is_empty()), "{health}");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_named() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, "command: [no-such-program]\n").await;
    let health = sidecar
        .health_where("down with a reason", |h| h["reason"].as_str().is_some_and(|r| r.contains("no-such-program")))
        .await;
    assert_eq!(health["status"], "down");
    sidecar.stop().await;
}

#[tokio::test]
async fn case_62_a_child_that_stops_reading_costs_only_time_limits() {
    let mesh = Mesh::new();
    let settings =
        format!("{}timeouts: {{ request: 1s, child_stop: 300ms }}\nlimits: {{ body_bytes: 2MiB }}\n", scripted(&[]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(text_of(&client.tool("deaf", "{}").await), "deaf");
    // More than a pipe holds, so that writing gets stuck too.
    let big = format!("{{\"a\":\"{}\"}}", "x".repeat(300_000));
    for _ in 0..3 {
        let reply = client.reply(&Call::tool("echo", &big)).await;
        assert_eq!(reply.status, 504, "{reply:?}");
        names_the_service(&reply);
    }
    let other = sidecar.client(&mesh, "other");
    assert_eq!(text_of(&other.tool("echo", "{}").await), "{}", "another principal has a child of its own");
    assert_eq!(sidecar.health().await["status"], "serving");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_tool_that_never_answers_ends_at_the_time_limit() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &format!("{}timeouts: {{ request: 300ms }}\n", scripted(&[]))).await;
    let client = sidecar.ready_client(&mesh).await;
    let reply = client.reply(&Call::tool("never", "{}")).await;
    assert_eq!(reply.status, 504);
    names_the_service(&reply);
    let seen = text_of(&client.tool("seen", "{}").await);
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["cancelled"].as_array().unwrap().len(), 1, "the server is told that nobody waits any more");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_catalog_that_is_slow_holds_up_nothing_else() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&["--slow-list", "1500"])).await;
    let client = sidecar.client(&mesh, "ingress");
    let reply = eventually("calls work before the catalog is there", || async {
        let reply = client.reply(&Call::tool("echo", "{}")).await;
        reply.status.is_success().then_some(reply)
    })
    .await;
    assert_eq!(text_of(&reply.json()), "{}");
    assert_eq!(sidecar.health().await["status"], "down");
    assert_eq!(client.reply(&Call::new("tools/list")).await.status, 503);
    sidecar.health_where("serving in the end", |h| h["status"] == "serving").await;
    sidecar.stop().await;
}
