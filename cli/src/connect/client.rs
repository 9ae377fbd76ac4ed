//! HTTP towards the mesh: one pool, the headers of every request, and errors that say what to do.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, StatusCode};
use outrigger_mcp::error::{INTERNAL, RpcError, UNAVAILABLE};
use outrigger_proxy::body::OutBody;
use outrigger_proxy::pool::{Pool, PoolSettings, PooledBody};

use super::target::Target;

/// A response whose body streams.
pub(crate) type Answer = Response<PooledBody>;

/// The mesh.
#[derive(Clone)]
pub(crate) struct Client {
    pool: Pool,
    path: PathAndQuery,
    headers: HeaderMap,
}

impl Client {
    /// Connects when first used.
    pub(crate) fn new(target: Target) -> Self {
        Self::with(target, PoolSettings::default())
    }

    /// The same, with other bounds on its connections.
    pub(crate) fn with(target: Target, settings: PoolSettings) -> Self {
        let Target { endpoint, path, headers } = target;
        Self { pool: Pool::new(endpoint, settings), path, headers }
    }

    /// The same mesh at another path; connections are shared.
    pub(crate) fn at(&self, path: PathAndQuery) -> Self {
        Self { path, ..self.clone() }
    }

    /// Sends a message.
    pub(crate) async fn post(&self, body: Bytes, headers: HeaderMap) -> Result<Answer, RpcError> {
        self.send(Method::POST, "application/json, text/event-stream", OutBody::full(body), headers).await
    }

    /// Opens a stream for what belongs to no request.
    pub(crate) async fn get(&self, headers: HeaderMap) -> Result<Answer, RpcError> {
        self.send(Method::GET, "text/event-stream", OutBody::empty(), headers).await
    }

    /// Ends a session.
    pub(crate) async fn delete(&self, headers: HeaderMap) -> Result<Answer, RpcError> {
        self.send(Method::DELETE, "*/*", OutBody::empty(), headers).await
    }

    async fn send(
        &self,
        method: Method,
        accept: &'static str,
        body: OutBody,
        headers: HeaderMap,
    ) -> Result<Answer, RpcError> {
        let mut request = Request::new(body);
        *request.uri_mut() = Uri::from(self.path.clone());
        if method == Method::POST {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        *request.method_mut() = method;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(accept));
        request.headers_mut().extend(headers);
        // Last, because the operator knows best.
        request.headers_mut().extend(self.headers.clone());
        let failed = |error: outrigger_proxy::pool::SendError| {
            let target = &self.pool.endpoint().target;
            RpcError::new(UNAVAILABLE, format!("{target} cannot be reached: {error}"))
                .with("reason", "mesh_unreachable")
        };
        self.pool.send(request).await.map_err(failed)
    }
}

/// What an answer without a JSON-RPC message means.
pub(crate) fn refusal(status: StatusCode) -> RpcError {
    let text = match status {
        StatusCode::UNAUTHORIZED => "the mesh does not accept the token; check --token-file".to_owned(),
        StatusCode::FORBIDDEN => "the mesh does not let this client in".to_owned(),
        StatusCode::NOT_FOUND => "there is no MCP endpoint at this URL; check the path of --url".to_owned(),
        other => format!("the mesh answered with HTTP status {}", other.as_u16()),
    };
    RpcError::new(INTERNAL, text).with("reason", "http_status").with_raw("status", status.as_u16().to_string())
}
