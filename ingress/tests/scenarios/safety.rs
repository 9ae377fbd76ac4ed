//! Safety controls: what keeps a service and its callers safe when replicas, servers or clients go wrong.

use serde_json::{Value, json};

use crate::fake::{Fake, health, tools};
use crate::mesh::{Client, Mesh, eventually};

/// `a` with two replicas, of which the second is new, behind an ingress with these settings of the service.
async fn pair(offered: &[&str], settings: &str) -> (Mesh, Fake) {
    let mesh = Mesh::start(&[("a", health(tools(offered)))]).await;
    let second = Fake::start("second", mesh.credentials("a"), health(tools(offered))).await;
    let services = format!(
        "services: {{ a: {{ addresses: [\"{}\", \"{}\"], {settings} }} }}",
        mesh.fake("a").address,
        second.address
    );
    let mesh = mesh.another_ingress(&services).await;
    eventually("both replicas", || async {
        replicas(&mesh).await.iter().all(|replica| replica["status"] == "serving")
    })
    .await;
    (mesh, second)
}

async fn replicas(mesh: &Mesh) -> Vec<Value> {
    mesh.admin("/catalog").await.json()["services"]["a"]["replicas"].as_array().unwrap().clone()
}

async fn metric(mesh: &Mesh, line: &str) -> bool {
    String::from_utf8_lossy(&mesh.admin("/metrics").await.body).lines().any(|each| each == line)
}

async fn calls(client: &Client, times: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..times {
        statuses.push(client.call("a__read").await.status.as_u16());
    }
    statuses
}

#[tokio::test]
async fn a_replica_whose_calls_fail_is_left_alone_tried_and_taken_back() {
    let (mesh, second) =
        pair(&["read"], "breaker: { failures: 3, rest: 10ms, longest_rest: 10ms, recovery: 0s }").await;
    second.misbehave(true);
    // Half of the calls go there until it is left alone.
    eventually("an ejection", || async {
        mesh.client.call("a__read").await;
        metric(&mesh, "outrigger_replica_ejections_total{reason=\"failures\",service=\"a\"} 1").await
    })
    .await;
    let seen = second.seen().len();
    let failed = calls(&mesh.client, 100).await.into_iter().filter(|status| *status != 200).count();
    let tried = second.seen().len() - seen;
    assert!(failed <= tried && tried < 50, "{failed} calls failed, {tried} tried it");
    second.misbehave(false);
    eventually("its return", || async {
        mesh.client.call("a__read").await;
        metric(&mesh, "outrigger_replicas_out{service=\"a\"} 0").await
    })
    .await;
    let seen = second.seen().len();
    assert!(calls(&mesh.client, 50).await.iter().all(|status| *status == 200));
    assert!(second.seen().len() > seen, "it is used again");
}

#[tokio::test]
async fn no_more_replicas_are_left_alone_than_may_be() {
    let (mesh, second) = pair(&["read"], "breaker: { failures: 2, rest: 1h, longest_rest: 1h }").await;
    second.misbehave(true);
    mesh.fake("a").misbehave(true);
    assert!(calls(&mesh.client, 20).await.iter().all(|status| *status == 502), "answers, whatever they are");
    assert!(metric(&mesh, "outrigger_replicas_out{service=\"a\"} 1").await);
    let words = replicas(&mesh).await;
    let mut words: Vec<_> = words.iter().map(|replica| replica["breaker"].as_str().unwrap()).collect();
    words.sort_unstable();
    assert_eq!(words, ["closed", "open"]);
}

#[tokio::test]
async fn the_only_replica_is_not_asked_again_and_again_while_it_answers_nothing() {
    let mesh = Mesh::start(&[("a", health(tools(&["cut"])))]).await;
    let services = format!(
        "services: {{ a: {{ addresses: [\"{}\"], breaker: {{ failures: 3, rest: 1h, longest_rest: 1h }} }} }}",
        mesh.fake("a").address
    );
    let mesh = mesh.another_ingress(&services).await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(mesh.client.call("a__cut").await.status.as_u16());
    }
    assert_eq!(statuses, [502, 502, 502, 503, 503, 503]);
    assert_eq!(mesh.fake("a").seen().len(), 3);
    let refused = mesh.client.call("a__cut").await.json();
    assert_eq!(refused["error"]["data"]["reason"], json!("unavailable"));
    assert!(refused["error"]["message"].as_str().unwrap().contains("tried again in a moment"), "{refused}");
    assert!(metric(&mesh, "outrigger_replica_ejections_total{reason=\"circuit\",service=\"a\"} 1").await);
}
