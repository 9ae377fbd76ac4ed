//! An ingress that finds the sidecars of pods by watching an API server, whatever that server does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::http_server::{HttpServer, text};
use outrigger_tests::kube_api::{Mood, SERVICES, SLICES};
use outrigger_tests::{Call, KubeApi, Mesh, TestIngress, TestSidecar, eventually, within};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// A server whose tool `t` says its name.
fn server(name: &'static str) -> HttpServer {
    HttpServer::modern(move |asked| async move { text(&asked, name) })
}

fn annotated() -> Value {
    json!({"outrigger.dev/service": "fs"})
}

/// The addresses of the replicas of a service.
async fn replicas(ingress: &TestIngress, service: &str) -> Vec<String> {
    let page = ingress.catalog().await;
    let replicas = page["services"][service]["replicas"].as_array().cloned().unwrap_or_default();
    replicas.iter().map(|one| one["address"].as_str().unwrap().to_owned()).collect()
}

async fn has(ingress: &TestIngress, service: &str, expected: &[&TestSidecar]) {
    let mut expected: Vec<_> = expected.iter().map(|sidecar| sidecar.address().to_string()).collect();
    expected.sort();
    eventually(&format!("{service} has {expected:?}"), || async {
        let mut found = replicas(ingress, service).await;
        found.sort();
        (found == expected).then_some(())
    })
    .await;
}

async fn calls(ingress: &TestIngress, tool: &str) -> String {
    eventually(&format!("{tool} is answered"), || async {
        let reply: Value = ingress.client.reply(&Call::tool(tool, "{}")).await.json();
        reply["result"]["content"][0]["text"].as_str().map(str::to_owned)
    })
    .await
}

/// A value of the ingress's metrics; nothing while there is none.
async fn metric(ingress: &TestIngress, name: &str) -> f64 {
    let page = ingress.admin("/metrics").await;
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name}{{source=\"kubernetes\"}} ")));
    line.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
}

#[tokio::test]
async fn pods_behind_annotated_services_are_called_and_leave_at_once() {
    let (mesh, api) = (Mesh::new(), KubeApi::start());
    let (one, two) = (server("one"), server("two"));
    let first = TestSidecar::of(&mesh, "fs", &one.setting()).await;
    api.service("files", &annotated());
    api.slice("files-1", "files", first.address(), true);
    api.service("others", &json!({}));
    api.slice("others-1", "others", "127.0.0.1:1".parse().unwrap(), true);
    let ingress = TestIngress::over(&mesh, &[], &api.settings(mesh.path(), "")).await;
    has(&ingress, "fs", &[&first]).await;
    assert_eq!(calls(&ingress, "fs__t").await, "one");
    assert_eq!(ingress.catalog().await["services"].as_object().unwrap().len(), 1, "nobody asked for the other");
    // Another pod, which is not ready first.
    let second = TestSidecar::of(&mesh, "fs", &two.setting()).await;
    api.slice("files-2", "files", second.address(), false);
    api.slice("files-2", "files", second.address(), true);
    has(&ingress, "fs", &[&first, &second]).await;
    assert_eq!(metric(&ingress, "outrigger_discovery_replicas").await, 2.0);
    assert!(metric(&ingress, "outrigger_discovery_contact_timestamp_seconds").await > 1.7e9);
    api.slice("files-1", "files", first.address(), false);
    has(&ingress, "fs", &[&second]).await;
    assert_eq!(calls(&ingress, "fs__t").await, "two");
    api.remove(SLICES, "files-2");
    eventually("nobody is left", || async {
        let reply: Value = ingress.client.reply(&Call::tool("fs__t", "{}")).await.json();
        (reply["error"]["data"]["reason"] == "unavailable" || reply["result"].is_null()).then_some(())
    })
    .await;
    api.slice("files-3", "files", second.address(), true);
    has(&ingress, "fs", &[&second]).await;
    api.remove(SERVICES, "files");
    api.service("renamed", &json!({"outrigger.dev/service": "docs"}));
    eventually("it is gone", || async {
        (metric(&ingress, "outrigger_discovery_replicas").await == 0.0).then_some(())
    })
    .await;
    for sidecar in [first, second] {
        sidecar.stop().await;
    }
    ingress.stop().await;
}

#[tokio::test]
async fn a_call_under_way_at_a_pod_that_leaves_ends_as_it_would_have() {
    let (mesh, api) = (Mesh::new(), KubeApi::start());
    static GOES_ON: Semaphore = Semaphore::const_new(0);
    let slow = HttpServer::modern(|asked| async move {
        if asked.rpc_method() == "tools/call" {
            let _ = GOES_ON.acquire().await;
        }
        text(&asked, "late")
    });
    let (first, other) = (TestSidecar::of(&mesh, "fs", &slow.setting()).await, server("other"));
    let second = TestSidecar::of(&mesh, "fs", &other.setting()).await;
    api.service("files", &annotated());
    api.slice("files-1", "files", first.address(), true);
    let ingress = TestIngress::over(&mesh, &[], &api.settings(mesh.path(), "")).await;
    has(&ingress, "fs", &[&first]).await;
    eventually("the tool is listed", || async {
        let reply: Value = ingress.client.reply(&Call::new("tools/list")).await.json();
        (reply["result"]["tools"].as_array()?.len() == 1).then_some(())
    })
    .await;
    let call = Call::tool("fs__t", "{}");
    let leaving = async {
        eventually("the call has arrived", || async {
            slow.received().iter().any(|one| one.rpc_method() == "tools/call").then_some(())
        })
        .await;
        api.slice("files-1", "files", first.address(), false);
        api.slice("files-2", "files", second.address(), true);
        has(&ingress, "fs", &[&second]).await;
        GOES_ON.add_permits(1);
    };
    let both = Box::pin(async { tokio::join!(ingress.client.reply(&call), leaving) });
    let (reply, ()) = within("the call ends", both).await;
    let reply: Value = reply.json();
    assert_eq!(reply["result"]["content"][0]["text"], "late", "{reply}");
    for sidecar in [first, second] {
        sidecar.stop().await;
    }
    ingress.stop().await;
}

#[tokio::test]
async fn what_is_known_stays_while_the_server_is_away_and_is_repaired_afterwards() {
    let (mesh, api) = (Mesh::new(), KubeApi::start());
    let (one, two) = (server("one"), server("two"));
    let first = TestSidecar::of(&mesh, "fs", &one.setting()).await;
    let second = TestSidecar::of(&mesh, "fs", &two.setting()).await;
    api.service("files", &annotated());
    api.slice("files-1", "files", first.address(), true);
    let ingress = TestIngress::over(&mesh, &[], &api.settings(mesh.path(), "")).await;
    has(&ingress, "fs", &[&first]).await;
    let watches = || api.asked(SLICES, "watch").len();
    eventually("it watches", || async { (watches() > 0).then_some(()) }).await;
    // It is away, things change, and what happened is forgotten before it is back.
    api.mood(Mood::Away);
    eventually("it is missed", || async {
        (metric(&ingress, "outrigger_discovery_failures_total").await > 2.0).then_some(())
    })
    .await;
    has(&ingress, "fs", &[&first]).await;
    assert_eq!(calls(&ingress, "fs__t").await, "one");
    api.slice("files-2", "files", second.address(), true);
    api.remove(SLICES, "files-1");
    api.compact();
    let lists = api.asked(SLICES, "limit").len();
    api.mood(Mood::Good);
    has(&ingress, "fs", &[&second]).await;
    assert!(api.asked(SLICES, "limit").len() > lists, "410 leads to a list");
    // A watch that ends goes on where it was.
    let (lists, before) = (api.asked(SLICES, "limit").len(), watches());
    api.cut();
    eventually("it watches again", || async { (watches() > before).then_some(()) }).await;
    api.slice("files-3", "files", first.address(), true);
    has(&ingress, "fs", &[&first, &second]).await;
    assert_eq!(api.asked(SLICES, "limit").len(), lists, "nothing was lost, so nothing is listed");
    for sidecar in [first, second] {
        sidecar.stop().await;
    }
    ingress.stop().await;
}

/// Nobody can say that something does not exist while it may still be coming; after a while it does not come.
#[tokio::test]
async fn what_may_still_come_is_not_said_to_be_missing() {
    let (mesh, api) = (Mesh::new(), KubeApi::start());
    api.mood(Mood::Silent);
    let one = server("one");
    let known = TestSidecar::of(&mesh, "known", &one.setting()).await;
    let services = [("known", vec![known.address()])];
    let ingress = TestIngress::over(&mesh, &services, &api.settings(mesh.path(), "")).await;
    assert_eq!(calls(&ingress, "known__t").await, "one", "what is known is served");
    let missing = || async { ingress.client.reply(&Call::tool("fs__t", "{}")).await };
    let early = missing().await;
    assert_eq!((early.status.as_u16(), early.headers["retry-after"].as_bytes()), (503, &b"1"[..]));
    assert_eq!(early.json()["error"]["data"]["reason"], "starting");
    let service = ingress.client.reply(&Call::tool("t", "{}").at("/s/fs/mcp")).await;
    assert_eq!(service.status, 503, "what is hidden looks like what is not there");
    eventually("nothing comes", || async { (missing().await.status != 503).then_some(()) }).await;
    known.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn a_server_that_lies_is_asked_again() {
    let (mesh, api) = (Mesh::new(), KubeApi::start());
    let one = server("one");
    let sidecar = TestSidecar::of(&mesh, "fs", &one.setting()).await;
    api.service("files", &annotated());
    api.slice("files-1", "files", sidecar.address(), true);
    let ingress = TestIngress::over(&mesh, &[], &api.settings(mesh.path(), "")).await;
    has(&ingress, "fs", &[&sidecar]).await;
    let bookmark = json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "100"}}}).to_string();
    let long = format!("{{\"type\":\"ADDED\",\"object\":\"{}\"}}", "x".repeat(5 << 20));
    for lie in [
        "nonsense",
        "{\"type\":\"EXPLODED\",\"object\":{\"metadata\":{\"name\":\"x\",\"resourceVersion\":\"7\"}}}",
        "{\"type\":\"DELETED\",\"object\":{}}",
        "{\"type\":\"ERROR\",\"object\":{\"message\":\"etcd has gone\",\"code\":500}}",
        &long,
    ] {
        let before = api.asked(SLICES, "limit").len();
        eventually("it watches", || async { (api.asked(SLICES, "watch").len() >= before).then_some(()) }).await;
        api.say(&bookmark);
        api.say(lie);
        eventually("everything is listed again", || async {
            (api.asked(SLICES, "limit").len() > before).then_some(())
        })
        .await;
        assert_eq!(replicas(&ingress, "fs").await, [sidecar.address().to_string()]);
    }
    api.remove(SLICES, "files-1");
    eventually("the truth counts", || async {
        (metric(&ingress, "outrigger_discovery_replicas").await == 0.0).then_some(())
    })
    .await;
    sidecar.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn annotations_with_mistakes_and_too_many_replicas_harm_nobody() {
    let (mesh, api) = (Mesh::new(), KubeApi::start());
    let one = server("one");
    let sidecar = TestSidecar::of(&mesh, "fs", &one.setting()).await;
    // More than one page of others.
    for other in 0..300 {
        api.service(&format!("other-{other}"), &json!({}));
    }
    api.service("files", &annotated());
    api.slice("files-1", "files", sidecar.address(), true);
    api.service("wrong", &json!({"outrigger.dev/service": "WRONG"}));
    api.service("port", &json!({"outrigger.dev/service": "port", "outrigger.dev/port": "nobody"}));
    api.slice("port-1", "port", sidecar.address(), true);
    let settings = "registration: { max_replicas: 1, max_services: 1 }\n";
    let ingress = TestIngress::over(&mesh, &[], &format!("{}{settings}", api.settings(mesh.path(), ""))).await;
    has(&ingress, "fs", &[&sidecar]).await;
    assert_eq!(metric(&ingress, "outrigger_discovery_mistakes").await, 2.0);
    api.slice("files-2", "files", "127.0.0.1:1".parse().unwrap(), true);
    eventually("there is no room", || async {
        (metric(&ingress, "outrigger_discovery_mistakes").await == 3.0).then_some(())
    })
    .await;
    has(&ingress, "fs", &[&sidecar]).await;
    assert_eq!(calls(&ingress, "fs__t").await, "one");
    // Whoever leaves makes room.
    api.remove(SLICES, "files-1");
    eventually("the other one is in force", || async {
        (replicas(&ingress, "fs").await == ["127.0.0.1:1"]).then_some(())
    })
    .await;
    sidecar.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn a_pod_that_is_another_service_gets_no_call() {
    let (mesh, api) = (Mesh::new(), KubeApi::start());
    let spy = server("spy");
    let other = TestSidecar::of(&mesh, "notes", &spy.setting()).await;
    api.service("files", &annotated());
    api.slice("files-1", "files", other.address(), true);
    let ingress =
        TestIngress::over(&mesh, &[], &format!("{}services: {{ never: {{}} }}\n", api.settings(mesh.path(), ""))).await;
    eventually("the certificate is refused", || async {
        let page = ingress.catalog().await;
        page["services"]["fs"]["replicas"][0]["unreachable"].is_string().then_some(())
    })
    .await;
    let reply: Value = ingress.client.reply(&Call::tool("fs__t", "{}")).await.json();
    assert!(reply["error"].is_object(), "{reply}");
    assert!(!spy.received().iter().any(|one| one.rpc_method() == "tools/call"));
    other.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn an_ingress_without_an_api_server_serves_what_it_has() {
    let (mesh, api) = (Mesh::new(), KubeApi::start());
    let (one, two) = (server("one"), server("two"));
    let first = TestSidecar::of(&mesh, "fs", &one.setting()).await;
    let second = TestSidecar::of(&mesh, "notes", &two.setting()).await;
    api.mood(Mood::Silent);
    api.service("notes", &json!({"outrigger.dev/service": "notes"}));
    api.slice("notes-1", "notes", second.address(), true);
    let ingress = TestIngress::start(&mesh, &[first.address()], &api.settings(mesh.path(), "")).await;
    assert_eq!(calls(&ingress, "fs__t").await, "one");
    eventually("it is ready without", || async { ingress.admin("/readyz").await.starts_with("ready").then_some(()) })
        .await;
    first.stop().await;
    second.stop().await;
    ingress.stop().await;
}
