//! A reply that is passed on unread, and what is said in its place when it breaks off.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use outrigger_mcp::reply_watch::{ReplyWatch, Said};
use outrigger_mcp::sse;
use outrigger_telemetry::metrics::Outcome;

use super::BodyError;
use crate::failure::Failure;
use crate::pool::PooledBody;

/// To whom a reply is owed.
#[derive(Debug)]
pub struct Owed {
    /// Who replies.
    pub service: Arc<str>,
    /// The request's id, raw.
    pub id: Option<Bytes>,
    /// Where to say how it ended, once that is known.
    pub told: Arc<OnceLock<Outcome>>,
    /// Its stream may end without it and be gone on with elsewhere, as revisions before 2026-07-28 allow.
    pub resumable: bool,
}

/// The body of a reply on its way.
pub(super) struct Watched {
    body: PooledBody,
    watch: ReplyWatch,
    events: bool,
    owed: Owed,
    over: bool,
}

/// How a call counts, by what its reply says.
pub fn outcome_of(said: Said) -> Outcome {
    match said {
        Said::Result => Outcome::Ok,
        Said::ToolError => Outcome::ToolError,
        Said::Error => Outcome::RpcError,
    }
}

impl Watched {
    pub(super) fn new(body: PooledBody, events: bool, owed: Owed) -> Self {
        let watch = if events { ReplyWatch::events() } else { ReplyWatch::json() };
        Self { body, watch, events, owed, over: false }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.watch.saw(data);
                }
                if self.is_end_stream() {
                    // Not polled again.
                    self.conclude();
                }
                Some(Ok(frame))
            }
            None if self.conclude() || (self.events && self.owed.resumable) => None,
            None => self.lost(BodyError::Abandoned),
            Some(Err(error)) => self.lost(BodyError::Source(error)),
        })
    }

    /// A stream is over when it has ended after its reply; before it, there is something left to say.
    pub(super) fn is_end_stream(&self) -> bool {
        self.over || (self.body.is_end_stream() && (!self.events || self.watch.said().is_some()))
    }

    pub(super) fn inner(&self) -> &PooledBody {
        &self.body
    }

    /// Tells how the call ended; `false` when its reply is missing.
    fn conclude(&mut self) -> bool {
        match self.watch.end() {
            Ok(said) => {
                self.owed.told.get_or_init(|| said.map_or(Outcome::Ok, outcome_of));
                self.over = true;
                true
            }
            Err(_) => false,
        }
    }

    /// The error that stands for the missing reply, where a stream has room for it; else breaking off.
    fn lost(&mut self, error: BodyError) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.over = true;
        if self.watch.said().is_some() && self.events {
            self.owed.told.get_or_init(|| self.watch.said().map_or(Outcome::Ok, outcome_of));
            return Some(Err(error));
        }
        let service = self.owed.service.to_string();
        let failure = Failure::Broken { service, reason: "it ended the answer before its result".to_owned() };
        tracing::warn!(service = %self.owed.service, %error, "the server ended an answer before its result");
        self.owed.told.get_or_init(|| failure.outcome());
        if self.events && self.watch.between_events() {
            return Some(Ok(Frame::data(sse::event(&failure.rpc().reply(self.owed.id.as_deref())))));
        }
        Some(Err(error))
    }
}
