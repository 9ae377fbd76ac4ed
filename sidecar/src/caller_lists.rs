//! Lists that depend on the caller: what a server lists in a session of one caller and not for all.
//!
//! ```text
//!  a session says that a list changed -> read its lists -> the same as all are offered? -> nothing
//!                                                      \-> kept as its own, listed and told to its caller only
//! ```
//!
//! With `catalog: per_caller` every caller's lists are read; else those of sessions that say that theirs have changed
//! (docs/decisions/0016-lists-of-callers.md).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use outrigger_mcp::{
    catalog::{Catalog, Limits},
    envelope::Message,
    json::{Span, member},
};
use outrigger_proxy::failure::Failure;
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, MissedTickBehavior, sleep, timeout},
};

use crate::{
    config::{Catalog as Settings, CatalogMode},
    keeper::{Keeper, Offer, Status},
    own_answers::Lists,
    upstream::{
        Asker, Lease, Upstream,
        own_lists::{Own, Place, same_lists},
        session::{Declared, Session},
    },
};

/// Changes within this time of each other cost one reading.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// A list waits this long for lists that may have changed; then what is known is listed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads the lists of callers, and follows what their sessions say of them.
pub struct CallerLists {
    upstream: Arc<Upstream>,
    keeper: Arc<Keeper>,
    settings: Settings,
    readings: AtomicU64,
}

impl CallerLists {
    /// Nobody's lists yet.
    pub fn new(upstream: Arc<Upstream>, keeper: Arc<Keeper>, settings: Settings) -> Arc<Self> {
        Arc::new(Self { upstream, keeper, settings, readings: AtomicU64::new(0) })
    }

    /// Whether every caller's lists are asked for.
    pub fn always(&self) -> bool {
        self.settings.mode == CatalogMode::PerCaller
    }

    /// Follows a session that was just opened, until it ends.
    pub fn follow(self: &Arc<Self>, lease: &Lease) {
        if let Some(place) = self.upstream.to_follow(lease) {
            let this = self.clone();
            tokio::spawn(async move { this.run(&place).await });
        }
    }

    async fn run(&self, place: &Place) {
        let mut messages = place.session.subscribe();
        let mut offers = self.keeper.offers();
        let mut refresh = tokio::time::interval_at(Instant::now() + self.settings.refresh, self.settings.refresh);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Also what it said before anybody listened.
            if !place.is_read() {
                sleep(DEBOUNCE).await;
                self.settle(place).await;
                continue;
            }
            tokio::select! {
                () = place.session.ended() => break,
                message = messages.recv() => if matches!(message, Err(RecvError::Closed)) { break },
                Ok(()) = offers.changed(), if !self.always() => self.forget_shared(place).await,
                _ = refresh.tick(), if place.own().is_some() && !self.always() => {
                    let _turn = place.turn().await;
                    if let Err(failure) = self.look(place).await {
                        tracing::debug!(%failure, "the lists of a caller stay as they were");
                    }
                }
            }
        }
        place.forget();
    }

    /// What all are offered has changed: perhaps it is what this caller has by now.
    async fn forget_shared(&self, place: &Place) {
        let _turn = place.turn().await;
        let all = self.keeper.offer();
        if place.own().is_some_and(|own| same_lists(&own.offer.catalog, &all.catalog)) {
            place.forget();
        }
    }

    /// Reads lists of which the server said that they have changed.
    async fn settle(&self, place: &Place) {
        let _turn = place.turn().await;
        if !place.is_read()
            && let Err(failure) = self.look(place).await
        {
            tracing::debug!(%failure, "the lists of a caller could not be read");
        }
    }

    /// The caller's own lists where it has some, without opening a session for it. What its session said of them by now
    /// has been looked into.
    pub async fn current(&self, asker: Asker<'_>, declared: &Declared) -> Option<Arc<Own>> {
        let place = self.upstream.opened_place(asker, declared)?;
        if !place.is_read() && timeout(PATIENCE, self.settle(&place)).await.is_err() {
            tracing::debug!("the lists of a caller take too long; those known are listed");
        }
        place.own()
    }

    /// Asks for the lists of the caller to whom this lease belongs, or whom a server without sessions is told of
    /// (`declared`). Who asks at once is answered at once.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn ask(&self, lease: Option<&Lease>, declared: &Declared) -> Result<Arc<Own>, Failure> {
        let arrived = Instant::now();
        let Some(place) = lease.and_then(|lease| self.upstream.place(lease)) else {
            let session = lease.map(|lease| &*lease.session);
            return self.read(session, declared).await.map(|catalog| Arc::new(self.own(catalog, false)));
        };
        let _turn = place.turn().await;
        let fresh = |own: &Arc<Own>| {
            let told = tells(&place.session.greeted().capabilities) && place.is_read();
            own.at >= arrived || (told && own.at.elapsed() < self.settings.refresh)
        };
        if let Some(own) = place.own().filter(fresh) {
            return Ok(own);
        }
        self.look(&place).await?;
        place.own().ok_or_else(|| Failure::Internal("lists that were read are gone".into()))
    }

    /// Reads the lists of a session and keeps them if they are its own. To be done by one at a time.
    async fn look(&self, place: &Place) -> Result<(), Failure> {
        let announced = place.session.announced();
        match self.read(Some(&place.session), &Declared::everything()).await {
            Ok(catalog) => {
                let own = self.always() || self.differs_from_all(&catalog).await;
                place.keep(own.then(|| self.own(catalog, announced > 0)), announced);
                Ok(())
            }
            Err(failure) => {
                place.tried(announced);
                Err(failure)
            }
        }
    }

    /// Whether lists are not those that all are offered, also once these have been read again: most changes are for all.
    async fn differs_from_all(&self, catalog: &Catalog) -> bool {
        for _ in 0..2 {
            if same_lists(catalog, &self.keeper.offer().catalog) {
                return false;
            }
            self.keeper.relist().await;
        }
        let differs = !same_lists(catalog, &self.keeper.offer().catalog);
        if differs {
            self.keeper.varies();
        }
        differs
    }

    async fn read(&self, session: Option<&Session>, declared: &Declared) -> Result<Catalog, Failure> {
        let greeted = self.upstream.known();
        let greeted = session.map(|session| session.greeted()).or(greeted.as_deref());
        let greeted = greeted.ok_or_else(|| Failure::Internal("the server was not greeted".into()))?;
        let Settings { pages, items, caller_bytes, .. } = self.settings;
        let limits = Limits { pages, items, bytes: caller_bytes };
        let catalog = self.keeper.reader(session, greeted, declared, &Catalog::empty(), limits).catalog().await?;
        self.keeper.note_cut(&catalog);
        Ok(catalog)
    }

    fn own(&self, catalog: Catalog, announced: bool) -> Own {
        let offer = Offer {
            status: Status::Serving,
            reason: None,
            catalog_json: catalog.to_health_json().into(),
            catalog: Arc::new(catalog),
            greeted: self.upstream.known(),
            varies: true,
            version: self.readings.fetch_add(1, Ordering::Relaxed),
        };
        Own { offer: Arc::new(offer), lists: Lists::default(), at: Instant::now(), announced }
    }
}

/// Whether a server says that it tells of changes of every list that it has.
fn tells(capabilities: &[u8]) -> bool {
    let whole = Span { start: 0, end: u32::try_from(capabilities.len()).unwrap_or_default() };
    ["tools", "prompts", "resources"].into_iter().all(|name| {
        let Some(kind) = member(capabilities, whole, name) else { return true };
        kind.of(capabilities) == b"null"
            || member(capabilities, kind, "listChanged").is_some_and(|value| value.of(capabilities) == b"true")
    })
}

/// The fingerprint of the lists that an ingress has already (`params.known` of `outrigger.dev/catalog`).
pub fn known(request: &Message) -> Option<String> {
    let params = request.params().object()?;
    let known = member(request.body(), params, "known")?;
    outrigger_mcp::json::decode_string(request.raw(known)).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_tells_of_its_lists_when_it_says_so_of_each() {
        for (capabilities, all) in [
            ("{}", true),
            (r#"{"tools":{"listChanged":true}}"#, true),
            (r#"{"tools":{"listChanged":true},"prompts":{}}"#, false),
            (r#"{"tools":{"listChanged":false}}"#, false),
            (r#"{"tools":{"listChanged":true},"resources":null,"logging":{}}"#, true),
        ] {
            assert_eq!(tells(capabilities.as_bytes()), all, "{capabilities}");
        }
    }

    #[test]
    fn what_is_known_is_a_text() {
        let request = |params: &str| {
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"outrigger.dev/catalog","params":{params}}}"#);
            Message::parse(bytes::Bytes::from(text)).unwrap()
        };
        assert_eq!(known(&request(r#"{"known":"ab","_meta":{}}"#)).as_deref(), Some("ab"));
        assert_eq!(known(&request(r#"{"known":7}"#)), None);
        assert_eq!(known(&request("{}")), None);
    }
}
