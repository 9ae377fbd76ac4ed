//! A client over HTTP, with or without TLS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::BodyExt;
use outrigger_identity::server_name;
use outrigger_mcp::sse::Parser;
use outrigger_proxy::{
    body::OutBody,
    dial::{ClientTls, ClientTlsProvider, Endpoint, Target},
    pool::{Pool, PoolSettings, PooledBody, SendError},
};
use rustls::ClientConfig;
use serde_json::Value;

use crate::{Call, wait::within};

/// A client with connections of its own.
#[derive(Clone)]
pub struct Client {
    /// Its connections.
    pub pool: Pool,
}

/// A whole reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The events, when it was a stream.
    pub events: Vec<Value>,
    /// The final message, or whatever the body was.
    pub body: Bytes,
}

/// A reply that is read event by event. Dropping it closes the stream.
pub struct Stream {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: PooledBody,
    parser: Parser,
}

impl Client {
    /// Connects to a sidecar; `tls` decides who it is.
    pub fn new(address: SocketAddr, tls: ClientTlsProvider) -> Self {
        Self::tuned(address, Some(tls))
    }

    /// The same over HTTP/1.1 only.
    pub fn http1(address: SocketAddr, tls: &ClientTlsProvider) -> Self {
        let mut config = ClientConfig::clone(&tls());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        Self::new(address, Arc::new(move || config.clone()))
    }

    fn tuned(address: SocketAddr, tls: Option<ClientTlsProvider>) -> Self {
        let tls = tls.map(|provider| ClientTls { provider, server_name: server_name(address.ip()) });
        let endpoint = Endpoint { target: Target::Tcp { host: address.ip().to_string(), port: address.port() }, tls };
        // Tests hold connections open on purpose.
        let settings = PoolSettings { idle_timeout: Duration::from_secs(600), ..PoolSettings::default() };
        Self { pool: Pool::new(endpoint, settings) }
    }

    /// Sends a request and waits for its head.
    ///
    /// # Errors
    /// When the sidecar cannot be reached or refuses the handshake.
    pub async fn try_open(&self, call: &Call) -> Result<Stream, SendError> {
        let mut request = Request::new(OutBody::full(call.bytes()));
        *request.headers_mut() = call.fields();
        self.send(Method::POST, call.path(), request).await
    }

    /// Sends any request.
    ///
    /// # Errors
    /// As [`Client::try_open`].
    pub async fn send(&self, method: Method, path: &str, mut request: Request<OutBody>) -> Result<Stream, SendError> {
        *request.method_mut() = method;
        *request.uri_mut() = path.parse::<Uri>().unwrap();
        let response = within("a response", self.pool.send(request)).await?;
        let (head, body) = response.into_parts();
        Ok(Stream { status: head.status, headers: head.headers, body, parser: Parser::new(64 << 20) })
    }

    /// Sends a call and returns as soon as its head is there.
    pub async fn open(&self, call: &Call) -> Stream {
        self.try_open(call).await.unwrap_or_else(|e| panic!("{call:?}: {e}"))
    }

    /// Sends a call and reads its reply to the end.
    pub async fn reply(&self, call: &Call) -> Reply {
        self.open(call).await.rest().await
    }

    /// Calls a tool and returns the reply's message.
    pub async fn tool(&self, name: &str, arguments: &str) -> Value {
        self.reply(&Call::tool(name, arguments)).await.json()
    }

    /// GETs a path.
    pub async fn get(&self, path: &str, headers: &[(&'static str, &str)]) -> Reply {
        let mut request = Request::new(OutBody::empty());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        self.send(Method::GET, path, request).await.unwrap_or_else(|e| panic!("{path}: {e}")).rest().await
    }
}

/// A client without TLS.
pub fn plain(address: SocketAddr) -> Client {
    Client::tuned(address, None)
}

impl Reply {
    /// The final message.
    ///
    /// # Panics
    /// When the body is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{}: {e}: {:?}", self.status, self.body))
    }

    /// The code of the error that it must be.
    pub fn error_code(&self) -> i64 {
        self.json()
            .pointer("/error/code")
            .and_then(Value::as_i64)
            .unwrap_or_else(|| panic!("no error in {:?}", self.body))
    }

    /// A header as text; empty without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

impl Stream {
    fn is_events(&self) -> bool {
        self.headers.get("content-type").is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"))
    }

    /// The next event's message; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        let data = within("an event", self.next_data()).await?;
        Some(serde_json::from_slice(&data).unwrap_or_else(|e| panic!("{e}: {data:?}")))
    }

    /// The id of the next event; `None` when it has none.
    ///
    /// # Panics
    /// When the stream ends first.
    pub async fn next_id(&mut self) -> Option<String> {
        loop {
            if let Some(event) = self.parser.next_event().unwrap() {
                return event.id.map(|id| String::from_utf8_lossy(&id).into_owned());
            }
            let frame = within("an event", self.body.frame()).await.expect("the stream ended").unwrap();
            if let Some(data) = frame.data_ref() {
                self.parser.push(data);
            }
        }
    }

    async fn next_data(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.parser.next_event().unwrap() {
                // An event without data only says where the stream can be resumed.
                match event.data.filter(|data| !data.is_empty()) {
                    Some(data) => return Some(data),
                    None => continue,
                }
            }
            let frame = self.body.frame().await?.ok()?;
            self.parser.push(frame.data_ref()?);
        }
    }

    /// Reads on; whether the stream broke off rather than ended.
    pub async fn broken(&mut self) -> bool {
        loop {
            match within("the end of a stream", self.body.frame()).await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return true,
                None => return false,
            }
        }
    }

    /// Reads to the end.
    pub async fn rest(mut self) -> Reply {
        let mut reply =
            Reply { status: self.status, headers: self.headers.clone(), events: Vec::new(), body: Bytes::new() };
        if self.is_events() {
            while let Some(data) = within("the end of the stream", self.next_data()).await {
                reply.events.push(serde_json::from_slice(&data).unwrap());
                reply.body = data;
            }
        } else {
            let body = within("the body", self.body.collect()).await;
            reply.body = body.unwrap_or_else(|e| panic!("the body broke off: {e}")).to_bytes();
        }
        reply
    }
}
