//! One call in flight on a server that needs translation or multiplexing, as a sequence of events.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method as HttpMethod, StatusCode, header};
use outrigger_mcp::{
    bridge::{
        tasks::to_server::announced,
        to_server::{Ask, Call, Ended},
    },
    envelope::{Message, Shape},
    error::{METHOD_NOT_FOUND, RpcError},
    headers,
};
use outrigger_proxy::failure::Failure;
use tokio::task::JoinHandle;

use crate::tasks::{Running, cancel_detached};

use super::{
    channel::{CallReceiver, Inbound},
    channel_session::ChannelSession,
    http::{Answer, EventStream, legacy_fields},
    http_session::{Asked, HttpSession, Occupied},
    session::Session,
};

/// The wait before a dropped event stream is resumed, unless the server says otherwise.
const DEFAULT_RETRY: Duration = Duration::from_millis(500);
/// How often in a row a stream may break off without bringing anything.
const MAX_RESUMES: u8 = 5;

/// What happened to a call.
#[derive(Debug)]
pub enum Event {
    /// Something for the caller's stream, in its own terms.
    Notification(Bytes),
    /// The server asks the client something.
    Question(Ask),
    /// The server made a task of the call; its own words.
    Task(Box<Message>),
    /// Nothing yet, but the task that the call waits for is being worked on.
    Alive,
    /// The final reply, in the caller's terms.
    Done(Vec<Bytes>, Ended),
}

/// A call in flight. Dropping it cancels it at the server.
#[derive(Debug)]
pub struct Exchange {
    call: Call,
    link: Link,
    finished: bool,
    /// The task whose result it waits for, when the task is nobody else's.
    running: Option<Running>,
    /// The answer to what nobody here answers, on its way; a task, so that it arrives even when nobody asks for the next event.
    refusing: Option<JoinHandle<()>>,
}

enum Link {
    Channel(Arc<ChannelSession>, CallReceiver),
    Http(Arc<HttpSession>, Source, InFlight),
}

/// What a call on an HTTP session holds while it is in flight.
struct InFlight {
    #[expect(dead_code, reason = "held to count the call")]
    occupied: Occupied,
    /// What it is asked outside its own stream; `None` when it cannot be asked.
    asked: Option<Asked>,
}

enum Source {
    /// The whole reply is here.
    Message(Option<Box<Message>>),
    /// Events are coming.
    Stream { events: Box<EventStream>, resumes: u8 },
    /// They broke off and go on soon. Kept here: whoever asks for the next event now and then must not begin the wait anew each time.
    Resuming { stream: Resumed, resumes: u8 },
}

type Resumed = Pin<Box<dyn Future<Output = Result<EventStream, Failure>> + Send>>;

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Link::Channel(..) => "Channel",
            Link::Http(..) => "Http",
        })
    }
}

impl Exchange {
    /// A call on a channel, for a request that is about to be written.
    pub fn channel(call: Call, session: Arc<ChannelSession>, receiver: CallReceiver) -> Self {
        Self { call, link: Link::Channel(session, receiver), finished: false, running: None, refusing: None }
    }

    /// A call on a legacy HTTP server, from the answer to its POST.
    ///
    /// # Errors
    /// When the answer is no reply.
    pub fn http(call: Call, session: Arc<HttpSession>, answer: Answer) -> Result<Self, Failure> {
        let source = match answer {
            Answer::Json(bytes) => Source::Message(Some(Box::new(parse(&session.server, bytes)?))),
            Answer::Stream(events) => Source::Stream { events, resumes: 0 },
            Answer::Empty => return Err(session.server.broken("it accepted a request without answering it")),
        };
        let asked = call.method.may_ask().then(|| session.ask_on(call.upstream_id));
        let in_flight = InFlight { occupied: session.occupy(), asked };
        Ok(Self { call, link: Link::Http(session, source, in_flight), finished: false, running: None, refusing: None })
    }

    /// Resolves once there is something for [`Exchange::next`].
    pub async fn arrived(&mut self) {
        if let Link::Channel(_, receiver) = &mut self.link {
            receiver.arrived().await;
        }
    }

    /// Says that the call waits for its client to answer, or goes on.
    pub fn wait(&self, waits: bool) {
        // One that waits for a task is not in flight in the sense that matters here.
        match &self.link {
            Link::Channel(session, receiver) if self.running.is_none() => {
                session.channel.wait_call(receiver.id, waits);
            }
            Link::Http(_, _, InFlight { asked: Some(asked), .. }) => asked.wait(waits),
            Link::Channel(..) | Link::Http(..) => {}
        }
    }

    /// Says that the call waits for the result of a task: what is asked for the task is asked on this call, and whatever
    /// names no task is not.
    pub fn follow(&self, task: &str) {
        if let Link::Channel(session, receiver) = &self.link {
            session.channel.wait_call(receiver.id, true);
            session.channel.tie_call(receiver.id, task);
        }
    }

    /// Makes the task its own: it is given up with the call.
    pub fn run(&mut self, task: Running) {
        self.running = Some(task);
    }

    /// The task of its own.
    pub fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// The session that it uses.
    pub fn session(&self) -> Arc<Session> {
        Arc::new(match &self.link {
            Link::Channel(session, _) => Session::Channel(session.clone()),
            Link::Http(session, ..) => Session::Http(session.clone()),
        })
    }

    /// The service that is called.
    pub fn service(&self) -> &str {
        match &self.link {
            Link::Channel(session, _) => session.service(),
            Link::Http(session, ..) => &session.server.service,
        }
    }

    /// The call's translation state.
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// From now on the call answers to this request.
    pub fn reattach(&mut self, retry: &Message) {
        self.call.reattach(retry);
    }

    /// The next event. After [`Event::Done`] or an error nothing follows. Cancelling the future loses nothing.
    ///
    /// # Errors
    /// When the server or the way to it failed.
    pub async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            // One at a time: a server that asks and asks waits for its answers.
            if let Some(refusing) = &mut self.refusing {
                let _ = refusing.await;
                self.refusing = None;
            }
            let message = match self.receive().await {
                Ok(message) => message,
                Err(failure) => {
                    self.finished = true;
                    return Err(failure);
                }
            };
            match message.shape {
                Shape::Result if self.call.wants_task() && announced(&message).is_some() => {
                    self.finished = true;
                    return Ok(Event::Task(Box::new(message)));
                }
                Shape::Result | Shape::Error => {
                    self.finished = true;
                    let (pieces, ended) = self.call.reply(&message, &self.session_info());
                    return Ok(Event::Done(pieces, ended));
                }
                Shape::Notification => {
                    if let Some(bytes) = self.call.notification(&message) {
                        return Ok(Event::Notification(bytes));
                    }
                }
                Shape::Request => match Ask::from_request(&message).filter(|_| self.call.may_be_asked()) {
                    Some(ask) => return Ok(Event::Question(ask)),
                    None => self.refusing = Some(tokio::spawn(self.refuse(&message))),
                },
            }
        }
    }

    fn session_info(&self) -> Bytes {
        match &self.link {
            Link::Channel(session, _) => session.greeted.info.clone(),
            Link::Http(session, ..) => session.greeted.info.clone(),
        }
    }

    async fn receive(&mut self) -> Result<Message, Failure> {
        match &mut self.link {
            Link::Channel(session, receiver) => match receiver.next().await {
                Inbound::Message(message) => Ok(message),
                Inbound::TooLarge(limit) => {
                    Err(Failure::ReplyTooLarge { service: session.service().to_owned(), limit })
                }
                Inbound::Gone(why) => Err(session.broken(&why)),
            },
            Link::Http(session, source, InFlight { asked: Some(asked), .. }) => tokio::select! {
                biased;
                Some(question) = asked.next() => Ok(question),
                received = receive_http(session, source, self.call.upstream_id) => received,
            },
            Link::Http(session, source, _) => receive_http(session, source, self.call.upstream_id).await,
        }
    }

    /// Sends a message of ours towards the server on behalf of this call.
    ///
    /// # Errors
    /// When the server does not take it.
    pub fn send(&self, message: Bytes) -> impl Future<Output = Result<(), Failure>> + Send + use<> {
        // The future must not borrow the exchange: the body that it may hold is not `Sync`.
        let session = match &self.link {
            Link::Channel(session, _) => Session::Channel(session.clone()),
            Link::Http(session, ..) => Session::Http(session.clone()),
        };
        async move { session.send(message).await }
    }

    fn refuse(&self, request: &Message) -> impl Future<Output = ()> + Send + use<> {
        let id = request.id().unwrap_or_default();
        let reply = match request.method {
            outrigger_mcp::method::Method::Ping => outrigger_mcp::error::result_reply(&id, b"{}"),
            _ => RpcError::new(METHOD_NOT_FOUND, format!("{} is not supported here", request.method_name()))
                .reply(Some(&id)),
        };
        let sent = self.send(reply);
        async move {
            if let Err(error) = sent.await {
                tracing::debug!(%error, "could not refuse a request of the server");
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(running) = self.running.take().filter(|_| !self.finished) {
            cancel_detached(self.session(), running.id);
        }
        match &self.link {
            Link::Channel(session, receiver) => {
                if session.channel.close_call(receiver.id) && !self.finished {
                    session.channel.write_now(self.call.cancelled("the caller went away"));
                }
            }
            Link::Http(session, ..) if !self.finished => {
                session.send_detached(self.call.cancelled("the caller went away"))
            }
            Link::Http(..) => {}
        }
    }
}

fn parse(server: &super::http::HttpServer, bytes: Bytes) -> Result<Message, Failure> {
    Message::parse(bytes).map_err(|rejected| {
        tracing::warn!(service = server.service, error = %rejected.error, "the server's reply is not a JSON-RPC message");
        server.broken("its reply is not a JSON-RPC message")
    })
}

async fn receive_http(session: &Arc<HttpSession>, source: &mut Source, upstream_id: u64) -> Result<Message, Failure> {
    let server = &session.server;
    loop {
        let (events, resumes) = match source {
            Source::Message(message) => {
                return message.take().map(|message| *message).ok_or_else(|| server.broken("it answered nothing"));
            }
            Source::Resuming { stream, resumes } => {
                let (resumed, resumes) = (stream.await, *resumes);
                *source = Source::Message(None);
                *source = Source::Stream { events: Box::new(resumed?), resumes };
                continue;
            }
            Source::Stream { events, resumes } => (events, resumes),
        };
        match events.next().await {
            Ok(Some(data)) => {
                *resumes = 0;
                let message = parse(server, data)?;
                let foreign = matches!(message.shape, Shape::Result | Shape::Error)
                    && message.id().as_deref() != Some(upstream_id.to_string().as_bytes());
                if message.method.tells_of_list() {
                    // Some servers write everything on the stream of the call at hand.
                    session.tell(message);
                    continue;
                }
                if !foreign {
                    return Ok(message);
                }
                tracing::debug!(service = server.service, "a reply to another request on this stream; dropped");
            }
            end => {
                // 2025-11-25 servers may close a stream on purpose; whoever numbers events can be resumed from.
                let last = events.last_id.clone().filter(|_| *resumes < MAX_RESUMES);
                let Some(last) = last else {
                    let detail = end.err().unwrap_or_else(|| "it ended the stream without a reply".into());
                    return Err(server.broken(&detail));
                };
                let wait = events.retry.map_or(DEFAULT_RETRY, Duration::from_millis).min(Duration::from_secs(10));
                let resumes = *resumes + 1;
                *source = Source::Resuming { stream: Box::pin(resume(Arc::clone(session), last, wait)), resumes };
            }
        }
    }
}

/// Reopens a stream after an event, once the server had its time (2025-11-25 basic/transports, "Resumability").
async fn resume(session: Arc<HttpSession>, last: Bytes, wait: Duration) -> Result<EventStream, Failure> {
    tokio::time::sleep(wait).await;
    let mut fields = legacy_fields(session.id.as_ref(), Some(session.greeted.revision));
    fields.remove(header::CONTENT_TYPE);
    fields.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
    let id = HeaderValue::from_bytes(&last).map_err(|_| session.server.broken("its event id cannot be sent back"))?;
    fields.insert(headers::LAST_EVENT_ID, id);
    let response = session.server.send(HttpMethod::GET, fields, Vec::new()).await?;
    if response.status() != StatusCode::OK {
        return Err(session.server.broken("it dropped the stream and refuses to resume it"));
    }
    let mut events = session.server.events(response.into_body());
    events.last_id = Some(last);
    Ok(events)
}
