//! Service-account tokens, against an API server of our own making over real TLS.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::world::{World, ask, key};

/// An API server that answers as `answer` says, given the head and the body of a request. Its authority is cluster/ca.pem.
pub(crate) fn api_server(world: &World, answer: impl Fn(&str, &Value) -> (u16, Value) + Send + 'static) -> u16 {
    // Certificates of an authority that has nothing to do with the mesh's.
    let output =
        crate::support::run(world.dir.path(), &["ca", "init", "--trust-domain", "cluster", "--dir", "cluster"]);
    assert!(output.status.success());
    let issue = ["ca", "issue", "api", "--host", "127.0.0.1", "--dir", "cluster"];
    assert!(crate::support::run(world.dir.path(), &issue).status.success());
    let chain = CertificateDer::pem_file_iter(world.path("cluster/api.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(world.path("cluster/api.key")).unwrap();
    let config = Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(tls, socket.unwrap());
            let Some((head, body)) = request(&mut stream) else { continue };
            let (status, answer) = answer(&head, &body);
            let answer = answer.to_string();
            let reply = format!(
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
                answer.len()
            );
            // The asker may have turned away.
            let _ = stream.write_all(reply.as_bytes()).and_then(|()| stream.flush());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    port
}

fn request(stream: &mut impl Read) -> Option<(String, Value)> {
    let mut read = Vec::new();
    loop {
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(size) => read.extend_from_slice(&piece[..size]),
        }
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str(if head.starts_with("GET") { "null" } else { body })
        {
            return Some((head.to_owned(), body));
        }
    }
}

/// Answers TokenReviews: the token `good` is of the service account tools/files, `edge` of tools/other; for the audience
/// `outrigger` alone, and only when asked with its own token.
fn review(head: &str, body: &Value) -> (u16, Value) {
    assert!(head.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews "), "{head}");
    if !head.contains("Bearer of-the-authority") {
        return (401, json!({"kind": "Status"}));
    }
    assert_eq!((&body["kind"], &body["spec"]["audiences"]), (&json!("TokenReview"), &json!(["outrigger"])));
    let (user, audiences) = match body["spec"]["token"].as_str().unwrap() {
        "good" => ("system:serviceaccount:tools:files", json!(["outrigger"])),
        "edge" => ("system:serviceaccount:tools:other", json!(["outrigger"])),
        "person" => ("ada", json!(["outrigger"])),
        // A token for the API server itself, and a server that does not look at audiences.
        "api" => ("system:serviceaccount:tools:files", json!(["https://kubernetes.default.svc"])),
        "old" => ("system:serviceaccount:tools:files", json!(null)),
        _ => return (201, json!({"kind": "TokenReview", "status": {"error": "forged"}})),
    };
    let mut status = json!({"authenticated": true, "user": {"username": user}});
    if !audiences.is_null() {
        status["audiences"] = audiences;
    }
    (201, json!({"kind": "TokenReview", "status": status}))
}

#[tokio::test]
async fn service_accounts_prove_themselves_by_the_api_server() {
    let world = World::new();
    let port = api_server(&world, review);
    std::fs::write(world.path("own-token"), "of-the-authority\n").unwrap();
    let settings = format!(
        "kubernetes:\n  url: https://127.0.0.1:{port}\n  ca: cluster/ca.pem\n  token_file: own-token\n  rules:\n    - {{ namespace: tools, \
         service_account: files, service: fs }}\n"
    );
    let authority = world.authority(&settings);
    let tls = world.stranger();
    let asked = async |token: &str| {
        let (status, answer) = ask(&authority, &tls, &key().1, Some(json!({ "kubernetes": token }))).await;
        let said = answer["reason"].as_str().or(answer["id"].as_str()).unwrap_or_default().to_owned();
        (status, said)
    };
    assert_eq!(asked("good").await, (200, "spiffe://demo.outrigger.local/fs".to_owned()));
    for nobody in ["edge", "person"] {
        assert_eq!(asked(nobody).await, (403, "kubernetes_no_rule".to_owned()), "{nobody}");
    }
    for refused in ["api", "old", "forged"] {
        assert_eq!(asked(refused).await, (401, "kubernetes_refused".to_owned()), "{refused}");
    }
    // The API server does not take the authority's own token any more.
    std::fs::write(world.path("own-token"), "expired\n").unwrap();
    assert_eq!(asked("good").await, (503, "kubernetes_unavailable".to_owned()));
    let audit = world.audit();
    assert_eq!(
        (&audit[0]["proof"], &audit[0]["who"]),
        (&json!("kubernetes"), &json!("system:serviceaccount:tools:files"))
    );
    assert_eq!(audit.len(), 7);
    assert!(!authority.log().contains("of-the-authority"));

    // A sidecar does the same by itself.
    std::fs::write(world.path("own-token"), "of-the-authority\n").unwrap();
    std::fs::write(world.path("projected"), "good\n").unwrap();
    let enroll = format!("{{ url: \"{}\", kubernetes_token_file: projected, ca: ca/ca.pem }}", authority.url());
    let _sidecar = world.sidecar("fs", &enroll, true);
}
