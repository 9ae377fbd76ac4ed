//! TLS that is read inside: what the destination saw, what the client was told, and who is believed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use outrigger_identity::Minter;
use outrigger_tests::egress::TestEgress;
use outrigger_tests::sidecar::text_of;
use outrigger_tests::subjects::fetching;
use outrigger_tests::{Call, Mesh, TestSidecar};
use serde_json::json;
use tokio::io::AsyncWriteExt;

/// A destination with TLS under an authority of its own, that remembers what it was asked.
struct Origin {
    address: SocketAddr,
    ca: PathBuf,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    /// Shows a certificate for `name`.
    fn start(mesh: &Mesh, name: &'static str) -> Self {
        let minter = Minter::new("origin").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ca = mesh.path().join(format!("origin-{}.pem", address.port()));
        std::fs::write(&ca, minter.certificate_pem()).unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let all = Arc::clone(&seen);
        // Ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = rustls::ServerConnection::new(minter.server_config(name).unwrap()).unwrap();
                let mut tls = rustls::StreamOwned::new(connection, stream.unwrap());
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && matches!(tls.read(&mut byte), Ok(1)) {
                    head.push(byte[0]);
                }
                if !head.is_empty() {
                    all.lock().unwrap().push(String::from_utf8(head).unwrap());
                    // No length: the end of TLS is the end of the body.
                    tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nsunny").unwrap();
                    tls.conn.send_close_notify();
                    let _ = tls.flush();
                }
            }
        });
        Self { address, ca, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// Settings below `egress:` with one rule that inspects.
fn rule(origin: &Origin, host: &str, more: &str) -> String {
    format!(
        "  inspection: {{ ca: [{}] }}\n  rules: [ {{ name: api, hosts: [\"{host}:{}\"], inspect: true, addresses: [127.0.0.0/8, \"::1\"], {more} }} ]\n",
        origin.ca.display(),
        origin.address.port()
    )
}

/// What curl says and gets.
fn curl(arguments: &[&str]) -> String {
    let done = Command::new("curl").args(["-sS", "-m", "10", "-w", " %{http_code}"]).args(arguments).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods_and_paths_apply_inside_over_every_way_in() {
    let mesh = Mesh::new();
    let origin = Origin::start(&mesh, "localhost");
    let bundle = mesh.path().join("bundle.pem");
    let settings = rule(&origin, "localhost", "methods: [GET], paths: [/v1]");
    let settings = settings.replace("inspection: {", &format!("inspection: {{ bundle: {},", bundle.display()));
    let egress = TestEgress::start(&settings);
    let (address, port) = (egress.address(), origin.address.port());
    let believing = ["--cacert", bundle.to_str().unwrap()];
    for proxy in [format!("http://{address}"), format!("socks5h://{address}")] {
        let url = |path: &str| format!("https://localhost:{port}{path}");
        let ask = |more: &[&str]| curl(&[&["--proxy", proxy.as_str()], &believing[..], more].concat());
        assert_eq!(ask(&[&url("/v1/a")]), "sunny 200", "{proxy}");
        for refused in [
            &[url("/v2")][..],
            &[url("/v1"), "-XPOST".into()],
            &[url("/v1/%2e%2e/v2"), "--path-as-is".into()],
            &[url("/v1"), "-HX-HTTP-Method-Override: DELETE".into()],
            &[url("/v1"), "-Hx-original-url: /v2".into()],
            &[url("/v1"), "-HX_HTTP_Method_Override: DELETE".into()],
        ] {
            let refused: Vec<&str> = refused.iter().map(String::as_str).collect();
            let told = ask(&refused);
            assert!(told.contains("\"reason\":\"request\"") && told.ends_with(" 403"), "{proxy}: {told}");
        }
        // Another host inside, and another name than the tunnel's.
        let fronted = ask(&[&url("/v1"), "-H", "Host: evil.test"]);
        assert!(fronted.contains("host_mismatch"), "{proxy}: {fronted}");
        let pinned = curl(&["--proxy", &proxy, "--cacert", origin.ca.to_str().unwrap(), &url("/v1")]);
        assert!(pinned.contains(" 000"), "who does not believe us gets nothing: {pinned}");
    }
    // As gRPC does. Nothing else reads the alert, so that its number is enough.
    let script = format!(
        "import socket, ssl; s = socket.create_connection(('{}', {})); s.sendall(b'CONNECT localhost:{port} HTTP/1.1\\r\\nHost: localhost:{port}\\r\\n\\r\\n'); \
         assert b' 200 ' in s.recv(9999); c = ssl.create_default_context(cafile='{}'); c.set_alpn_protocols(['h2']); c.wrap_socket(s, server_hostname='localhost')",
        address.ip(),
        address.port(),
        bundle.display()
    );
    let grpc = Command::new("python3").args(["-c", &script]).output().unwrap();
    assert!(String::from_utf8_lossy(&grpc.stderr).to_lowercase().contains("no application protocol"), "{grpc:?}");
    let seen = origin.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].starts_with(&format!("GET /v1/a HTTP/1.1\r\nHost: localhost:{port}\r\n")), "{seen:?}");
    let log = egress.stop().await;
    let told = |reason: &str| log.iter().filter(|line| line["reason"] == reason).count();
    assert_eq!((told("request"), told("host_mismatch"), told("client_tls")), (12, 2, 2), "{log:?}");
    assert_eq!(told("only_http2"), 1, "{log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destinations_are_verified_strictly() {
    let mesh = Mesh::new();
    // It has a certificate of the right authority for another name; then the right name under an unknown authority.
    let (other, unknown) = (Origin::start(&mesh, "other.test"), Origin::start(&mesh, "localhost"));
    for (origin, believed) in [(&other, &other), (&unknown, &other)] {
        let bundle = mesh.path().join("bundle.pem");
        let believed = format!("inspection: {{ bundle: {}, ca: [{}] }}", bundle.display(), believed.ca.display());
        let own = format!("inspection: {{ ca: [{}] }}", origin.ca.display());
        let egress = TestEgress::start(&rule(origin, "localhost", "").replace(&own, &believed));
        let url = format!("https://localhost:{}/", origin.address.port());
        let proxy = format!("http://{}", egress.address());
        let told = curl(&["--proxy", &proxy, "--cacert", bundle.to_str().unwrap(), &url]);
        assert!(told.contains("\"reason\":\"tls\"") && told.ends_with(" 502"), "{told}");
        assert_eq!(origin.seen(), Vec::<String>::new());
        egress.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confined_server_believes_the_sidecar_by_its_environment() {
    let mesh = Mesh::new();
    let origin = Origin::start(&mesh, "localhost");
    let section = rule(&origin, "localhost", "paths: [/v1], tools: [weather]");
    let log = mesh.path().join("egress.jsonl");
    let settings =
        format!("{}sandbox: strict\negress:\n  listen: 127.0.0.1:0\n  log: {}\n{section}", fetching(), log.display());
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let fetch = async |tool: &str, path: &str| {
        let url = format!("https://localhost:{}{path}", origin.address.port());
        text_of(&client.reply(&Call::tool(tool, &json!({ "url": url }).to_string())).await.json())
    };
    assert_eq!(fetch("weather", "/v1").await, "200 sunny");
    let refused = fetch("weather", "/v2").await;
    assert!(refused.starts_with("403 {\"reason\":\"request\""), "{refused}");
    assert!(fetch("news", "/v1").await.contains("403"));
    assert_eq!(origin.seen().len(), 1);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_added_on_the_way_and_placeholders_go_nowhere_else() {
    let mesh = Mesh::new();
    let origin = Origin::start(&mesh, "localhost");
    let plain = outrigger_tests::egress::Origin::http("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    let (bundle, key) = (mesh.path().join("bundle.pem"), mesh.path().join("key"));
    let more = format!(
        "credentials: [ {{ header: Authorization, prefix: \"Bearer \", file: {}, placeholder: stand-in-for-it }} ] }}, \
         {{ name: clear, hosts: [\"localhost:{}\"], addresses: [127.0.0.0/8, \"::1\"], \
         credentials: [ {{ header: X-Key, file: {} }} ]",
        key.display(),
        plain.address.port(),
        key.display()
    );
    let settings = rule(&origin, "localhost", &more);
    let egress =
        TestEgress::start(&settings.replace("inspection: {", &format!("inspection: {{ bundle: {},", bundle.display())));
    let proxy = format!("http://{}", egress.address());
    let ask =
        |more: &[&str]| curl(&[&["--proxy", proxy.as_str(), "--cacert", bundle.to_str().unwrap()], more].concat());
    let url = format!("https://localhost:{}/", origin.address.port());
    assert!(ask(&[&url]).contains("no_credential"), "without its secret nothing goes");
    for secret in ["first", "second"] {
        std::fs::write(&key, format!("{secret}\n")).unwrap();
        assert_eq!(ask(&[&url, "-H", "authorization: Bearer stand-in-for-it"]), "sunny 200");
    }
    assert!(ask(&[&url, "-XTRACE"]).contains("\"reason\":\"echo\""));
    let clear = format!("http://localhost:{}/", plain.address.port());
    assert_eq!(ask(&[&clear]), "hi 200");
    let query = format!("{clear}?a=stand%2din%2Dfor-%69t");
    for elsewhere in [&[&clear, "-H", "X-Other: stand-in-for-it"][..], &[&clear, "-u", "me:stand-in-for-it"], &[&query]]
    {
        let told = ask(elsewhere);
        assert!(told.contains("\"reason\":\"placeholder\"") && told.contains("egress/api"), "{told}");
    }
    // Head and body at once, so that the destination hears of neither.
    for body in [
        "Content-Length: 28\r\n\r\n{\"a\":\"st\\u0061nd-in-for-it\"}",
        "Transfer-Encoding: chunked\r\n\r\n9\r\nkey=c3Rhb\r\nf\r\nmQtaW4tZm9yLWl0\r\n0\r\n\r\n",
    ] {
        let mut stream = tokio::net::TcpStream::connect(egress.address()).await.unwrap();
        let host = format!("localhost:{}", plain.address.port());
        stream.write_all(format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{body}").as_bytes()).await.unwrap();
        let told = outrigger_tests::egress::read_all(&mut stream).await;
        assert!(told.contains("\"reason\":\"placeholder\""), "{body}: {told}");
    }
    let seen = origin.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    for (head, secret) in seen.iter().zip(["first", "second"]) {
        let fields: Vec<&str> =
            head.lines().filter(|line| line.to_ascii_lowercase().starts_with("authorization")).collect();
        assert_eq!(fields, [format!("Authorization: Bearer {secret}")]);
    }
    let clear: Vec<String> = plain.seen().into_iter().filter(|said| !said.is_empty()).collect();
    assert!(
        clear.len() == 1 && clear[0].contains("\r\nX-Key: second\r\n") && !clear[0].contains("Bearer"),
        "{clear:?}"
    );
    let log = egress.stop().await;
    assert!(!format!("{log:?}").contains("second"));
}
