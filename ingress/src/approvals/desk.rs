//! Where people approve calls: a page and an API on the admin port. Whoever uses it shows a bearer token of the ingress, in a
//! header alone: a page of somebody else cannot send one, and no address holds one.

use std::sync::Arc;
use std::time::SystemTime;

use http::{Method, StatusCode, header};
use outrigger_integrity::visible;
use outrigger_policy::Principal;
use outrigger_proxy::failure::Failure;
use outrigger_runtime::admin::{HTML, JSON};
use outrigger_runtime::{AdminPage, AdminRequest};
use outrigger_telemetry::rfc3339;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::MAX_NAME;
use super::table::{Entry, How, NotCounted};
use crate::gateway::Gateway;

/// The page, which holds nothing but itself; all it shows it asks the API for.
pub(crate) fn page() -> AdminPage {
    AdminPage::ok(HTML, include_str!("desk/page.html"))
}

/// What the page runs.
pub(crate) fn script() -> AdminPage {
    AdminPage::ok("text/javascript; charset=utf-8", include_str!("desk/page.js"))
}

/// How the page looks.
pub(crate) fn style() -> AdminPage {
    AdminPage::ok("text/css; charset=utf-8", include_str!("desk/page.css"))
}

/// Somebody's word.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    id: String,
    approve: bool,
}

/// `GET /approvals/list` and `POST /approvals/decide`.
pub(crate) async fn serve(gateway: Arc<Gateway>, request: AdminRequest) -> AdminPage {
    let decides = request.path == "/approvals/decide";
    if request.method != if decides { Method::POST } else { Method::GET } {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "use GET for /approvals/list and POST for /approvals/decide");
    }
    if !same_origin(&request) {
        return refusal(StatusCode::FORBIDDEN, "a page of another origin may not do this");
    }
    let who = match gateway.clients.bearer(&request.headers, "/mcp").await {
        Ok(proven) => proven.principal,
        Err(Failure::NoTokenKeys) => {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "the token cannot be checked now");
        }
        Err(failure) => return refusal(StatusCode::UNAUTHORIZED, &failure.to_string()),
    };
    if decides { decide(&gateway, &who, &request) } else { list(&gateway, &who) }
}

fn list(gateway: &Gateway, who: &Principal) -> AdminPage {
    let now = Instant::now();
    let may = |role: &str| who.has_role(role);
    let mut waiting: Vec<(SystemTime, Value)> = {
        let table = gateway.approvals.lock();
        let own = |entry: &Entry| *entry.asked.who == *who.id();
        table.waiting(&may, now).map(|(id, entry)| (entry.asked.since, shown(id, entry, now, own(entry)))).collect()
    };
    waiting.sort_by_key(|(since, _)| *since);
    let waiting: Vec<Value> = waiting.into_iter().map(|(_, shown)| shown).collect();
    AdminPage::ok(JSON, json!({ "who": who.id(), "waiting": waiting }).to_string())
}

/// Arguments are shown to whoever has the role, and to nobody else: nobody can approve what they cannot read.
fn shown(id: &str, entry: &Entry, now: Instant, own: bool) -> Value {
    let asked = &entry.asked;
    let rules: Vec<_> = entry.demands.iter().map(|demand| json!({ "rule": demand.rule, "met": demand.met })).collect();
    json!({
        "id": id,
        "who": asked.who,
        "own": own,
        "service": asked.service,
        "kind": asked.kind,
        "capability": visible(&asked.capability, MAX_NAME),
        "arguments": asked.arguments,
        "whole": asked.whole,
        "rules": rules,
        "since": rfc3339(asked.since),
        "secondsLeft": entry.until.saturating_duration_since(now).as_secs(),
        "trace": str::from_utf8(&asked.trace.trace_id_hex()).unwrap_or_default(),
    })
}

fn decide(gateway: &Gateway, who: &Principal, request: &AdminRequest) -> AdminPage {
    let media = request.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if media.split(';').next().is_none_or(|media| !media.trim().eq_ignore_ascii_case("application/json")) {
        return refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json");
    }
    let Ok(Word { id, approve }) = serde_json::from_slice(&request.body) else {
        return refusal(StatusCode::BAD_REQUEST, "the body must be {\"id\": \"...\", \"approve\": true or false}");
    };
    let may = |role: &str| who.has_role(role);
    let said = gateway.approvals.lock().say(&id, who.id(), may, approve, Instant::now());
    match said {
        Ok(settled) => {
            let word = match (approve, settled.granted) {
                (true, true) => "approved",
                (true, false) => "approved, and others have to approve it too",
                (false, _) => "refused",
            };
            gateway.approvals.said(gateway, &id, How::Desk, who.id(), approve, settled);
            AdminPage::ok(JSON, json!({ "id": id, "result": word }).to_string())
        }
        // Who lacks the role learns no more than that there is nothing for them.
        Err(NotCounted::Unknown | NotCounted::Role | NotCounted::OtherCall) => refusal(
            StatusCode::NOT_FOUND,
            "no such call waits for you: it was used, has expired, or wants another role",
        ),
        Err(NotCounted::Own) => refusal(StatusCode::FORBIDDEN, "nobody approves a call of their own"),
        Err(NotCounted::Over) => refusal(StatusCode::CONFLICT, "somebody has decided this already"),
    }
}

/// Browsers name the origin of whatever is no plain link; other programs need not.
fn same_origin(request: &AdminRequest) -> bool {
    let text = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
    match request.headers.get(header::ORIGIN) {
        None => true,
        Some(_) => {
            let own = text(header::HOST).unwrap_or_default();
            text(header::ORIGIN).is_some_and(|origin| {
                let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
                host.is_some_and(|host| !own.is_empty() && host.eq_ignore_ascii_case(own))
            })
        }
    }
}

fn refusal(status: StatusCode, text: &str) -> AdminPage {
    AdminPage { status, content_type: JSON, body: json!({ "error": text }).to_string().into() }
}
