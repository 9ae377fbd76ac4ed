//! A conversation over Streamable HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use outrigger_mcp::envelope::{Message, Shape};
use outrigger_mcp::headers::{METHOD, PROTOCOL_VERSION, SESSION_ID};
use serde_json::Value;
use tokio::time::timeout;

use crate::connect::answer::pass_on;
use crate::connect::client::Client;

use super::wire::{Trouble, notification, request, silent};

/// A session, or the hope of one.
pub(super) struct Http {
    client: Client,
    patience: Duration,
    session: Option<HeaderValue>,
    version: Option<HeaderValue>,
    last_id: u64,
}

impl Http {
    /// Asks nothing yet.
    pub(super) fn new(client: Client, patience: Duration) -> Self {
        Self { client, patience, session: None, version: None, last_id: 0 }
    }

    /// See [`super::wire::Wire::agreed`].
    pub(super) fn agreed(&mut self, version: &str) {
        self.version = HeaderValue::from_str(version).ok();
    }

    /// See [`super::wire::Wire::ask`].
    pub(super) async fn ask(&mut self, method: &str, params: Value) -> Result<Value, Trouble> {
        self.last_id += 1;
        let body = request(self.last_id, method, &params).to_string();
        let id = Bytes::from(self.last_id.to_string());
        let patience = self.patience;
        timeout(patience, self.exchange(body, id, method)).await.unwrap_or_else(|_| Err(silent(method, patience)))
    }

    async fn exchange(&mut self, body: String, id: Bytes, method: &str) -> Result<Value, Trouble> {
        let mut headers = self.headers();
        if let Ok(method) = HeaderValue::from_str(method) {
            headers.insert(HeaderName::from_static(METHOD), method);
        }
        let answer = self.client.post(body.into(), headers).await.map_err(|error| Trouble::gone(error.message))?;
        let status = answer.status();
        if let Some(session) = answer.headers().get(SESSION_ID) {
            self.session = Some(session.clone());
        }
        let mut found = None;
        let look = |message: &Message| {
            let response = matches!(message.shape, Shape::Result | Shape::Error);
            if response && message.id().is_none_or(|given| given == id || given == "null") {
                found = serde_json::from_slice(message.body()).ok();
            }
        };
        let ended = pass_on(answer, Some(&id), None, look).await;
        match found {
            Some(response) => Ok(response),
            None if !status.is_success() => Err(Trouble::unanswered(format!("HTTP status {}", status.as_u16()))),
            None => Err(Trouble::unanswered(match ended {
                Err(error) => error.message.to_string(),
                Ok(_) => "the answer holds no response".to_owned(),
            })),
        }
    }

    /// See [`super::wire::Wire::tell`].
    pub(super) async fn tell(&mut self, method: &str) {
        let sent = self.client.post(notification(method).to_string().into(), self.headers());
        // What it answers does not matter: the next question shows whether it understood.
        let _ = timeout(self.patience, sent).await;
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [(SESSION_ID, &self.session), (PROTOCOL_VERSION, &self.version)] {
            if let Some(value) = value {
                headers.insert(HeaderName::from_static(name), value.clone());
            }
        }
        headers
    }

    /// See [`super::wire::Wire::close`].
    pub(super) async fn close(self) {
        if self.session.is_some() {
            // A server that does not end sessions on request ends them in time.
            let _ = timeout(self.patience, self.client.delete(self.headers())).await;
        }
    }
}
