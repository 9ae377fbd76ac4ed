//! Reading the lists of a server, page by page and within bounds: for all callers, or as one of them sees it.

use std::time::{SystemTime, UNIX_EPOCH};

use outrigger_mcp::{
    bridge::{handshake::Greeted, tasks::modern_capabilities},
    catalog::{About, Catalog, Collector, Limits, List, ListPage},
    catalog_kind::Kind,
    envelope::{Field, Message, Shape},
    json::{Span, decode_string, member, quote},
};
use outrigger_proxy::failure::Failure;

use super::{
    PATIENCE,
    ask::{ask_modern, modern_request_params},
};
use crate::upstream::{
    Upstream,
    session::{Declared, Session, own_request},
};

/// What is read, and how much of it.
pub(crate) struct Reader<'a> {
    pub(super) upstream: &'a Upstream,
    /// `None` where the server has no sessions.
    pub(super) session: Option<&'a Session>,
    /// What the server said of itself to whom it is read for.
    pub(super) greeted: &'a Greeted,
    /// What the caller can do, for servers that are told with each request.
    pub(super) declared: &'a Declared,
    /// What stands for a list that cannot be read to its end.
    pub(super) known: &'a Catalog,
    pub(super) limits: Limits,
}

impl Reader<'_> {
    /// All lists.
    ///
    /// # Errors
    /// The server does not answer.
    pub(crate) async fn catalog(&self) -> Result<Catalog, Failure> {
        let greeted = self.greeted;
        Ok(Catalog::new(
            self.list(Kind::Tool).await?,
            self.list(Kind::Prompt).await?,
            self.list(Kind::Resource).await?,
            self.list(Kind::Template).await?,
            About {
                // As a modern server would say it: only modern MCP leaves here.
                capabilities: Some(modern_capabilities(&greeted.capabilities).into()),
                server_info: Some(greeted.info.clone()),
                instructions: greeted.instructions.as_deref().and_then(decode_string).map(Into::into),
            },
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
        ))
    }

    /// All pages of one list. A list that the server does not offer is empty; one that fails later is partial.
    async fn list(&self, kind: Kind) -> Result<List, Failure> {
        let mut collector = Collector::new(kind, self.limits);
        if !offers(&self.greeted.capabilities, kind) {
            return Ok(collector.finish());
        }
        let known = self.known.list(kind);
        let mut cursor = None;
        for page in 0.. {
            let reply = match self.page(kind, cursor.as_deref()).await {
                Ok(reply) => reply,
                Err(failure) if page == 0 && !matches!(failure, Failure::InvalidParams(_)) => return Err(failure),
                Err(failure) => return Ok(collector.abandon(&failure.to_string(), known)),
            };
            // Servers that declare resources often do not know templates.
            let Some(result) = reply.result_span().filter(|_| reply.shape == Shape::Result) else {
                if kind == Kind::Template {
                    return Ok(collector.finish());
                }
                return Ok(collector.abandon(&reply.error_message().unwrap_or_default(), known));
            };
            if let Some(why) = no_list(&reply) {
                return Ok(collector.abandon(why, known));
            }
            match ListPage::parse(kind, &reply.slice(result)) {
                Ok(mut parsed) => {
                    if self.greeted.revision.is_modern() && self.upstream.http().is_some() {
                        parsed.skip_invalid_headers();
                    }
                    cursor = collector.add(parsed);
                }
                Err(error) => return Ok(collector.abandon(&error.to_string(), known)),
            }
            if cursor.is_none() {
                break;
            }
        }
        Ok(collector.finish())
    }

    async fn page(&self, kind: Kind, cursor: Option<&str>) -> Result<Message, Failure> {
        let modern = || modern_request_params(self.declared, cursor);
        match self.session {
            Some(session) => {
                let params = cursor.map_or_else(|| "{}".to_owned(), |c| format!("{{\"cursor\":{}}}", quote(c)));
                let params = if session.greeted().revision.is_modern() { modern() } else { params.into_bytes() };
                own_request(session, kind.list_method(), &params, PATIENCE).await
            }
            None => {
                let server = self.upstream.http().ok_or_else(|| Failure::Internal("no server to ask".into()))?;
                ask_modern(server, kind.list_method(), &modern()).await
            }
        }
    }
}

/// Why a result is no list: a server may ask for input in the middle of a call only (2026-07-28 basic/patterns/mrtr).
pub(crate) fn no_list(reply: &Message) -> Option<&'static str> {
    let kind = reply.results().get(Field::ResultType)?;
    (reply.raw(kind) != b"\"complete\"").then_some("it answers a list with something else")
}

/// Whether raw capabilities declare a kind.
fn offers(capabilities: &[u8], kind: Kind) -> bool {
    let name = match kind {
        Kind::Tool => "tools",
        Kind::Prompt => "prompts",
        Kind::Resource | Kind::Template => "resources",
    };
    let whole = Span { start: 0, end: capabilities.len() as u32 };
    member(capabilities, whole, name).is_some_and(|span| span.of(capabilities) != b"null")
}
