//! Tokens of an identity provider: who gets in, who does not, and what is told to those who have none.

use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, StatusCode};
use jsonwebtoken::{Algorithm, EncodingKey};
use outrigger_proxy::body::OutBody;
use serde_json::{Value, json};

use crate::fake::{health, tools};
use crate::mesh::{Client, Events, Mesh, POLICY, eventually};
use crate::provider::{Key, PUBLIC, Provider, now};

async fn mesh(provider: &Provider) -> Mesh {
    Mesh::with(&[("a", health(tools(&["read", "write"])))], POLICY, &provider.settings()).await
}

fn changed(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

async fn status(client: &Client, token: &'static str) -> StatusCode {
    client.with_token(Some(token)).ask("/mcp", "tools/list", json!({})).await.status
}

#[tokio::test]
async fn a_client_without_a_token_finds_out_who_gives_it_one() {
    let key = Key::new("k1");
    let provider = Provider::start(&[&key]).await;
    let mesh = mesh(&provider).await;
    for path in ["/mcp", "/s/a/mcp"] {
        let refused = mesh.client.with_token(None).ask(path, "tools/list", json!({})).await;
        assert_eq!(refused.status, 401);
        let challenge = refused.headers["www-authenticate"].to_str().unwrap();
        let metadata = format!("/.well-known/oauth-protected-resource{path}");
        assert_eq!(challenge, format!("Bearer resource_metadata=\"{PUBLIC}{metadata}\", scope=\"all\""));
        let found = mesh.client.send(Request::get(&metadata).body(OutBody::empty()).unwrap()).await;
        let document = found.json();
        assert_eq!((found.status, &document["resource"]), (StatusCode::OK, &json!(format!("{PUBLIC}{path}"))));
        assert_eq!(document["authorization_servers"], json!([provider.issuer()]));
    }
    let token = key.sign(&provider.claims());
    let carla = mesh.client.with_token(Some(token));
    assert_eq!(carla.tools().await, ["a__read", "a__write"]);
    assert_eq!(carla.call("a__read").await.json()["result"]["by"], "a");
    assert_eq!(mesh.audit(1).await[0]["who"], "user:carla");
    let few = key.sign(&changed(&provider.claims(), "scope", json!("read other")));
    assert_eq!(mesh.client.with_token(Some(few)).tools().await, ["a__read"]);
    assert_eq!(mesh.client.as_bob().tools().await, ["a__read"], "static tokens go on");
}

#[tokio::test]
async fn tokens_that_are_not_good_here_are_refused() {
    let (key, other) = (Key::new("k1"), Key::new("k1"));
    let provider = Provider::start(&[&key]).await;
    let mesh = mesh(&provider).await;
    let good = provider.claims();
    assert_eq!(status(&mesh.client, key.sign(&good)).await, 200);
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let forged = |header: Value, sign: &dyn Fn(&str) -> String| -> &'static str {
        let base64 = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", base64(&header), base64(&good));
        format!("{text}.{}", sign(&text)).leak()
    };
    let hmac = |text: &str| {
        let secret = EncodingKey::from_secret(key.public().to_string().as_bytes());
        jsonwebtoken::crypto::sign(text.as_bytes(), &secret, Algorithm::HS256).unwrap()
    };
    let signed = key.sign(&good);
    let own = |text: &str| jsonwebtoken::crypto::sign(text.as_bytes(), &key.key, Algorithm::ES256).unwrap();
    let (head, signature) = signed.rsplit_once('.').unwrap();
    assert_eq!(status(&mesh.client, forged(json!({ "alg": "ES256", "kid": "k1", "typ": "at+jwt" }), &own)).await, 200);
    for (what, token) in [
        ("the audience of a sibling", key.sign(&changed(&good, "aud", json!(format!("{PUBLIC}/s/a/mcp"))))),
        ("no audience", key.sign(&without("aud"))),
        ("another issuer", key.sign(&changed(&good, "iss", json!("https://evil.example.com")))),
        ("no issuer", key.sign(&without("iss"))),
        ("ended", key.sign(&changed(&good, "exp", json!(now() - 1)))),
        ("no end", key.sign(&without("exp"))),
        ("not begun", key.sign(&changed(&good, "nbf", json!(now() + 60)))),
        ("no subject", key.sign(&without("sub"))),
        ("a subject that is no text", key.sign(&changed(&good, "sub", json!(["ada"])))),
        ("a key of somebody else", other.sign(&good)),
        ("no signature", forged(json!({ "alg": "none" }), &|_| String::new())),
        ("a public key as a secret", forged(json!({ "alg": "HS256", "kid": "k1" }), &hmac)),
        ("a type for something else", forged(json!({ "alg": "ES256", "kid": "k1", "typ": "logout+jwt" }), &own)),
        (
            "an extension that must be understood",
            forged(json!({ "alg": "ES256", "kid": "k1", "crit": ["only-once"], "only-once": true }), &own),
        ),
        ("a changed claim", format!("{}A.{signature}", &head[..head.len() - 1]).leak()),
        ("nothing", ".."),
        ("nonsense", "a.b.c"),
    ] {
        let refused = mesh.client.with_token(Some(token)).ask("/mcp", "tools/list", json!({})).await;
        assert_eq!(refused.status, 401, "{what}");
        let challenge = refused.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.ends_with("error=\"invalid_token\""), "{what}: {challenge}");
    }
    let path = format!("/mcp?access_token={signed}");
    let refused = mesh.client.with_token(None).ask(&path, "tools/list", json!({})).await;
    assert_eq!(refused.status, 401, "a token in the address is none");
}

#[tokio::test]
async fn keys_are_replaced_and_made_up_ones_ask_the_provider_seldom() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let provider = Provider::start(&[&old]).await;
    let mesh = mesh(&provider).await;
    assert_eq!(status(&mesh.client, old.sign(&provider.claims())).await, 200);
    let before = provider.state.fetches.load(Ordering::SeqCst);
    let made_up = Key::new("made-up").sign(&provider.claims());
    let began = tokio::time::Instant::now();
    for _ in 0..50 {
        assert_eq!(status(&mesh.client, made_up).await, 401);
    }
    let asked = provider.state.fetches.load(Ordering::SeqCst) - before;
    let most = began.elapsed().as_secs() as usize / 2 + 1;
    assert!(asked <= most, "{asked} fetches for 50 tokens, where {most} are allowed");
    provider.show(&[&new]);
    let token = new.sign(&provider.claims());
    eventually("the new key is known", || async { status(&mesh.client, token).await == 200 }).await;
    assert_eq!(status(&mesh.client, old.sign(&provider.claims())).await, 401, "the old one is gone");
}

#[tokio::test]
async fn a_provider_that_is_away_is_told_and_known_keys_go_on() {
    let key = Key::new("k1");
    let provider = Provider::start(&[&key]).await;
    provider.state.broken.store(true, Ordering::SeqCst);
    let mesh = mesh(&provider).await;
    let token = key.sign(&provider.claims());
    let refused = mesh.client.with_token(Some(token)).ask("/mcp", "tools/list", json!({})).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["data"]["reason"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("identity_provider"))
    );
    provider.state.broken.store(false, Ordering::SeqCst);
    eventually("the provider is back", || async { status(&mesh.client, token).await == 200 }).await;
    provider.state.broken.store(true, Ordering::SeqCst);
    assert_eq!(status(&mesh.client, token).await, 200);
    let metrics = String::from_utf8_lossy(&mesh.admin("/metrics").await.body).into_owned();
    let family = "outrigger_identity_provider_fetches_total";
    let failed = metrics.lines().find(|line| line.starts_with(family) && line.contains("failed"));
    assert!(failed.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_given_up_once_for_all_who_wait() {
    let key = Key::new("k1");
    let provider = Provider::start(&[&key]).await;
    provider.state.silent.store(true, Ordering::SeqCst);
    let mesh = mesh(&provider).await;
    let people = |n: usize| changed(&provider.claims(), "sub", json!(format!("user-{n}")));
    let waiting: Vec<_> = (0..20)
        .map(|n| {
            let client = mesh.client.with_token(Some(key.sign(&people(n))));
            tokio::spawn(async move { client.ask("/mcp", "tools/list", json!({})).await })
        })
        .collect();
    eventually("it is asked", || async { provider.state.unanswered.load(Ordering::SeqCst) > 0 }).await;
    assert_eq!(mesh.client.as_bob().tools().await, ["a__read"], "who needs no provider does not wait for one");
    for answer in waiting {
        let refused = answer.await.unwrap();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.json()["error"]["data"]["reason"], "identity_provider");
    }
    let asked = provider.state.unanswered.load(Ordering::SeqCst);
    assert!(asked < 20, "{asked} requests for 20 callers at once");
    provider.state.silent.store(false, Ordering::SeqCst);
    let token = key.sign(&provider.claims());
    eventually("it answers again", || async { status(&mesh.client, token).await == 200 }).await;
}

#[tokio::test]
async fn keys_that_nobody_can_use_are_passed_over() {
    let key = Key::new("k1");
    let provider = Provider::start(&[]).await;
    let strange = [
        json!({ "kty": "AKP", "kid": "quantum", "alg": "ML-DSA-65", "pub": "AAAA" }),
        json!({ "kty": "EC", "kid": "curve", "crv": "secp256k1", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "RSA", "kid": "half", "n": "AQAB" }),
        json!({ "kty": "oct", "kid": "secret", "k": "AAAA" }),
        json!({ "kty": "EC", "kid": "broken", "crv": "P-256", "x": "?", "y": "?" }),
        json!({ "kid": "nothing" }),
        json!("no key at all"),
        key.public(),
    ];
    *provider.state.keys.lock().unwrap() = strange.into();
    let mesh = mesh(&provider).await;
    assert_eq!(status(&mesh.client, key.sign(&provider.claims())).await, 200);
    assert_eq!(status(&mesh.client, Key::new("broken").sign(&provider.claims())).await, 401);
}

#[tokio::test]
async fn clocks_may_differ_by_what_the_settings_say_and_no_more() {
    let key = Key::new("k1");
    let provider = Provider::start(&[&key]).await;
    let mesh =
        Mesh::with(&[("a", health(tools(&["read", "write"])))], POLICY, &provider.settings_with("clock_skew: 2m"))
            .await;
    let at = |name: &str, time: u64| key.sign(&changed(&provider.claims(), name, json!(time)));
    assert_eq!(status(&mesh.client, at("exp", now() - 30)).await, 200);
    assert_eq!(status(&mesh.client, at("exp", now() - 130)).await, 401);
    // The minutes above the bound are for a machine that is slow between here and there.
    assert_eq!(status(&mesh.client, at("nbf", now() + 100)).await, 200);
    assert_eq!(status(&mesh.client, at("nbf", now() + 900)).await, 401);
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let key = Key::new("k1");
    let provider = Provider::start(&[&key]).await;
    let mesh = mesh(&provider).await;
    let soon = now() + 2;
    let carla = mesh.client.with_token(Some(key.sign(&changed(&provider.claims(), "exp", json!(soon)))));
    let filter = json!({ "notifications": { "toolsListChanged": true } });
    let mut events = Events::of(carla.open(carla.request("/mcp", "subscriptions/listen", filter)).await);
    events.next().await.unwrap();
    while events.next().await.is_some() {}
    assert!(now() >= soon, "not before");
}
