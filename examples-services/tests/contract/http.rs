//! The contract of `http`: what it fetches, what it refuses, and that it uses proxies and trust as told.

use std::sync::Arc;

use rmcp::model::{CallToolRequestParams, RequestMetaObject};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use crate::origin::Origin;
use crate::support::{Era, call, error, everywhere, object, stdio, structured};

#[tokio::test]
async fn fetches_text_in_every_era_and_transport() {
    let origin = Origin::start(None).await;
    everywhere(&["http", "--max-bytes", "500"], async |client| {
        let tools = client.list_all_tools().await.unwrap();
        assert_eq!((tools.len(), tools[0].name.as_ref()), (1, "fetchText"));
        assert_eq!(tools[0].annotations.as_ref().unwrap().read_only_hint, Some(true));

        let page = structured(call(client, "fetchText", json!({"url": origin.url("/page#top")})).await);
        assert_eq!((&page["status"], &page["text"]), (&json!(200), &json!("<p>café</p>")));
        assert_eq!(page["contentType"], "text/html; charset=utf-8");
        for (path, expected) in [("/latin1", "café"), ("/json?q=1", "{\"ok\":true}"), ("/moved", "<p>café</p>")] {
            let page = structured(call(client, "fetchText", json!({"url": origin.url(path)})).await);
            assert_eq!(page["text"], expected, "{path}");
        }
        let missing = structured(call(client, "fetchText", json!({"url": origin.url("/none")})).await);
        assert_eq!((&missing["status"], &missing["text"]), (&json!(404), &json!("none")));
        let big = structured(call(client, "fetchText", json!({"url": origin.url("/big")})).await);
        assert_eq!((big["text"].as_str().unwrap().len(), &big["truncated"]), (500, &json!(true)));
    })
    .await;
    let head = &origin.heads()[0];
    assert!(head.starts_with("GET /page HTTP/1.1\r\n"), "origin form, no fragment: {head}");
}

#[tokio::test]
async fn everything_else_is_a_tool_error_that_says_why() {
    let origin = Origin::start(None).await;
    let client = stdio(Era::Modern, &["http", "--timeout", "5"], &[]).await;
    for (url, reason) in [
        (origin.url("/png"), "image/png: only text"),
        (origin.url("/untyped"), "no content type"),
        (origin.url("/koi8"), "\"koi8-r\" is not supported"),
        (origin.url("/gzip"), "Content-Encoding \"gzip\""),
        (origin.url("/garbage"), "broke the HTTP exchange"),
        (origin.url("/loop"), "more than 5 redirects"),
        (origin.url("/to-file"), "\"file\" URLs are not fetched"),
        (origin.url("/to-credentials"), "user name or password"),
        (origin.url("/no-location"), "no usable Location"),
        ("file:///etc/passwd".into(), "\"file\" URLs are not fetched"),
        ("http://u:p@localhost/".into(), "user name or password"),
        ("/relative".into(), "absolute http or https URL"),
        (format!("http://localhost/{}", "x".repeat(9000)), "longer than 8192"),
        ("http://127.0.0.1:1/".into(), "cannot connect to 127.0.0.1:1"),
    ] {
        let message = error(&call(&client, "fetchText", json!({"url": url})).await);
        assert!(message.contains(reason), "{url:.80}: {message}");
    }
    client.cancel().await.unwrap();
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    let origin = Origin::start(None).await;
    let client = stdio(Era::Modern, &["http", "--timeout", "1"], &[]).await;
    let message = error(&call(&client, "fetchText", json!({"url": origin.url("/hang")})).await);
    assert!(message.contains("no complete answer within 1 s"), "{message}");
    client.cancel().await.unwrap();
}

#[tokio::test]
async fn the_callers_trace_goes_out_with_the_request() {
    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
    let origin = Origin::start(None).await;
    let client = stdio(Era::Modern, &["http"], &[]).await;
    let mut meta = RequestMetaObject::new();
    meta.set_traceparent(TRACEPARENT);
    let mut params =
        CallToolRequestParams::new("fetchText").with_arguments(object(json!({"url": origin.url("/page")})));
    params.meta = Some(meta);
    structured(client.call_tool(params).await.unwrap());
    assert!(origin.heads()[0].contains(&format!("traceparent: {TRACEPARENT}\r\n")), "{}", origin.heads()[0]);
    client.cancel().await.unwrap();
}

#[tokio::test]
async fn plain_http_goes_through_the_proxy_in_absolute_form() {
    let origin = Origin::start(None).await;
    let proxy = Origin::start_proxy(origin.address).await;
    let variable = format!("http://me:pw@{}", proxy.address);
    let vars = [("HTTP_PROXY", variable.as_str()), ("NO_PROXY", "127.0.0.1")];
    let client = stdio(Era::Modern, &["http"], &vars).await;

    let page = structured(call(&client, "fetchText", json!({"url": "http://name.example:81/a?b"})).await);
    assert_eq!(page["text"], "from the proxy");
    let head = proxy.heads().remove(0);
    assert!(head.starts_with("GET http://name.example:81/a?b HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains("host: name.example:81\r\n") && head.contains("proxy-authorization: Basic bWU6cHc=\r\n"),
        "{head}"
    );

    let direct = structured(call(&client, "fetchText", json!({"url": origin.url("/latin1")})).await);
    assert_eq!(direct["text"], "café");
    assert_eq!(proxy.heads().len(), 1, "NO_PROXY keeps the second fetch away from the proxy");
    assert!(!origin.heads()[0].contains("proxy-authorization"), "credentials of the proxy stay with it");
    client.cancel().await.unwrap();
}

#[tokio::test]
async fn https_is_verified_and_tunnels_through_the_proxy() {
    let cert = rcgen::generate_simple_self_signed(["name.example".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, cert.cert.pem()).unwrap();
    let origin = Origin::start(Some(acceptor(&cert))).await;
    let proxy = Origin::start_proxy(origin.address).await;
    let variable = format!("http://{}", proxy.address);
    let trusted = [("HTTPS_PROXY", variable.as_str()), ("SSL_CERT_FILE", roots.to_str().unwrap())];
    let client = stdio(Era::Modern, &["http"], &trusted).await;

    let page = structured(call(&client, "fetchText", json!({"url": "https://name.example/page"})).await);
    assert_eq!((&page["text"], &page["url"]), (&json!("<p>café</p>"), &json!("https://name.example/page")));
    assert!(proxy.heads()[0].starts_with("CONNECT name.example:443 HTTP/1.1\r\n"), "{}", proxy.heads()[0]);
    for (url, reason) in [
        ("https://other.example/page", "no TLS session with other.example"),
        ("https://forbidden.example/", "the proxy refused to reach forbidden.example:443: 403"),
    ] {
        let message = error(&call(&client, "fetchText", json!({"url": url})).await);
        assert!(message.contains(reason), "{message}");
    }
    client.cancel().await.unwrap();

    let untrusting = stdio(Era::Modern, &["http"], &[("HTTPS_PROXY", variable.as_str())]).await;
    let message = error(&call(&untrusting, "fetchText", json!({"url": "https://name.example/page"})).await);
    assert!(message.contains("no TLS session"), "{message}");
    untrusting.cancel().await.unwrap();
}

fn acceptor(cert: &rcgen::CertifiedKey<rcgen::KeyPair>) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(cert.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
