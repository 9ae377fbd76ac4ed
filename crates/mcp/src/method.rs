//! The methods of MCP, all revisions: one closed set for routing, metrics and policy.

use crate::catalog_kind::Kind;

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A JSON-RPC method of any MCP revision, or [`Method::Other`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Method {
            $(#[doc = $text] $name,)*
            /// Any method that no revision defines (an extension's, or a mistake).
            Other,
        }

        impl Method {
            /// All known methods, in a fixed order; metric handles are arrays in this order.
            pub const ALL: &'static [Method] = &[$(Method::$name,)* Method::Other];

            /// Recognises a method name.
            pub fn parse(name: &[u8]) -> Self {
                $(if name == $text.as_bytes() { return Method::$name; })*
                Method::Other
            }

            /// The name on the wire; `other` for [`Method::Other`], so that labels stay closed.
            pub fn as_str(self) -> &'static str {
                match self { $(Method::$name => $text,)* Method::Other => "other" }
            }
        }
    };
}

methods! {
    ToolsCall = "tools/call",
    ToolsList = "tools/list",
    ResourcesRead = "resources/read",
    ResourcesList = "resources/list",
    ResourcesTemplatesList = "resources/templates/list",
    ResourcesSubscribe = "resources/subscribe",
    ResourcesUnsubscribe = "resources/unsubscribe",
    PromptsGet = "prompts/get",
    PromptsList = "prompts/list",
    CompletionComplete = "completion/complete",
    ServerDiscover = "server/discover",
    SubscriptionsListen = "subscriptions/listen",
    Initialize = "initialize",
    Ping = "ping",
    LoggingSetLevel = "logging/setLevel",
    TasksGet = "tasks/get",
    TasksUpdate = "tasks/update",
    TasksCancel = "tasks/cancel",
    TasksList = "tasks/list",
    TasksResult = "tasks/result",
    SamplingCreateMessage = "sampling/createMessage",
    ElicitationCreate = "elicitation/create",
    RootsList = "roots/list",
    Initialized = "notifications/initialized",
    Cancelled = "notifications/cancelled",
    Progress = "notifications/progress",
    LogMessage = "notifications/message",
    ToolsListChanged = "notifications/tools/list_changed",
    PromptsListChanged = "notifications/prompts/list_changed",
    ResourcesListChanged = "notifications/resources/list_changed",
    ResourcesUpdated = "notifications/resources/updated",
    RootsListChanged = "notifications/roots/list_changed",
    SubscriptionsAcknowledged = "notifications/subscriptions/acknowledged",
    ElicitationComplete = "notifications/elicitation/complete",
    TasksStatus = "notifications/tasks/status",
    TasksChanged = "notifications/tasks",
    SessionRespond = "outrigger.dev/respond",
    SessionEnd = "outrigger.dev/end",
    SessionCatalog = "outrigger.dev/catalog",
    SessionEvent = "notifications/outrigger.dev/request",
}

impl Method {
    /// Which list of the catalog a `*/list` method asks for.
    pub fn lists(self) -> Option<Kind> {
        match self {
            Method::ToolsList => Some(Kind::Tool),
            Method::PromptsList => Some(Kind::Prompt),
            Method::ResourcesList => Some(Kind::Resource),
            Method::ResourcesTemplatesList => Some(Kind::Template),
            _ => None,
        }
    }

    /// Whether it tells that a list has changed.
    pub fn tells_of_list(self) -> bool {
        matches!(self, Method::ToolsListChanged | Method::PromptsListChanged | Method::ResourcesListChanged)
    }

    /// Whether a modern server may answer it with `input_required` (MRTR, patterns/mrtr).
    pub fn may_ask(self) -> bool {
        matches!(self, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead)
    }

    /// Whether modern results of it must carry `ttlMs` and `cacheScope` (server/utilities/caching).
    pub fn cacheable(self) -> bool {
        self.lists().is_some() || matches!(self, Method::ServerDiscover | Method::ResourcesRead)
    }

    /// Whether it is about a task that its `params.taskId` names (the tasks extension, and 2025-11-25).
    pub fn about_task(self) -> bool {
        matches!(self, Method::TasksGet | Method::TasksUpdate | Method::TasksCancel | Method::TasksResult)
    }

    /// Whether a modern server answers 404 -32601 to it because that revision took it away.
    pub fn removed_in_modern(self) -> bool {
        matches!(
            self,
            Method::Initialize
                | Method::Ping
                | Method::LoggingSetLevel
                | Method::ResourcesSubscribe
                | Method::ResourcesUnsubscribe
                | Method::TasksList
                | Method::TasksResult
        )
    }
}
