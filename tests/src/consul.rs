//! A Consul as far as an ingress uses one: a catalog, instances with checks, and blocking queries. After its HTTP API
//! documentation ("Catalog", "Health", "Blocking Queries").

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Response, StatusCode};
use outrigger_proxy::body::OutBody;
use outrigger_proxy::handshake::ServerTlsProvider;
use outrigger_proxy::reply::json;
use serde_json::{Value, json as value};
use tokio::sync::watch;

use crate::http_server::{HttpServer, Received};

/// What somebody must show.
pub const TOKEN: &str = "an-acl-token";

/// A running server. It ends when dropped.
pub struct Consul {
    server: HttpServer,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    index: u64,
    away: bool,
    /// By id.
    instances: BTreeMap<String, Value>,
}

impl Consul {
    /// Starts one without services.
    pub fn start() -> Self {
        Self::over(None)
    }

    /// The same, over TLS.
    pub fn over(tls: Option<ServerTlsProvider>) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), news: watch::Sender::new(0) });
        shared.lock().index = 50;
        let answering = Arc::clone(&shared);
        let server = HttpServer::over(tls, move |asked| Arc::clone(&answering).answer(asked));
        Self { server, shared }
    }

    /// Its address, without a scheme.
    pub fn authority(&self) -> String {
        self.server.url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned()
    }

    /// The settings of an ingress that finds its services here.
    pub fn settings(&self, directory: &std::path::Path) -> String {
        let token = directory.join("consul-token");
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        let address = self.server.url.trim_end_matches("/mcp").replace("http://", "consul://");
        let token = token.display();
        format!("discovery:\n  consul: {{ address: \"{address}\", token_file: {token}, any_address: true }}\n")
    }

    /// Registers an instance, or changes its check.
    pub fn register(&self, id: &str, service: &str, at: std::net::SocketAddr, meta: &Value, check: &str) {
        let instance = value!({
            "Node": {"Node": "n1", "Address": "10.0.0.1"},
            "Service": {"ID": id, "Service": service, "Tags": ["a", "outrigger"], "Address": at.ip().to_string(),
                "Port": at.port(), "Meta": meta},
            "Checks": [{"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "mcp", "Status": check}],
        });
        self.change(|state| drop(state.instances.insert(id.to_owned(), instance)));
    }

    /// Registers an instance that is nonsense.
    pub fn nonsense(&self, id: &str, service: &str) {
        let instance = value!({
            "Node": {"Address": "10.0.0.1"},
            "Service": {"Service": service, "Tags": ["outrigger"], "Address": "10.0.0.1", "Port": "http"},
            "Checks": null,
        });
        self.change(|state| drop(state.instances.insert(id.to_owned(), instance)));
    }

    /// Forgets an instance.
    pub fn deregister(&self, id: &str) {
        self.change(|state| drop(state.instances.remove(id)));
    }

    /// Answers 500 from now on, or no longer.
    pub fn away(&self, away: bool) {
        self.change(|state| state.away = away);
    }

    /// Counts anew, as one does that was restored from a snapshot.
    pub fn restore(&self) {
        self.change(|state| state.index = 1);
    }

    /// Requests that began so.
    pub fn asked(&self, path: &str) -> Vec<Received> {
        self.server.received().into_iter().filter(|one| one.path.starts_with(path)).collect()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.shared.lock();
        state.index += 1;
        change(&mut state);
        drop(state);
        self.shared.news.send_modify(|times| *times += 1);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn answer(self: Arc<Self>, asked: Received) -> Response<OutBody> {
        if asked.header("x-consul-token") != TOKEN {
            return json(StatusCode::FORBIDDEN, "Permission denied: token with AccessorID lacks permission".to_owned());
        }
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let said = |name: &str| query.split('&').find_map(|part| part.strip_prefix(&format!("{name}=")));
        let index: u64 = said("index").map_or(0, |text| text.parse().unwrap());
        assert_eq!(said("wait"), Some("60s"), "{query}");
        let mut news = self.news.subscribe();
        loop {
            let answer = {
                let state = self.lock();
                // One that is behind, as after a restoration, answers at once.
                let held = index > 0 && index == state.index && !state.away;
                (!held).then(|| state.answer(path, query.contains("passing=1")))
            };
            if let Some(answer) = answer {
                return answer;
            }
            let _ = news.changed().await;
        }
    }
}

impl State {
    fn answer(&self, path: &str, passing: bool) -> Response<OutBody> {
        if self.away {
            return json(StatusCode::INTERNAL_SERVER_ERROR, "No cluster leader".to_owned());
        }
        let body = match path.strip_prefix("/v1/health/service/") {
            Some(name) => self.health(name, passing),
            None if path == "/v1/catalog/services" => self.services(),
            None => panic!("nobody should ask for {path}"),
        };
        let mut response = json(StatusCode::OK, body.to_string());
        response.headers_mut().insert("x-consul-index", self.index.into());
        response
    }

    fn services(&self) -> Value {
        let mut all = value!({"consul": []});
        for instance in self.instances.values() {
            all[instance["Service"]["Service"].as_str().unwrap()] = instance["Service"]["Tags"].clone();
        }
        all
    }

    fn health(&self, name: &str, passing: bool) -> Value {
        let good = |one: &&Value| {
            let mut checks = one["Checks"].as_array().into_iter().flatten();
            one["Service"]["Service"] == name && (!passing || checks.all(|check| check["Status"] == "passing"))
        };
        self.instances.values().filter(good).cloned().collect()
    }
}
