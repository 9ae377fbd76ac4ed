//! Services of the mesh that are objects of a cluster: they bring replicas, say what holds, and are told what became of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::http_server::{HttpServer, text};
use outrigger_tests::kube_api::Mood;
use outrigger_tests::{Call, KubeApi, Mesh, TestIngress, TestSidecar, eventually};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

const OBJECTS: &str = "/apis/mcpx.io/v1/namespaces/tools/meshservices";
const ON: &str = ", mesh_services: true";

fn server(name: &'static str) -> HttpServer {
    HttpServer::modern(move |asked| async move { text(&asked, name) })
}

fn put(api: &KubeApi, name: &str, generation: i64, spec: &Value) {
    let kept = api.object(OBJECTS, name).map_or(Value::Null, |known| known["status"].clone());
    let metadata = json!({"name": name, "namespace": "tools", "uid": name, "generation": generation,
        "creationTimestamp": format!("2026-11-21T10:00:0{}Z", name.len())});
    let object =
        json!({"apiVersion": "mcpx.io/v1", "kind": "MeshService", "metadata": metadata, "spec": spec, "status": kept});
    api.put(OBJECTS, object);
}

/// Waits until an object is told this: `Accepted` and `Ready` as reasons.
async fn told(api: &KubeApi, name: &str, generation: i64, accepted: &str, ready: &str) -> Value {
    let what = format!("{name} in generation {generation} is {accepted} and {ready}");
    eventually(&what, || async {
        let status = api.object(OBJECTS, name)?["status"].clone();
        let reason = |kind: &str| {
            let all = status["conditions"].as_array()?;
            let one = all.iter().find(|one| one["type"] == kind && one["observedGeneration"] == generation)?;
            Some(one["reason"].as_str()?.to_owned())
        };
        (reason("Accepted")? == accepted && reason("Ready")? == ready).then_some(status)
    })
    .await
}

async fn answers(ingress: &TestIngress, tool: &str, wanted: &str) {
    eventually(&format!("{tool} says {wanted}"), || async {
        let reply: Value = ingress.client.reply(&Call::tool(tool, "{}")).await.json();
        (reply["result"]["content"][0]["text"] == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_object_brings_the_pods_of_a_service_and_is_told_of_them() {
    let (mesh, api, server) = (Mesh::new(), KubeApi::start(), server("one"));
    let sidecar = TestSidecar::of(&mesh, "fs", &server.setting()).await;
    // Nobody annotated it.
    api.service("files", &json!({}));
    put(&api, "fs", 1, &json!({"service": "files"}));
    let ingress = TestIngress::over(&mesh, &[], &api.settings(mesh.path(), ON)).await;
    let status = told(&api, "fs", 1, "Valid", "NoReplicas").await;
    assert_eq!(status["replicas"], 0);
    api.slice("files-1", "files", sidecar.address(), true);
    answers(&ingress, "fs__t", "one").await;
    let status = told(&api, "fs", 1, "Valid", "Serving").await;
    assert_eq!((&status["service"], &status["replicas"], &status["ready"]), (&json!("fs"), &json!(1), &json!(1)));
    // Another object with its name changes nothing; a wrong one neither.
    put(&api, "other", 1, &json!({"name": "fs", "addresses": ["127.0.0.1:1"]}));
    put(&api, "wrong", 1, &json!({"port": 1}));
    told(&api, "other", 1, "NameTaken", "NotAccepted").await;
    told(&api, "wrong", 1, "Invalid", "NotAccepted").await;
    answers(&ingress, "fs__t", "one").await;
    // Repaired, it is another service, and nobody is where it says.
    put(&api, "other", 2, &json!({"name": "docs", "addresses": ["127.0.0.1:1"]}));
    let status = told(&api, "other", 2, "Valid", "Unreachable").await;
    assert_eq!(status["ready"], 0);
    api.remove(OBJECTS, "fs");
    eventually("it is gone", || async {
        let reply: Value = ingress.client.reply(&Call::tool("fs__t", "{}")).await.json();
        reply["result"].is_null().then_some(())
    })
    .await;
    sidecar.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn an_object_says_what_holds_for_a_service() {
    static GOES_ON: Semaphore = Semaphore::const_new(0);
    let slow = HttpServer::modern(|asked| async move {
        if asked.rpc_method() == "tools/call" {
            let _ = GOES_ON.acquire().await;
        }
        text(&asked, "late")
    });
    let (mesh, api) = (Mesh::new(), KubeApi::start());
    let sidecar = TestSidecar::of(&mesh, "fs", &slow.setting()).await;
    api.service("files", &json!({"outrigger.dev/service": "fs"}));
    api.slice("files-1", "files", sidecar.address(), true);
    // No replicas of its own: those of the annotated Service.
    put(&api, "fs", 1, &json!({"concurrency": {"limit": 1, "per_client": "100%"}}));
    let ingress = TestIngress::over(&mesh, &[], &api.settings(mesh.path(), ON)).await;
    told(&api, "fs", 1, "Valid", "Serving").await;
    let call = Call::tool("fs__t", "{}");
    let first = ingress.client.reply(&call);
    let second = async {
        eventually("the first call is at work", || async {
            slow.received().iter().any(|one| one.rpc_method() == "tools/call").then_some(())
        })
        .await;
        let refused: Value = ingress.client.reply(&call).await.json();
        GOES_ON.add_permits(1);
        refused
    };
    let (first, second) = tokio::join!(first, second);
    let first: Value = first.json();
    assert_eq!(first["result"]["content"][0]["text"], "late");
    assert!(second["error"].is_object(), "{second}");
    sidecar.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn a_replica_whose_certificate_is_for_another_service_is_told_and_gets_nothing() {
    let (mesh, api, server) = (Mesh::new(), KubeApi::start(), server("other"));
    let other = TestSidecar::of(&mesh, "other", &server.setting()).await;
    put(&api, "fs", 1, &json!({"addresses": [other.address().to_string()]}));
    let ingress = TestIngress::over(&mesh, &[], &api.settings(mesh.path(), ON)).await;
    let status = told(&api, "fs", 1, "Valid", "Unreachable").await;
    let said: Vec<_> =
        status["conditions"].as_array().unwrap().iter().map(|one| one["message"].as_str().unwrap()).collect();
    assert!(said.iter().any(|said| said.starts_with("None of 1 replicas answers: it cannot be reached")), "{said:?}");
    let reply: Value = ingress.client.reply(&Call::tool("fs__t", "{}")).await.json();
    assert!(reply["result"].is_null(), "{reply}");
    assert!(!server.received().iter().any(|one| one.rpc_method() == "tools/call"));
    other.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn a_cluster_without_the_definition_holds_nothing_else_up() {
    let (mesh, api, server) = (Mesh::new(), KubeApi::start(), server("one"));
    let sidecar = TestSidecar::of(&mesh, "fs", &server.setting()).await;
    api.mood(Mood::Undefined);
    api.service("files", &json!({"outrigger.dev/service": "fs"}));
    api.slice("files-1", "files", sidecar.address(), true);
    let ingress = TestIngress::over(&mesh, &[], &api.settings(mesh.path(), ON)).await;
    answers(&ingress, "fs__t", "one").await;
    // Once it is defined, objects count.
    put(&api, "fs", 1, &json!({}));
    api.mood(Mood::Good);
    told(&api, "fs", 1, "Valid", "Serving").await;
    sidecar.stop().await;
    ingress.stop().await;
}
