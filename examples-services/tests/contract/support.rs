//! Starts a service process and connects clients to it, in every way that a service can be reached.

use std::process::Stdio;
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientConfig, GetPromptRequestParams, JsonObject, ProtocolVersion,
    ReadResourceRequestParams,
};
use rmcp::service::{RunningService, ServiceError};
use rmcp::transport::{StreamableHttpClientTransport, TokioChildProcess};
use rmcp::{ClientLifecycleMode, ClientServiceExt, RoleClient};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Longest that any step may take; only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Client = RunningService<RoleClient, ClientConfig>;

/// The protocol era that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// The `initialize` handshake.
    Legacy,
    /// 2026-07-28, with `server/discover`.
    Modern,
}

pub(crate) const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

impl Era {
    fn lifecycle(self) -> ClientLifecycleMode {
        match self {
            Self::Legacy => ClientLifecycleMode::Initialize,
            Self::Modern => ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] },
        }
    }
}

/// The example binary with arguments and variables; no proxy variable of the shell leaks into it.
pub(crate) fn command(args: &[&str], vars: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-example"));
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    command.args(args).envs(vars.iter().copied()).kill_on_drop(true);
    command
}

/// A client of a fresh stdio process.
pub(crate) async fn stdio(era: Era, args: &[&str], vars: &[(&str, &str)]) -> Client {
    let transport = TokioChildProcess::new(command(args, vars)).unwrap();
    let connected = ClientConfig::default().serve_with_lifecycle(transport, era.lifecycle());
    tokio::time::timeout(PATIENCE, connected).await.expect("the stdio handshake hangs").unwrap()
}

/// A service process that listens on HTTP; it is killed when this is dropped.
pub(crate) struct HttpService {
    pub(crate) url: String,
    pub(crate) child: Child,
}

impl HttpService {
    /// Starts the service on a free port and waits until it says which. Its stderr is closed from then on, which it
    /// must survive.
    pub(crate) async fn start(args: &[&str]) -> Self {
        let mut command = command(args, &[]);
        command.args(["--transport", "http"]).stderr(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("no address").unwrap().unwrap();
        let url = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("unexpected: {line}")).to_owned();
        Self { url, child }
    }

    pub(crate) async fn connect(&self, era: Era) -> Client {
        let transport = StreamableHttpClientTransport::from_uri(self.url.as_str());
        let connected = ClientConfig::default().serve_with_lifecycle(transport, era.lifecycle());
        tokio::time::timeout(PATIENCE, connected).await.expect("the HTTP handshake hangs").unwrap()
    }

    /// `host:port` of the listener.
    pub(crate) fn authority(&self) -> &str {
        self.url.strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap()
    }
}

/// Runs `check` against the service over stdio and HTTP, in both eras: four fresh processes.
pub(crate) async fn everywhere(args: &[&str], check: impl AsyncFn(&Client)) {
    for era in ERAS {
        let client = stdio(era, args, &[]).await;
        tokio::time::timeout(PATIENCE, check(&client)).await.unwrap_or_else(|_| panic!("stdio {era:?} hangs"));
        client.cancel().await.unwrap();

        let service = HttpService::start(args).await;
        let client = service.connect(era).await;
        tokio::time::timeout(PATIENCE, check(&client)).await.unwrap_or_else(|_| panic!("http {era:?} hangs"));
        client.cancel().await.unwrap();
    }
}

/// Turns `json!({..})` into tool or prompt arguments.
pub(crate) fn object(value: Value) -> JsonObject {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

pub(crate) async fn call(client: &Client, tool: &'static str, args: Value) -> CallToolResult {
    try_call(client, tool, args).await.unwrap()
}

pub(crate) async fn try_call(client: &Client, tool: &'static str, args: Value) -> Result<CallToolResult, ServiceError> {
    client.call_tool(CallToolRequestParams::new(tool).with_arguments(object(args))).await
}

/// The text of a call that must have succeeded.
pub(crate) fn text(result: &CallToolResult) -> String {
    assert_ne!(result.is_error, Some(true), "{result:?}");
    all_text(result)
}

/// The text of a call that must have failed as a tool error.
pub(crate) fn error(result: &CallToolResult) -> String {
    assert_eq!(result.is_error, Some(true), "{result:?}");
    all_text(result)
}

fn all_text(result: &CallToolResult) -> String {
    result.content.iter().filter_map(|block| block.as_text()).map(|block| block.text.as_str()).collect()
}

/// The structured content of a call that must have succeeded.
pub(crate) fn structured(result: CallToolResult) -> Value {
    assert_ne!(result.is_error, Some(true), "{result:?}");
    result.structured_content.expect("structured content")
}

/// Reads one resource and returns its JSON form.
pub(crate) async fn read(client: &Client, uri: &str) -> Result<Value, ServiceError> {
    let result = client.read_resource(ReadResourceRequestParams::new(uri)).await?;
    Ok(serde_json::to_value(result).unwrap())
}

/// Gets one prompt and returns its JSON form.
pub(crate) async fn prompt(client: &Client, name: &str, args: Value) -> Value {
    let params = GetPromptRequestParams::new(name).with_arguments(object(args));
    serde_json::to_value(client.get_prompt(params).await.unwrap()).unwrap()
}

/// The code and message of a JSON-RPC error.
pub(crate) fn rpc_error(error: ServiceError) -> (i32, String) {
    match error {
        ServiceError::McpError(data) => (data.code.0, data.message.into_owned()),
        other => panic!("not a JSON-RPC error: {other}"),
    }
}
