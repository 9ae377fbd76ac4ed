//! The call that is made again and again, as a client of the newest revision makes it.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http_body_util::BodyExt;
use outrigger_mcp::envelope::Message;
use outrigger_mcp::reply_watch::{ReplyWatch, Said};
use outrigger_mcp::revision::Revision;
use outrigger_proxy::pool::PoolSettings;
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::connect::client::{Answer, Client};
use crate::connect::modern::Tools;
use crate::connect::target::Target;

/// Everything that is the same each time.
pub(super) struct Call {
    client: Client,
    body: Bytes,
    headers: HeaderMap,
    timeout: Duration,
}

/// Why a call counts as failed: one of few texts, because they are counted by it.
pub(super) type Failed = String;

impl Call {
    /// Prepares it.
    ///
    /// # Errors
    /// The arguments are no JSON object.
    pub(super) fn new(args: &BenchArgs, target: Target) -> anyhow::Result<Self> {
        let arguments: Value = serde_json::from_str(&args.arguments).context("--arguments is not JSON")?;
        if !arguments.is_object() {
            bail!("--arguments is not a JSON object");
        }
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": Revision::MODERN.as_str(),
            "io.modelcontextprotocol/clientInfo": { "name": "outrigger-bench", "version": env!("CARGO_PKG_VERSION") },
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let (method, params) = match &args.tool {
            Some(name) => ("tools/call", json!({ "name": name, "arguments": arguments, "_meta": meta })),
            None => ("tools/list", json!({ "_meta": meta })),
        };
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let message = Message::parse(body.into()).map_err(|_| anyhow::anyhow!("--arguments cannot be sent"))?;
        let connections = usize::from(args.connections);
        let settings = PoolSettings { max_open: connections, max_idle: connections, ..PoolSettings::default() };
        Ok(Self {
            client: Client::with(target, settings),
            headers: Tools::default().headers(&message),
            body: message.body().clone(),
            timeout: args.timeout,
        })
    }

    /// Makes it once and reads the answer to its end.
    ///
    /// # Errors
    /// Why it failed.
    pub(super) async fn make(&self) -> Result<(), Failed> {
        let asked = async {
            let answer = self.client.post(self.body.clone(), self.headers.clone()).await;
            read(answer.map_err(|error| error.message)?).await
        };
        tokio::time::timeout(self.timeout, asked).await.unwrap_or_else(|_| Err("no answer within --timeout".to_owned()))
    }
}

async fn read(answer: Answer) -> Result<(), Failed> {
    let status = answer.status();
    let events =
        answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let mut watch = if events { ReplyWatch::events() } else { ReplyWatch::json() };
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| "the answer broke off".to_owned())?;
        if let Some(bytes) = frame.data_ref() {
            watch.saw(bytes);
        }
    }
    if !status.is_success() {
        return Err(format!("HTTP status {}", status.as_u16()));
    }
    match watch.end() {
        Ok(Some(Said::Result)) => Ok(()),
        Ok(Some(Said::ToolError)) => Err("the tool failed (isError)".to_owned()),
        Ok(Some(Said::Error)) => Err("answered with a JSON-RPC error".to_owned()),
        Ok(None) | Err(_) => Err("the answer is no result".to_owned()),
    }
}
