//! What a caller who listens is offered: the catalog of all, or lists of its own session, and what changes in either.

use std::{sync::Arc, time::Duration};

use outrigger_mcp::{catalog::Catalog, catalog_kind::Kind, method::Method};
use tokio::{
    sync::watch::{Receiver, error::RecvError},
    time::{Instant, sleep_until},
};

use super::{Attach, Filter};
use crate::{
    keeper::Offer,
    upstream::{
        Asker,
        own_lists::{Own, differs},
    },
};

/// Between two tellings that a list has changed, at least: a server whose lists flap makes no storm.
const PACE: Duration = Duration::from_secs(1);

/// What is offered to one caller.
pub struct Followed {
    caller: Attach,
    offers: Receiver<Arc<Offer>>,
    own: Receiver<u64>,
    /// Only its own lists count.
    always: bool,
    /// What was there when it was looked at last; `None` while that is not known.
    seen: Option<Arc<Catalog>>,
    /// Which changes are wanted: tools, prompts, resources.
    wanted: [bool; 3],
    /// When to look again.
    due: Option<Instant>,
    told_at: Option<Instant>,
}

impl Followed {
    /// Follows what this caller is offered, as far as it asked to hear of it. `always`: the catalog of all says nothing about
    /// its lists.
    pub fn new(caller: Attach, offers: Receiver<Arc<Offer>>, always: bool, filter: &Filter) -> Self {
        let own = caller.upstream.own_changes();
        Self { caller, offers, own, always, seen: None, wanted: filter.kinds, due: None, told_at: None }
    }

    /// Tells only of what this filter asks for, too.
    pub fn only(&mut self, honoured: &Filter) {
        self.wanted = std::array::from_fn(|at| self.wanted[at] && honoured.kinds[at]);
    }

    /// The next changes, at most once in `PACE`. Cancelling the future loses nothing.
    ///
    /// # Errors
    /// Nothing will change any more.
    pub async fn next(&mut self) -> Result<[Option<Method>; 3], RecvError> {
        loop {
            let Some(due) = self.due else {
                self.changed().await?;
                let now = Instant::now();
                self.due = Some(self.told_at.map_or(now, |at| now.max(at + PACE)));
                continue;
            };
            sleep_until(due).await;
            self.due = None;
            let changes = self.look();
            if changes.iter().any(Option::is_some) {
                self.told_at = Some(Instant::now());
                return Ok(changes);
            }
        }
    }

    /// Waits until something may have changed.
    async fn changed(&mut self) -> Result<(), RecvError> {
        tokio::select! {
            changed = self.offers.changed() => changed,
            changed = self.own.changed() => changed,
        }
    }

    /// Looks again, and says what changed since the last time: tools, prompts, resources.
    pub fn look(&mut self) -> [Option<Method>; 3] {
        let (offer, _) = (self.offers.borrow_and_update().clone(), *self.own.borrow_and_update());
        let own = self.own_lists();
        let now = match &own {
            Some(own) => own.offer.catalog.clone(),
            // They are asked for when somebody wants them.
            None if self.always => return [None; 3],
            None => offer.catalog.clone(),
        };
        let before = match self.seen.replace(now.clone()) {
            Some(before) => before,
            // Lists that were read for the first time are news only if the server said so.
            None if own.is_some_and(|own| own.announced && self.always) => Arc::new(Catalog::empty()),
            None => return [None; 3],
        };
        let groups: [(&[Kind], Method); 3] = [
            (&[Kind::Tool], Method::ToolsListChanged),
            (&[Kind::Prompt], Method::PromptsListChanged),
            (&[Kind::Resource, Kind::Template], Method::ResourcesListChanged),
        ];
        let changed =
            groups.map(|(kinds, method)| kinds.iter().any(|kind| differs(&before, &now, *kind)).then_some(method));
        std::array::from_fn(|at| changed[at].filter(|_| self.wanted[at]))
    }

    fn own_lists(&self) -> Option<Arc<Own>> {
        let Attach { upstream, peer, session, declared } = &self.caller;
        upstream.opened_place(Asker { peer, session: session.as_deref() }, declared)?.own()
    }
}
