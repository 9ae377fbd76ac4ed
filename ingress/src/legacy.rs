//! Sessions of clients of older revisions at the ingress: what `outrigger_proxy::legacy` needs to know of the gateway.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, Uri};
use outrigger_mcp::bridge::handshake::modern_params;
use outrigger_mcp::envelope::Message;
use outrigger_mcp::error::request;
use outrigger_mcp::method::Method;
use outrigger_mcp::revision::Revision;
use outrigger_proxy::body::OutBody;
use outrigger_proxy::failure::Failure;
use outrigger_proxy::legacy::http_sse::{self, At};
use outrigger_proxy::legacy::mesh::{Given, Later, Mesh, Messages, Told, Unheard};
use outrigger_proxy::legacy::{self, seam};
use outrigger_proxy::peek::Refused;

use crate::changes::Changes;
use crate::core::{Answer, AnswerStream, Caller, Change, Declared, Inbound, Route, Wanted};
use crate::gateway::Gateway;

/// Serves one HTTP request of a legacy client, at a door of HTTP+SSE if it is one. The response's body has no `on_end` hook: the gateway sets one.
///
/// # Errors
/// What is refused before it is a call; [`legacy::refusal`] says how that is told.
pub(crate) async fn serve(
    gateway: &Arc<Gateway>,
    caller: Caller,
    route: Route,
    request: Inbound,
    at: Option<(At, Uri)>,
) -> Result<Response<OutBody>, Refused> {
    let (principal, address) = (caller.principal.clone(), caller.address);
    let mesh = Arc::new(Door { gateway: Arc::clone(gateway), caller });
    let caller = seam::Caller { principal: principal.clone(), mesh };
    let sessions = &gateway.sessions;
    let served = match at {
        Some((at, uri)) => http_sse::serve(sessions, caller, route, at, &uri, request).await,
        None => legacy::serve(sessions, caller, route, request).await,
    };
    if matches!(served, Err(Refused { failure: Failure::ForeignSession, .. })) {
        gateway.recorder.foreign_session(&principal, address);
    }
    served
}

/// The gateway as one caller sees it.
struct Door {
    gateway: Arc<Gateway>,
    caller: Caller,
}

impl Mesh for Door {
    fn in_session(&self, tag: Arc<str>, declared: Declared) -> Arc<dyn Mesh> {
        let caller = self.caller.clone().in_session(tag, declared);
        Arc::new(Self { gateway: Arc::clone(&self.gateway), caller })
    }

    fn call<'a>(&'a self, route: &'a Route, message: Message) -> Later<'a, Result<Given, Failure>> {
        Box::pin(async move {
            Ok(match self.gateway.call(&self.caller, route, message).await? {
                Answer::Message { body, .. } => Given::Message(body),
                Answer::Stream(stream) => Given::Stream(Box::new(stream)),
            })
        })
    }

    fn list<'a>(
        &'a self,
        route: &'a Route,
        message: &'a Message,
        revision: Revision,
    ) -> Option<Later<'a, Result<Vec<Bytes>, Failure>>> {
        let kind = message.method.lists()?;
        Some(Box::pin(self.gateway.list(&self.caller, route, kind, message, revision)))
    }

    fn service(&self, route: &Route, message: &Message) -> Option<Arc<str>> {
        self.gateway.service(&self.caller, route, message)
    }

    fn knows(&self, route: &Route, uri: &str) -> bool {
        self.gateway.knows(&self.caller, route, uri)
    }

    fn changes(&self, route: &Route, wanted: Wanted) -> Box<dyn Told> {
        Box::new(self.gateway.changes(&self.caller, route, wanted))
    }

    fn ended(&self, route: &Route) {
        for service in self.gateway.stateful(&self.caller, route) {
            let (gateway, caller) = (Arc::clone(&self.gateway), self.caller.clone());
            self.gateway.tasks.spawn(async move { end(&gateway, &caller, service).await });
        }
    }
}

/// Tells a service that the caller's session is over. Whoever does not hear it ends its own by and by, when nobody uses it.
async fn end(gateway: &Arc<Gateway>, caller: &Caller, service: Arc<str>) {
    let params = modern_params(&caller.declared.capabilities, &caller.declared.info);
    let Ok(message) = Message::parse(request(b"\"end\"", Method::SessionEnd.as_str(), &params)) else { return };
    let route = Route::Service(service);
    if let Err(failure) = gateway.call(caller, &route, message).await {
        tracing::debug!(?route, reason = failure.reason(), "a service was not told that a session is over");
    }
}

impl Messages for AnswerStream {
    fn next(&mut self) -> Later<'_, Result<Option<Message>, Failure>> {
        Box::pin(AnswerStream::next(self))
    }
}

impl Told for Changes {
    fn set_resources(&mut self, uris: Vec<String>) {
        Changes::set_resources(self, uris);
    }

    fn begun(&mut self) -> Later<'static, Unheard> {
        Box::pin(Changes::begun(self))
    }

    fn next(&mut self) -> Later<'_, Option<Change>> {
        Box::pin(Changes::next(self))
    }
}
