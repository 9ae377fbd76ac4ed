//! What a caller who listens is offered: the catalog of all, or lists of its own session, and what changes in either.

use std::sync::Arc;

use outrigger_mcp::{catalog::Catalog, catalog_kind::Kind, method::Method};
use tokio::sync::watch::{Receiver, error::RecvError};

use super::Attach;
use crate::{
    keeper::Offer,
    upstream::{
        Asker,
        own_lists::{Own, differs},
    },
};

/// What is offered to one caller.
pub struct Followed {
    caller: Attach,
    offers: Receiver<Arc<Offer>>,
    own: Receiver<u64>,
    /// Only its own lists count.
    always: bool,
    /// What was there when it was looked at last; `None` while that is not known.
    seen: Option<Arc<Catalog>>,
}

impl Followed {
    /// Follows what this caller is offered. `always`: the catalog of all says nothing about its lists.
    pub fn new(caller: Attach, offers: Receiver<Arc<Offer>>, always: bool) -> Self {
        let own = caller.upstream.own_changes();
        Self { caller, offers, own, always, seen: None }
    }

    /// Waits until something may have changed.
    ///
    /// # Errors
    /// Nothing will change any more.
    pub async fn changed(&mut self) -> Result<(), RecvError> {
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
        groups.map(|(kinds, method)| kinds.iter().any(|kind| differs(&before, &now, *kind)).then_some(method))
    }

    fn own_lists(&self) -> Option<Arc<Own>> {
        let Attach { upstream, peer, session, declared } = &self.caller;
        upstream.opened_place(Asker { peer, session: session.as_deref() }, declared)?.own()
    }
}
