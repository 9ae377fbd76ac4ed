//! The first question in each revision, and what the answer says.

use outrigger_mcp::bridge::meta_keys::{CLIENT_CAPABILITIES, CLIENT_INFO, PROTOCOL_VERSION, SERVER_INFO};
use outrigger_mcp::revision::Revision;
use outrigger_sidecar::upstream::session::Declared;
use serde_json::{Value, json};

use super::wire::{Trouble, Wire};

/// What a server said of itself.
#[derive(Debug, Clone)]
pub(super) struct Greeted {
    /// `supportedVersions`, or the one that `initialize` answered with.
    pub(super) versions: Vec<String>,
    /// Name and version.
    pub(super) info: Value,
    /// What it offers.
    pub(super) capabilities: Value,
    /// For the model.
    pub(super) instructions: Option<String>,
}

/// Greets a server in a revision; after this it takes requests.
///
/// # Errors
/// When it does not answer, or with an error.
pub(super) async fn greet(wire: &mut Wire, revision: Revision) -> Result<Greeted, Trouble> {
    let result = if revision.is_modern() {
        wire.agreed(revision.as_str());
        result(wire.ask("server/discover", params(revision, None)).await?)?
    } else {
        let declared = declared();
        let params = json!({
            "protocolVersion": revision.as_str(), "capabilities": declared.0, "clientInfo": declared.1,
        });
        result(wire.ask("initialize", params).await?)?
    };
    let greeted = read(&result).ok_or_else(|| Trouble::unanswered("the answer names no revision"))?;
    if !revision.is_modern() {
        if let Some(version) = greeted.versions.first().filter(|version| version.as_str() >= "2025-06-18") {
            wire.agreed(version);
        }
        wire.tell("notifications/initialized").await;
    }
    Ok(greeted)
}

fn read(result: &Value) -> Option<Greeted> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let versions = match result.get("supportedVersions") {
        Some(versions) => versions.as_array()?.iter().filter_map(text).collect(),
        None => vec![text(result.get("protocolVersion")?)?],
    };
    let info = result.get("serverInfo").or_else(|| result.get("_meta")?.get(SERVER_INFO));
    Some(Greeted {
        versions,
        info: info.cloned().unwrap_or_default(),
        capabilities: result.get("capabilities").cloned().unwrap_or_else(|| json!({})),
        instructions: result.get("instructions").and_then(text),
    })
}

/// The `params` of a request in a revision.
pub(super) fn params(revision: Revision, cursor: Option<&str>) -> Value {
    let mut params = json!({});
    if revision.is_modern() {
        let declared = declared();
        params["_meta"] = json!({
            PROTOCOL_VERSION: revision.as_str(), CLIENT_CAPABILITIES: declared.0, CLIENT_INFO: declared.1,
        });
    }
    if let Some(cursor) = cursor {
        params["cursor"] = cursor.into();
    }
    params
}

/// The result of a response.
///
/// # Errors
/// When it is an error.
pub(super) fn result(mut response: Value) -> Result<Value, Trouble> {
    if let Some(error) = response.get("error") {
        let code = error.get("code").and_then(Value::as_i64).unwrap_or_default();
        let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
        return Err(Trouble::unanswered(format!("error {code}: {message}")));
    }
    Ok(response.get_mut("result").map(Value::take).unwrap_or_default())
}

/// Everything that a client can, so that the server hides nothing; and who we are.
fn declared() -> (Value, Value) {
    let declared = Declared::everything();
    let parse = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or_default();
    (parse(&declared.capabilities), parse(&declared.info))
}
