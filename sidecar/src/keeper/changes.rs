//! How the keeper hears that its server's lists changed, or that the server is gone.

use std::time::Duration;

use http::Method as HttpMethod;
use outrigger_mcp::{bridge::handshake::Greeted, envelope::Message, error::request};
use tokio::{sync::broadcast, time::sleep};

use super::ask::modern_request_params;
use crate::upstream::{
    Upstream,
    http::{Answer, EventStream, modern_fields},
    session::{Declared, Session},
};

/// How news of the server reach the keeper.
pub(super) enum Changes<'a> {
    /// A session with a channel for what belongs to no call.
    Session(&'a Session, broadcast::Receiver<Message>),
    /// A listen at a modern HTTP server.
    Listen(Box<EventStream>),
    /// The server does not tell; it is asked now and then.
    Silent,
}

pub(super) enum Changed {
    List,
    Lost,
    Gone(String),
}

impl<'a> Changes<'a> {
    pub(super) async fn open(upstream: &Upstream, session: Option<&'a Session>, greeted: &Greeted) -> Self {
        if let Some(session) = session {
            if greeted.revision.is_modern() {
                let body = request(b"0", "subscriptions/listen", &listen_params());
                if let Err(failure) = session.listen_forever(body).await {
                    tracing::debug!(%failure, "the server does not take a listen");
                }
            }
            return Changes::Session(session, session.subscribe());
        }
        let Some(server) = upstream.http() else { return Changes::Silent };
        let body = request(b"0", "subscriptions/listen", &listen_params());
        let Ok(message) = Message::parse(body.clone()) else { return Changes::Silent };
        match server.send(HttpMethod::POST, modern_fields(&message), vec![body]).await {
            Ok(response) if response.status().is_success() => match server.answer(response).await {
                Ok(Answer::Stream(events)) => Changes::Listen(events),
                _ => Changes::Silent,
            },
            _ => Changes::Silent,
        }
    }

    pub(super) async fn next(&mut self) -> Changed {
        match self {
            Changes::Session(session, receiver) => loop {
                tokio::select! {
                    () = session.ended() => return Changed::Gone("the server ended".into()),
                    message = receiver.recv() => match message {
                        Ok(message) if message.method.tells_of_list() => return Changed::List,
                        Ok(_) => {}
                        Err(broadcast::error::RecvError::Lagged(_)) => return Changed::List,
                        Err(broadcast::error::RecvError::Closed) => return Changed::Gone("the server ended".into()),
                    },
                }
            },
            Changes::Listen(events) => loop {
                match events.next().await {
                    Ok(Some(data)) => {
                        if Message::parse(data).is_ok_and(|m| m.method.tells_of_list()) {
                            return Changed::List;
                        }
                    }
                    _ => {
                        sleep(Duration::from_millis(500)).await;
                        return Changed::Lost;
                    }
                }
            },
            Changes::Silent => std::future::pending().await,
        }
    }

    /// Forgets changes that the coming refetch covers.
    pub(super) fn drain(&mut self) {
        if let Changes::Session(_, receiver) = self {
            while receiver.try_recv().is_ok() {}
        }
    }
}

fn listen_params() -> Vec<u8> {
    let mut params = modern_request_params(&Declared::everything(), None);
    params.pop();
    params.extend_from_slice(
        br#","notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}}"#,
    );
    params
}
