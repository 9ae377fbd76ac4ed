//! Tasks in the messages of a server that has the extension itself: nothing changes but their ids.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use outrigger_mcp::{
    bridge::tasks::{declared, ids},
    edit::Edits,
    envelope::{Message, Param},
    headers::{self, encode},
    json::{decode_string, elements, member, quote},
    method::Method,
    sse,
};
use outrigger_proxy::{body::OutBody, failure::Failure};

use super::{Tasks, unknown};
use crate::upstream::http::EventStream;

/// Events that may wait for a slow client before the server's stream is held back.
const STREAM_QUEUE: usize = 32;

/// Whether a request or its answers may name tasks.
pub fn concerns(request: &Message) -> bool {
    match request.method {
        Method::ToolsCall | Method::SubscriptionsListen => declared(request),
        method => method.about_task(),
    }
}

/// The names of one caller's tasks.
#[derive(Clone)]
pub struct Names {
    tasks: Arc<Tasks>,
    owner: String,
}

impl Names {
    /// Those of `owner`.
    pub fn new(tasks: &Arc<Tasks>, owner: String) -> Self {
        Self { tasks: tasks.clone(), owner }
    }

    /// A request's edits, so that the server finds its own ids in it, and the header that repeats one.
    ///
    /// # Errors
    /// The task is not the caller's. In a listen such tasks are left out.
    pub fn outgoing(
        &self,
        request: &Message,
        edits: &mut Edits,
        fields: Option<&mut HeaderMap>,
    ) -> Result<(), Failure> {
        if request.method.about_task() {
            let span = request.params().get(Param::TaskId);
            let handle = request
                .text(Param::TaskId)
                .ok_or_else(|| Failure::InvalidParams("`params.taskId` is required and must be a string".into()))?;
            let id = self.tasks.open(&self.owner, &handle).ok_or_else(unknown)?;
            if let Some(span) = span {
                edits.replace(span, quote(id));
            }
            if let (Some(fields), Ok(value)) = (fields, HeaderValue::from_str(&encode(id))) {
                fields.insert(headers::NAME, value);
            }
        } else if request.method == Method::SubscriptionsListen {
            self.own(request, edits);
        }
        Ok(())
    }

    /// The server's own id of a task, if it is the caller's.
    pub fn own_id(&self, handle: &str) -> Option<String> {
        self.tasks.open(&self.owner, handle).map(str::to_owned)
    }

    /// The request with the server's own ids; `None` where it names no task.
    ///
    /// # Errors
    /// As [`Names::outgoing`].
    pub fn own_ids(&self, request: &Message) -> Result<Option<Box<Message>>, Failure> {
        if request.method == Method::ToolsCall {
            return Ok(None);
        }
        let mut edits = Edits::new();
        self.outgoing(request, &mut edits, None)?;
        let own = Message::parse(edits.apply_flat(request.body()));
        own.map(|own| Some(Box::new(own))).map_err(|rejected| Failure::Internal(rejected.error.to_string()))
    }

    /// Puts the server's own ids into a listen.
    fn own(&self, request: &Message, edits: &mut Edits) {
        let body = request.body();
        let list = request.params().get(Param::Notifications).and_then(|at| member(body, at, "taskIds"));
        let Some((list, handles)) = list.and_then(|list| Some((list, elements(body, list)?))) else { return };
        let open = |handle: &str| self.tasks.open(&self.owner, handle).map(quote);
        let own: Vec<String> = handles.iter().filter_map(|span| open(&decode_string(request.raw(*span))?)).collect();
        edits.replace(list, format!("[{}]", own.join(",")));
    }

    /// A message of the server with ids as the caller knows them. `answers` is the method of the request.
    pub fn incoming(&self, message: &Message, answers: Method) -> Bytes {
        let mut edits = Edits::new();
        ids::rename(message, answers, |id| self.tasks.handle(&self.owner, id), &mut edits);
        edits.apply_flat(message.body())
    }

    /// The same for bytes that may be a message.
    pub fn incoming_bytes(&self, bytes: Bytes, answers: Method) -> Bytes {
        match Message::parse(bytes.clone()) {
            Ok(message) => self.incoming(&message, answers),
            Err(_) => bytes,
        }
    }

    /// The stream of a call with other ids. Ends when the caller goes away.
    pub fn stream(self, mut events: EventStream, answers: Method) -> OutBody {
        let (sender, out) = OutBody::channel(STREAM_QUEUE);
        tokio::spawn(async move {
            let mut keep_alive = tokio::time::interval(crate::listen::KEEP_ALIVE);
            keep_alive.tick().await;
            loop {
                let event = tokio::select! {
                    () = sender.gone() => return,
                    _ = keep_alive.tick() => Bytes::from_static(b":\n\n"),
                    data = events.next() => match data {
                        Ok(Some(data)) => sse::event(&self.incoming_bytes(data, answers)),
                        Ok(None) => {
                            let _ = sender.finish().await;
                            return;
                        }
                        // Breaking off says that something is missing; what reads it makes an error of that.
                        Err(_) => return,
                    },
                };
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        });
        out
    }
}
