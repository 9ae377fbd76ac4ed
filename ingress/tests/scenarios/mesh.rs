//! A mesh in a directory: an authority, fake sidecars, an ingress, and a client.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use outrigger_identity::{
    Authority, AuthorityOptions, CredentialOptions, Credentials, IdentityFiles, SpiffeId, TrustDomain, server_name,
    write_leaf,
};
use outrigger_ingress::Running;
use outrigger_ingress::config::Config;
use outrigger_mcp::sse::Parser;
use outrigger_proxy::body::OutBody;
use outrigger_proxy::dial::{ClientTls, Endpoint, dial};
use outrigger_proxy::pool::{Pool, PoolSettings, PooledBody, SendError};
use outrigger_proxy::stream::Stream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake::Fake;

/// How long a test waits for something that must come. Generous: machines under load are slow.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// SHA-256 of the token that the name stands for: `ada-token` and `bob-token`.
const TOKENS: &str = "tokens:
  - { subject: ada, sha256: SHA-ada, scopes: [all], roles: [release] }
  - { subject: bob, sha256: SHA-bob, scopes: [read] }
  - { subject: carol, sha256: SHA-carol, roles: [release] }
  - { subject: eve, sha256: SHA-eve, scopes: [all] }
";

/// Ada may do everything, Bob may read what is called so.
pub const POLICY: &str = "apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: test }
spec:
  authorization:
    rules:
      - { name: all, services: [\"*\"], capabilities: [\"*\"], requires: [ { scope: all } ] }
      - { name: readers, services: [a], capabilities: [\"read*\"], requires: [ { scope: read } ] }
";

/// The parts that a test has.
pub struct Mesh {
    pub dir: TempDir,
    pub fakes: BTreeMap<String, Fake>,
    pub ingress: Option<Running>,
    pub client: Client,
    authority: Authority,
}

/// Speaks modern MCP to an ingress.
#[derive(Clone)]
pub struct Client {
    pool: Pool,
    token: Option<&'static str>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

/// Waits until something holds, and fails with what it was about.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

fn sha256(text: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Mesh {
    /// Fakes with these health documents, and an ingress that has heard from all of them.
    pub async fn start(services: &[(&str, Value)]) -> Self {
        Self::with(services, POLICY, "").await
    }

    pub async fn with(services: &[(&str, Value)], policy: &str, settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("test.local").unwrap();
        let authority = Authority::init(dir.path(), &domain, &AuthorityOptions::default()).unwrap();
        std::fs::write(dir.path().join("policy.yaml"), policy).unwrap();
        let token = |text: String, name: &str| text.replace(&format!("SHA-{name}"), &sha256(&format!("{name}-token")));
        let tokens = ["ada", "bob", "carol", "eve"].into_iter().fold(TOKENS.to_owned(), token);
        std::fs::write(dir.path().join("tokens.yaml"), tokens).unwrap();
        let mut mesh = Self {
            dir,
            fakes: BTreeMap::new(),
            ingress: None,
            client: Client::to(([127, 0, 0, 1], 1).into()),
            authority,
        };
        for (name, health) in services {
            let fake = Fake::start(name, mesh.credentials(name), health.clone()).await;
            mesh.fakes.insert((*name).to_owned(), fake);
        }
        mesh.credentials("ingress");
        mesh.start_ingress(settings).await;
        mesh
    }

    /// The same fakes behind another ingress.
    pub async fn another_ingress(mut self, settings: &str) -> Self {
        drop(self.ingress.take());
        for log in ["audit.jsonl", "access.jsonl"] {
            let _ = std::fs::remove_file(self.path(log));
        }
        self.start_ingress(settings).await;
        self
    }

    async fn start_ingress(&mut self, settings: &str) {
        let at = |name: &str| self.path(name).display().to_string();
        let services: String = self
            .fakes
            .iter()
            .map(|(name, fake)| format!("  {name}: {{ addresses: [\"{}\"] }}\n", fake.address))
            .collect();
        let services = if settings.contains("services:") { String::new() } else { format!("services:\n{services}") };
        let policy =
            if settings.contains("policy:") { String::new() } else { format!("policy: [{}]\n", at("policy.yaml")) };
        let text = format!(
            "listen: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\naudit: {}\naccess_log: {}\n{policy}tokens_file: {}\n\
             identity: {{ trust_domain: test.local, cert: {}, key: {}, ca: {}, crl: {} }}\n{services}{settings}\n",
            at("audit.jsonl"),
            at("access.jsonl"),
            at("tokens.yaml"),
            at("ingress.pem"),
            at("ingress.key"),
            at("ca.pem"),
            at("crl.pem"),
        );
        std::fs::write(self.path("ingress.yaml"), &text).unwrap();
        let config = Config::from_file(Some(&self.path("ingress.yaml"))).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let running = outrigger_ingress::start(config).await.unwrap();
        tokio::time::timeout(PATIENCE, running.readiness.wait()).await.unwrap();
        self.client = Client::to(running.mcp);
        self.ingress = Some(running);
    }

    /// A certificate for a member.
    pub fn credentials(&self, name: &str) -> Arc<Credentials> {
        let issued = self.authority.issue(name, Duration::from_secs(3600), &["localhost"]).unwrap();
        write_leaf(self.dir.path(), name, &issued).unwrap();
        Credentials::load(IdentityFiles::in_dir(self.dir.path(), name), &CredentialOptions::default()).unwrap()
    }

    /// Puts the certificate that `name` has now on the revocation list.
    pub fn revoke(&self, name: &str) {
        self.authority.revoke_file(&self.path(&format!("{name}.pem"))).unwrap();
    }

    /// Takes the ingress as it is, with its client listener over TLS.
    pub async fn with_tls_at_the_edge(self) -> Self {
        self.credentials("edge");
        let at = |name: &str| self.path(name).display().to_string();
        let tls = format!("tls: {{ cert: {}, key: {}, client_ca: {} }}", at("edge.pem"), at("edge.key"), at("ca.pem"));
        self.another_ingress(&tls).await
    }

    /// A client over TLS that shows these credentials.
    pub fn member(&self, credentials: Arc<Credentials>, token: Option<&'static str>) -> Client {
        Client::over(Pool::new(self.edge(credentials), PoolSettings::default()), token)
    }

    /// The certificate that a new connection to the edge is shown, as DER.
    pub async fn served(&self, credentials: &Arc<Credentials>) -> Vec<u8> {
        match dial(&self.edge(Arc::clone(credentials)), PATIENCE).await.unwrap() {
            Stream::Tls(stream) => stream.get_ref().1.peer_certificates().unwrap()[0].to_vec(),
            Stream::Plain(_) => panic!("no TLS at the edge"),
        }
    }

    fn edge(&self, credentials: Arc<Credentials>) -> Endpoint {
        let address = self.ingress.as_ref().unwrap().mcp;
        let edge = SpiffeId::parse("spiffe://test.local/edge").unwrap();
        let provider = Arc::new(move || credentials.client_config(&edge));
        let tls = ClientTls { provider, server_name: server_name(address.ip()) };
        Endpoint::tcp(address.ip().to_string(), address.port()).with_tls(tls)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn fake(&self, name: &str) -> &Fake {
        &self.fakes[name]
    }

    /// A page of the admin port.
    pub async fn admin(&self, path: &str) -> Got {
        let client = Client::to(self.ingress.as_ref().unwrap().admin);
        client.send(Request::get(path).body(OutBody::empty()).unwrap()).await
    }

    /// A connection to the port of clients.
    pub async fn socket(&self) -> TcpStream {
        TcpStream::connect(self.ingress.as_ref().unwrap().mcp).await.unwrap()
    }

    /// Sends something that is no HTTP to the port of clients, and waits until that is hung up.
    pub async fn garbage(&self, bytes: &[u8]) {
        let mut socket = self.socket().await;
        socket.write_all(bytes).await.unwrap();
        socket.read_to_end(&mut Vec::new()).await.unwrap();
    }

    /// The lines of the audit about calls, once there are as many.
    pub async fn audit(&self, lines: usize) -> Vec<Value> {
        self.lines("audit.jsonl", lines).await
    }

    pub async fn lines(&self, file: &str, lines: usize) -> Vec<Value> {
        let path = self.path(file);
        let read = || std::fs::read_to_string(&path).unwrap_or_default();
        eventually("lines of a log", || async { read().lines().count() >= lines }).await;
        read().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Client {
    pub fn to(address: std::net::SocketAddr) -> Self {
        let pool = Pool::new(Endpoint::tcp(address.ip().to_string(), address.port()), PoolSettings::default());
        Self::over(pool, Some("ada-token"))
    }

    pub fn over(pool: Pool, token: Option<&'static str>) -> Self {
        Self { pool, token }
    }

    pub fn with_token(&self, token: Option<&'static str>) -> Self {
        Self { token, ..self.clone() }
    }

    pub fn as_bob(&self) -> Self {
        self.with_token(Some("bob-token"))
    }

    pub async fn open(&self, request: Request<OutBody>) -> Response<PooledBody> {
        tokio::time::timeout(PATIENCE, self.pool.send(request)).await.expect("an answer").expect("a response")
    }

    pub async fn send(&self, request: Request<OutBody>) -> Got {
        let (parts, body) = self.open(request).await.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("the end").expect("a body").to_bytes();
        Got { status: parts.status, headers: parts.headers, body }
    }

    /// Sends what may get no answer; gives its status.
    pub async fn try_send(&self, request: Request<OutBody>) -> Result<StatusCode, SendError> {
        tokio::time::timeout(PATIENCE, self.pool.send(request)).await.expect("an end").map(|response| response.status())
    }

    /// A modern request, ready to be changed.
    pub fn request(&self, path: &str, method: &str, params: Value) -> Request<OutBody> {
        let mut params = params;
        params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
        let able = &mut params["_meta"]["io.modelcontextprotocol/clientCapabilities"];
        if able.is_null() {
            *able = json!({});
        }
        let name = ["name", "uri", "taskId"]
            .into_iter()
            .find_map(|name| params.get(name))
            .and_then(Value::as_str)
            .map(str::to_owned);
        let body = json!({ "jsonrpc": "2.0", "id": "q1", "method": method, "params": params }).to_string();
        let mut request = self.raw(path, body);
        request.headers_mut().insert("mcp-protocol-version", "2026-07-28".parse().unwrap());
        request.headers_mut().insert("mcp-method", method.parse().unwrap());
        if let Some(name) = name.filter(|_| !method.starts_with("completion")) {
            let encoded = outrigger_mcp::headers::encode(&name).into_owned();
            request.headers_mut().insert("mcp-name", encoded.parse().unwrap());
        }
        request
    }

    /// A POST without any header of MCP.
    pub fn raw(&self, path: &str, body: impl Into<Bytes>) -> Request<OutBody> {
        let mut request = Request::post(path).body(OutBody::full(body.into())).unwrap();
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        request.headers_mut().insert("accept", "application/json, text/event-stream".parse().unwrap());
        if let Some(token) = self.token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    }

    pub async fn ask(&self, path: &str, method: &str, params: Value) -> Got {
        self.send(self.request(path, method, params)).await
    }

    pub async fn call(&self, name: &str) -> Got {
        self.ask("/mcp", "tools/call", json!({ "name": name, "arguments": {} })).await
    }

    /// Names in a list of the merged endpoint.
    pub async fn names(&self, path: &str, method: &str, member: &str, key: &str) -> Vec<String> {
        let listed = self.ask(path, method, json!({})).await.json();
        let items = listed["result"][member].as_array().unwrap_or_else(|| panic!("{listed}")).clone();
        items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
    }

    pub async fn tools(&self) -> Vec<String> {
        self.names("/mcp", "tools/list", "tools", "name").await
    }
}

/// The events of a stream, as they come.
pub struct Events {
    body: PooledBody,
    parser: Parser,
    /// Comments and everything else that came, for tests of raw bytes.
    pub bytes: Vec<u8>,
}

impl Events {
    pub fn of(response: Response<PooledBody>) -> Self {
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), parser: Parser::new(1 << 20), bytes: Vec::new() }
    }

    /// The next message; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.parser.next_event().unwrap() {
                return Some(serde_json::from_slice(&event.data.unwrap()).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads on to the end; true when it is not a proper one.
    pub async fn broken(&mut self) -> bool {
        loop {
            match tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an end") {
                Some(Ok(_)) => {}
                Some(Err(_)) => return true,
                None => return false,
            }
        }
    }

    /// Reads one more piece; false at the end.
    pub async fn more(&mut self) -> bool {
        let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("a frame");
        let Some(frame) = frame else { return false };
        let data = frame.expect("an unbroken stream").into_data().unwrap_or_default();
        self.parser.push(&data);
        self.bytes.extend_from_slice(&data);
        true
    }
}
