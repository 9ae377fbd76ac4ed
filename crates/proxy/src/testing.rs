//! Shared by this crate's tests: bounded waits, certificates, and upstreams that follow a script.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use outrigger_runtime::drain::{self, DrainTrigger};
use outrigger_runtime::listen::{ListenOptions, Listener};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::accept::{self, ConnObserver, ListenerSettings};
use crate::body::OutBody;
use crate::dial::{ClientTls, Endpoint};
use crate::handshake::{ConnInfo, HandshakeError, ServerTlsProvider, TlsInfo};
use crate::pool::{Pool, PoolSettings};
use crate::serve::ConnEnd;

/// How long a test waits for what must happen. Generous: it only bounds a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The result of `future`, or a failed test.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("did not happen in time")
}

/// Mutual TLS between one client and one server that trust one authority.
pub(crate) struct Tls {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

impl Tls {
    /// `alpn` is what both sides offer.
    pub(crate) fn new(alpn: &[&[u8]]) -> Self {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let leaf = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
            (vec![cert.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        };
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (chain, key) = leaf("server.test");
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build().unwrap();
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .unwrap();
        let (chain, key) = leaf("client.test");
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        server.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        client.alpn_protocols.clone_from(&server.alpn_protocols);
        Self { server: Arc::new(server), client: Arc::new(client) }
    }

    /// What a listener asks for each connection.
    pub(crate) fn provider(&self) -> ServerTlsProvider {
        let server = Arc::clone(&self.server);
        Arc::new(move || Arc::clone(&server))
    }

    pub(crate) fn endpoint(&self, address: SocketAddr) -> Endpoint {
        let client = Arc::clone(&self.client);
        Endpoint::tcp(address.ip().to_string(), address.port()).with_tls(ClientTls {
            provider: Arc::new(move || Arc::clone(&client)),
            server_name: ServerName::try_from("server.test").unwrap(),
        })
    }
}

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) fn pool_to(address: SocketAddr) -> Pool {
    Pool::new(Endpoint::tcp(address.ip().to_string(), address.port()), PoolSettings::default())
}

pub(crate) fn get(path: &str) -> Request<OutBody> {
    Request::get(path).body(OutBody::empty()).unwrap()
}

pub(crate) fn post(path: &str, body: impl Into<OutBody>) -> Request<OutBody> {
    Request::post(path).body(body.into()).unwrap()
}

/// The whole body of a response.
pub(crate) async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let bytes = within(response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A request as a scripted upstream reads it: head, and body by Content-Length. Empty when the client has closed.
pub(crate) async fn read_request(socket: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&read).to_lowercase();
        if let Some(head) = text.find("\r\n\r\n") {
            let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let length: usize = length.map_or(0, |digits| digits.parse().unwrap());
            if read.len() >= head + 4 + length {
                return String::from_utf8(read).unwrap();
            }
        }
        let count = within(socket.read(&mut buffer)).await.unwrap_or(0);
        if count == 0 {
            return String::new();
        }
        read.extend_from_slice(&buffer[..count]);
    }
}

pub(crate) async fn write(socket: &mut TcpStream, text: &str) {
    within(socket.write_all(text.as_bytes())).await.unwrap();
}

/// A complete answer with Content-Length.
pub(crate) fn answer(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Waits until the other side has closed.
pub(crate) async fn closed(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is as closed as an end.
    let _ = within(socket.read_to_end(&mut rest)).await;
}

/// What a listener told its observer.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) opened: AtomicUsize,
    pub(crate) refused: AtomicUsize,
    pub(crate) handshakes: Mutex<Vec<Result<TlsInfo, String>>>,
    pub(crate) ends: Mutex<Vec<Option<ConnEnd>>>,
}

impl ConnObserver for Counts {
    fn opened(&self) {
        self.opened.fetch_add(1, Ordering::SeqCst);
    }
    fn refused(&self) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }
    fn handshake(&self, _peer: SocketAddr, outcome: Result<&TlsInfo, &HandshakeError>) {
        self.handshakes.lock().unwrap().push(outcome.cloned().map_err(ToString::to_string));
    }
    fn closed(&self, end: Option<ConnEnd>) {
        self.ends.lock().unwrap().push(end);
    }
}

impl Counts {
    /// The ends of the first `count` connections, when they have ended.
    pub(crate) async fn ended(&self, count: usize) -> Vec<Option<ConnEnd>> {
        within(async {
            while self.ends.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        self.ends.lock().unwrap().clone()
    }
}

/// A listener of ours that runs.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) counts: Arc<Counts>,
    pub(crate) drain: DrainTrigger,
    pub(crate) running: JoinHandle<()>,
}

impl Served {
    /// Serves on a free port with `settings` as changed by `change`.
    pub(crate) fn start<F, R>(change: impl FnOnce(&mut ListenerSettings), service: F) -> Self
    where
        F: Fn(Arc<ConnInfo>, Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<OutBody>> + Send + 'static,
    {
        let counts = Arc::new(Counts::default());
        let mut settings = ListenerSettings::new("test");
        // In tests connections rest whenever they can: that must never be noticed.
        settings.http.buffers_kept = 0;
        settings.observer = Arc::clone(&counts) as Arc<dyn ConnObserver>;
        change(&mut settings);
        let listener = Listener::bind(ListenOptions::new(([127, 0, 0, 1], 0).into(), "test")).unwrap();
        let address = listener.address();
        let (drain, watcher) = drain::channel();
        let running = tokio::spawn(accept::run(listener, settings, watcher, service));
        Self { address, counts, drain, running }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        within(TcpStream::connect(self.address)).await.unwrap()
    }
}

/// A service that says hello.
pub(crate) async fn hello(_: Arc<ConnInfo>, _: Request<Incoming>) -> Response<OutBody> {
    Response::new(OutBody::full("hello"))
}
