//! `outrigger approvals`: the desk of an ingress, for people at a terminal.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::HeaderMap;
use outrigger_integrity::visible;
use outrigger_proxy::body::read_bounded;
use outrigger_runtime::Exit;
use outrigger_telemetry::log::{self, LogFormat};
use serde_json::{Value, json};

use crate::args::{ApprovalsCommand, DeskArgs, UrlArgs};
use crate::connect::client::Client;
use crate::connect::target::{Target, at_admin};
use crate::output;

/// Largest answer: all calls that can wait, with their arguments.
const MAX_ANSWER: usize = 64 << 20;
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs one of the commands.
pub(crate) fn main(command: ApprovalsCommand) -> anyhow::Result<Exit> {
    log::init(LogFormat::Text, "warn")?;
    let (desk, asked) = match command {
        ApprovalsCommand::List { desk } => (desk, None),
        ApprovalsCommand::Approve { id, desk } => (desk, Some((id, true))),
        ApprovalsCommand::Deny { id, desk } => (desk, Some((id, false))),
    };
    let mut got = Err(anyhow!("interrupted"));
    outrigger_runtime::run(1, async {
        got = ask(&desk, asked.as_ref()).await;
        Exit::Clean
    });
    let answer = got?;
    match (&asked, desk.json) {
        (_, true) => output::json(&answer)?,
        (Some(_), false) => {
            output::result(&format!("{}: {}", text(&answer, "id"), text(&answer, "result")));
        }
        (None, false) => list(&answer),
    }
    Ok(Exit::Clean)
}

async fn ask(desk: &DeskArgs, word: Option<&(String, bool)>) -> anyhow::Result<Value> {
    let path = if word.is_some() { "/approvals/decide" } else { "/approvals/list" };
    let url = at_admin(&desk.ingress, path)?;
    let asked =
        UrlArgs { token_file: Some(desk.token_file.clone()), ca_file: desk.ca_file.clone(), headers: Vec::new() };
    let target = Target::of(&url, &asked)?;
    if target.sends_token_in_the_clear() {
        output::say("warning: the token is sent over a network without TLS");
    }
    let client = Client::new(target);
    let answer = match word {
        None => client.get(HeaderMap::new()).await,
        Some((id, approve)) => {
            client.post(json!({ "id": id, "approve": approve }).to_string().into(), HeaderMap::new()).await
        }
    };
    let answer = answer.map_err(|error| anyhow!("{}", error.message))?;
    let status = answer.status();
    let body = read_bounded(answer.into_body(), MAX_ANSWER, PATIENCE).await.map_err(|error| anyhow!("{error}"))?;
    let said = read(&body).with_context(|| format!("{url} answered with HTTP status {}", status.as_u16()))?;
    match said.get("error").and_then(Value::as_str) {
        Some(error) => bail!("{error}"),
        None if status.is_success() => Ok(said),
        None => bail!("{url} answered with HTTP status {}", status.as_u16()),
    }
}

fn read(body: &Bytes) -> anyhow::Result<Value> {
    serde_json::from_slice(body).context("this is no desk of approvals: give the admin port of an ingress")
}

fn list(answer: &Value) {
    let waiting = answer.get("waiting").and_then(Value::as_array).cloned().unwrap_or_default();
    for call in &waiting {
        let own = if call["own"] == true { "  (your own: somebody else has to approve it)" } else { "" };
        let cut = if call["whole"] == false { "; there are more arguments than are shown" } else { "" };
        let (id, who, kind) = (text(call, "id"), text(call, "who"), text(call, "kind"));
        let (service, capability) = (text(call, "service"), text(call, "capability"));
        output::result(&format!("{id}  {who} calls {kind} {service}.{capability}{own}"));
        let arguments = call.get("arguments").and_then(Value::as_str).unwrap_or_default();
        arguments.lines().for_each(|line| output::result(&format!("    {}", visible(line, usize::MAX))));
        output::result(&format!("    since {}, {} s left{cut}", text(call, "since"), call["secondsLeft"]));
    }
    output::say(&format!("{}: {} waiting", text(answer, "who"), waiting.len()));
}

/// A text of an ingress, without what could speak to the terminal.
fn text(value: &Value, member: &str) -> String {
    let text = value.get(member).and_then(Value::as_str).unwrap_or_default();
    visible(text, usize::MAX)
}
