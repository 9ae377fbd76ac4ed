//! What sessions of legacy clients and the proxies that serve them share: who calls, where to, and what comes back.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use outrigger_mcp::bridge::to_client::Client;
use outrigger_mcp::envelope::{Message, Meta, Rejected};
use outrigger_policy::Principal;

use super::mesh::Mesh;

/// How we name ourselves as a client or a server.
pub const OWN_INFO: &str = concat!(r#"{"name":"outrigger","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// Which kind of client asks. Lists differ: modern HTTP clients must not see tools with invalid header annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Era {
    /// 2026-07-28 and later.
    Modern,
    /// Anything with a handshake.
    Legacy,
}

/// Who calls, proven, and the mesh as this caller sees it.
#[derive(Clone)]
pub struct Caller {
    /// The proven identity.
    pub principal: Principal,
    /// What it may use of the mesh.
    pub mesh: Arc<dyn Mesh>,
}

impl Caller {
    /// The same caller inside a session, whose tag nobody else knows.
    pub(super) fn in_session(&self, tag: impl Into<Arc<str>>, declared: Declared) -> Self {
        Self { principal: self.principal.clone(), mesh: self.mesh.in_session(tag.into(), declared) }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// What a client said of itself; raw JSON objects.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Its capabilities.
    pub capabilities: Bytes,
    /// Its `clientInfo`.
    pub info: Bytes,
}

impl Default for Declared {
    /// Nothing, in our own name.
    fn default() -> Self {
        Self { capabilities: Bytes::from_static(b"{}"), info: Bytes::from_static(OWN_INFO.as_bytes()) }
    }
}

impl Declared {
    /// What a legacy client said in `initialize`.
    pub fn of_client(client: &Client) -> Self {
        Self { capabilities: client.capabilities.clone(), info: client.info.clone() }
    }

    /// What a modern request says.
    pub fn of(message: &Message) -> Self {
        let object =
            |field| message.meta().get(field).map(|span| message.slice(span)).filter(|raw| raw.starts_with(b"{"));
        let own = Self::default();
        Self {
            capabilities: object(Meta::ClientCapabilities).unwrap_or(own.capabilities),
            info: object(Meta::ClientInfo).unwrap_or(own.info),
        }
    }
}

/// Which endpoint was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Route {
    /// `/mcp`: every service, with prefixed names.
    Merged,
    /// `/s/<service>/mcp`: one service under its own names. It exists, and the caller may use some of it.
    Service(Arc<str>),
}

/// A request as read from the socket, with its body.
#[derive(Debug)]
pub struct Inbound {
    /// POST, GET or DELETE.
    pub method: Method,
    /// As sent; `Authorization` has been removed.
    pub headers: HeaderMap,
    /// The body of a POST, within the limit; empty for other methods.
    pub body: Bytes,
    /// The message in the body of a POST, or why it is none (a batch array, for one).
    pub message: Option<Result<Message, Rejected>>,
}

/// One of the three things whose change a client can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// `notifications/tools/list_changed`.
    Tools,
    /// `notifications/prompts/list_changed`.
    Prompts,
    /// `notifications/resources/list_changed`: resources and templates.
    Resources,
}

impl ListKind {
    /// All three.
    pub const ALL: [ListKind; 3] = [ListKind::Tools, ListKind::Prompts, ListKind::Resources];

    /// The method of the notification.
    pub fn method(self) -> &'static str {
        match self {
            ListKind::Tools => "notifications/tools/list_changed",
            ListKind::Prompts => "notifications/prompts/list_changed",
            ListKind::Resources => "notifications/resources/list_changed",
        }
    }
}

/// What a caller wants to be told of besides changes of lists, which always are.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// URIs of resources, as the caller writes them. Those that it may not read are left out.
    pub resources: Vec<String>,
    /// Also what servers of older revisions send outside any call (`outrigger.dev/session`); for legacy sessions.
    pub session: bool,
}

/// Something that a caller who listens is told.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a listener has a few of them at a time")]
pub enum Change {
    /// What the caller sees of a list is another one now.
    List(ListKind),
    /// The content of a resource changed. The URI is the one that the caller used.
    Resource {
        /// As the caller subscribed to it.
        uri: String,
    },
    /// A message of the service for this session that belongs to no call, as the sidecar wraps it.
    Session {
        /// Which service; answers go to [`Route::Service`] of it.
        service: Arc<str>,
        /// The notification.
        message: Message,
    },
}
