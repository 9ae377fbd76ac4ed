//! What the ingress tells a sidecar about the user for whom it calls.

use outrigger_policy::Principal;
use outrigger_proxy::assertion::{self, HEADER};
use serde_json::json;

use crate::fake::{health, tools};
use crate::mesh::Mesh;

#[tokio::test]
async fn a_sidecar_learns_who_the_user_is_and_clients_cannot_say_it() {
    let both = [("a", health(tools(&["read"]))), ("b", health(tools(&["read"])))];
    let mesh = Mesh::start(&both).await;
    let mut request = mesh.client.request("/mcp", "tools/call", json!({ "name": "a__read", "arguments": {} }));
    request.headers_mut().insert(HEADER, "made-up".parse().unwrap());
    assert_eq!(mesh.client.send(request).await.status, 200);
    mesh.client.call("a__read").await;
    mesh.client.call("b__read").await;
    mesh.client.as_bob().call("a__read").await;
    let (a, b) = (mesh.fake("a").seen(), mesh.fake("b").seen());
    for seen in a.iter().chain(&b) {
        assert_eq!(seen.headers.get_all(HEADER).iter().count(), 1);
    }
    let [of_a, of_b] = ["a", "b"].map(|name| mesh.credentials(name));
    let ingress = Principal::workload(of_a.id().as_str().replace("/a", "/ingress").as_str()).unwrap();
    let ada = assertion::user(&of_a, &a[0].headers, &ingress).unwrap().unwrap();
    assert_eq!(ada.id(), "user:ada");
    assert!(!ada.roles().is_empty() || !ada.scopes().is_empty(), "{ada:?}");
    assert_eq!(a[0].headers[HEADER], a[1].headers[HEADER], "signed once");
    assert_ne!(a[0].headers[HEADER], b[0].headers[HEADER]);
    assert!(assertion::user(&of_b, &a[0].headers, &ingress).is_err(), "for another service");
    assert_eq!(assertion::user(&of_b, &b[0].headers, &ingress).unwrap().unwrap().id(), "user:ada");
    assert_eq!(assertion::user(&of_a, &a[2].headers, &ingress).unwrap().unwrap().id(), "user:bob");
}

#[tokio::test]
async fn somebody_who_is_no_user_is_not_told_of() {
    let mesh = Mesh::with(&[("a", health(tools(&["read"])))], ANYBODY, "anonymous: true\n").await;
    assert_eq!(mesh.client.with_token(None).call("a__read").await.status, 200);
    let seen = mesh.fake("a").seen();
    assert!(!seen.is_empty() && seen.iter().all(|seen| !seen.headers.contains_key(HEADER)));
}

const ANYBODY: &str = r#"
apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: demo }
spec:
  authorization:
    rules:
      - { name: anybody, services: ["*"], capabilities: ["*"], requires: [ { anonymous: true } ] }
"#;
