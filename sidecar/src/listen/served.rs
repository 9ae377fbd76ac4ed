//! A listen that a modern server serves itself: passed on message by message. Only changes of lists are told by us, because
//! lists are answered here: whoever hears of a change must find the new list.

use bytes::Bytes;
use http::Response;
use outrigger_mcp::{
    envelope::{Message, Shape},
    method::Method,
    sse,
};
use outrigger_proxy::{
    body::{BodySender, OutBody},
    reply,
};
use outrigger_runtime::drain::DrainWatcher;
use tokio::sync::watch::error::RecvError;

use super::{Filter, Followed, KEEP_ALIVE, ended, told_of};
use crate::{tasks::Names, upstream::http::EventStream};

/// Events that may wait for a slow client before the server's stream is held back.
const QUEUE: usize = 64;

/// One open listen.
pub struct Served {
    /// The listen's id, raw.
    pub id: Bytes,
    /// What tasks are called here, where it names some.
    pub names: Option<Names>,
    /// What the caller is offered and changes of that; `None` where the server is asked for each list.
    pub lists: Option<Followed>,
    /// Tells when to end it.
    pub drain: DrainWatcher,
}

impl Served {
    /// The response that passes the server's events on.
    pub fn respond(mut self, events: EventStream) -> Response<OutBody> {
        // Whatever changes from here on is told.
        if let Some(lists) = &mut self.lists {
            lists.look();
        }
        let (sender, body) = OutBody::channel(QUEUE);
        tokio::spawn(self.run(events, sender));
        reply::event_stream(body)
    }

    /// Runs until the client goes away, the server ends its stream, or we drain.
    async fn run(mut self, mut events: EventStream, sender: BodySender) {
        let drain = self.drain.clone();
        let drained = drain.signaled();
        tokio::pin!(drained);
        let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
        keep_alive.tick().await;
        let mut acknowledged = false;
        loop {
            let next = tokio::select! {
                () = sender.gone() => return,
                () = &mut drained => {
                    let _ = sender.send(sse::event(&ended(&self.id, None))).await;
                    let _ = sender.finish().await;
                    return;
                }
                _ = keep_alive.tick() => vec![Bytes::from_static(b":\n\n")],
                changes = changes(&mut self.lists), if acknowledged => match changes {
                    Ok(changes) => told_of(changes, &self.id),
                    Err(_) => return,
                },
                data = events.next() => match data {
                    Ok(Some(data)) => {
                        acknowledged = true;
                        self.of_server(data).map(|data| sse::event(&data)).into_iter().collect()
                    }
                    Ok(None) => {
                        let _ = sender.finish().await;
                        return;
                    }
                    // Breaking off says that something is missing; what reads it makes an error of that.
                    Err(_) => return,
                },
            };
            for event in next {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        }
    }

    /// What the server says, as the client is told it.
    fn of_server(&mut self, data: Bytes) -> Option<Bytes> {
        if self.lists.is_none() && self.names.is_none() {
            return Some(data);
        }
        let Ok(message) = Message::parse(data.clone()) else { return Some(data) };
        match (&mut self.lists, message.shape, message.method) {
            (Some(lists), Shape::Notification, Method::SubscriptionsAcknowledged) => {
                lists.only(&Filter::of(&message));
            }
            (Some(_), Shape::Notification, method) if method.tells_of_list() => return None,
            _ => {}
        }
        Some(self.names.as_ref().map_or(data, |names| names.incoming(&message, Method::SubscriptionsListen)))
    }
}

async fn changes(lists: &mut Option<Followed>) -> Result<[Option<Method>; 3], RecvError> {
    match lists {
        Some(lists) => lists.next().await,
        None => std::future::pending().await,
    }
}
