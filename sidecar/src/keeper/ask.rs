//! Requests of our own to a modern HTTP server, where there is no session to make them on.

use bytes::Bytes;
use http::Method as HttpMethod;
use outrigger_mcp::{
    bridge::handshake::modern_params,
    envelope::{Message, Shape},
    error::request,
    json::quote,
};
use outrigger_proxy::failure::Failure;
use tokio::time::timeout;

use super::PATIENCE;
use crate::upstream::{
    http::{Answer, EventStream, HttpServer, modern_fields},
    session::Declared,
};

/// `params` of a modern request of our own.
pub(super) fn modern_request_params(declared: &Declared, cursor: Option<&str>) -> Vec<u8> {
    let mut params = modern_params(&declared.capabilities, &declared.info);
    if let Some(cursor) = cursor {
        params.pop();
        params.extend_from_slice(format!(",\"cursor\":{}}}", quote(cursor)).as_bytes());
    }
    params
}

/// A request of our own to a modern HTTP server.
pub(super) async fn ask_modern(server: &HttpServer, method: &str, params: &[u8]) -> Result<Message, Failure> {
    let body = request(b"0", method, params);
    let message = Message::parse(body.clone()).map_err(|r| Failure::Internal(r.error.to_string()))?;
    let work = async {
        let response = server.send(HttpMethod::POST, modern_fields(&message), vec![body]).await?;
        let bytes = match server.answer(response).await? {
            Answer::Json(bytes) => bytes,
            Answer::Stream(mut events) => last_reply(server, &mut events).await?,
            Answer::Empty => return Err(server.broken("it answered nothing")),
        };
        Message::parse(bytes).map_err(|r| server.broken(&r.error.to_string()))
    };
    timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(Failure::Timeout { service: server.service.clone(), after: PATIENCE }))
}

async fn last_reply(server: &HttpServer, events: &mut EventStream) -> Result<Bytes, Failure> {
    while let Some(data) = events.next().await.map_err(|e| server.broken(&e))? {
        let reply = Message::parse(data.clone()).is_ok_and(|m| matches!(m.shape, Shape::Result | Shape::Error));
        if reply {
            return Ok(data);
        }
    }
    Err(server.broken("it ended the stream without a reply"))
}
