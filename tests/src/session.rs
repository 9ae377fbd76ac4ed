//! A client of an older revision in its session, over Streamable HTTP.

use http::{HeaderMap, HeaderValue, Method, Request};
use outrigger_proxy::body::OutBody;
use serde_json::{Value, json};

use crate::{Client, Reply, Stream};

/// A session, or the attempt to use one.
#[derive(Clone)]
pub struct Session {
    client: Client,
    /// Sent with every request.
    pub headers: HeaderMap,
}

impl Session {
    /// Sends `initialize`, and `initialized` after the answer, which must name the same revision.
    ///
    /// # Panics
    /// When the handshake does not succeed.
    pub async fn open(client: &Client, version: &str, capabilities: &Value) -> Self {
        Self::open_with(client, version, capabilities, HeaderMap::new()).await
    }

    /// The same, with headers that go with every request.
    ///
    /// # Panics
    /// As [`Session::open`].
    pub async fn open_with(client: &Client, version: &str, capabilities: &Value, mut headers: HeaderMap) -> Self {
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert("accept", HeaderValue::from_static("application/json, text/event-stream"));
        let mut session = Self { client: client.clone(), headers };
        let info = json!({"name": "test", "version": "1"});
        let params = json!({"protocolVersion": version, "capabilities": capabilities, "clientInfo": info});
        let reply = session.ask("initialize", &params).await;
        let message = reply.json();
        assert_eq!(message["result"]["protocolVersion"], version, "{message}");
        session.headers.insert("mcp-session-id", reply.headers["mcp-session-id"].clone());
        if version >= "2025-06-18" {
            session.headers.insert("mcp-protocol-version", version.parse().unwrap());
        }
        assert_eq!(session.tell(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await, 202);
        session
    }

    /// The same session through another client.
    #[must_use]
    pub fn through(&self, client: &Client) -> Self {
        Self { client: client.clone(), headers: self.headers.clone() }
    }

    /// Sends anything and returns as soon as the head of the answer is there.
    pub async fn send(&self, method: Method, body: &str) -> Stream {
        let mut request = Request::new(OutBody::full(body.to_owned()));
        *request.headers_mut() = self.headers.clone();
        self.client.send(method, "/mcp", request).await.unwrap()
    }

    /// Begins a request with the id 1.
    pub async fn begin(&self, method: &str, params: &Value) -> Stream {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.send(Method::POST, &request.to_string()).await
    }

    /// Sends a request and reads its answer to the end.
    pub async fn ask(&self, method: &str, params: &Value) -> Reply {
        self.begin(method, params).await.rest().await
    }

    /// Calls a tool.
    pub async fn tool(&self, name: &str, arguments: &Value) -> Value {
        self.ask("tools/call", &json!({"name": name, "arguments": arguments})).await.json()
    }

    /// Sends a notification or a response; the status of the answer.
    pub async fn tell(&self, message: &Value) -> u16 {
        self.send(Method::POST, &message.to_string()).await.rest().await.status.as_u16()
    }

    /// Opens the session's stream.
    pub async fn listen(&self) -> Stream {
        self.send(Method::GET, "").await
    }

    /// Ends the session; the status of the answer.
    pub async fn end(&self) -> u16 {
        self.send(Method::DELETE, "").await.rest().await.status.as_u16()
    }
}
