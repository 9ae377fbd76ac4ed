//! What a client wants to hear, and what it is told that it will.

use bytes::Bytes;
use outrigger_mcp::{
    bridge::{handshake::modern_params, meta_keys::SUBSCRIPTION_ID},
    envelope::{Message, Param},
    error::notification,
    json::{decode_string, elements, member, quote},
    method::Method,
};

use crate::upstream::session::Declared;

/// Resources that one listen may watch.
pub const MAX_RESOURCES: usize = 1000;

/// What a client wants to hear.
#[derive(Debug, Default)]
pub struct Filter {
    pub(super) kinds: [bool; 3],
    /// URIs of resources.
    pub resources: Vec<String>,
    pub(super) session: bool,
}

impl Filter {
    /// Reads `params.notifications`.
    pub fn of(request: &Message) -> Self {
        let Some(span) = request.params().get(Param::Notifications) else { return Self::default() };
        let body = request.body();
        let flag = |name| member(body, span, name).is_some_and(|s| request.raw(s) == b"true");
        let uris =
            member(body, span, "resourceSubscriptions").and_then(|list| elements(body, list)).unwrap_or_default();
        Self {
            kinds: [flag("toolsListChanged"), flag("promptsListChanged"), flag("resourcesListChanged")],
            resources: uris
                .iter()
                .take(MAX_RESOURCES)
                .filter_map(|s| decode_string(request.raw(*s)).map(Into::into))
                .collect(),
            session: flag("outrigger.dev/session"),
        }
    }

    /// Asks no longer for what the server says outside calls: nobody can tell whom it means where several callers share
    /// its session.
    pub fn forgo_session(&mut self) {
        self.session = false;
    }

    /// Whether it asks for what the server says outside calls.
    pub fn wants_session(&self) -> bool {
        self.session
    }

    /// The resources among it, as a modern server is asked for them.
    pub(super) fn resource_request(&self, id: &[u8]) -> Option<Message> {
        let declared = Declared::everything();
        let uris: Vec<String> = self.resources.iter().map(|uri| quote(uri)).collect();
        let mut params = modern_params(&declared.capabilities, &declared.info);
        params.pop();
        params.extend_from_slice(
            format!(",\"notifications\":{{\"resourceSubscriptions\":[{}]}}}}", uris.join(",")).as_bytes(),
        );
        Message::parse(outrigger_mcp::error::request(id, Method::SubscriptionsListen.as_str(), &params)).ok()
    }

    pub(super) fn acknowledged(&self, id: &[u8]) -> Bytes {
        let names = ["toolsListChanged", "promptsListChanged", "resourcesListChanged"];
        let mut honoured: Vec<String> =
            names.iter().zip(self.kinds).filter(|(_, on)| *on).map(|(name, _)| format!("\"{name}\":true")).collect();
        if !self.resources.is_empty() {
            let uris: Vec<String> = self.resources.iter().map(|uri| quote(uri)).collect();
            honoured.push(format!("\"resourceSubscriptions\":[{}]", uris.join(",")));
        }
        if self.session {
            honoured.push("\"outrigger.dev/session\":true".into());
        }
        let mut params =
            format!("{{\"notifications\":{{{}}},\"_meta\":{{{}:", honoured.join(","), quote(SUBSCRIPTION_ID))
                .into_bytes();
        params.extend_from_slice(id);
        params.extend_from_slice(b"}}");
        notification("notifications/subscriptions/acknowledged", Some(&params))
    }
}
