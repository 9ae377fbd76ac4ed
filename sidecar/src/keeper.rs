//! The keeper: greets the server, learns its catalog, watches it, and starts over when it is gone.
//!
//! Nobody else asks the server what it offers. What the keeper knows is published as an [`Offer`], which the health
//! endpoint shows and the ingress merges.

mod ask;
mod changes;
mod read;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use outrigger_mcp::{
    bridge::handshake::Greeted,
    catalog::{Catalog, Limits as ListLimits},
    catalog_kind::Kind,
    envelope::{Field, Message, Shape},
    error::INTERNAL,
};
use outrigger_proxy::failure::Failure;
use outrigger_telemetry::{
    ServiceMetrics,
    metrics::{CatalogState, LimitKind},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

pub(crate) use self::read::no_list;
use self::{
    ask::{ask_modern, modern_request_params},
    changes::{Changed, Changes},
    read::Reader,
};
use crate::{
    config::{Catalog as CatalogSettings, CatalogMode, Restart},
    upstream::{
        Upstream,
        http::HttpServer,
        session::{Declared, Session, own_request},
    },
};

/// Changes within this time of each other cost one refetch.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How often a server without a process to watch is asked whether it still answers.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// A call waits this long for lists that it wants anew.
const RELIST: Duration = Duration::from_secs(5);
/// How often at most lists are fetched again because the server refused something that it lists.
const DOUBT_EVERY: Duration = Duration::from_secs(1);
/// A page of a list, a ping.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a server that answers is greeted again.
const SPEAKS_ANOTHER: &str = "it speaks another revision than before";

/// How the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It answers and its catalog is complete.
    Serving,
    /// It answers, but part of its catalog could not be read.
    Degraded,
    /// We are going away.
    Draining,
    /// It does not answer.
    Down,
}

impl Status {
    /// The word in the health document.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Serving => "serving",
            Status::Degraded => "degraded",
            Status::Draining => "draining",
            Status::Down => "down",
        }
    }
}

/// What a service offers now.
#[derive(Debug, Clone)]
pub struct Offer {
    /// How the server is.
    pub status: Status,
    /// Why, when it is not serving.
    pub reason: Option<String>,
    /// The last catalog learned.
    pub catalog: Arc<Catalog>,
    /// The `catalog` member of the health document.
    pub catalog_json: Bytes,
    /// What the server said of itself.
    pub greeted: Option<Arc<Greeted>>,
    /// Whether lists depend on who asks: the catalog is not what everybody has.
    pub varies: bool,
    /// Counts every change.
    pub version: u64,
}

/// Publishes offers and takes hints.
pub struct Keeper {
    upstream: Arc<Upstream>,
    offers: watch::Sender<Arc<Offer>>,
    settings: CatalogSettings,
    restart: Restart,
    metrics: Arc<ServiceMetrics>,
    suspect: Notify,
    relist: Notify,
    /// When the lists were learned last.
    learned: watch::Sender<Instant>,
    doubt: Notify,
    version: AtomicU64,
}

impl Keeper {
    /// A keeper that has not started yet.
    pub fn new(
        upstream: Arc<Upstream>,
        settings: CatalogSettings,
        restart: Restart,
        metrics: Arc<ServiceMetrics>,
    ) -> Arc<Self> {
        let catalog = Arc::new(Catalog::empty());
        let offer = Offer {
            status: Status::Down,
            reason: Some("starting".into()),
            catalog_json: catalog.to_health_json().into(),
            catalog,
            greeted: None,
            varies: settings.mode == CatalogMode::PerCaller,
            version: 0,
        };
        let (offers, _) = watch::channel(Arc::new(offer));
        metrics.set_catalog_state(CatalogState::Unknown);
        Arc::new(Self {
            upstream,
            offers,
            settings,
            restart,
            metrics,
            suspect: Notify::new(),
            relist: Notify::new(),
            learned: watch::Sender::new(Instant::now()),
            doubt: Notify::new(),
            version: AtomicU64::new(0),
        })
    }

    /// The current offer, and every change of it.
    pub fn offers(&self) -> watch::Receiver<Arc<Offer>> {
        self.offers.subscribe()
    }

    /// The current offer.
    pub fn offer(&self) -> Arc<Offer> {
        self.offers.borrow().clone()
    }

    /// Somebody could not reach the server: look at it now.
    pub fn suspect(&self) {
        self.suspect.notify_one();
    }

    /// Asks for the lists now, and waits until they are there. Many who want it at once get one answer.
    pub async fn relist(&self) {
        let mut learned = self.learned.subscribe();
        learned.borrow_and_update();
        self.relist.notify_one();
        // A server that does not answer is noticed elsewhere; whoever waits here goes on with what is known.
        let _ = timeout(RELIST, learned.changed()).await;
    }

    /// The server refused what it lists: its lists may be old.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// As [`Keeper::relist`], unless that was done a moment ago: clients can bring this about. Returns whether it was.
    pub async fn look_again(&self) -> bool {
        let old = self.learned.borrow().elapsed() >= DOUBT_EVERY;
        if old {
            self.relist().await;
        }
        old
    }

    /// Says that lists depend on who asks. That stays so: who listed once for one caller may do so again.
    pub(crate) fn varies(&self) {
        if !self.offer().varies {
            tracing::info!(
                service = self.upstream.service(),
                "the lists of a session are not those of others: from now on each caller is listed its own"
            );
            self.publish(|offer| offer.varies = true);
        }
    }

    /// Counts lists of one caller that are larger than what is kept.
    pub(crate) fn note_cut(&self, catalog: &Catalog) {
        if Kind::ALL.iter().any(|kind| !catalog.list(*kind).complete()) {
            self.metrics.limited(LimitKind::CallerLists);
        }
    }

    /// Says that we are going away.
    pub fn draining(&self) {
        self.publish(|offer| {
            offer.status = Status::Draining;
            offer.reason = Some("shutting down".into());
        });
    }

    fn publish(&self, change: impl FnOnce(&mut Offer)) {
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        self.offers.send_modify(|offer| {
            if offer.status == Status::Draining {
                return;
            }
            let mut next = Offer::clone(offer);
            change(&mut next);
            next.version = version;
            *offer = Arc::new(next);
        });
    }

    fn down(&self, reason: &str) {
        let current = self.offer();
        if current.status == Status::Down && current.reason.as_deref() == Some(reason) {
            return;
        }
        tracing::warn!(service = self.upstream.service(), reason, "the server is down");
        self.metrics.set_catalog_state(if current.version == 0 { CatalogState::Unknown } else { CatalogState::Stale });
        self.metrics.set_child_up(false);
        self.publish(|offer| {
            offer.status = Status::Down;
            offer.reason = Some(reason.to_owned());
        });
    }

    /// Keeps going until dropped.
    pub async fn run(self: Arc<Self>) {
        let mut wait = self.restart.initial;
        let mut first = true;
        loop {
            let began = Instant::now();
            match self.upstream.open_main().await {
                Ok(session) => {
                    if !first {
                        self.metrics.child_restarted();
                    }
                    let reason = self.watch(session.as_deref()).await;
                    self.down(&reason);
                    if let Some(session) = session {
                        session.close().await;
                    }
                }
                Err(failure) => self.down(&failure.bare()),
            }
            first = false;
            if began.elapsed() >= self.restart.reset_after {
                wait = self.restart.initial;
            }
            sleep(wait).await;
            wait = (wait * 2).min(self.restart.max);
        }
    }

    /// Learns and watches until the server is gone; returns why it is.
    async fn watch(&self, session: Option<&Session>) -> String {
        let Some(greeted) = self.upstream.known() else { return "it was not greeted".into() };
        let mut changes = Changes::open(&self.upstream, session, &greeted, None).await;
        if let Err(failure) = self.learn(session, &greeted).await {
            return failure.bare();
        }
        let mut refresh = tokio::time::interval_at(Instant::now() + self.settings.refresh, self.settings.refresh);
        let mut check = tokio::time::interval_at(Instant::now() + CHECK_EVERY, CHECK_EVERY);
        loop {
            let relearn = tokio::select! {
                changed = changes.next() => match changed {
                    Changed::List => { sleep(DEBOUNCE).await; changes.drain(); true }
                    Changed::Gone(why) => return why,
                    // The stream of changes broke: what was missed is found by asking, and it is opened again.
                    Changed::Lost => {
                        let waited = changes.waits();
                        changes = Changes::open(&self.upstream, session, &greeted, waited).await;
                        true
                    }
                },
                _ = refresh.tick() => true,
                () = self.relist.notified() => true,
                // Callers can bring this about with wrong arguments as well, so it is done now and then only.
                () = self.doubt.notified(), if self.learned.borrow().elapsed() >= DOUBT_EVERY => true,
                _ = self.suspect.notified() => { if let Err(why) = self.check(session).await { return why; } false },
                _ = check.tick() => { if let Err(why) = self.check(session).await { return why; } false },
            };
            if relearn && let Err(failure) = self.learn(session, &greeted).await {
                return failure.bare();
            }
        }
    }

    /// Whether the server still answers, and still speaks what it did.
    async fn check(&self, session: Option<&Session>) -> Result<(), String> {
        match session {
            Some(session) if !session.alive() => Err("the server ended".into()),
            Some(session) if session.tells_its_end() => Ok(()),
            Some(session) => {
                let pong = own_request(session, "ping", b"{}", PATIENCE).await.map_err(|f| f.bare())?;
                match self.upstream.http() {
                    // Not every server knows `ping`; but one that was replaced by a modern one does not either.
                    Some(server) if pong.shape == Shape::Error && self.upstream.probes() => not_modern(server).await,
                    _ => Ok(()),
                }
            }
            None => {
                let Some(server) = self.upstream.http() else { return Ok(()) };
                let reply = ask_modern(server, "server/discover", &discovering()).await.map_err(|f| f.bare())?;
                // An error of its own is no change of what it speaks.
                let same = discovered(&reply) || reply.error_code() == Some(INTERNAL);
                if same { Ok(()) } else { Err(SPEAKS_ANOTHER.into()) }
            }
        }
    }

    async fn learn(&self, session: Option<&Session>, greeted: &Arc<Greeted>) -> Result<(), Failure> {
        let declared = Declared::everything();
        let before = self.offer();
        let limits = ListLimits { pages: self.settings.pages, items: self.settings.items, bytes: self.settings.bytes };
        let catalog = self.reader(session, greeted, &declared, &before.catalog, limits).catalog().await?;
        self.offer_catalog(catalog, greeted);
        self.learned.send_replace(Instant::now());
        Ok(())
    }

    /// What reads the lists of a server: in a session of it, or without one.
    pub(crate) fn reader<'a>(
        &'a self,
        session: Option<&'a Session>,
        greeted: &'a Greeted,
        declared: &'a Declared,
        known: &'a Catalog,
        limits: ListLimits,
    ) -> Reader<'a> {
        Reader { upstream: &self.upstream, session, greeted, declared, known, limits }
    }

    fn offer_catalog(&self, catalog: Catalog, greeted: &Arc<Greeted>) {
        let complete = Kind::ALL.iter().all(|kind| catalog.list(*kind).complete());
        let status = if complete { Status::Serving } else { Status::Degraded };
        let current = self.offer();
        if current.status == status && current.catalog.fingerprint() == catalog.fingerprint() {
            return;
        }
        for kind in Kind::ALL {
            let list = catalog.list(kind);
            self.metrics.set_catalog_items(kind, list.items().len());
            for warning in list.warnings() {
                tracing::warn!(
                    service = self.upstream.service(),
                    kind = kind.as_str(),
                    warning,
                    "while learning the catalog"
                );
            }
        }
        self.metrics.set_capabilities(
            Kind::ALL.iter().flat_map(|kind| catalog.list(*kind).items().iter().map(|item| item.key())),
        );
        self.metrics.set_catalog_state(CatalogState::Fresh);
        self.metrics.set_child_up(true);
        tracing::info!(
            service = self.upstream.service(),
            revision = greeted.revision.as_str(),
            tools = catalog.list(Kind::Tool).items().len(),
            prompts = catalog.list(Kind::Prompt).items().len(),
            resources = catalog.list(Kind::Resource).items().len(),
            "learned the catalog"
        );
        let json = Bytes::from(catalog.to_health_json());
        self.publish(|offer| {
            offer.status = status;
            offer.reason = (!complete).then(|| "part of the catalog could not be read".to_owned());
            offer.catalog = Arc::new(catalog);
            offer.catalog_json = json;
            offer.greeted = Some(greeted.clone());
        });
    }
}

/// `params` of a probe of ours.
fn discovering() -> Vec<u8> {
    modern_request_params(&Declared::everything(), None)
}

fn discovered(reply: &Message) -> bool {
    reply.shape == Shape::Result && reply.results().get(Field::SupportedVersions).is_some()
}

async fn not_modern(server: &HttpServer) -> Result<(), String> {
    match ask_modern(server, "server/discover", &discovering()).await {
        Ok(reply) if discovered(&reply) => Err(SPEAKS_ANOTHER.into()),
        _ => Ok(()),
    }
}
