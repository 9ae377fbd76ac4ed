//! What a client wants to hear, and what it is told that it will.

use bytes::Bytes;
use outrigger_mcp::{
    bridge::{
        handshake::modern_params,
        meta_keys::{LISTEN, SUBSCRIPTION_ID},
        tasks::with_extension,
    },
    envelope::{Message, Param},
    error::notification,
    json::{Span, decode_string, elements, member, quote},
    method::Method,
};

use crate::upstream::session::Declared;

/// Tasks that one listen may watch.
pub const MAX_TASKS: usize = 64;

/// What a client wants to hear.
#[derive(Debug, Default)]
pub struct Filter {
    pub(super) kinds: [bool; 3],
    /// Whether it names resources at all, if only such as are not honoured.
    names_resources: bool,
    /// URIs of resources.
    pub resources: Vec<String>,
    /// Ids of tasks, as the client knows them.
    pub tasks: Vec<String>,
    pub(super) session: bool,
}

/// Bytes of what listens of one client's listen have in common.
const MAX_TAG: usize = 64;

/// What a listen has in common with others that an ingress opened for one of a client.
pub fn together(request: &Message) -> Option<String> {
    let span = member(request.body(), request.params().get(Param::Notifications)?, LISTEN)?;
    decode_string(request.raw(span)).filter(|tag| tag.len() <= MAX_TAG).map(Into::into)
}

impl Filter {
    /// Reads `params.notifications`.
    pub fn of(request: &Message) -> Self {
        let Some(span) = request.params().get(Param::Notifications) else { return Self::default() };
        let body = request.body();
        let flag = |name| member(body, span, name).is_some_and(|s| request.raw(s) == b"true");
        let texts = |name, most| -> Vec<String> {
            let list = member(body, span, name).and_then(|list| elements(body, list)).unwrap_or_default();
            let text = |span: &Span| decode_string(request.raw(*span)).map(Into::into);
            list.iter().take(most).filter_map(text).collect()
        };
        Self {
            names_resources: member(body, span, "resourceSubscriptions").is_some(),
            kinds: [flag("toolsListChanged"), flag("promptsListChanged"), flag("resourcesListChanged")],
            resources: texts("resourceSubscriptions", usize::MAX),
            tasks: texts("taskIds", MAX_TASKS),
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

    /// What of it only the server knows, resources and tasks, as a modern server is asked for it. `None` when that is
    /// nothing. `own` gives the server's own id of a task.
    pub(super) fn server_request(&self, id: &[u8], own: impl Fn(&str) -> Option<String>) -> Option<Message> {
        if self.resources.is_empty() && self.tasks.is_empty() {
            return None;
        }
        let declared = Declared::everything();
        let uris: Vec<String> = self.resources.iter().map(|uri| quote(uri)).collect();
        let tasks: Vec<String> = self.tasks.iter().filter_map(|task| own(task)).map(|id| quote(&id)).collect();
        let capabilities = with_extension(&declared.capabilities);
        let declares = if tasks.is_empty() { &declared.capabilities[..] } else { &capabilities };
        let mut params = modern_params(declares, &declared.info);
        params.pop();
        let mut wanted = format!("\"resourceSubscriptions\":[{}]", uris.join(","));
        if !tasks.is_empty() {
            wanted.push_str(&format!(",\"taskIds\":[{}]", tasks.join(",")));
        }
        params.extend_from_slice(format!(",\"notifications\":{{{wanted}}}}}").as_bytes());
        Message::parse(outrigger_mcp::error::request(id, Method::SubscriptionsListen.as_str(), &params)).ok()
    }

    pub(super) fn acknowledged(&self, id: &[u8]) -> Bytes {
        let names = ["toolsListChanged", "promptsListChanged", "resourcesListChanged"];
        let mut honoured: Vec<String> =
            names.iter().zip(self.kinds).filter(|(_, on)| *on).map(|(name, _)| format!("\"{name}\":true")).collect();
        if self.names_resources {
            let uris: Vec<String> = self.resources.iter().map(|uri| quote(uri)).collect();
            honoured.push(format!("\"resourceSubscriptions\":[{}]", uris.join(",")));
        }
        if !self.tasks.is_empty() {
            let ids: Vec<String> = self.tasks.iter().map(|id| quote(id)).collect();
            honoured.push(format!("\"taskIds\":[{}]", ids.join(",")));
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
