//! What the authority refuses, and that everything it says is in its audit.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use outrigger_identity::{TrustDomain, WorkloadKey};
use serde_json::{Value, json};

use super::world::{DOMAIN, Part, World, ask, key, send, try_send};
use crate::support::until;

fn token(text: &str) -> Option<Value> {
    Some(json!({ "token": text }))
}

fn reason(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["reason"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn a_token_is_good_for_one_key_of_one_service_and_no_longer_than_it_lives() {
    let world = World::new();
    let authority = world.authority("");
    let (tls, once) = (world.stranger(), world.token("fs", "1"));
    let domain = TrustDomain::parse(DOMAIN).unwrap();

    // A request for another id costs no use.
    let thief = WorkloadKey::generate().unwrap();
    let other = thief.request(Some(&domain.service("ingress").unwrap())).unwrap();
    assert_eq!(reason(&ask(&authority, &tls, &other, token(&once)).await), (403, "name_refused"));

    let (_, csr) = key();
    let first = ask(&authority, &tls, &csr, token(&once)).await;
    assert_eq!((first.0, first.1["id"].as_str()), (200, Some("spiffe://demo.outrigger.local/fs")));
    // The answer was lost: the same key may ask again. Another one may not.
    assert_eq!(ask(&authority, &tls, &csr, token(&once)).await.0, 200);
    assert_eq!(reason(&ask(&authority, &tls, &key().1, token(&once)).await), (401, "token_used"));

    let short = world.ca(&["token", "create", "--service", "fs", "--ttl", "1s"]);
    std::thread::sleep(Duration::from_millis(1100)); // its life
    assert_eq!(reason(&ask(&authority, &tls, &csr, token(&short)).await), (401, "token_expired"));
    let revoked = world.token("fs", "1");
    world.ca(&["token", "revoke", revoked.split('_').nth(1).unwrap()]);
    for unknown in [revoked.as_str(), "", "orj_000000000000_AAAA"] {
        assert_eq!(reason(&ask(&authority, &tls, &csr, token(unknown)).await), (401, "token_unknown"), "{unknown}");
    }
    assert_eq!(reason(&ask(&authority, &tls, &csr, None).await), (401, "proof_missing"));
    let kubernetes = Some(json!({ "kubernetes": "x" }));
    assert_eq!(reason(&ask(&authority, &tls, &csr, kubernetes).await), (403, "kubernetes_off"));
    assert_eq!(reason(&ask(&authority, &tls, "nonsense", token(&once)).await), (400, "csr_invalid"));

    let audit = world.audit();
    let decisions: Vec<_> = audit.iter().map(|line| line["reason"].as_str().unwrap_or("issued")).collect();
    let expected = [
        "name_refused",
        "issued",
        "issued",
        "token_used",
        "token_expired",
        "token_unknown",
        "token_unknown",
        "token_unknown",
        "proof_missing",
        "kubernetes_off",
        "csr_invalid",
    ];
    assert_eq!(decisions, expected);
    assert_eq!(audit[1]["who"].as_str(), once.split('_').nth(1), "the token's id");
    assert_eq!((&audit[1]["serial"], &audit[1]["not_after"]), (&first.1["serial"], &first.1["not_after"]));
    assert!(audit.iter().all(|line| line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:"))));
    let secret = once.splitn(3, '_').nth(2).unwrap(); // base64url has underscores of its own
    for (path, content) in world.files() {
        let content = String::from_utf8_lossy(&content);
        assert!(!content.contains(&once) && !content.contains(secret), "{}", path.display());
    }
    let refused = "outrigger_certificates_issued_total{outcome=\"refused\",proof=\"token\"}";
    assert!(authority.metric(refused) >= 6.0);
}

#[tokio::test]
async fn a_renewal_is_for_its_own_name_and_ends_with_a_revocation() {
    let world = World::new();
    let authority = world.authority("");
    let (fs, csr) = key();
    let granted = ask(&authority, &world.stranger(), &csr, token(&world.token("fs", "1"))).await;
    assert_eq!(granted.0, 200);
    let member = world.member(&fs, &granted.1);

    let (_, next) = key();
    let renewed = ask(&authority, &member, &next, None).await;
    assert_eq!((renewed.0, &renewed.1["id"]), (200, &granted.1["id"]));
    assert_ne!(renewed.1["serial"], granted.1["serial"]);
    // Whoever has the certificate of one service gets none of another.
    let other = TrustDomain::parse(DOMAIN).unwrap().service("ingress").unwrap();
    let stolen = WorkloadKey::generate().unwrap().request(Some(&other)).unwrap();
    assert_eq!(reason(&ask(&authority, &member, &stolen, None).await), (403, "name_refused"));
    let posed = send(
        &authority,
        &member,
        Method::POST,
        "/ca/v1/certificates",
        json!({"csr": next, "id": other.as_str()}).to_string(),
    );
    assert_eq!(reason(&posed.await), (400, "malformed"));

    world.ca(&["revoke", granted.1["serial"].as_str().unwrap()]);
    let news = "outrigger_reloads_total{outcome=\"applied\",what=\"certificates\"}";
    until("the authority has read its list", || authority.metric(news) >= 1.0);
    let refused = try_send(&authority, &member, Method::POST, "/ca/v1/certificates", json!({"csr": next}).to_string());
    match refused.await {
        // The handshake of TLS 1.3 is over for a client before its certificate was judged.
        Err(_refused_in_the_handshake) => {}
        Ok(answer) => assert_eq!(reason(&answer), (401, "certificate_refused")),
    }
}

#[tokio::test]
async fn news_of_revocations_come_at_once_and_only_then() {
    let world = World::new();
    let authority = world.authority("");
    let tls = world.stranger();
    let (status, bundle) = send(&authority, &tls, Method::GET, "/ca/v1/bundle", "").await;
    assert_eq!(
        (status, bundle["ca"].as_str()),
        (200, Some(std::fs::read_to_string(world.path("ca/ca.pem")).unwrap().as_str()))
    );
    let waiting = async {
        // The header is not sent here, so the first answer comes at once; wait for one that differs.
        loop {
            let (_, news) = send(&authority, &tls, Method::GET, "/ca/v1/bundle?wait=5s", "").await;
            if news["version"] != bundle["version"] {
                return news;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let revoking = async {
        world.ca(&["revoke", "4001020304050607"]);
    };
    let (news, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(60), waiting), revoking);
    assert_ne!(news.unwrap()["crl"], bundle["crl"]);
}

#[tokio::test]
async fn what_is_too_large_too_slow_too_often_or_no_question_is_refused() {
    let world = World::new();
    let authority =
        world.authority("limits: { body_bytes: 2KiB, requests: 8/h }\ntimeouts: { body: 1s, handshake: 1s }\n");
    let tls = world.stranger();
    let post = |body: String| send(&authority, &tls, Method::POST, "/ca/v1/certificates", body);
    assert_eq!(reason(&post("x".repeat(4096)).await), (413, "too_large"));
    let secret = r#"{"csr":"x","proof":{"token":"sesame""#;
    let malformed = post(secret.to_owned()).await;
    assert_eq!(reason(&malformed), (400, "malformed"));
    assert!(!malformed.1.to_string().contains("sesame"));
    assert_eq!(reason(&send(&authority, &tls, Method::GET, "/ca/v1/certificates", "").await), (405, "method"));
    assert_eq!(reason(&send(&authority, &tls, Method::GET, "/", "").await), (404, "path"));

    slow_loris(&authority);
    drip(&authority, &tls).await;

    // Two of eight are used up, and one by the slow body.
    let mut answers = Vec::new();
    for _ in 0..7 {
        answers.push(reason(&post("{}".to_owned()).await).0);
    }
    assert_eq!(answers.iter().filter(|status| **status == 429).count(), 2, "{answers:?}");
    assert!(authority.admin("/readyz").starts_with("ready"));
}

/// A client that connects and says nothing is closed.
fn slow_loris(authority: &Part) {
    let began = Instant::now();
    let mut socket = TcpStream::connect(authority.at["ca"].as_str().unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket.write_all(&[22, 3, 1]).unwrap();
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = socket.read_to_end(&mut rest);
    assert!(began.elapsed() < Duration::from_secs(50));
}

/// A client that sends the head of a request and then a byte.
async fn drip(authority: &Part, tls: &Arc<rustls::ClientConfig>) {
    use outrigger_proxy::dial::{ClientTls, Endpoint, dial};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (host, port) = authority.at["ca"].as_str().unwrap().split_once(':').unwrap();
    let tls = Arc::clone(tls);
    let server_name = outrigger_identity::server_name([127, 0, 0, 1].into());
    let tls = ClientTls { provider: Arc::new(move || Arc::clone(&tls)), server_name };
    let endpoint = Endpoint::tcp(host, port.parse().unwrap()).with_tls(tls);
    let mut stream = dial(&endpoint, Duration::from_secs(60)).await.unwrap();
    let head = "POST /ca/v1/certificates HTTP/1.1\r\nHost: ca\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 64];
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut answer)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer[..read]).starts_with("HTTP/1.1 408"), "{:?}", &answer[..read]);
}
