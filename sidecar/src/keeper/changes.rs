//! How the keeper hears that its server's lists changed, or that the server is gone.

use std::time::Duration;

use http::{Method as HttpMethod, StatusCode};
use outrigger_mcp::{bridge::handshake::Greeted, envelope::Message, error::request};
use tokio::{
    sync::broadcast,
    time::{Instant, sleep, sleep_until},
};

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
    /// It may tell, but the listen did not begin: another one is tried after `pause`, which is over at `due`, however often
    /// the wait is given up for something else meanwhile.
    Later { pause: Duration, due: Instant },
}

/// First and longest pause between listens that do not begin.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

pub(super) enum Changed {
    List,
    Lost,
    Gone(String),
}

impl<'a> Changes<'a> {
    /// Opens them; `waited` is how long the last attempt was waited for, if it was in vain.
    pub(super) async fn open(
        upstream: &Upstream,
        session: Option<&'a Session>,
        greeted: &Greeted,
        waited: Option<Duration>,
    ) -> Self {
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
        let why = match server.send(HttpMethod::POST, modern_fields(&message), vec![body]).await {
            Ok(response) if does_not_listen(response.status()) => return Changes::Silent,
            Ok(response) if response.status().is_success() => match server.answer(response).await {
                Ok(Answer::Stream(events)) => return Changes::Listen(events),
                // An error in words, or no stream: it knows no listens.
                Ok(_) => return Changes::Silent,
                Err(failure) => failure.bare(),
            },
            Ok(response) => format!("it answered with status {}", response.status().as_u16()),
            Err(failure) => failure.bare(),
        };
        let pause = waited.map_or(AGAIN.0, |waited| (waited * 2).min(AGAIN.1));
        if pause == AGAIN.0 {
            tracing::warn!(
                service = upstream.service(),
                why,
                "the server's changes cannot be listened for; trying again"
            );
        }
        Changes::later(pause)
    }

    fn later(pause: Duration) -> Self {
        Changes::Later { pause, due: Instant::now() + pause }
    }

    /// How long the next attempt is waited for, where there is none yet.
    pub(super) fn waits(&self) -> Option<Duration> {
        if let Changes::Later { pause, .. } = self { Some(*pause) } else { None }
    }

    /// The next change. Cancelling the future loses nothing.
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
            Changes::Later { due, .. } => {
                sleep_until(*due).await;
                Changed::Lost
            }
        }
    }

    /// Forgets changes that the coming refetch covers.
    pub(super) fn drain(&mut self) {
        if let Changes::Session(_, receiver) = self {
            while receiver.try_recv().is_ok() {}
        }
    }
}

/// Whether a status says that there will never be a listen, not that there is none now.
fn does_not_listen(status: StatusCode) -> bool {
    let for_now = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    status.is_client_error() && !for_now.contains(&status) || status == StatusCode::NOT_IMPLEMENTED
}

fn listen_params() -> Vec<u8> {
    let mut params = modern_request_params(&Declared::everything(), None);
    params.pop();
    params.extend_from_slice(
        br#","notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}}"#,
    );
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_goes_on_while_the_keeper_looks_at_something_else() {
        let mut changes = Changes::later(AGAIN.1);
        let begun = Instant::now();
        // As often as the keeper asks a server whether it still answers.
        while tokio::time::timeout(Duration::from_secs(5), changes.next()).await.is_err() {
            assert!(begun.elapsed() <= AGAIN.1, "the pause begins anew each time");
        }
        assert_eq!(begun.elapsed(), AGAIN.1);
    }
}
