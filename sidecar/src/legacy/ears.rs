//! What a legacy session hears outside its calls: one listen of ours, begun again when it ends.

use std::{sync::Arc, time::Duration};

use http::header;
use outrigger_mcp::{
    bridge::handshake::modern_params,
    envelope::{Message, Param, Shape},
    error::request,
    json::quote,
    method::Method,
};
use outrigger_proxy::{
    failure::Failure,
    legacy::{
        mesh::{Later, Told},
        seam::{Change, Declared, ListKind, Wanted},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Door, Events};

/// First and longest pause before a listen that ended is begun again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Changes that wait for a slow client; then the listen waits.
const QUEUE: usize = 64;
/// A server that takes longer to say that it tells of resources does not hold up its client.
const BEGIN: Duration = Duration::from_secs(2);

/// The listening of one session. Dropping it ends it.
pub(super) struct Ears {
    door: Door,
    declared: Declared,
    wanted: Wanted,
    updates: mpsc::Receiver<Change>,
    begun: Option<oneshot::Receiver<()>>,
    listening: JoinSet<()>,
}

impl Ears {
    pub(super) fn new(door: Door, wanted: Wanted) -> Self {
        let declared = door.declared.clone();
        let updates = mpsc::channel(1).1;
        let mut ears = Self { door, declared, wanted, updates, begun: None, listening: JoinSet::new() };
        ears.listen(Vec::new());
        ears
    }

    /// Begins to listen. `again` are the resources that may have changed in between.
    fn listen(&mut self, again: Vec<String>) {
        let (sender, updates) = mpsc::channel(QUEUE);
        let (begun, began) = oneshot::channel();
        let listener = Listener {
            door: self.door.clone(),
            declared: self.declared.clone(),
            wanted: self.wanted.clone(),
            updates: sender,
            begun: Some(begun),
        };
        (self.updates, self.begun, self.listening) = (updates, Some(began), JoinSet::new());
        self.listening.spawn(listener.run(again));
    }
}

impl Told for Ears {
    fn set_resources(&mut self, uris: Vec<String>) {
        let stay = uris.iter().filter(|uri| self.wanted.resources.contains(uri)).cloned().collect();
        self.wanted.resources = uris;
        self.listen(stay);
    }

    fn begun(&mut self) -> Later<'static, ()> {
        let begun = self.begun.take();
        Box::pin(async move {
            if let Some(begun) = begun {
                // Dropped instead of told: nothing will be.
                let _ = timeout(BEGIN, begun).await;
            }
        })
    }

    fn next(&mut self) -> Later<'_, Option<Change>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                () = self.door.inbound.drain.signaled() => None,
                change = self.updates.recv() => change,
            }
        })
    }
}

/// The task behind it.
struct Listener {
    door: Door,
    declared: Declared,
    wanted: Wanted,
    updates: mpsc::Sender<Change>,
    begun: Option<oneshot::Sender<()>>,
}

/// Nobody takes the changes any more.
struct Gone;

impl Listener {
    async fn run(mut self, again: Vec<String>) {
        let mut missed: Vec<Change> = again.into_iter().map(|uri| Change::Resource { uri }).collect();
        let mut pause = BACK_OFF.0;
        loop {
            match self.open().await {
                Ok(events) => {
                    pause = BACK_OFF.0;
                    if self.follow(events, std::mem::take(&mut missed)).await.is_err() {
                        return;
                    }
                    // Nobody knows what happens until the next one begins.
                    let resources = self.wanted.resources.iter().cloned().map(|uri| Change::Resource { uri });
                    missed = ListKind::ALL.into_iter().map(Change::List).chain(resources).collect();
                }
                Err(failure) => tracing::debug!(%failure, "a session cannot listen"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    async fn open(&self) -> Result<Events, Failure> {
        let response = self.door.ask(self.request()?).await?;
        let kind = response.headers().get(header::CONTENT_TYPE);
        if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            return Err(self.door.broken("it does not stream"));
        }
        Ok(self.door.events(response.into_body()))
    }

    fn request(&self) -> Result<Message, Failure> {
        let mut params = modern_params(&self.declared.capabilities, &self.declared.info);
        params.pop();
        let uris: Vec<String> = self.wanted.resources.iter().map(|uri| quote(uri)).collect();
        let lists = r#""toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true"#;
        let session = if self.wanted.session { r#","outrigger.dev/session":true"# } else { "" };
        let uris = uris.join(",");
        params.extend_from_slice(
            format!(r#","notifications":{{{lists},"resourceSubscriptions":[{uris}]{session}}}}}"#).as_bytes(),
        );
        Message::parse(request(b"1", Method::SubscriptionsListen.as_str(), &params))
            .map_err(|_| Failure::Internal("a listen of ours is no message".into()))
    }

    /// Passes on what comes until the stream ends.
    async fn follow(&mut self, mut events: Events, missed: Vec<Change>) -> Result<(), Gone> {
        for change in missed {
            self.updates.send(change).await.map_err(|_| Gone)?;
        }
        while let Ok(Some(message)) = events.read().await {
            if message.shape != Shape::Notification {
                return Ok(());
            }
            if let Some(change) = self.change(message) {
                self.updates.send(change).await.map_err(|_| Gone)?;
            }
        }
        Ok(())
    }

    fn change(&mut self, message: Message) -> Option<Change> {
        Some(match message.method {
            Method::SubscriptionsAcknowledged => {
                if let Some(begun) = self.begun.take() {
                    // Whoever waited may have stopped.
                    let _ = begun.send(());
                }
                return None;
            }
            Method::ToolsListChanged => Change::List(ListKind::Tools),
            Method::PromptsListChanged => Change::List(ListKind::Prompts),
            Method::ResourcesListChanged => Change::List(ListKind::Resources),
            Method::ResourcesUpdated => Change::Resource { uri: message.text(Param::Uri)?.into_owned() },
            _ => Change::Session { service: Arc::clone(&self.door.inbound.service), message },
        })
    }
}
