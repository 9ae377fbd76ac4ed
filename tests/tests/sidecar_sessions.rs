//! Who shares a session of the server, which is a child process here; and which processes are left in the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::path::PathBuf;

use outrigger_runtime::drain::DrainOutcome;
use outrigger_tests::{
    Call, Client, Mesh, TestSidecar, eventually,
    processes::{descendants, runs, written},
    sidecar::text_of,
    subjects::{installed, scripted, words},
    wait::within,
};

struct Setting {
    mesh: Mesh,
    pids: PathBuf,
}

impl Setting {
    fn new() -> Self {
        let mesh = Mesh::new();
        let pids = mesh.path().join("pids");
        Self { mesh, pids }
    }

    fn server(&self, options: &[&str]) -> String {
        scripted(&[&["--pids", self.pids.to_str().unwrap()], options].concat())
    }

    fn running(&self) -> usize {
        written(&self.pids).into_iter().filter(|pid| runs(*pid)).count()
    }

    async fn all_gone(&self) {
        eventually("every child is gone", || async { (self.running() == 0).then_some(()) }).await;
    }
}

async fn count(client: &Client, session: Option<&str>) -> String {
    let mut call = Call::tool("count", "{}");
    if let Some(session) = session {
        call = call.meta(&format!("\"outrigger.dev/session\":\"{session}\""));
    }
    text_of(&client.reply(&call).await.json())
}

#[tokio::test]
async fn a_shared_session_is_one_child_for_all() {
    let setting = Setting::new();
    let sidecar = TestSidecar::start(&setting.mesh, &format!("{}session: shared\n", setting.server(&[]))).await;
    let (a, b) = (sidecar.ready_client(&setting.mesh).await, sidecar.client(&setting.mesh, "b"));
    assert_eq!(
        (count(&a, None).await, count(&b, None).await, count(&a, None).await),
        ("1".into(), "2".into(), "3".into())
    );
    assert_eq!(setting.running(), 1);
    sidecar.stop().await;
    setting.all_gone().await;
}

#[tokio::test]
async fn sessions_per_principal_keep_principals_apart() {
    let setting = Setting::new();
    let sidecar = TestSidecar::start(&setting.mesh, &setting.server(&[])).await;
    let (a, b) = (sidecar.ready_client(&setting.mesh).await, sidecar.client(&setting.mesh, "b"));
    assert_eq!(
        (count(&a, None).await, count(&b, None).await, count(&a, None).await),
        ("1".into(), "1".into(), "2".into())
    );
    assert_eq!(setting.running(), 3, "one for the catalog and one each");
    sidecar.stop().await;
    setting.all_gone().await;
}

#[tokio::test]
async fn sessions_per_client_session_follow_the_session_key_and_belong_to_their_principal() {
    let setting = Setting::new();
    let settings = format!("{}session: per_client_session\n", setting.server(&[]));
    let sidecar = TestSidecar::start(&setting.mesh, &settings).await;
    let (a, b) = (sidecar.ready_client(&setting.mesh).await, sidecar.client(&setting.mesh, "b"));
    assert_eq!(count(&a, Some("x")).await, "1");
    assert_eq!(count(&a, Some("x")).await, "2");
    assert_eq!(count(&a, Some("y")).await, "1");
    assert_eq!(count(&b, Some("x")).await, "1", "knowing a key gives nothing of somebody else's session");
    let line = text_of(&a.reply(&Call::tool("line", "{}").meta(r#""outrigger.dev/session":"x""#)).await.json());
    assert!(!line.contains("outrigger.dev"), "the key stays in the mesh: {line}");
    sidecar.stop().await;
    setting.all_gone().await;
}

#[tokio::test]
async fn a_session_per_request_is_a_fresh_child_that_ends_with_it() {
    let setting = Setting::new();
    let sidecar = TestSidecar::start(&setting.mesh, &format!("{}session: per_request\n", setting.server(&[]))).await;
    let a = sidecar.ready_client(&setting.mesh).await;
    for _ in 0..3 {
        assert_eq!(count(&a, None).await, "1");
    }
    eventually("only the child of the catalog is left", || async { (setting.running() == 1).then_some(()) }).await;
    assert_eq!(written(&setting.pids).len(), 4);
    sidecar.stop().await;
    setting.all_gone().await;
}

#[tokio::test]
async fn sessions_that_nobody_uses_end_and_come_again() {
    let setting = Setting::new();
    let settings = format!("{}timeouts: {{ session_idle: 500ms }}\n", setting.server(&[]));
    let sidecar = TestSidecar::start(&setting.mesh, &settings).await;
    let a = sidecar.ready_client(&setting.mesh).await;
    assert_eq!(count(&a, None).await, "1");
    assert_eq!(setting.running(), 2);
    eventually("the idle child ends", || async { (setting.running() == 1).then_some(()) }).await;
    assert_eq!(count(&a, None).await, "1");
    sidecar.stop().await;
    setting.all_gone().await;
}

#[tokio::test]
async fn children_are_limited_and_the_idle_one_gives_way() {
    let setting = Setting::new();
    let settings = format!("{}limits: {{ children: 2 }}\n", setting.server(&[]));
    let sidecar = TestSidecar::start(&setting.mesh, &settings).await;
    let (a, b) = (sidecar.ready_client(&setting.mesh).await, sidecar.client(&setting.mesh, "b"));
    let busy = a.open(&Call::tool("progress", "{}").meta(r#""progressToken":1"#)).await;
    let refused = b.reply(&Call::tool("count", "{}")).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["data"]["limit"], "limits.children");
    drop(busy);
    eventually("room for b", || async { b.reply(&Call::tool("count", "{}")).await.status.is_success().then_some(()) })
        .await;
    eventually("two children", || async { (setting.running() == 2).then_some(()) }).await;
    sidecar.stop().await;
    setting.all_gone().await;
}

/// A call in the session of a client of a principal behind the ingress.
fn of(principal: &str, session: u8, call: Call) -> Call {
    call.meta(&format!("\"outrigger.dev/session\":\"c.{session}.{principal}\""))
}

#[tokio::test]
async fn a_principal_with_many_sessions_takes_none_of_the_others() {
    let setting = Setting::new();
    let settings = format!("{}limits: {{ children: 5, children_per_principal: 2 }}\n", setting.server(&[]));
    let sidecar = TestSidecar::start(&setting.mesh, &settings).await;
    let client = sidecar.ready_client(&setting.mesh).await;
    let call = |principal: &'static str, session| {
        let client = client.clone();
        async move { client.reply(&of(principal, session, Call::tool("count", "{}"))).await }
    };
    assert_eq!(text_of(&call("bob", 1).await.json()), "1");
    for session in 1..=6 {
        assert_eq!(text_of(&call("ada", session).await.json()), "1");
    }
    assert_eq!(text_of(&call("bob", 1).await.json()), "2", "his session is still there");
    assert_eq!(text_of(&call("ada", 6).await.json()), "2");
    assert_eq!(text_of(&call("ada", 1).await.json()), "1", "hers gave way");
    eventually("one for the catalog, one of his and two of hers", || async { (setting.running() == 4).then_some(()) })
        .await;
    assert_eq!(sidecar.metric("outrigger_sessions_open{kind=\"pinned\"}").await, 3.0);

    let busy = |session| of("ada", session, Call::tool("progress", "{}").meta(r#""progressToken":1"#));
    let (one, two) = (client.open(&busy(1)).await, client.open(&busy(6)).await);
    let refused = call("ada", 7).await;
    assert_eq!((refused.status.as_u16(), refused.error_code()), (429, -31429));
    assert_eq!(refused.json()["error"]["data"]["limit"], "limits.children_per_principal");
    assert_eq!(sidecar.metric("outrigger_limited_total{limit=\"children\",service=\"fs\"}").await, 1.0);
    assert_eq!(text_of(&call("bob", 2).await.json()), "1", "others have room");
    drop((one, two));
    sidecar.stop().await;
    setting.all_gone().await;
}

#[tokio::test]
async fn parked_calls_of_one_principal_are_limited() {
    let mesh = Mesh::new();
    let settings = format!("{}limits: {{ parked_calls_per_principal: 2, parked_calls: 3 }}\n", scripted(&[]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let ask = |principal: &'static str, session| {
        let client = client.clone();
        async move {
            let call = Call::tool("elicit", "{}").capabilities(r#"{"elicitation":{}}"#);
            client.reply(&of(principal, session, call)).await.json()
        }
    };
    let limit = |reply: &serde_json::Value| reply["error"]["data"]["limit"].as_str().map(str::to_owned);
    for session in [1, 2] {
        assert_eq!(ask("ada", session).await["result"]["resultType"], "input_required");
    }
    assert_eq!(limit(&ask("ada", 3).await).as_deref(), Some("limits.parked_calls_per_principal"));
    assert_eq!(ask("bob", 1).await["result"]["resultType"], "input_required");
    assert_eq!(limit(&ask("eve", 1).await).as_deref(), Some("limits.parked_calls"));
    assert_eq!(sidecar.metric("outrigger_parked_calls").await, 3.0);
    assert_eq!(sidecar.metric("outrigger_limited_total{limit=\"parked_calls\",service=\"fs\"}").await, 2.0);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_child_that_ignores_everything_is_killed_with_its_own_children() {
    let setting = Setting::new();
    let settings = format!("{}timeouts: {{ child_stop: 200ms }}\n", setting.server(&["--ignore-eof", "--grandchild"]));
    let sidecar = TestSidecar::start(&setting.mesh, &settings).await;
    let a = sidecar.ready_client(&setting.mesh).await;
    count(&a, None).await;
    eventually("children and grandchildren", || async { (setting.running() == 4).then_some(()) }).await;
    within("stopping", sidecar.stop()).await;
    setting.all_gone().await;
}

#[tokio::test]
async fn nothing_is_left_of_a_real_node_server() {
    let mesh = Mesh::new();
    let command = words(&[&installed("npm/node_modules/.bin/mcp-server-everything"), "stdio"]);
    let sidecar = TestSidecar::start(&mesh, &format!("command: {command}\n")).await;
    let client = sidecar.ready_client(&mesh).await;
    client.tool("echo", r#"{"message":"x"}"#).await;
    let children = descendants(std::process::id());
    assert!(children.len() >= 2, "{children:?}");
    within("stopping", sidecar.stop()).await;
    eventually("all are gone", || async { (!children.iter().any(|pid| runs(*pid))).then_some(()) }).await;
}

#[tokio::test]
async fn a_caller_that_leaves_while_its_child_starts_leaves_no_child_behind() {
    let setting = Setting::new();
    let settings = format!(
        "{}timeouts: {{ probe: 10s }}\nlimits: {{ children: 2 }}\n",
        setting.server(&["--slow-start", "1000", "--era", "legacy"])
    );
    let sidecar = TestSidecar::start(&setting.mesh, &settings).await;
    let a = sidecar.ready_client(&setting.mesh).await;
    let call = tokio::spawn(async move { a.reply(&Call::tool("count", "{}")).await });
    eventually("its child starts", || async { (written(&setting.pids).len() == 2).then_some(()) }).await;
    call.abort();
    eventually("its child is gone", || async { (setting.running() == 1).then_some(()) }).await;
    let b = sidecar.client(&setting.mesh, "b");
    assert_eq!(count(&b, None).await, "1", "its place is free again");
    sidecar.stop().await;
    setting.all_gone().await;
}

#[tokio::test]
async fn stopping_under_load_loses_no_call() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &scripted(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let calls: Vec<_> = (0..40)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(
                async move { client.reply(&Call::tool("sleep", &format!("{{\"ms\":{}}}", 400 + n * 20))).await },
            )
        })
        .collect();
    eventually("all are in flight", || async { (sidecar.health().await["load"]["in_flight"] == 40).then_some(()) })
        .await;
    assert_eq!(within("stopping", sidecar.stop()).await, DrainOutcome::Finished);
    for call in calls {
        assert_eq!(text_of(&call.await.unwrap().json()), "slept");
    }
}

#[tokio::test]
async fn the_drain_deadline_cuts_what_does_not_end() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &format!("{}timeouts: {{ drain: 500ms }}\n", scripted(&[]))).await;
    let client = sidecar.ready_client(&mesh).await;
    let endless = tokio::spawn({
        let client = client.clone();
        async move { client.try_open(&Call::tool("never", "{}")).await.is_err() }
    });
    eventually("it runs", || async { (sidecar.health().await["load"]["in_flight"] == 1).then_some(()) }).await;
    assert!(matches!(within("stopping", sidecar.stop()).await, DrainOutcome::Forced { .. }));
    assert!(endless.await.unwrap());
    assert!(client.try_open(&Call::tool("echo", "{}")).await.is_err(), "nobody listens any more");
}
