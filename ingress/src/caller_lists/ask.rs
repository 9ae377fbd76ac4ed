//! The question for the lists of one caller (`outrigger.dev/catalog`), and its answer.

use std::sync::Arc;

use bytes::Bytes;
use outrigger_mcp::catalog::Catalog;
use outrigger_mcp::envelope::{Message, Shape};
use outrigger_mcp::error::request;
use outrigger_mcp::json::{member, quote};
use outrigger_mcp::method::Method;
use outrigger_proxy::body::{ReadError, read_bounded};
use outrigger_proxy::failure::Failure;
use outrigger_proxy::peek::Accepts;
use outrigger_proxy::trace::Span;
use outrigger_telemetry::TraceContext;
use outrigger_telemetry::metrics::LimitKind;

use crate::authorize::authorize_listen;
use crate::core::Caller;
use crate::forward::{Outgoing, Sent, Terms, forward};
use crate::gateway::Gateway;
use crate::services::Service;
use crate::subscribe::params_for;

/// What a sidecar says.
#[derive(Debug)]
pub(super) enum Answer {
    /// The caller sees what all do.
    Shared,
    /// It sees what was known.
    Unchanged,
    /// It sees this.
    Own(Arc<Catalog>),
}

/// Asks a service, the one of this index, for the lists of a caller; `known` are those that were kept.
///
/// # Errors
/// The sidecar or its server does not answer; the lists are too large.
pub(super) async fn ask(
    gateway: &Gateway,
    caller: &Caller,
    at: usize,
    service: &Arc<Service>,
    known: Option<&Arc<Catalog>>,
) -> Result<Answer, Failure> {
    let broken = |reason: &str| Failure::Broken { service: service.name.to_string(), reason: reason.to_owned() };
    let permitted = authorize_listen(caller, at, service)?;
    let known = known.map_or_else(|| "null".to_owned(), |catalog| quote(catalog.fingerprint()));
    let params = params_for(&caller.declared, "known", known.as_bytes());
    let message = Message::parse(request(b"1", Method::SessionCatalog.as_str(), &params))
        .map_err(|_| Failure::Internal("a question of ours is no message".into()))?;
    let span = Span { context: TraceContext::new_root(), state: None };
    let sent = Sent { headers: None, accepts: Accepts { json: true, stream: false } };
    let outgoing = Outgoing::new(&permitted, caller, &message, &span, sent)?;
    let patience = gateway.timeouts.common.request;
    let (upstream, _in_flight) = forward(&permitted, caller, &outgoing, None, Terms::once(patience)).await?;
    let body = read_bounded(upstream.body, gateway.limits.caller_list_bytes, patience).await;
    let body: Bytes = body.map_err(|error| match error {
        ReadError::TooLarge { limit } => {
            service.metrics.limited(LimitKind::CallerLists);
            broken(&format!("its lists for this caller are larger than limits.caller_list_bytes ({limit})"))
        }
        ReadError::Timeout { after } => Failure::Timeout { service: service.name.to_string(), after },
        ReadError::Broken(_) => broken("its answer broke off"),
    })?;
    let reply = Message::parse(body).map_err(|_| broken("its answer is no JSON-RPC message"))?;
    match reply.shape {
        Shape::Result => answer(&reply).ok_or_else(|| broken("its answer holds no lists")),
        // It names the service by itself, or a limit.
        _ => Err(broken(&reply.error_message().unwrap_or_default())),
    }
}

fn answer(reply: &Message) -> Option<Answer> {
    let (body, result) = (reply.body(), reply.result_span()?);
    match reply.raw(member(body, result, "lists")?) {
        b"\"shared\"" => Some(Answer::Shared),
        b"\"unchanged\"" => Some(Answer::Unchanged),
        b"\"own\"" => {
            let catalog = reply.slice(member(body, result, "catalog")?);
            Some(Answer::Own(Arc::new(Catalog::from_health_json(&catalog).ok()?)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use outrigger_mcp::catalog_kind::Kind;

    use super::*;

    fn read(result: &str) -> Option<Answer> {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"complete",{result}}}}}"#);
        answer(&Message::parse(Bytes::from(text)).unwrap())
    }

    #[test]
    fn answers_say_whose_lists_they_are() {
        assert!(matches!(read(r#""lists":"shared""#), Some(Answer::Shared)));
        assert!(matches!(read(r#""lists":"unchanged""#), Some(Answer::Unchanged)));
        let own = read(r#""lists":"own","catalog":{"fetched_at":1,"tools":[{"name":"mine"}]}"#);
        assert!(matches!(own, Some(Answer::Own(catalog)) if catalog.find(Kind::Tool, "mine").is_some()));
        for bad in [r#""lists":"other""#, r#""lists":"own""#, r#""lists":"own","catalog":{"tools":7}"#, r#""tools":[]"#]
        {
            assert!(read(bad).is_none(), "{bad}");
        }
    }
}
