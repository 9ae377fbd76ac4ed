//! One ingress in front of sidecars, and servers that say what a case needs.

use std::net::SocketAddr;

use http::{HeaderMap, Method, Request, Response};
use outrigger_proxy::body::OutBody;
use outrigger_tests::{
    Call, Client, Mesh, Reply, Session, TestIngress, TestSidecar,
    http_server::{HttpServer, Received, error, result, status},
    sidecar::text_of,
};
use serde_json::{Value, json};

/// What servers said that nobody could be told.
pub const STRAY: &str = r#"outrigger_upstream_errors_total{kind="stray",service="fs"}"#;

/// What a client that can be asked anything declares.
pub const ABLE: &str = r#"{"elicitation":{},"sampling":{},"roots":{}}"#;

/// A mesh: the sidecars in the order of their services, and the ingress in front.
pub struct World {
    pub mesh: Mesh,
    pub sidecars: Vec<TestSidecar>,
    pub ingress: TestIngress,
}

impl World {
    /// One service `fs` with these settings of its sidecar.
    pub async fn one(settings: &str) -> Self {
        Self::of(&[("fs", settings)]).await
    }

    /// Services by name, with the settings of their sidecars.
    pub async fn of(services: &[(&str, &str)]) -> Self {
        Self::with(services, "").await
    }

    /// The same, with further settings of the ingress.
    pub async fn with(services: &[(&str, &str)], ingress: &str) -> Self {
        let mesh = Mesh::new();
        let mut sidecars = Vec::new();
        let mut addresses: Vec<(&str, Vec<SocketAddr>)> = Vec::new();
        for (name, settings) in services {
            let sidecar = TestSidecar::of(&mesh, name, settings).await;
            addresses.push((name, vec![sidecar.address()]));
            sidecars.push(sidecar);
        }
        let ingress = TestIngress::over(&mesh, &addresses, ingress).await;
        Self { mesh, sidecars, ingress }
    }

    /// One service `fs` whose sidecar has a policy: the YAML under `spec:`.
    pub async fn guarded(policy: &str, settings: &str) -> Self {
        let mesh = Mesh::new();
        let sidecar = TestSidecar::with_policy(&mesh, policy, settings).await;
        let ingress = TestIngress::start(&mesh, &[sidecar.address()], "").await;
        Self { mesh, sidecars: vec![sidecar], ingress }
    }

    /// A modern client.
    pub fn client(&self) -> &Client {
        &self.ingress.client
    }

    /// A session of an older client that can be asked anything.
    pub async fn session(&self, revision: &str) -> Session {
        Session::open(self.client(), revision, &able()).await
    }

    /// The names in a merged list.
    pub async fn names(&self, method: &str, member: &str, key: &str) -> Vec<String> {
        let listed = self.client().reply(&Call::new(method)).await.json();
        let items = listed["result"][member].as_array().unwrap_or_else(|| panic!("{listed}"));
        items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
    }

    pub async fn tools(&self) -> Vec<String> {
        self.names("tools/list", "tools", "name").await
    }

    /// The value of a line of a sidecar's metrics; zero while there is none.
    pub async fn counted(&self, sidecar: usize, line: &str) -> f64 {
        let (_, text) = self.sidecars[sidecar].admin("/metrics").await;
        text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0.0)
    }

    pub async fn stop(self) {
        self.ingress.stop().await;
        for sidecar in self.sidecars {
            sidecar.stop().await;
        }
    }
}

pub fn able() -> Value {
    serde_json::from_str(ABLE).unwrap()
}

/// Tools with these names.
pub fn tools(names: &[&str]) -> Value {
    let tools: Vec<_> = names.iter().map(|name| json!({"name": name, "inputSchema": {"type": "object"}})).collect();
    json!({"tools/list": {"tools": tools}})
}

/// A server of the stateless revision: `lists` has the result of each list, `answer` answers all the rest.
pub fn modern<R>(lists: Value, answer: impl Fn(Received) -> R + Clone + Send + Sync + 'static) -> HttpServer
where
    R: Future<Output = Response<OutBody>> + Send + 'static,
{
    HttpServer::start(move |received| {
        let (lists, answer) = (lists.clone(), answer.clone());
        async move {
            let method = received.rpc_method();
            match (method.as_str(), lists.get(&method)) {
                ("server/discover", _) => result(
                    &received,
                    json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0,
                        "cacheScope": "private", "capabilities": capabilities(&lists)}),
                ),
                (_, Some(list)) => {
                    let mut list = list.clone();
                    list["resultType"] = json!("complete");
                    result(&received, list)
                }
                _ => answer(received).await,
            }
        }
    })
}

/// A server of an older revision, with sessions, otherwise as [`modern`].
pub fn legacy<R>(
    revision: &'static str,
    lists: Value,
    answer: impl Fn(Received) -> R + Clone + Send + Sync + 'static,
) -> HttpServer
where
    R: Future<Output = Response<OutBody>> + Send + 'static,
{
    HttpServer::start(move |received| {
        let (lists, answer) = (lists.clone(), answer.clone());
        async move {
            let method = received.rpc_method();
            match (received.method.as_str(), method.as_str(), lists.get(&method)) {
                ("POST", "initialize", _) => {
                    let mut reply = result(
                        &received,
                        json!({"protocolVersion": revision, "capabilities": capabilities(&lists),
                            "serverInfo": {"name": "old", "version": "1"}}),
                    );
                    reply.headers_mut().insert("mcp-session-id", "s1".parse().unwrap());
                    reply
                }
                ("POST", _, Some(list)) => result(&received, list.clone()),
                ("POST", "ping", _) => result(&received, json!({})),
                ("POST", "server/discover", _) => error(&received, 200, -32601, "no such method"),
                ("POST", method, _) if method.starts_with("notifications/") => status(202),
                ("DELETE", ..) => status(200),
                _ => answer(received).await,
            }
        }
    })
}

fn capabilities(lists: &Value) -> Value {
    let mut found = lists.get("capabilities").cloned().unwrap_or_else(|| json!({}));
    for kind in ["tools", "prompts", "resources"] {
        if lists.get(format!("{kind}/list")).is_some() && found.get(kind).is_none() {
            found[kind] = json!({});
        }
    }
    found
}

/// A call of a tool of a modern client, with everything right.
pub async fn call(world: &World, name: &str, arguments: &str) -> Reply {
    world.client().reply(&Call::tool(name, arguments)).await
}

/// The text that a tool answers.
pub async fn said(world: &World, name: &str, arguments: &str) -> String {
    text_of(&call(world, name, arguments).await.json())
}

/// What a reply must be: its status and the code of its error.
pub fn refused(reply: &Reply, status: u16, code: i64) {
    assert_eq!((reply.status.as_u16(), reply.error_code()), (status, code), "{reply:?}");
}

/// Sends any bytes with any headers.
pub async fn post(client: &Client, headers: &HeaderMap, body: &str) -> Reply {
    let mut request = Request::new(OutBody::full(body.to_owned()));
    *request.headers_mut() = headers.clone();
    client.send(Method::POST, "/mcp", request).await.unwrap().rest().await
}

/// A request with an id of its own in a session.
pub fn request(id: &Value, method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

/// A call of a tool as [`request`].
pub fn tool(id: &Value, name: &str, arguments: &Value) -> String {
    request(id, "tools/call", &json!({"name": name, "arguments": arguments}))
}
