//! Cases 74 to 76: credentials, as far as tokens of a file go. docs/TESTING.md says what needs more.

use serde_json::json;

use crate::fake::{health, tools};
use crate::mesh::{Events, Mesh, eventually};

#[tokio::test]
async fn case_74_a_token_that_is_not_for_us_is_no_token() {
    let mesh = Mesh::start(&[("a", health(tools(&["read"])))]).await;
    // As one that was made for somebody else: well formed, and unknown here.
    let other = mesh.client.with_token(Some("eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJvdGhlciJ9.c2ln"));
    for path in ["/mcp", "/s/a/mcp"] {
        let got = other.ask(path, "tools/list", json!({})).await;
        assert_eq!(got.status, 401, "{path}");
        assert_eq!(got.headers["www-authenticate"], "Bearer error=\"invalid_token\"");
        let none = mesh.client.with_token(None).ask(path, "tools/list", json!({})).await;
        assert_eq!((none.status.as_u16(), none.headers["www-authenticate"].to_str().unwrap()), (401, "Bearer"));
    }
    assert!(mesh.fake("a").seen().is_empty());
}

#[tokio::test]
async fn case_75_a_caller_without_the_scope_gets_the_same_answer_each_time() {
    let mesh = Mesh::start(&[("a", health(tools(&["read", "write"])))]).await;
    let bob = mesh.client.as_bob();
    let unknown = bob.call("a__nothing").await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        let got = bob.call("a__write").await;
        assert_eq!(got.json()["error"]["code"], -32602);
        answers.push((got.status, String::from_utf8(got.body.to_vec()).unwrap()));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "coming back with the same scopes changes nothing: {answers:?}");
    assert_eq!(answers[0].1.replace("a__write", "a__nothing"), String::from_utf8(unknown.body.to_vec()).unwrap());
    let denied = mesh.audit(4).await.into_iter().filter(|line| line["outcome"] == "denied").collect::<Vec<_>>();
    let writes = denied.iter().filter(|line| line.to_string().contains("write")).count();
    assert_eq!(writes, 3, "each attempt is on record: {denied:?}");
    assert!(mesh.fake("a").seen().is_empty());
}

#[tokio::test]
async fn case_76_a_token_that_ends_closes_its_streams_and_opens_no_more() {
    let mesh = Mesh::start(&[("a", health(tools(&["read"])))]).await;
    let bob = mesh.client.as_bob();
    let listen =
        || bob.request("/mcp", "subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut events = Events::of(bob.open(listen()).await);
    events.next().await;
    let tokens = std::fs::read_to_string(mesh.path("tokens.yaml")).unwrap();
    let others: Vec<_> = tokens.lines().filter(|line| !line.contains("bob")).collect();
    std::fs::write(mesh.path("tokens.yaml"), others.join("\n")).unwrap();
    let last = events.next().await.unwrap();
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!("q1"), &json!("complete")), "a proper end");
    assert_eq!(events.next().await, None);
    eventually("it is not let in again", || async { bob.send(listen()).await.status == 401 }).await;
    assert_eq!(mesh.client.ask("/mcp", "tools/list", json!({})).await.status, 200, "others go on");
}

#[tokio::test]
async fn case_77_a_list_of_which_others_see_more_or_less_is_private() {
    let mut catalog = tools(&["read", "write"]);
    catalog["lists"] = json!({ "tools": { "complete": true, "ttl_ms": 3_600_000, "cache_scope": "public" } });
    let scope = async |mesh: &Mesh, client: &crate::mesh::Client, path: &str| {
        let got = client.ask(path, "tools/list", json!({})).await.json();
        assert!(mesh.ingress.is_some());
        got["result"]["cacheScope"].clone()
    };
    let mesh = Mesh::start(&[("a", health(catalog.clone()))]).await;
    for path in ["/mcp", "/s/a/mcp"] {
        assert_eq!(scope(&mesh, &mesh.client, path).await, "private", "Ada sees more than others");
        assert_eq!(scope(&mesh, &mesh.client.as_bob(), path).await, "private", "Bob sees less");
    }
    // Where everybody sees everything its server decides.
    let policy = crate::mesh::POLICY.replace(", requires: [ { scope: all } ]", ", requires: [ { anonymous: true } ]");
    let open = Mesh::with(&[("a", health(catalog.clone()))], &policy, "anonymous: true").await;
    assert_eq!(scope(&open, &open.client.with_token(None), "/mcp").await, "public");
    let some = policy.replace("capabilities: [\"*\"]", "capabilities: [\"read\"]");
    let some = Mesh::with(&[("a", health(catalog))], &some, "anonymous: true").await;
    assert_eq!(scope(&some, &some.client.with_token(None), "/mcp").await, "private");
}
