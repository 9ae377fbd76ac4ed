//! As many sidecars as an ingress is to be tried with, in one process: each has an address of its own (127.1.0.0/16), its own
//! certificate, and a health document with a catalog that changes on command. What the ingress reads is written by the
//! code that sidecars write it with; calls are answered without looking at them closely.
//!
//! The first thing it does is to make an authority, and a certificate for the ingress, in its folder.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use outrigger_bench_tools::http1::find;
use outrigger_bench_tools::{Error, rpc, tls};
use outrigger_identity::{Authority, AuthorityOptions, TrustDomain, write_leaf};
use outrigger_mcp::catalog::{About, Catalog, Collector, Limits, List, ListPage};
use outrigger_mcp::catalog_kind::Kind;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// As sidecars bound it.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
const DAY: Duration = Duration::from_secs(86400);

#[derive(Parser)]
struct Arguments {
    /// Port of all sidecars: the n-th one is at 127.1.(n / 256).(n % 256).
    #[arg(long)]
    port: u16,
    /// Loopback port for commands: `/change/N`, `/release`, `/state`.
    #[arg(long)]
    control: u16,
    /// How many sidecars.
    #[arg(long)]
    services: usize,
    /// How many tools each of them offers.
    #[arg(long, default_value_t = 50)]
    tools: usize,
    /// Folder for the authority, and for `ingress.pem` and `ingress.key`.
    #[arg(long)]
    certs: PathBuf,
    /// Whose names they have.
    #[arg(long)]
    trust_domain: String,
}

/// One sidecar.
struct Sidecar {
    name: String,
    acceptor: TlsAcceptor,
    /// Of its catalog.
    version: watch::Sender<u64>,
    /// Its document was asked for.
    asked: AtomicBool,
}

struct Fleet {
    sidecars: Vec<Sidecar>,
    tools: usize,
    /// Questions for a health document.
    polls: AtomicUsize,
    /// Calls that wait to be released, and whether they are.
    waiting: AtomicUsize,
    released: watch::Sender<bool>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, arguments.port)).await?;
    let fleet = Arc::new(Fleet::new(&arguments)?);
    let control = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.control)).await?;
    tokio::spawn(obey(control, Arc::clone(&fleet)));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        tokio::spawn(Arc::clone(&fleet).serve(stream));
    }
}

/// Takes commands.
async fn obey(listener: TcpListener, fleet: Arc<Fleet>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let fleet = Arc::clone(&fleet);
        let service = service_fn(move |request: Request<Incoming>| {
            let state = fleet.command(request.uri().path());
            async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(state.to_string())))) }
        });
        tokio::spawn(async move {
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Fleet {
    fn new(arguments: &Arguments) -> Result<Self, Error> {
        let domain = TrustDomain::parse(&arguments.trust_domain)?;
        let authority = authority(&arguments.certs, &domain)?;
        write_leaf(&arguments.certs, "ingress", &authority.issue("ingress", DAY, &[])?)?;
        let server = tls::Server::new(&arguments.certs.join("ca.pem"))?;
        let sidecar = |at: usize| -> Result<Sidecar, Error> {
            let name = format!("s{at}");
            let issued = authority.issue(&name, DAY, &[])?;
            let config: Arc<ServerConfig> = server.with(issued.cert_chain_pem.as_bytes(), issued.key_pem.as_bytes())?;
            let version = watch::Sender::new(0);
            Ok(Sidecar { name, acceptor: TlsAcceptor::from(config), version, asked: AtomicBool::new(false) })
        };
        Ok(Self {
            sidecars: (0..arguments.services).map(sidecar).collect::<Result<_, _>>()?,
            tools: arguments.tools,
            polls: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            released: watch::Sender::new(false),
        })
    }

    /// Does what a path says, and tells how things are.
    fn command(&self, path: &str) -> Value {
        if let Some(sidecar) = path.strip_prefix("/change/").and_then(|at| self.sidecars.get(at.parse::<usize>().ok()?))
        {
            sidecar.version.send_modify(|version| *version += 1);
        } else if path == "/release" {
            self.released.send_replace(true);
        } else if path == "/hold" {
            self.released.send_replace(false);
        }
        let asked = self.sidecars.iter().filter(|sidecar| sidecar.asked.load(Ordering::Relaxed)).count();
        json!({
            "asked": asked,
            "polls": self.polls.load(Ordering::Relaxed),
            "waiting": self.waiting.load(Ordering::Relaxed),
        })
    }

    /// One connection. Whatever goes wrong ends it; the ingress tells.
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Some(at) = stream.local_addr().ok().and_then(|address| place(address.ip())) else {
            return;
        };
        let Some(sidecar) = self.sidecars.get(at) else { return };
        let Ok(stream) = sidecar.acceptor.accept(stream).await else {
            return;
        };
        let service = service_fn(move |request: Request<Incoming>| {
            let fleet = Arc::clone(&self);
            async move {
                if request.uri().path() == "/mesh/v1/health" {
                    return Ok(fleet.health(at, &request).await);
                }
                fleet.answer(request).await
            }
        });
        let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    }

    /// The health document, or that it is the same.
    async fn health(&self, at: usize, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        self.polls.fetch_add(1, Ordering::Relaxed);
        let sidecar = &self.sidecars[at];
        let mut versions = sidecar.version.subscribe();
        let known = request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let tag = |version: u64| format!("\"{at:016x}.{version}\"");
        let mut version = *versions.borrow_and_update();
        if known == Some(&tag(version)) {
            let _ = timeout(wait(request.uri().query().unwrap_or_default()), versions.changed()).await;
            version = *versions.borrow_and_update();
        }
        let response = Response::builder().header(ETAG, tag(version));
        let (status, body) = match known == Some(&tag(version)) {
            true => (StatusCode::NOT_MODIFIED, Bytes::new()),
            false => (StatusCode::OK, document(&sidecar.name, at, self.tools, version)),
        };
        sidecar.asked.store(true, Ordering::Relaxed);
        response.status(status).header(CONTENT_TYPE, "application/json").body(Full::new(body)).unwrap_or_default()
    }

    /// A call. One of a tool that waits is answered when all are released.
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let body = request.into_body().collect().await?.to_bytes();
        if find(&body, b"\"tool_0\"").is_some() {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let mut released = self.released.subscribe();
            let _ = released.wait_for(|released| *released).await;
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        let json = |text: String| Response::builder().header(CONTENT_TYPE, "application/json").body(text.into());
        let answer = rpc::called(&body, true);
        let missing = || Response::builder().status(StatusCode::NOT_FOUND).body(Full::default());
        Ok(answer.map_or_else(missing, json).unwrap_or_default())
    }
}

/// A fresh authority in the folder.
fn authority(folder: &Path, domain: &TrustDomain) -> Result<Authority, Error> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    Ok(Authority::init(folder, domain, &AuthorityOptions::default())?)
}

/// Which sidecar an address is.
fn place(address: IpAddr) -> Option<usize> {
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [127, 1, high, low] => Some(usize::from(high) * 256 + usize::from(low)),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

fn wait(query: &str) -> Duration {
    let seconds = query.strip_prefix("wait=").and_then(|text| text.trim_end_matches('s').parse().ok());
    seconds.map_or(Duration::ZERO, Duration::from_secs).min(LONGEST_WAIT)
}

/// What a sidecar says of itself. The last tool's description says which version this is.
fn document(name: &str, at: usize, tools: usize, version: u64) -> Bytes {
    let mut listed = rpc::tools(tools);
    if let Some(last) = listed.as_array_mut().and_then(|tools| tools.last_mut()) {
        last["description"] = format!("Version {version} of {name}.").into();
    }
    let result = Bytes::from(json!({ "tools": listed }).to_string());
    let mut collector = Collector::new(Kind::Tool, Limits::default());
    if let Ok(page) = ListPage::parse(Kind::Tool, &result) {
        collector.add(page);
    }
    let about = About { capabilities: Some(Bytes::from_static(br#"{"tools":{}}"#)), ..About::default() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let catalog = Catalog::new(collector.finish(), List::default(), List::default(), List::default(), about, now);
    let mut out = format!(
        "{{\"service\":\"{name}\",\"version\":\"0\",\"replica\":\"{at:016x}\",\"status\":\"serving\",\
         \"load\":{{\"in_flight\":0,\"limit\":256}},\
         \"server\":{{\"name\":\"fleet\",\"version\":\"1\",\"revision\":\"{}\"}},\"catalog\":",
        rpc::REVISION
    )
    .into_bytes();
    out.extend_from_slice(&catalog.to_health_json());
    out.push(b'}');
    Bytes::from(out)
}
