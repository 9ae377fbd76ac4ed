//! Keeps a copy of one kind of objects of an API server: lists them, then watches what changes.
//!
//! ```text
//!  list (page by page) --> all that there is, and a version --> watch from that version --> ADDED, MODIFIED, DELETED, BOOKMARK
//!    ^                                                                 |      |
//!    +---------- 410: the version is too old to watch from ------------+      +-- it ends: watch again from the last version
//! ```
//!
//! After "Efficient detection of changes" in "Kubernetes API Concepts". While the server is away, what is known stays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use outrigger_telemetry::metrics::DiscoveryMetrics;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::contact::{Answer, Contact, ContactError};
use super::wire::{Event, Key, Object, event, page};
use super::{encode, pause};

/// Objects in one page of a list.
const PAGE: usize = 250;
/// Pages of a list, one after the other, that bring nothing new.
const MAX_IDLE: usize = 100;
/// Bytes of a page: one object may have 1.5 MiB (the limit of etcd), but hardly any do.
const MAX_PAGE: usize = 64 << 20;
/// Bytes of one event.
const MAX_EVENT: usize = 4 << 20;
/// For a page, and for the head of a watch.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the server is asked to keep a watch open. Shorter than its own 5 to 10 minutes: a server that is gone without a
/// word is noticed by then at the latest.
const WATCH: (u64, u64) = (60, 90);
/// A watch that lasted so long was no failure, however it ended.
const STEADY: Duration = Duration::from_secs(5);
/// For the end of a watch to arrive.
const MARGIN: Duration = Duration::from_secs(10);

/// A copy of the objects, for others to read.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    kept: Mutex<Kept<T>>,
    /// Told after every change.
    changed: Arc<Notify>,
}

/// The objects.
#[derive(Debug)]
pub(super) struct Kept<T> {
    /// By where they are.
    pub(super) objects: BTreeMap<Key, T>,
    /// Whether they have been listed once.
    pub(super) listed: bool,
    /// Objects that there was no room for.
    pub(super) left_out: usize,
    /// Why they could not be listed so far.
    pub(super) trouble: Option<String>,
}

/// Keeps one shelf.
pub(super) struct Reflector<T> {
    pub(super) contact: Arc<Contact>,
    /// The collection, such as `/api/v1/namespaces/tools/services`.
    pub(super) path: String,
    /// Only objects with such labels.
    pub(super) selector: Option<String>,
    /// Objects that are kept at most.
    pub(super) most: usize,
    /// Whether the cluster may lack the definition of these objects: it has none then, and others are not held up.
    pub(super) optional: bool,
    pub(super) shelf: Arc<Shelf<T>>,
    pub(super) metrics: DiscoveryMetrics,
}

/// Why watching ends.
#[derive(Debug)]
enum End {
    /// The server had held it long enough.
    Over,
    /// Everything has to be listed again.
    Relist(String),
    /// It may go on from the same version.
    Failed(ContactError),
}

impl<T> Shelf<T> {
    /// An empty one.
    pub(super) fn new(changed: Arc<Notify>) -> Arc<Self> {
        let kept = Kept { objects: BTreeMap::new(), listed: false, left_out: 0, trouble: None };
        Arc::new(Self { kept: Mutex::new(kept), changed })
    }

    /// What is on it.
    pub(super) fn look(&self) -> MutexGuard<'_, Kept<T>> {
        // Whole after every statement, so also after a panic.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Object> Reflector<T> {
    /// Keeps the copy until the future is dropped.
    pub(super) async fn run(self) {
        let mut version: Option<String> = None;
        let (mut failures, mut relists, mut told) = (0_u32, 0_u32, false);
        loop {
            let began = Instant::now();
            let end = match &mut version {
                Some(at) => self.watch(at).await,
                None => match self.list().await {
                    Ok(at) => {
                        if std::mem::take(&mut told) {
                            tracing::info!(path = self.path, "the API server answers again");
                        }
                        version = Some(at);
                        continue;
                    }
                    Err(error) => End::Failed(error),
                },
            };
            if began.elapsed() >= STEADY {
                (failures, relists) = (0, 0);
            }
            failures = failures.saturating_add(1);
            match end {
                End::Over => {}
                End::Relist(why) => {
                    tracing::debug!(path = self.path, why, "listing again");
                    version = None;
                    // The server is there, and until the next list nothing that changes is seen: however long it was away, that
                    // is soon. Only one that says it over and over is asked ever more slowly.
                    relists = relists.saturating_add(1);
                    failures = relists;
                }
                End::Failed(error) => {
                    self.metrics.failed();
                    self.is_undefined(&error);
                    self.wait_for(&error);
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(path = self.path, %error, "the API server cannot be asked; what is known stays");
                    }
                    // One that has just started may know no rights yet, or has no time: that says nothing of the version.
                    let passing = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
                    if matches!(&error, ContactError::Status { status, .. } if status.is_client_error() && !passing.contains(status))
                    {
                        version = None;
                    }
                }
            }
            sleep(pause(failures)).await;
        }
    }

    /// There are none, as far as is known, where nobody defined them. What is known of those that were there once stays: a server
    /// that has just started may not know all definitions yet.
    fn is_undefined(&self, error: &ContactError) {
        let missing = matches!(error, ContactError::Status { status, .. } if *status == StatusCode::NOT_FOUND);
        if self.optional && missing && !std::mem::replace(&mut self.shelf.look().listed, true) {
            tracing::warn!(
                path = self.path,
                "the cluster does not define these objects, so there are none until it does"
            );
            self.shelf.changed.notify_one();
        }
    }

    /// Lets those who wait for the first list know why there is none.
    fn wait_for(&self, error: &ContactError) {
        let mut kept = self.shelf.look();
        let why = format!("{}: {error}", self.path);
        if !kept.listed && kept.trouble.as_ref() != Some(&why) {
            kept.trouble = Some(why);
            drop(kept);
            self.shelf.changed.notify_one();
        }
    }

    /// All objects, page by page, and the version to watch from.
    async fn list(&self) -> Result<String, ContactError> {
        let mut objects = BTreeMap::new();
        let (mut left_out, mut more, mut idle) = (0, None::<String>, 0);
        loop {
            let from = more.as_deref().map_or_else(String::new, |more| format!("&continue={}", encode(more)));
            let path = format!("{}?limit={PAGE}{}{from}", self.path, self.selecting());
            let answer = self.contact.get(&path, PATIENCE).await?;
            let body = answer.whole(MAX_PAGE, PATIENCE).await?;
            let page = page::<T>(&body).map_err(ContactError::Content)?;
            self.metrics.contact();
            let before = objects.len();
            for (key, object) in page.objects {
                if objects.len() < self.most {
                    objects.insert(key, object);
                } else {
                    left_out += 1;
                }
            }
            let next = page.more.filter(|_| left_out == 0);
            // A page may be empty although others follow; but there is an end to that.
            idle = if objects.len() > before { 0 } else { idle + 1 };
            if next.is_some() && (next == more || idle > MAX_IDLE) {
                return Err(ContactError::Content("a list that does not end".to_owned()));
            }
            more = next;
            if more.is_none() {
                let version =
                    page.version.ok_or_else(|| ContactError::Content("a list without a version".to_owned()))?;
                *self.shelf.look() = Kept { objects, listed: true, left_out, trouble: None };
                self.shelf.changed.notify_one();
                return Ok(version);
            }
        }
    }

    fn selecting(&self) -> String {
        self.selector.as_deref().map_or_else(String::new, |selector| format!("&labelSelector={}", encode(selector)))
    }

    /// Watches from a version on, which it moves.
    async fn watch(&self, version: &mut String) -> End {
        let seconds = fastrand::u64(WATCH.0..=WATCH.1);
        let path = format!(
            "{}?watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}{}",
            self.path,
            encode(version),
            self.selecting()
        );
        let mut answer = match self.contact.get(&path, PATIENCE).await {
            Ok(answer) => answer,
            Err(ContactError::Status { status, reason }) if status == StatusCode::GONE => return End::Relist(reason),
            Err(error) => return End::Failed(error),
        };
        self.metrics.contact();
        // A server that is gone without a word ends nothing.
        let watched = timeout(Duration::from_secs(seconds) + MARGIN, self.events(&mut answer, version)).await;
        watched.unwrap_or(End::Over)
    }

    async fn events(&self, answer: &mut Answer, version: &mut String) -> End {
        loop {
            let line = match answer.line(MAX_EVENT).await {
                Ok(Some(line)) => line,
                Ok(None) => return End::Over,
                // What is in the line is lost otherwise.
                Err(error @ ContactError::Line(_)) => return End::Relist(error.to_string()),
                Err(error) => return End::Failed(error),
            };
            let event = event::<T>(&line);
            self.metrics.contact();
            match event {
                Event::Relist(why) => return End::Relist(why),
                Event::Bookmark(at) => {
                    *version = at;
                    continue;
                }
                Event::Deleted(key, at) => {
                    *version = at;
                    let mut kept = self.shelf.look();
                    kept.objects.remove(&key);
                    if kept.left_out > 0 {
                        return End::Relist("there may be room for more".to_owned());
                    }
                }
                Event::Kept(key, at, object) => {
                    *version = at;
                    self.keep(key, object);
                }
            }
            self.shelf.changed.notify_one();
        }
    }

    fn keep(&self, key: Key, object: T) {
        let mut kept = self.shelf.look();
        if kept.objects.len() < self.most || kept.objects.contains_key(&key) {
            kept.objects.insert(key, object);
        } else {
            kept.left_out += 1;
        }
    }
}
