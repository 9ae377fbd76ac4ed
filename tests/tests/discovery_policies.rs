//! Policies that are objects of a cluster: they count, they are told what is wrong with them, and they fail closed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::http_server::{HttpServer, text};
use outrigger_tests::{Call, KubeApi, Mesh, TestIngress, TestSidecar, eventually};
use serde_json::{Value, json};

const POLICIES: &str = "/apis/mcpx.io/v1/namespaces/outrigger/securitypolicies";

fn server() -> HttpServer {
    HttpServer::modern(|asked| async move { text(&asked, "one") })
}

/// A policy with one rule.
fn put(api: &KubeApi, name: &str, generation: i64, rule: &Value) {
    let kept = api.object(POLICIES, name).map_or(Value::Null, |known| known["status"].clone());
    let metadata = json!({"name": name, "namespace": "outrigger", "uid": name, "generation": generation,
        "creationTimestamp": "2026-11-21T10:00:00Z", "managedFields": [{"manager": "kubectl"}]});
    let spec = json!({"authorization": {"rules": [rule]}});
    let object = json!({"apiVersion": "mcpx.io/v1", "kind": "SecurityPolicy", "metadata": metadata, "spec": spec, "status": kept});
    api.put(POLICIES, object);
}

fn deny(capabilities: &Value) -> Value {
    json!({"name": "no", "effect": "deny", "services": ["fs"], "capabilities": capabilities})
}

/// Whether the tool may be called.
async fn allowed(ingress: &TestIngress) -> bool {
    let reply: Value = ingress.client.reply(&Call::tool("fs__t", "{}")).await.json();
    reply["result"].is_object()
}

async fn becomes(ingress: &TestIngress, wanted: bool) {
    eventually(&format!("the call is allowed: {wanted}"), || async {
        (allowed(ingress).await == wanted).then_some(())
    })
    .await;
}

/// Waits for a condition of a policy, and returns its reason and message.
async fn condition(api: &KubeApi, name: &str, kind: &str, generation: i64) -> (String, String, String) {
    eventually(&format!("{kind} of {name} in generation {generation}"), || async {
        let object = api.object(POLICIES, name)?;
        let all = object["status"]["conditions"].as_array()?.clone();
        let one = all.into_iter().find(|one| one["type"] == kind && one["observedGeneration"] == generation)?;
        let text = |key: &str| one[key].as_str().unwrap().to_owned();
        Some((text("status"), text("reason"), text("message")))
    })
    .await
}

/// Waits until this is why a policy is in force or not.
async fn programmed(api: &KubeApi, name: &str, reason: &str, message: &str) {
    eventually(&format!("{name} is {reason}"), || async {
        let (_, now, said) = condition(api, name, "Programmed", 1).await;
        (now == reason && said.contains(message)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn policies_of_a_cluster_count_beside_files_and_are_told_what_became_of_them() {
    let (mesh, api, server) = (Mesh::new(), KubeApi::start(), server());
    let sidecar = TestSidecar::of(&mesh, "fs", &server.setting()).await;
    let settings = api.settings(mesh.path(), ", policy_namespaces: [outrigger]");
    let ingress = TestIngress::start(&mesh, &[sidecar.address()], &settings).await;
    // The file of the harness allows everything.
    becomes(&ingress, true).await;
    put(&api, "freeze", 1, &deny(&json!(["*"])));
    becomes(&ingress, false).await;
    let (status, reason, _) = condition(&api, "freeze", "Programmed", 1).await;
    assert_eq!((&*status, &*reason), ("True", "InForce"));
    // Wrong: what it said stays in force.
    put(&api, "freeze", 2, &deny(&json!([])));
    let (status, reason, message) = condition(&api, "freeze", "Accepted", 2).await;
    assert_eq!((&*status, &*reason), ("False", "Invalid"));
    assert!(message.contains("spec.authorization.rules[0].capabilities"), "{message}");
    let (status, reason, _) = condition(&api, "freeze", "Programmed", 2).await;
    assert_eq!((&*status, &*reason), ("False", "LastGood"));
    assert!(!allowed(&ingress).await);
    // Another one that is new and wrong harms nobody, and one that is good counts meanwhile.
    put(&api, "other", 1, &deny(&json!([])));
    assert_eq!(condition(&api, "other", "Programmed", 1).await.1, "NotInForce");
    put(&api, "freeze", 3, &deny(&json!(["other"])));
    becomes(&ingress, true).await;
    put(&api, "third", 1, &deny(&json!(["t"])));
    becomes(&ingress, false).await;
    api.remove(POLICIES, "third");
    becomes(&ingress, true).await;
    assert_eq!(condition(&api, "freeze", "Accepted", 3).await.0, "True");
    sidecar.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn an_ingress_that_starts_with_a_wrong_policy_that_denies_lets_nobody_in() {
    let (mesh, api, server) = (Mesh::new(), KubeApi::start(), server());
    let sidecar = TestSidecar::of(&mesh, "fs", &server.setting()).await;
    put(&api, "freeze", 1, &deny(&json!([])));
    let settings = api.settings(mesh.path(), ", policy_namespaces: [outrigger]");
    let ingress = TestIngress::start(&mesh, &[sidecar.address()], &settings).await;
    assert_eq!(condition(&api, "freeze", "Programmed", 1).await.1, "Waiting");
    assert!(!allowed(&ingress).await);
    let ready = ingress.admin("/readyz").await;
    assert!(ready.contains("SecurityPolicy outrigger/freeze is wrong"), "{ready}");
    put(&api, "freeze", 2, &deny(&json!(["other"])));
    becomes(&ingress, true).await;
    eventually("it is ready", || async { ingress.admin("/readyz").await.starts_with("ready").then_some(()) }).await;
    sidecar.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn a_wrong_policy_that_could_only_allow_is_left_out() {
    let (mesh, api, server) = (Mesh::new(), KubeApi::start(), server());
    let sidecar = TestSidecar::of(&mesh, "fs", &server.setting()).await;
    put(&api, "more", 1, &json!({"name": "yes", "services": ["fs"], "capabilities": []}));
    let settings = api.settings(mesh.path(), ", policy_namespaces: [outrigger]");
    let ingress = TestIngress::start(&mesh, &[sidecar.address()], &settings).await;
    becomes(&ingress, true).await;
    assert_eq!(condition(&api, "more", "Programmed", 1).await.1, "NotInForce");
    sidecar.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn what_waited_for_a_file_to_be_repaired_comes_into_force() {
    let (mesh, api, server) = (Mesh::new(), KubeApi::start(), server());
    let sidecar = TestSidecar::of(&mesh, "fs", &server.setting()).await;
    let settings = api.settings(mesh.path(), ", policy_namespaces: [outrigger]");
    let ingress = TestIngress::start(&mesh, &[sidecar.address()], &settings).await;
    becomes(&ingress, true).await;
    let file = mesh.path().join("ingress-policy.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "nonsense").unwrap();
    put(&api, "freeze", 1, &deny(&json!(["*"])));
    // Whether or not it has been looked at meanwhile.
    eventually("the file is missed", || async {
        let page = ingress.admin("/metrics").await;
        let failed = page.lines().find(|line| {
            line.starts_with("outrigger_reload") && line.contains("\"policy\"") && line.contains("\"failed\"")
        })?;
        (!failed.ends_with(" 0")).then_some(())
    })
    .await;
    std::fs::write(&file, good).unwrap();
    becomes(&ingress, false).await;
    assert_eq!(condition(&api, "freeze", "Programmed", 1).await.1, "InForce");
    sidecar.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn a_file_that_takes_the_name_of_a_policy_in_force_takes_nothing_out() {
    let (mesh, api, server) = (Mesh::new(), KubeApi::start(), server());
    let sidecar = TestSidecar::of(&mesh, "fs", &server.setting()).await;
    let settings = api.settings(mesh.path(), ", policy_namespaces: [outrigger]");
    let ingress = TestIngress::start(&mesh, &[sidecar.address()], &settings).await;
    // Before it has read them all it denies everything.
    becomes(&ingress, true).await;
    put(&api, "freeze", 1, &deny(&json!(["t"])));
    assert_eq!(condition(&api, "freeze", "Programmed", 1).await.1, "InForce");
    becomes(&ingress, false).await;
    let file = mesh.path().join("ingress-policy.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    let rule = "rules: [ { name: r, services: [\"*\"], capabilities: [\"other\"] } ]";
    let taken = format!(
        "{good}\n---\napiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: freeze }}\nspec: {{ authorization: {{ {rule} }} }}\n"
    );
    std::fs::write(&file, taken).unwrap();
    // A change of another object, for which all are looked at again.
    put(&api, "other", 1, &deny(&json!(["other"])));
    eventually("it is told", || async {
        let page = ingress.admin("/metrics").await;
        page.lines().any(|line| line.starts_with("outrigger_discovery_mistakes{") && line.ends_with(" 1")).then_some(())
    })
    .await;
    assert!(!allowed(&ingress).await);
    for name in ["freeze", "other"] {
        programmed(&api, name, "Waiting", "is in force and cannot stay").await;
    }
    std::fs::write(&file, good).unwrap();
    programmed(&api, "other", "InForce", "").await;
    programmed(&api, "freeze", "InForce", "").await;
    assert!(!allowed(&ingress).await);
    sidecar.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn more_policies_than_there_is_room_for_let_nobody_in() {
    let (mesh, api, server) = (Mesh::new(), KubeApi::start(), server());
    let sidecar = TestSidecar::of(&mesh, "fs", &server.setting()).await;
    put(&api, "first", 1, &deny(&json!(["other"])));
    put(&api, "second", 1, &deny(&json!(["other"])));
    let settings = api.settings(mesh.path(), ", policy_namespaces: [outrigger], max_objects: 1");
    let ingress = TestIngress::start(&mesh, &[sidecar.address()], &settings).await;
    eventually("it says which bound", || async {
        ingress.admin("/readyz").await.contains("discovery.kubernetes.max_objects").then_some(())
    })
    .await;
    assert!(!allowed(&ingress).await);
    api.remove(POLICIES, "second");
    becomes(&ingress, true).await;
    sidecar.stop().await;
    ingress.stop().await;
}
