//! An authority, sidecars and ingresses as processes in one directory, and requests to the authority by hand.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use outrigger_identity::{
    Anchor, CredentialOptions, Credentials, Material, TrustDomain, WorkloadKey, first_contact, server_name,
};
use outrigger_proxy::body::OutBody;
use outrigger_proxy::dial::{ClientTls, Endpoint};
use outrigger_proxy::pool::{Pool, PoolSettings};
use rustls::ClientConfig;
use serde_json::{Value, json};

use crate::support::{kill, run, stdout, tool, until};

pub(crate) const DOMAIN: &str = "demo.outrigger.local";

/// A directory with an authority (`ca/`), and what runs in it.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
}

/// A process that says where it listens. Killed when dropped.
pub(crate) struct Part {
    process: Child,
    /// What it reported.
    pub(crate) at: Value,
    log: PathBuf,
}

impl World {
    pub(crate) fn new() -> Self {
        outrigger_identity::install_provider();
        let world = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(world.path("hello.txt"), "hello from a file").unwrap();
        world.ca(&["init", "--trust-domain", DOMAIN]);
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `outrigger ca` on the authority's directory; what it printed.
    pub(crate) fn ca(&self, args: &[&str]) -> String {
        let output = run(self.dir.path(), &[&["ca"][..], args, &["--dir", "ca"]].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        stdout(&output).trim().to_owned()
    }

    /// Makes a join token.
    pub(crate) fn token(&self, service: &str, uses: &str) -> String {
        self.ca(&["token", "create", "--service", service, "--uses", uses])
    }

    /// Starts the authority with further settings, and waits until it listens.
    pub(crate) fn authority(&self, settings: &str) -> Part {
        let listen = if settings.contains("listen:") { "" } else { "listen: 127.0.0.1:0\n" };
        let text = format!("dir: ca\nadmin: {{ listen: \"127.0.0.1:0\" }}\n{listen}{settings}");
        self.start("ca", &["ca", "serve"], &text, true)
    }

    /// Starts a part with a settings file; `wait` for it to report where it listens.
    pub(crate) fn start(&self, name: &str, command: &[&str], settings: &str, wait: bool) -> Part {
        let (config, report, log) =
            (format!("{name}.yaml"), self.path(&format!("{name}.at")), self.path(&format!("{name}.log")));
        // Of an earlier one of this name.
        let _ = fs::remove_file(&report);
        fs::write(self.path(&config), settings).unwrap();
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut started = tool(self.dir.path(), &[command, &["--config", &config]].concat());
        started.env("OUTRIGGER_REPORT", &report).stdout(file.try_clone().unwrap()).stderr(file);
        let mut part = Part { process: started.spawn().unwrap(), at: Value::Null, log };
        if wait {
            part.wait_for(&report);
        }
        part
    }

    /// Starts the sidecar of an example service that gets its certificate from the authority. Its root is the directory.
    pub(crate) fn sidecar(&self, name: &str, enroll: &str, wait: bool) -> Part {
        self.sidecar_as(name, &format!("enroll: {enroll}"), wait)
    }

    /// The same with an identity from wherever `source` says.
    pub(crate) fn sidecar_as(&self, name: &str, source: &str, wait: bool) -> Part {
        let policy = self.policy("members.yaml", "");
        let text = format!(
            "service: {name}\nlisten: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\npolicy: [{}]\naudit: off\n\
             command: [{}, example, fs, --root, {}]\nidentity:\n  trust_domain: {DOMAIN}\n  {source}\n",
            policy.display(),
            env!("CARGO_BIN_EXE_outrigger"),
            self.dir.path().display(),
        );
        self.start(name, &["sidecar"], &text, wait)
    }

    /// Starts an ingress in front of one sidecar, named `fs` there.
    pub(crate) fn ingress(&self, sidecar: &Part, enroll: &str) -> Part {
        self.ingress_as(sidecar, &format!("enroll: {enroll}"))
    }

    /// The same with an identity from wherever `source` says.
    pub(crate) fn ingress_as(&self, sidecar: &Part, source: &str) -> Part {
        self.ingress_with(&format!("services: {{ fs: {{ addresses: [{}] }} }}", sidecar.at["mesh"]), source)
    }

    /// The same with these services.
    pub(crate) fn ingress_with(&self, services: &str, source: &str) -> Part {
        let policy = self.policy("clients.yaml", ", requires: [ { anonymous: true } ]");
        let text = format!(
            "listen: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\nanonymous: true\npolicy: [{}]\naudit: off\n\
             {services}\nidentity:\n  trust_domain: {DOMAIN}\n  {source}\n",
            policy.display(),
        );
        self.start("ingress", &["ingress"], &text, true)
    }

    /// A policy that lets everybody do everything whom `requires` lets in.
    fn policy(&self, name: &str, requires: &str) -> PathBuf {
        let path = self.path(name);
        let rule = format!("{{ name: all, services: [\"*\"], capabilities: [\"*\"]{requires} }}");
        let text = format!(
            "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: test }}\nspec: {{ authorization: {{ rules: [ {rule} ] }} }}\n"
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// The `enroll` section for a part with a join token.
    pub(crate) fn enroll(&self, authority: &Part, token: &str) -> String {
        format!("{{ url: \"{}\", token: {token}, ca: ca/ca.pem }}", authority.url())
    }

    /// What the authority wrote down.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("ca/audit.jsonl")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        // Those of the trail itself are about its files.
        lines.filter(|line| line.get("event").is_none()).collect()
    }

    /// Every file below the directory with its content.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(dir: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let path = entry.path();
                let kind = path.symlink_metadata().unwrap().file_type();
                if kind.is_dir() {
                    walk(&path, found);
                } else if kind.is_file() {
                    found.push((path.clone(), fs::read(&path).unwrap()));
                }
            }
        }
        let mut found = Vec::new();
        walk(self.dir.path(), &mut found);
        found
    }

    /// TLS of somebody without a certificate.
    pub(crate) fn stranger(&self) -> Arc<ClientConfig> {
        let anchor = Anchor::Bundle(fs::read_to_string(self.path("ca/ca.pem")).unwrap());
        first_contact(&TrustDomain::parse(DOMAIN).unwrap(), &anchor).unwrap()
    }

    /// TLS of a workload to which this was granted.
    pub(crate) fn member(&self, key: &Arc<WorkloadKey>, grant: &Value) -> Arc<ClientConfig> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let material = Material {
            cert_chain_pem: text(&grant["certificate"]),
            key: Arc::clone(key),
            ca_pem: text(&grant["bundle"]["ca"]),
            crl_pem: text(&grant["bundle"]["crl"]),
        };
        let credentials = Credentials::enrolled(material, &CredentialOptions::default()).unwrap();
        credentials.client_config(&TrustDomain::parse(DOMAIN).unwrap().service("ca").unwrap())
    }
}

impl Part {
    fn wait_for(&mut self, report: &Path) {
        until("the part listens", || {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("it ended with {status}: {}", self.log());
            }
            report.exists()
        });
        self.at = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    }

    /// Of an authority.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.at["ca"].as_str().unwrap())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// A page of its admin port.
    pub(crate) fn admin(&self, path: &str) -> String {
        get(self.at["admin"].as_str().unwrap(), path)
    }

    /// The value of a line of `/metrics`; zero while it has not happened.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let page = self.admin("/metrics");
        page.lines().find_map(|shown| shown.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0.0)
    }

    pub(crate) fn signal(&self, signal: &str) {
        kill(self.process.id(), signal);
    }

    /// Waits for the end and gives the exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        until("the part ends", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    /// Ends at once, as a machine does that loses its power.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already in some tests.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A page over plain HTTP; empty when nobody answers.
pub(crate) fn get(address: &str, path: &str) -> String {
    let Ok(mut socket) = TcpStream::connect(address) else { return String::new() };
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    // A process that ends meanwhile has no page.
    let _ = socket.write_all(request.as_bytes()).and_then(|()| socket.read_to_string(&mut answer));
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

/// Sends a request to the authority: the HTTP status and what it says.
pub(crate) async fn send(
    authority: &Part,
    tls: &Arc<ClientConfig>,
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
) -> (u16, Value) {
    try_send(authority, tls, method, path, body).await.unwrap()
}

/// The same, when the connection may be refused.
pub(crate) async fn try_send(
    authority: &Part,
    tls: &Arc<ClientConfig>,
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
) -> Result<(u16, Value), String> {
    let (host, port) = authority.at["ca"].as_str().unwrap().split_once(':').unwrap();
    let tls = Arc::clone(tls);
    let server_name = server_name([127, 0, 0, 1].into());
    let tls = ClientTls { provider: Arc::new(move || Arc::clone(&tls)), server_name };
    let pool = Pool::new(Endpoint::tcp(host, port.parse().unwrap()).with_tls(tls), PoolSettings::default());
    let mut request = Request::new(OutBody::full(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    let response = pool.send(request).await.map_err(|error| error.source.to_string())?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok((head.status.as_u16(), serde_json::from_slice(&body).unwrap_or_default()))
}

/// Asks for a certificate, with a proof or without.
pub(crate) async fn ask(authority: &Part, tls: &Arc<ClientConfig>, csr: &str, proof: Option<Value>) -> (u16, Value) {
    let mut query = json!({ "csr": csr });
    if let Some(proof) = proof {
        query["proof"] = proof;
    }
    send(authority, tls, Method::POST, "/ca/v1/certificates", query.to_string()).await
}

/// A new key, with a request for no name.
pub(crate) fn key() -> (Arc<WorkloadKey>, String) {
    let key = Arc::new(WorkloadKey::generate().unwrap());
    let csr = key.request(None).unwrap();
    (key, csr)
}
