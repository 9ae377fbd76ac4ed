//! An API server of Kubernetes as far as an ingress uses one: lists in pages, watches with versions and bookmarks, tokens,
//! and all that goes wrong with them. After "Kubernetes API Concepts" in its documentation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Method, Response, StatusCode};
use outrigger_proxy::body::{BodySender, OutBody};
use outrigger_proxy::handshake::ServerTlsProvider;
use outrigger_proxy::reply::json;
use serde_json::{Value, json as value};
use tokio::sync::watch;

use crate::http_server::{HttpServer, Received};

/// What somebody must show.
pub const TOKEN: &str = "a-token-of-a-pod";
/// Where Services of the namespace `tools` are.
pub const SERVICES: &str = "/api/v1/namespaces/tools/services";
/// Where EndpointSlices of the namespace `tools` are.
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/tools/endpointslices";

/// A running server. It ends when dropped.
pub struct KubeApi {
    server: HttpServer,
    shared: Arc<Shared>,
}

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    /// As documented.
    #[default]
    Good,
    /// It answers 503 to everything, and what is open breaks.
    Away,
    /// It answers nothing.
    Silent,
    /// It has none of our definitions.
    Undefined,
}

struct Shared {
    state: Mutex<State>,
    /// The number of things that happened, for watches to wait for.
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    mood: Mood,
    version: u64,
    /// Versions before this one are forgotten.
    oldest: u64,
    /// By collection, then by name.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// What happened, as lines: the version, the collection and the event.
    log: Vec<(u64, String, String)>,
    /// Said to everybody who watches, whatever they watch.
    said: Vec<String>,
    /// Watches that began before are over.
    cut: u64,
}

impl KubeApi {
    /// Starts one without objects.
    pub fn start() -> Self {
        Self::over(None)
    }

    /// The same, over TLS.
    pub fn over(tls: Option<ServerTlsProvider>) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), news: watch::Sender::new(0) });
        shared.lock().version = 100;
        let answering = Arc::clone(&shared);
        let server = HttpServer::over(tls, move |asked| Arc::clone(&answering).answer(asked));
        Self { server, shared }
    }

    /// Its address.
    pub fn url(&self) -> String {
        self.server.url.trim_end_matches("/mcp").to_owned()
    }

    /// The settings of an ingress that finds the services of the namespace `tools` here; `more` is further settings.
    pub fn settings(&self, directory: &std::path::Path, more: &str) -> String {
        let token = directory.join("kube-token");
        std::fs::write(&token, TOKEN).unwrap();
        let (url, token) = (self.url(), token.display());
        format!(
            "discovery:\n  kubernetes: {{ url: \"{url}\", token_file: {token}, namespaces: [tools], any_address: true{more} }}\n"
        )
    }

    /// Creates or replaces an object.
    pub fn put(&self, collection: &str, object: Value) {
        self.shared.put(collection, object);
    }

    /// Deletes an object.
    pub fn remove(&self, collection: &str, name: &str) {
        self.shared.change(|state| {
            state.version += 1;
            let known = state.objects.get_mut(collection).and_then(|objects| objects.remove(name));
            let mut object = known.unwrap_or_else(|| panic!("there is no {name}"));
            object["metadata"]["resourceVersion"] = value!(state.version.to_string());
            state.happened(collection, "DELETED", &object);
        });
    }

    /// A Service of the namespace `tools` with these annotations.
    pub fn service(&self, name: &str, annotations: &Value) {
        let metadata = value!({"name": name, "namespace": "tools", "annotations": annotations});
        self.put(SERVICES, value!({"metadata": metadata, "spec": {"ports": [{"name": "http", "port": 80}]}}));
    }

    /// A slice of a Service with one pod, at this address.
    pub fn slice(&self, name: &str, owner: &str, at: std::net::SocketAddr, ready: bool) {
        let metadata = value!({"name": name, "namespace": "tools", "labels": {"kubernetes.io/service-name": owner}});
        let endpoint = value!({"addresses": [at.ip().to_string()], "conditions": {"ready": ready},
            "targetRef": {"kind": "Pod", "name": name, "uid": name}});
        self.put(
            SLICES,
            value!({"metadata": metadata, "addressType": "IPv4", "endpoints": [endpoint],
                "ports": [{"name": "outrigger", "port": at.port(), "protocol": "TCP"}]}),
        );
    }

    /// Behaves so from now on.
    pub fn mood(&self, mood: Mood) {
        self.shared.change(|state| {
            state.mood = mood;
            state.cut = state.version + 1;
        });
    }

    /// Ends all watches, as it does every few minutes.
    pub fn cut(&self) {
        self.shared.change(|state| state.cut = state.version + 1);
    }

    /// Forgets what happened until now: whoever does not know it must list again.
    pub fn compact(&self) {
        self.shared.change(|state| {
            state.version += 1;
            state.oldest = state.version;
            state.log.clear();
            state.cut = state.version;
        });
    }

    /// Says something to everybody who watches, true or not.
    pub fn say(&self, line: &str) {
        self.shared.change(|state| state.said.push(line.to_owned()));
    }

    /// Requests that began so.
    pub fn asked(&self, path: &str, what: &str) -> Vec<Received> {
        let all = self.server.received();
        all.into_iter().filter(|one| one.path.starts_with(path) && one.path.contains(what)).collect()
    }

    /// An object as it is now.
    pub fn object(&self, collection: &str, name: &str) -> Option<Value> {
        self.shared.lock().objects.get(collection)?.get(name).cloned()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.news.send_modify(|times| *times += 1);
    }

    async fn answer(self: Arc<Self>, asked: Received) -> Response<OutBody> {
        let mood = self.lock().mood;
        match mood {
            Mood::Undefined if asked.path.starts_with("/apis/mcpx.io/") => {
                return status(404, "the server could not find the requested resource");
            }
            Mood::Good | Mood::Undefined => {}
            Mood::Away => return status(503, "the server is currently unable to handle the request"),
            Mood::Silent => std::future::pending().await,
        }
        if asked.header("authorization") != format!("Bearer {TOKEN}") {
            return status(401, "Unauthorized");
        }
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let query: BTreeMap<String, String> =
            query.split('&').filter_map(|part| part.split_once('=')).map(|(k, v)| (k.to_owned(), decode(v))).collect();
        match (&asked.method, query.contains_key("watch")) {
            (&Method::GET, false) => self.lock().list(path, &query),
            (&Method::GET, true) => Arc::clone(&self).watch(path, &query),
            (&Method::PATCH, _) => self.patch(path, &asked.json()),
            _ => status(405, "not allowed"),
        }
    }

    fn watch(self: Arc<Self>, path: &str, query: &BTreeMap<String, String>) -> Response<OutBody> {
        let from: u64 = query["resourceVersion"].parse().unwrap();
        let (oldest, version, said) = {
            let state = self.lock();
            (state.oldest, state.version, state.said.len())
        };
        let (sender, body) = OutBody::channel(16);
        let mut response = Response::new(body);
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        if from < oldest {
            // Within a 200, as servers do that notice it late.
            let gone = value!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired",
                "message": format!("too old resource version: {from} ({oldest})")}});
            tokio::spawn(async move {
                let _ = sender.send(format!("{gone}\n").into()).await;
                let _ = sender.finish().await;
            });
            return response;
        }
        tokio::spawn(self.feed(path.to_owned(), (from, version, said), sender));
        response
    }

    /// Tells what happens until the watch is cut, by an end in the middle of nothing.
    async fn feed(self: Arc<Self>, path: String, (mut from, began, mut said): (u64, u64, usize), sender: BodySender) {
        let mut news = self.news.subscribe();
        loop {
            let (lines, over) = {
                let state = self.lock();
                let new = state.log.iter().filter(|(version, at, _)| *version > from && *at == path);
                let mut lines: Vec<String> = new.map(|(_, _, line)| line.clone()).collect();
                lines.extend(state.said[said..].iter().cloned());
                (from, said) = (state.version, state.said.len());
                (lines, state.cut > began)
            };
            for line in lines {
                if sender.send(format!("{line}\n").into()).await.is_err() {
                    return;
                }
            }
            if over {
                let _ = sender.finish().await;
                return;
            }
            let _ = news.changed().await;
        }
    }

    /// A merge patch (RFC 7396) of the `status` of an object.
    fn patch(&self, path: &str, patch: &Value) -> Response<OutBody> {
        let path = path.strip_suffix("/status").unwrap_or_else(|| panic!("{path} is not for patching"));
        let (collection, name) = path.rsplit_once('/').unwrap();
        let found = self.lock().objects.get(collection).and_then(|objects| objects.get(name)).cloned();
        let Some(mut object) = found else { return status(404, "not found") };
        let fields = patch["status"].as_object().unwrap();
        for (name, field) in fields {
            object["status"][name] = field.clone();
        }
        json(StatusCode::OK, self.put(collection, object).to_string())
    }

    /// As it is stored.
    fn put(&self, collection: &str, mut object: Value) -> Value {
        self.change(|state| {
            state.version += 1;
            object["metadata"]["resourceVersion"] = value!(state.version.to_string());
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let known = state.objects.entry(collection.to_owned()).or_default().insert(name, object.clone());
            let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
            state.happened(collection, kind, &object);
        });
        object
    }
}

impl State {
    fn happened(&mut self, collection: &str, kind: &str, object: &Value) {
        let line = value!({"type": kind, "object": object}).to_string();
        self.log.push((self.version, collection.to_owned(), line));
    }

    fn list(&self, path: &str, query: &BTreeMap<String, String>) -> Response<OutBody> {
        let limit: usize = query.get("limit").map_or(usize::MAX, |text| text.parse().unwrap());
        let from: usize = query.get("continue").map_or(0, |text| text.strip_prefix("from ").unwrap().parse().unwrap());
        let fits = |object: &&Value| {
            let Some((label, wanted)) = query.get("labelSelector").and_then(|text| text.split_once('=')) else {
                return true;
            };
            object["metadata"]["labels"][label] == wanted
        };
        let all: Vec<&Value> = self.objects.get(path).into_iter().flat_map(BTreeMap::values).filter(fits).collect();
        // A page may be empty although others follow: here the first one of policies is.
        let limit = if path.ends_with("/securitypolicies") && !query.contains_key("continue") { 0 } else { limit };
        let page: Vec<_> = all.iter().skip(from).take(limit).collect();
        let end = from + page.len();
        let more = if end < all.len() { format!("from {end}") } else { String::new() };
        let page = value!({"kind": "List", "apiVersion": "v1", "items": page,
            "metadata": {"resourceVersion": self.version.to_string(), "continue": more}});
        json(StatusCode::OK, page.to_string())
    }
}

/// A `Status` that says why not.
fn status(code: u16, message: &str) -> Response<OutBody> {
    let status = value!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code});
    json(StatusCode::from_u16(code).unwrap(), status.to_string())
}

/// Percent-encoding undone.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).unwrap()
}
