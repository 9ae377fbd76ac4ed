//! The `_meta` keys that modern MCP requires on requests, and those that the mesh adds.

/// The revision of a request (required).
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// What the client can do (required).
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// Who the client is.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// The lowest level of log messages wanted; absent means none.
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// Which `subscriptions/listen` a notification answers.
pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
/// Who the server is, on results.
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// Progress token of a request.
pub const PROGRESS_TOKEN: &str = "progressToken";
/// The task that a message belongs to (2025-11-25, basic/utilities/tasks).
pub const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";
/// Which client session or principal a request belongs to (docs/decisions/0002-session-extension.md).
pub const SESSION: &str = "outrigger.dev/session";
/// How its value begins when it stands for one session of a legacy client.
pub const CLIENT_SESSION: &str = "c.";

/// A member of the filter of `subscriptions/listen`: what several listens have in common that an ingress opens for one listen of
/// a client, so that they have one place at a sidecar.
pub const LISTEN: &str = "outrigger.dev/listen";

/// The errors with which a legacy client answered questions of a call, on the retry that brings its answers: the stateless
/// revision has no form for them (docs/decisions/0002-session-extension.md).
pub const ANSWER_ERRORS: &str = "outrigger.dev/errors";

/// Whether a key means something only on the modern or mesh-internal leg, so that it must not reach a legacy server.
pub fn internal(key: &str) -> bool {
    key.starts_with("outrigger.dev/") || matches!(key, PROTOCOL_VERSION | CLIENT_CAPABILITIES | CLIENT_INFO | LOG_LEVEL)
}

/// Whether a key is the mesh's own, so that it must not reach any server.
pub fn mesh_only(key: &str) -> bool {
    key.starts_with("outrigger.dev/")
}

/// The same but for what the session of a legacy client says by the way of `_meta` of its own requests.
pub fn mesh_only_but_errors(key: &str) -> bool {
    mesh_only(key) && key != ANSWER_ERRORS
}
