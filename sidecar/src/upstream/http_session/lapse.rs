//! What is lost with a stream that broke off, and with a session that its server forgot.

use std::sync::{PoisonError, atomic::Ordering};

use http::{Method as HttpMethod, StatusCode};
use outrigger_mcp::{
    envelope::Message,
    error::{METHOD_NOT_FOUND, notification, request},
    method::Method,
};

use super::HttpSession;
use crate::upstream::{
    http::{Answer, legacy_fields},
    session::updated_resource,
};

impl HttpSession {
    /// Whether the server, which answered this with 400, has forgotten the session. It should say so with 404; many have 400 for that as for
    /// any other mistake, so it is asked something that can be refused for nothing else.
    pub(super) async fn forgotten(&self, refused: &Message) -> bool {
        match refused.method {
            // Some never took one.
            Method::Ping => self.id.is_some() && self.answers_ping.load(Ordering::Relaxed),
            _ => !self.server.finds_ping_bad.load(Ordering::Relaxed) && self.refuses_ping().await,
        }
    }

    /// A session that was just opened is not forgotten: where a `ping` is refused in it all the same, that says nothing from now on.
    pub(super) async fn learn_of_ping(&self) {
        if self.refuses_ping().await {
            self.server.finds_ping_bad.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the server, which does not open the session's stream again, has forgotten the session.
    pub(super) async fn forgotten_with(&self, status: StatusCode) -> bool {
        let tells = !self.server.finds_ping_bad.load(Ordering::Relaxed);
        self.id.is_some() && (status == StatusCode::NOT_FOUND || tells && self.refuses_ping().await)
    }

    async fn refuses_ping(&self) -> bool {
        let Some(id) = &self.id else { return false };
        let number = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        let fields = legacy_fields(Some(id), Some(self.greeted.revision));
        let ping = request(number.as_bytes(), Method::Ping.as_str(), b"{}");
        let Ok(response) = self.server.send(HttpMethod::POST, fields, vec![ping]).await else { return false };
        match response.status() {
            StatusCode::NOT_FOUND => true,
            StatusCode::BAD_REQUEST => match self.server.answer(response).await {
                // It knows the session, and no `ping`.
                Ok(Answer::Json(reply)) => {
                    Message::parse(reply).map_or(true, |reply| reply.error_code() != Some(METHOD_NOT_FOUND))
                }
                _ => true,
            },
            _ => false,
        }
    }

    /// Tells of everything that the server may have said while it had no stream to say it on. It is not told again.
    pub(super) fn missed(&self) {
        let uris: Vec<String> =
            self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        // One announcement has all lists read again.
        let lists = Message::parse(notification(Method::ToolsListChanged.as_str(), None)).ok();
        for message in lists.into_iter().chain(uris.iter().filter_map(|uri| updated_resource(uri))) {
            self.tell(message);
        }
    }
}
