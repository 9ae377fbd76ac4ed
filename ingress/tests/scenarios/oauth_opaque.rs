//! Opaque tokens, which their provider has to be asked about; claims that policy reads; scopes that a call asks for.

use std::sync::atomic::Ordering;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::fake::{health, tools};
use crate::mesh::{Client, Mesh, POLICY, eventually};
use crate::provider::{Key, PUBLIC, Provider, now};

const RULES: &str = r#"
apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: demo }
spec:
  authorization:
    rules:
      - { name: read, services: ["*"], capabilities: [read], requires: [ { scope: read } ] }
      - { name: write, services: ["*"], capabilities: [write], requires: [ { scope: write }, { scope: read } ] }
      - { name: hidden, services: ["*"], capabilities: [hidden], requires: [ { scope: secret } ] }
      - { name: research, services: ["*"], capabilities: [study], requires: [ { claim: { name: department, any: [research] } } ] }
      - { name: chief, services: ["*"], capabilities: [both], requires: [ { scope: write }, { role: chief } ] }
      - { name: never, effect: deny, services: ["*"], capabilities: [never] }
      - { name: allowed-but-denied, services: ["*"], capabilities: [never], requires: [ { scope: write } ] }
"#;

async fn mesh(provider: &Provider, cache: &str, policy: &str) -> Mesh {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "s&cret\n").unwrap();
    let file = secret.path().display();
    let how = format!("{{ client_id: mesh, client_secret_file: \"{file}\", cache: {cache}, timeout: 500ms }}");
    let issuer = format!(
        "{{ issuer: \"{}\", clock_skew: 0s, introspection: {how}, claims: {{ department: org.unit, level: level }} }}",
        provider.issuer()
    );
    let settings =
        format!("public_url: {PUBLIC}\noauth: {{ scopes: [read], step_up: [write], issuers: [ {issuer} ] }}\n");
    let all = tools(&["read", "write", "hidden", "study", "both", "never"]);
    // The secret is read at the start.
    Mesh::with(&[("a", health(all))], policy, &settings).await
}

fn knows(provider: &Provider, token: &str, more: Value) {
    let mut said = json!({
        "active": true, "sub": "carla", "aud": format!("{PUBLIC}/mcp"), "exp": now() + 300, "scope": "read",
    });
    said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    provider.state.opaque.lock().unwrap().insert(token.to_owned(), said);
}

async fn status(client: &Client, token: &'static str) -> StatusCode {
    client.with_token(Some(token)).ask("/mcp", "tools/list", json!({})).await.status
}

#[tokio::test]
async fn a_token_is_asked_about_once_and_everybody_waits_for_that_answer() {
    let provider = Provider::start(&[]).await;
    let mesh = mesh(&provider, "60s", RULES).await;
    knows(&provider, "good", json!({}));
    let mut many = JoinSet::new();
    for n in 0..50 {
        let client = mesh.client.clone();
        let (token, expected) = if n % 2 == 0 { ("good", 200) } else { ("made-up", 401) };
        many.spawn(async move { assert_eq!(status(&client, token).await, expected, "{token}") });
    }
    many.join_all().await;
    assert_eq!(provider.state.asked.load(Ordering::SeqCst), 2, "one question for each token");
    let carla = mesh.client.with_token(Some("good"));
    assert_eq!(carla.call("a__read").await.json()["result"]["by"], "a");
    assert_eq!(mesh.audit(1).await[0]["who"], "user:carla");
    assert_eq!(status(&mesh.client, "b,d").await, 401, "nothing that a provider can have issued");
    assert_eq!(provider.state.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn opaque_tokens_that_are_not_good_here_are_refused() {
    let provider = Provider::start(&[]).await;
    let mesh = mesh(&provider, "0s", RULES).await;
    knows(&provider, "good", json!({}));
    assert_eq!(status(&mesh.client, "good").await, 200);
    for (what, more) in [
        ("of a sibling", json!({ "aud": format!("{PUBLIC}/s/a/mcp") })),
        ("for nothing in particular, such as a refresh token", json!({ "aud": null })),
        ("ended", json!({ "exp": now() - 1 })),
        ("not begun", json!({ "nbf": now() + 60 })),
        ("not active", json!({ "active": false })),
        ("active as a text", json!({ "active": "true" })),
        ("of another issuer", json!({ "iss": "https://evil.example.com" })),
        ("without a subject", json!({ "sub": null })),
        ("of a subject that forges lines", json!({ "sub": "a\nb" })),
    ] {
        knows(&provider, "other", more);
        assert_eq!(status(&mesh.client, "other").await, 401, "{what}");
    }
}

#[tokio::test]
async fn tokens_at_which_a_provider_does_not_look_are_no_failures_of_it() {
    let provider = Provider::start(&[]).await;
    let mesh = mesh(&provider, "0s", RULES).await;
    knows(&provider, "good", json!({}));
    provider.state.opaque.lock().unwrap().insert("odd".to_owned(), json!(400));
    for _ in 0..6 {
        assert_eq!(status(&mesh.client, "odd").await, 401);
    }
    assert_eq!(status(&mesh.client, "good").await, 200, "it is not left alone");
}

#[tokio::test]
async fn a_provider_that_fails_is_told_and_left_alone() {
    let provider = Provider::start(&[]).await;
    let mesh = mesh(&provider, "0s", RULES).await;
    knows(&provider, "good", json!({}));
    assert_eq!(status(&mesh.client, "good").await, 200);
    provider.state.broken.store(true, Ordering::SeqCst);
    let reason = || async {
        let refused = mesh.client.with_token(Some("good")).ask("/mcp", "tools/list", json!({})).await;
        (refused.status.as_u16(), refused.json()["error"]["data"]["reason"].clone(), refused.headers)
    };
    for _ in 0..6 {
        let (status, reason, headers) = reason().await;
        assert_eq!((status, reason), (503, json!("identity_provider")));
        assert!(headers.contains_key("retry-after") && !headers.contains_key("www-authenticate"));
    }
    let metric = |outcome: &'static str| {
        let mesh = &mesh;
        async move {
            let metrics = String::from_utf8_lossy(&mesh.admin("/metrics").await.body).into_owned();
            let family = "outrigger_token_introspections_total";
            let line = metrics.lines().find(|line| line.starts_with(family) && line.contains(outcome)).unwrap();
            line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        }
    };
    assert_eq!(metric("\"failed\"").await, 5, "asked five times");
    assert!(metric("\"paused\"").await >= 1, "and then no more");
    provider.state.broken.store(false, Ordering::SeqCst);
    eventually("the provider is asked again", || async { reason().await.0 == 200 }).await;
}

#[tokio::test]
async fn claims_of_both_kinds_of_tokens_reach_policy() {
    let key = Key::new("k1");
    let provider = Provider::start(&[&key]).await;
    let mesh = mesh(&provider, "0s", RULES).await;
    let unit = |unit: Value| json!({ "org": { "unit": unit }, "level": 3 });
    knows(&provider, "research", unit(json!(["legal", "research"])));
    knows(&provider, "sales", unit(json!("sales")));
    knows(&provider, "words", unit(json!("sales research")));
    let lists = |token| {
        let client = mesh.client.with_token(Some(token));
        async move { client.tools().await }
    };
    assert_eq!(lists("research").await, ["a__read", "a__study"]);
    assert_eq!(lists("sales").await, ["a__read"]);
    assert_eq!(lists("words").await, ["a__read"], "a text is one value");
    let mut claims = provider.claims();
    claims.as_object_mut().unwrap().extend(unit(json!("research")).as_object().unwrap().clone());
    assert_eq!(lists(key.sign(&claims)).await, ["a__study"]);
    knows(&provider, "huge", unit(json!("x".repeat(2000))));
    assert_eq!(status(&mesh.client, "huge").await, 401);
}

#[tokio::test]
async fn a_call_asks_for_the_scopes_that_it_lacks_and_for_nothing_that_would_not_help() {
    let provider = Provider::start(&[]).await;
    let mesh = mesh(&provider, "0s", RULES).await;
    knows(&provider, "reader", json!({}));
    knows(&provider, "nobody", json!({ "scope": "" }));
    let asked = |token, tool| {
        let client = mesh.client.with_token(Some(token));
        async move {
            let got = client.call(tool).await;
            let challenge = got.headers.get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
            (got.status.as_u16(), challenge)
        }
    };
    let challenge = |scopes: &str| {
        let metadata = format!("{PUBLIC}/.well-known/oauth-protected-resource/mcp");
        Some(format!("Bearer error=\"insufficient_scope\", scope=\"{scopes}\", resource_metadata=\"{metadata}\""))
    };
    assert_eq!(asked("reader", "a__write").await, (403, challenge("write read")), "all that the call needs");
    assert_eq!(asked("nobody", "a__write").await, (403, challenge("write read")));
    assert_eq!(asked("nobody", "a__read").await, (403, challenge("read")));
    let unknown = asked("reader", "a__nothing").await;
    for (tool, why) in [
        ("a__hidden", "a scope that is not told"),
        ("a__both", "a role is missing, too"),
        ("a__study", "a claim is missing"),
        ("a__never", "a rule denies it"),
    ] {
        assert_eq!(asked("reader", tool).await, unknown, "{why}");
    }
    assert_eq!((unknown.0, &unknown.1), (200, &None));
    let bob = mesh.client.as_bob().call("a__write").await;
    assert!(!bob.headers.contains_key("www-authenticate"), "a static token gets no better");
    let denied = mesh.audit(1).await;
    assert_eq!((&denied[0]["decision"], &denied[0]["rule"]), (&json!("deny"), &json!("demo/write")));
}

#[tokio::test]
async fn without_introspection_only_jwts_count() {
    let provider = Provider::start(&[]).await;
    let mesh = Mesh::with(&[("a", health(tools(&["read"])))], POLICY, &provider.settings()).await;
    knows(&provider, "good", json!({}));
    assert_eq!(status(&mesh.client, "good").await, 401);
    assert_eq!(provider.state.asked.load(Ordering::SeqCst), 0);
}
