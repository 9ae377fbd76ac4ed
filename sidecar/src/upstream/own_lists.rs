//! What a server lists in one session, where that is not what it lists for all (docs/decisions/0016-lists-of-callers.md).

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use outrigger_mcp::{
    catalog::{Catalog, Item},
    catalog_kind::Kind,
};
use tokio::{
    sync::{Mutex, MutexGuard, watch},
    time::Instant,
};

use super::{
    Asker, Entry, Lease, Upstream,
    session::{Declared, Session},
};
use crate::{keeper::Offer, own_answers::Lists};

/// The place for it in the entry of a session.
#[derive(Debug, Default)]
pub(super) struct OwnLists {
    kept: ArcSwapOption<Own>,
    /// Whether somebody follows what the server says of its lists.
    followed: AtomicBool,
    /// How far what was read last goes.
    read: AtomicU64,
    reading: Mutex<()>,
}

/// What a server lists in one session.
pub struct Own {
    /// As if it were offered to all.
    pub offer: Arc<Offer>,
    /// Lists ready to send.
    pub lists: Lists,
    /// When it was read.
    pub at: Instant,
    /// Whether the server had said by then that a list has changed.
    pub announced: bool,
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").field("fingerprint", &self.offer.catalog.fingerprint()).finish_non_exhaustive()
    }
}

/// A session and what is known of its lists. Does not keep the session from ending.
#[derive(Debug, Clone)]
pub struct Place {
    /// The session.
    pub session: Arc<Session>,
    entry: Arc<Entry>,
    changes: watch::Sender<u64>,
}

impl Place {
    /// What it lists, if that was read and is its own.
    pub fn own(&self) -> Option<Arc<Own>> {
        self.entry.own.kept.load_full()
    }

    /// Whether the server has said nothing of its lists since they were read.
    pub fn is_read(&self) -> bool {
        self.entry.own.read.load(Ordering::Acquire) == self.session.announced()
    }

    /// Waits until nobody else reads the lists.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.entry.own.reading.lock().await
    }

    /// Notes that reading after so many announcements came to nothing.
    pub fn tried(&self, announced: u64) {
        self.entry.own.read.store(announced, Ordering::Release);
    }

    /// Keeps what was read after so many announcements; `None` when it is what all are offered.
    pub fn keep(&self, own: Option<Own>, announced: u64) {
        self.swap(own);
        self.entry.own.read.store(announced, Ordering::Release);
    }

    /// From now on it lists nothing of its own.
    pub fn forget(&self) {
        self.swap(None);
    }

    fn swap(&self, own: Option<Own>) {
        let before = self.entry.own.kept.swap(own.map(Arc::new));
        let of = |own: &Option<Arc<Own>>| own.as_ref().map(|own| own.offer.catalog.fingerprint().to_owned());
        if of(&before) != of(&self.own()) {
            self.changes.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

impl Upstream {
    /// The session of a lease, to follow what the server says of its lists; once for each session that is not shared.
    pub fn to_follow(&self, lease: &Lease) -> Option<Place> {
        let entry = lease.entry.as_ref().filter(|entry| !entry.single_use)?;
        // Nearly always somebody does already: look before writing.
        if entry.own.followed.load(Ordering::Acquire) || entry.own.followed.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.place(lease)
    }

    /// The place of a leased session; `None` when it is shared.
    pub fn place(&self, lease: &Lease) -> Option<Place> {
        let entry = lease.entry.clone()?;
        Some(Place { session: lease.session.clone(), entry, changes: self.own_changes.clone() })
    }

    /// The place of the session that calls of this asker have opened, if it lives.
    pub fn opened_place(&self, asker: Asker<'_>, declared: &Declared) -> Option<Place> {
        if self.is_shared() {
            return None;
        }
        let entry = self.entries().get(&self.key(asker, declared)).cloned()?;
        let session = entry.session.get().filter(|session| session.alive()).cloned()?;
        Some(Place { session, entry, changes: self.own_changes.clone() })
    }

    /// Changes whenever any session lists something else than before.
    pub fn own_changes(&self) -> watch::Receiver<u64> {
        self.own_changes.subscribe()
    }
}

/// Whether two catalogs list the same.
pub fn same_lists(one: &Catalog, other: &Catalog) -> bool {
    Kind::ALL.into_iter().all(|kind| !differs(one, other, kind))
}

/// Whether a list of one catalog is not that of another.
pub fn differs(before: &Catalog, now: &Catalog, kind: Kind) -> bool {
    let raw = |item: &Item| item.raw().clone();
    let (before, now) = (before.list(kind).items(), now.list(kind).items());
    before.len() != now.len() || before.iter().map(raw).ne(now.iter().map(raw))
}
