//! What a legacy session hears outside its calls. One listen of ours is for lists and what the server says to the session, and
//! stays; others beside it are for resources, some each: they are added and merged without a gap.

use std::{collections::BTreeSet, sync::Arc};

use http::header;
use outrigger_mcp::{
    bridge::handshake::modern_params,
    envelope::{Message, Param},
    error::request,
    json::quote,
    method::Method,
};
use outrigger_proxy::{
    failure::Failure,
    legacy::{
        mesh::{Later, Messages, Told, Unheard},
        seam::{Change, ListKind, Wanted},
    },
    piece::{self, Piece, QUEUE, QUIET, Source, at, outgrown},
};
use outrigger_telemetry::metrics::OpenGuard;
use tokio::{sync::mpsc, time::Instant};

use super::Door;

/// The listening of one session. Dropping it ends it.
pub(super) struct Ears {
    door: Door,
    /// What the session has subscribed to.
    wanted: BTreeSet<String>,
    /// Who tells of that: each of some of it, or of more.
    pieces: Vec<Piece<Hearing>>,
    /// When to make one of them.
    quiet: Option<Instant>,
    updates: (mpsc::Sender<Change>, mpsc::Receiver<Change>),
    _base: Piece<Hearing>,
}

/// What one listen of ours is for.
struct Hearing {
    door: Door,
    of: What,
}

enum What {
    /// Changes of lists, and what the server says outside calls if that is wanted.
    Base {
        session: bool,
    },
    Resources(BTreeSet<String>),
}

impl Ears {
    pub(super) fn new(door: Door, wanted: Wanted) -> Self {
        let updates = mpsc::channel(QUEUE);
        let base = Hearing { door: door.clone(), of: What::Base { session: wanted.session } };
        let base = Piece::begin(base, (Vec::new(), Vec::new()), &updates.0);
        let mut ears = Self { door, wanted: BTreeSet::new(), pieces: Vec::new(), quiet: None, updates, _base: base };
        ears.set_resources(wanted.resources);
        ears
    }

    /// Listens to resources in the place of those pieces.
    fn replace(&mut self, resources: BTreeSet<String>, before: Vec<Piece<Hearing>>) {
        let source = Hearing { door: self.door.clone(), of: What::Resources(resources) };
        self.pieces.push(Piece::begin(source, (before, Vec::new()), &self.updates.0));
    }

    /// One listen for all resources, unless one is for them and few others.
    fn merge(&mut self) {
        let fits = |piece: &Piece<Hearing>| piece.source.resources().len() <= 2 * self.wanted.len();
        if self.pieces.len() > 1 || !self.pieces.iter().all(fits) {
            let before = std::mem::take(&mut self.pieces);
            self.replace(self.wanted.clone(), before);
        }
    }
}

impl Told for Ears {
    fn set_resources(&mut self, uris: Vec<String>) {
        self.wanted = uris.into_iter().collect();
        let listened = |uri: &&String| self.pieces.iter().any(|piece| piece.source.resources().contains(*uri));
        let mut more: BTreeSet<String> = self.wanted.iter().filter(|uri| !listened(uri)).cloned().collect();
        if !more.is_empty() {
            let before = outgrown(&mut self.pieces, more.len(), |source| Some(source.resources().len()));
            let old = before.iter().flat_map(|piece| piece.source.resources()).filter(|uri| self.wanted.contains(*uri));
            more.extend(old.cloned().collect::<Vec<_>>());
            self.replace(more, before);
        }
        // Narrowed lazily: what is told of the rest of a piece is left out.
        let wanted = &self.wanted;
        self.pieces.retain(|piece| !piece.source.resources().is_disjoint(wanted));
        self.quiet = (!self.pieces.is_empty()).then(|| Instant::now() + QUIET);
    }

    fn begun(&mut self) -> Later<'static, Unheard> {
        let begun = piece::begun(&self.pieces);
        Box::pin(async move {
            let pieces = begun.await;
            let named =
                pieces.iter().flat_map(|(source, begun)| source.resources().iter().map(move |uri| (uri, begun)));
            named.filter_map(|(uri, begun)| Some((uri.clone(), begun.refuses(uri)?))).collect()
        })
    }

    fn next(&mut self) -> Later<'_, Option<Change>> {
        Box::pin(async move {
            loop {
                let quiet = self.quiet;
                tokio::select! {
                    biased;
                    () = self.door.inbound.drain.signaled() => return None,
                    () = at(quiet) => {
                        self.quiet = None;
                        self.merge();
                    }
                    change = self.updates.1.recv() => match change {
                        // Of a listen for more than is wanted by now.
                        Some(Change::Resource { uri }) if !self.wanted.contains(&uri) => {}
                        change => return change,
                    },
                }
            }
        })
    }
}

/// For what listens for no resources.
static NONE: BTreeSet<String> = BTreeSet::new();

impl Hearing {
    fn resources(&self) -> &BTreeSet<String> {
        match &self.of {
            What::Base { .. } => &NONE,
            What::Resources(uris) => uris,
        }
    }

    fn request(&self) -> Result<Message, Failure> {
        let declared = &self.door.declared;
        let mut params = modern_params(&declared.capabilities, &declared.info);
        params.pop();
        let filter = match &self.of {
            What::Base { session } => {
                let lists = r#""toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true"#;
                let session = if *session { r#","outrigger.dev/session":true"# } else { "" };
                format!("{lists}{session}")
            }
            What::Resources(uris) => {
                let uris: Vec<String> = uris.iter().map(|uri| quote(uri)).collect();
                format!(r#""resourceSubscriptions":[{}]"#, uris.join(","))
            }
        };
        params.extend_from_slice(format!(r#","notifications":{{{filter}}}}}"#).as_bytes());
        Message::parse(request(b"1", Method::SubscriptionsListen.as_str(), &params))
            .map_err(|_| Failure::Internal("a listen of ours is no message".into()))
    }
}

impl Source for Hearing {
    fn open(&self) -> Later<'_, Result<Box<dyn Messages>, Failure>> {
        Box::pin(async move {
            let response = self.door.ask(self.request()?).await?;
            let kind = response.headers().get(header::CONTENT_TYPE);
            if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
                return Err(self.door.broken("it does not stream"));
            }
            Ok(Box::new(self.door.events(response.into_body())) as Box<dyn Messages>)
        })
    }

    fn change(&self, message: Message) -> Option<Change> {
        match (&self.of, message.method) {
            (_, Method::SubscriptionsAcknowledged) => None,
            (What::Resources(uris), Method::ResourcesUpdated) => {
                let uri = message.text(Param::Uri).filter(|uri| uris.contains(&**uri))?.into_owned();
                Some(Change::Resource { uri })
            }
            // With the session comes what is another listen's to tell.
            (What::Resources(_), _) | (What::Base { .. }, Method::ResourcesUpdated) => None,
            (What::Base { .. }, Method::ToolsListChanged) => Some(Change::List(ListKind::Tools)),
            (What::Base { .. }, Method::PromptsListChanged) => Some(Change::List(ListKind::Prompts)),
            (What::Base { .. }, Method::ResourcesListChanged) => Some(Change::List(ListKind::Resources)),
            (What::Base { .. }, _) => {
                Some(Change::Session { service: Arc::clone(&self.door.inbound.service), message })
            }
        }
    }

    /// Everything counts as changed.
    fn missed(&self) -> Vec<Change> {
        match &self.of {
            What::Base { .. } => ListKind::ALL.map(Change::List).into(),
            What::Resources(uris) => uris.iter().map(|uri| Change::Resource { uri: uri.clone() }).collect(),
        }
    }

    fn failed(&self, failure: &Failure, _: bool) -> Option<OpenGuard> {
        tracing::debug!(%failure, "a session cannot listen");
        None
    }

    fn ended_soon(&self) {
        tracing::debug!("a listen for a session ended soon after it had begun");
    }
}
