//! Which definitions of services are those that somebody approved, and what becomes of the others.
//!
//! A catalog is compared once, when it comes or the lock changes: what is to be hidden never enters the merge, and what is
//! to be refused is a set that calls look into. So lists and calls go by the same answer, and without a lock neither asks
//! anything.
//!
//! ```text
//!  catalog of a service --check--> the catalog that is merged + what of it is refused
//!          \--scan (not on the way of requests)--> findings: log, metric, admin port
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use outrigger_integrity::scan::{Class, Finding, Scan};
use outrigger_integrity::{Deviation, Lock, Subject, Verdict, review, visible};
use outrigger_mcp::catalog::Catalog;
use outrigger_mcp::catalog::merge::{ServiceState, ServiceView};
use outrigger_mcp::catalog_kind::Kind;
use outrigger_proxy::failure::Failure;
use outrigger_telemetry::metrics::{DenyReason, Deviates, Suspicion};
use outrigger_telemetry::{AuditRecord, ServiceMetrics};

use crate::config;
use crate::config::Handling;
use crate::record::Recorder;
use crate::services::Service;

/// Catalogs of one service that are remembered: its own, and those of callers who have their own.
const MAX_REMEMBERED: usize = 256;
/// Services that are looked through at once, so that one with many definitions does not keep the others waiting.
const AT_ONCE: usize = 4;
/// Lines of the log about one catalog.
const MAX_LINES: usize = 50;
/// Characters of a name in the log and in answers.
const MAX_NAME: usize = 200;

/// What services are held to.
pub(crate) struct Integrity {
    settings: config::Integrity,
    /// None without a lock in force.
    lock: Option<ArcSwap<Lock>>,
    remembered: Mutex<Memory>,
    /// By service.
    findings: Mutex<BTreeMap<Arc<str>, Vec<Finding>>>,
    scanned: Mutex<Scanned>,
    recorder: Arc<Recorder>,
}

/// What is remembered.
#[derive(Default)]
struct Memory {
    /// By name.
    services: HashMap<Arc<str>, Vec<Remembered>>,
    /// How many are swept for catalogs that are gone: each time that there are twice as many as were left.
    swept_at: usize,
}

/// What was looked through last, by service: what is found in one depends on the names of all.
type Scanned = HashMap<Arc<str>, Seen>;

/// A service and what it offers.
pub(crate) type Offered = (Arc<Service>, Arc<Catalog>);

/// What has to be looked through.
#[derive(Debug)]
pub(crate) struct Due {
    /// Indices, and what will have been seen.
    services: Vec<(usize, Seen)>,
    /// Because names have changed.
    renamed: bool,
}

/// A catalog that was looked through.
#[derive(Debug, Clone)]
struct Seen {
    fingerprint: String,
    /// Identifies the names in it.
    names: u64,
}

/// A catalog that was compared with a lock.
struct Remembered {
    catalog: Weak<Catalog>,
    lock: Weak<Lock>,
    checked: Arc<Checked>,
}

/// What came of comparing a catalog.
#[derive(Debug)]
pub(crate) struct Checked {
    /// What of it is listed.
    listed: Listed,
    /// Whether anything is known that could be compared.
    known: bool,
    /// Kinds of which everything that is called must be in the lock.
    held: [bool; 4],
    /// By kind, as [`Kind::ALL`].
    refused: [HashMap<Box<str>, Verdict>; 4],
    /// Everything that deviates, also what is let through.
    pub(crate) deviations: Vec<Deviation>,
}

/// What of a catalog is listed.
#[derive(Debug)]
enum Listed {
    /// All. It must not live by being remembered here; whoever has it in a snapshot holds it.
    AsOffered(Weak<Catalog>),
    /// Without what is hidden.
    Without(Arc<Catalog>),
}

/// Reads a lock file.
///
/// # Errors
/// What is wrong, for the operator.
pub fn read_lock(path: &Path) -> Result<Lock, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Lock::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

impl Integrity {
    /// Reads the lock, if there is to be one. One that does not exist yet approves nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn start(settings: config::Integrity, recorder: Arc<Recorder>) -> Result<Self, String> {
        let lock = match &settings.lock {
            None => None,
            Some(path) if !path.exists() => {
                tracing::warn!(lock = %path.display(), "there is no lock yet, so nothing is approved: make it with `outrigger lock`");
                Some(Lock::default())
            }
            Some(path) => Some(read_lock(path)?),
        };
        let lock = lock.map(ArcSwap::from_pointee);
        Ok(Self {
            settings,
            lock,
            remembered: Mutex::default(),
            findings: Mutex::default(),
            scanned: Mutex::default(),
            recorder,
        })
    }

    /// Another lock is in force. Whoever calls this takes a new snapshot.
    pub(crate) fn set_lock(&self, lock: Lock) {
        if let Some(slot) = &self.lock {
            slot.store(Arc::new(lock));
        }
    }

    /// What of a service is merged, and what calls of it are held to; nothing without a lock.
    pub(crate) fn check(&self, service: &Service, view: &mut ServiceView) -> Option<Arc<Checked>> {
        let lock = self.lock.as_ref()?.load_full();
        if view.state == ServiceState::Missing {
            return Some(Arc::new(Checked::unknown(&view.catalog)));
        }
        let checked = self.remember(service, &view.catalog, &lock);
        if let Listed::Without(hidden) = &checked.listed {
            view.catalog = Arc::clone(hidden);
        }
        Some(checked)
    }

    fn remember(&self, service: &Service, catalog: &Arc<Catalog>, lock: &Arc<Lock>) -> Arc<Checked> {
        let same = |one: &Remembered| {
            std::ptr::eq(one.catalog.as_ptr(), Arc::as_ptr(catalog))
                && std::ptr::eq(one.lock.as_ptr(), Arc::as_ptr(lock))
        };
        if let Some(known) = self.lock().services.get(&service.name).and_then(|all| all.iter().find(|one| same(one))) {
            return Arc::clone(&known.checked);
        }
        // Outside the mutex: it takes as long as the catalog is large.
        let checked = Arc::new(Checked::of(lock, &service.name, catalog, &self.settings));
        let (catalog, lock) = (Arc::downgrade(catalog), Arc::downgrade(lock));
        let one = Remembered { catalog, lock, checked: Arc::clone(&checked) };
        let told = keep(&mut self.lock(), &service.name, one);
        if !told {
            self.tell(service, &checked);
        }
        checked
    }

    /// Tells of what deviates: once for what is the same in several catalogs.
    fn tell(&self, service: &Service, checked: &Checked) {
        for deviation in checked.deviations.iter().take(MAX_LINES) {
            let Deviation { subject, verdict, changes } = deviation;
            let handling = handling(&self.settings, *verdict);
            let diff = changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            let name = visible(subject.name(), MAX_NAME);
            tracing::warn!(
                service = %service.name, kind = subject.kind(), name, verdict = verdict.as_str(), handling = handling.as_str(), diff,
                "a definition is not as it was approved"
            );
            let capability = format!("{}:{name}", subject.kind());
            let record =
                AuditRecord::deviation(&service.name, &capability, verdict.as_str(), handling == Handling::Warn);
            // Lost records are counted by the log.
            let _ = self.recorder.audit.record(record);
        }
        if checked.deviations.len() > MAX_LINES {
            let more = checked.deviations.len() - MAX_LINES;
            tracing::warn!(service = %service.name, more, "more definitions are not as they were approved; the admin port lists them");
        }
    }

    /// What of it has to be looked through, if anything has: what has changed, or all where names have, because what is found
    /// in one service depends on the names of the others. Forgets services that are gone.
    pub(crate) fn due(&self, services: &[Offered]) -> Option<Due> {
        let given: Vec<(&Arc<str>, &Catalog)> =
            services.iter().map(|(service, catalog)| (&service.name, &**catalog)).collect();
        let due = due(&mut self.scanned(), &given)?;
        if due.renamed {
            let names: HashSet<_> = given.iter().map(|(name, _)| *name).collect();
            self.found().retain(|known, _| names.contains(known));
        }
        Some(due)
    }

    /// Looks through what is due. Takes a while: not for a thread that serves requests. What it does not reach, because of a
    /// panic, stays due.
    pub(crate) fn scan(&self, services: &[Offered], due: &Due) {
        let given: Vec<(&str, &Catalog)> =
            services.iter().map(|(service, catalog)| (&*service.name, &**catalog)).collect();
        let scan = Scan::of(&given);
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let Some((at, seen)) = due.services.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                let Some((service, _)) = services.get(*at) else { return };
                let before = self.found().get(&service.name).cloned().unwrap_or_default();
                let found = if due.renamed { scan.service(*at) } else { scan.service_again(*at, &before) };
                self.note(service, &before, found);
                self.scanned().insert(Arc::clone(&service.name), seen.clone());
            }
        };
        std::thread::scope(|scope| {
            (1..AT_ONCE.min(due.services.len())).for_each(|_| drop(scope.spawn(work)));
            work();
        });
    }

    /// Tells of what was found in a service, and keeps it for the admin port.
    fn note(&self, service: &Service, before: &[Finding], found: Vec<Finding>) {
        for finding in found.iter().filter(|finding| !before.contains(finding)).take(MAX_LINES) {
            let Finding { service, kind, name, at, class, what } = finding;
            tracing::warn!(service, kind, name, at, class = class.as_str(), what, "a definition is suspicious");
        }
        for class in Class::ALL {
            service.metrics.set_suspicious(suspicion(class), found.iter().filter(|one| one.class == class).count());
        }
        self.found().insert(Arc::clone(&service.name), found);
    }

    /// What was found by the last scan, service by service.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.found().values().flatten().cloned().collect()
    }

    fn found(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Vec<Finding>>> {
        // Entries are replaced whole.
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scanned(&self) -> MutexGuard<'_, Scanned> {
        // Entries are inserted whole.
        self.scanned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether definitions are looked through.
    pub(crate) fn scans(&self) -> bool {
        self.settings.scan
    }

    /// Whether anything is held to a lock.
    pub(crate) fn in_force(&self) -> bool {
        self.lock.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Entries are pushed whole.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Remembers one more catalog of a service, and forgets those of it that are gone. Whether its deviations were told of already.
fn keep(memory: &mut Memory, service: &Arc<str>, one: Remembered) -> bool {
    let lives = |one: &Remembered| one.catalog.strong_count() > 0 && one.lock.strong_count() > 0;
    if memory.services.len() > memory.swept_at {
        memory.services.retain(|name, all| name == service || all.iter().any(lives));
        memory.swept_at = 2 * memory.services.len() + MAX_REMEMBERED;
    }
    let all = memory.services.entry(Arc::clone(service)).or_default();
    let told = all.iter().any(|known| known.checked.deviations == one.checked.deviations);
    all.retain(lives);
    // The oldest makes room.
    all.drain(..(all.len() + 1).saturating_sub(MAX_REMEMBERED));
    all.push(one);
    told
}

/// What is due of services by name. Where names have changed, nothing counts as looked through any more.
fn due(scanned: &mut Scanned, services: &[(&Arc<str>, &Catalog)]) -> Option<Due> {
    let (mut changed, mut renamed) = (Vec::new(), scanned.len() != services.len());
    for (at, (name, catalog)) in services.iter().enumerate() {
        let known = scanned.get(*name);
        if known.is_none_or(|known| known.fingerprint != catalog.fingerprint()) {
            let seen = Seen::of(catalog);
            renamed |= known.is_none_or(|known| known.names != seen.names);
            changed.push((at, seen));
        }
    }
    if renamed {
        scanned.clear();
        changed = services.iter().map(|(_, catalog)| Seen::of(catalog)).enumerate().collect();
    }
    // The last service may have gone.
    (renamed || !changed.is_empty()).then_some(Due { services: changed, renamed })
}

impl Seen {
    fn of(catalog: &Catalog) -> Self {
        Self { fingerprint: catalog.fingerprint().to_owned(), names: names(catalog) }
    }
}

/// Identifies the names of what a catalog offers.
fn names(catalog: &Catalog) -> u64 {
    let mut hasher = DefaultHasher::new();
    for kind in [Kind::Tool, Kind::Prompt] {
        catalog.list(kind).items().iter().for_each(|item| (kind, item.key()).hash(&mut hasher));
    }
    hasher.finish()
}

fn handling(settings: &config::Integrity, verdict: Verdict) -> Handling {
    match verdict {
        Verdict::Changed => settings.changed,
        Verdict::New => settings.new,
        // There is nothing that could be hidden or called.
        Verdict::Gone => Handling::Warn,
    }
}

impl Checked {
    fn unknown(catalog: &Arc<Catalog>) -> Self {
        let (listed, deviations) = (Listed::AsOffered(Arc::downgrade(catalog)), Vec::new());
        Self { listed, known: false, held: [true; 4], refused: Default::default(), deviations }
    }

    fn of(lock: &Lock, service: &str, catalog: &Arc<Catalog>, settings: &config::Integrity) -> Self {
        let approved = lock.service(service);
        let deviations = review(approved, catalog).deviations;
        let mut refused: [HashMap<Box<str>, Verdict>; 4] = Default::default();
        let (mut hidden, mut silent) = (HashSet::new(), false);
        for Deviation { subject, verdict, .. } in &deviations {
            match (subject, handling(settings, *verdict)) {
                (_, Handling::Warn) => {}
                (Subject::Instructions, _) => silent = true,
                (Subject::Definition(kind, name), handling) => {
                    refused[*kind as usize].insert(name.as_str().into(), *verdict);
                    if handling == Handling::Hide {
                        hidden.insert((*kind, name.as_str()));
                    }
                }
            }
        }
        let listed = if hidden.is_empty() && !silent {
            Listed::AsOffered(Arc::downgrade(catalog))
        } else {
            Listed::Without(Arc::new(catalog.without(|kind, name| hidden.contains(&(kind, name)), silent)))
        };
        // Where new ones are let through, so is what the server does not list.
        let held = Kind::ALL.map(|kind| {
            let named = matches!(kind, Kind::Tool | Kind::Prompt);
            named && settings.new != Handling::Warn && approved.is_none_or(|lock| lock.kinds().contains(&kind))
        });
        Self { listed, known: true, held, refused, deviations }
    }

    /// Whether a call may go on. Asked after policy: whoever gets an answer may know that the thing exists.
    ///
    /// # Errors
    /// The definition is not an approved one, or not known yet.
    pub(crate) fn admit(&self, service: &Service, kind: Kind, name: &str) -> Result<(), Failure> {
        if !self.known {
            let reason = "its definitions are not known yet, and calls are held to approved ones".to_owned();
            return Err(Failure::Unavailable { service: service.name.to_string(), reason });
        }
        let verdict = match self.refused[kind as usize].get(name) {
            Some(verdict) => *verdict,
            // Servers may know more than they list.
            None if self.held[kind as usize] && !self.lists(kind, name) => Verdict::New,
            None => return Ok(()),
        };
        service.metrics.denied(match verdict {
            Verdict::Changed => DenyReason::DefinitionChanged,
            Verdict::New | Verdict::Gone => DenyReason::DefinitionNotApproved,
        });
        Err(refusal(kind, verdict))
    }

    fn lists(&self, kind: Kind, name: &str) -> bool {
        match &self.listed {
            Listed::AsOffered(catalog) => catalog.upgrade().is_some_and(|catalog| catalog.find(kind, name).is_some()),
            Listed::Without(catalog) => catalog.find(kind, name).is_some(),
        }
    }

    /// Whether a call would be refused, without counting that.
    pub(crate) fn refuses(&self, kind: Kind, name: &str) -> bool {
        self.known && self.refused[kind as usize].contains_key(name)
    }

    /// How many definitions deviate in this way.
    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.deviations.iter().filter(|deviation| deviation.verdict == verdict).count()
    }
}

fn refusal(kind: Kind, verdict: Verdict) -> Failure {
    let kind = if kind == Kind::Template { "resource template" } else { kind.as_str() };
    let (reason, text) = match verdict {
        Verdict::Changed => (
            "definition_changed",
            format!(
                "refused: the definition of this {kind} has changed since it was approved; somebody has to approve it again"
            ),
        ),
        Verdict::New | Verdict::Gone => {
            ("definition_not_approved", format!("refused: nobody has approved the definition of this {kind} yet"))
        }
    };
    Failure::Denied { reason, text }
}

fn suspicion(class: Class) -> Suspicion {
    match class {
        Class::HiddenCharacters => Suspicion::HiddenCharacters,
        Class::InstructsModel => Suspicion::InstructsModel,
        Class::NamesSecrets => Suspicion::NamesSecrets,
        Class::OtherService => Suspicion::OtherService,
        Class::LookAlike => Suspicion::LookAlike,
    }
}

/// Notes in the metrics how a service compares.
pub(crate) fn report(metrics: &ServiceMetrics, checked: Option<&Arc<Checked>>) {
    let Some(checked) = checked else { return };
    metrics.set_deviating(Deviates::Changed, checked.count(Verdict::Changed));
    metrics.set_deviating(Deviates::New, checked.count(Verdict::New));
    metrics.set_deviating(Deviates::Gone, checked.count(Verdict::Gone));
}

impl std::fmt::Debug for Integrity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Integrity").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use outrigger_integrity::ServiceLock;

    use super::*;

    fn catalog(tool: &str) -> Arc<Catalog> {
        let text = format!(
            r#"{{"tools":[{{"name":"{tool}","inputSchema":{{"type":"object"}}}}],"capabilities":{{"tools":{{}}}}}}"#
        );
        Arc::new(Catalog::from_health_json(&Bytes::from(text)).unwrap())
    }

    fn compared(lock: &Arc<Lock>, catalog: &Arc<Catalog>) -> Remembered {
        let settings = config::Integrity { lock: None, changed: Handling::Hide, new: Handling::Hide, scan: false };
        let checked = Arc::new(Checked::of(lock, "a", catalog, &settings));
        Remembered { catalog: Arc::downgrade(catalog), lock: Arc::downgrade(lock), checked }
    }

    #[test]
    fn what_a_scan_does_not_reach_stays_due() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (read, write) = (catalog("read"), catalog("write"));
        let both: [(&Arc<str>, &Catalog); 2] = [(&a, &read), (&b, &write)];
        let mut scanned = Scanned::new();
        let which = |due: &Option<Due>| {
            due.as_ref().map(|due| (due.services.iter().map(|(at, _)| *at).collect::<Vec<_>>(), due.renamed))
        };
        let (all, all_again) = (due(&mut scanned, &both), due(&mut scanned, &both));
        assert_eq!(which(&all), Some((vec![0, 1], true)));
        assert_eq!(which(&all_again), which(&all), "nothing was looked through yet");
        let reached = |scanned: &mut Scanned, due: Option<Due>, count: usize| {
            for (at, seen) in due.unwrap().services.into_iter().take(count) {
                scanned.insert(Arc::clone(both[at].0), seen);
            }
        };
        // A panic after the first: what was found in it may have to do with the other.
        reached(&mut scanned, all, 1);
        let rest = due(&mut scanned, &both);
        assert_eq!(which(&rest), Some((vec![0, 1], true)));
        reached(&mut scanned, rest, 2);
        assert_eq!(which(&due(&mut scanned, &both)), None);
        // Other words under the same name.
        let text = r#"{"tools":[{"name":"write","description":"Other.","inputSchema":{"type":"object"}}],"capabilities":{"tools":{}}}"#;
        let reworded = Catalog::from_health_json(&Bytes::from(text)).unwrap();
        let later: [(&Arc<str>, &Catalog); 2] = [(&a, &read), (&b, &reworded)];
        for _ in 0..2 {
            assert_eq!(which(&due(&mut scanned, &later)), Some((vec![1], false)), "until it is looked through");
        }
        assert_eq!(which(&due(&mut scanned, &later[..1])), Some((vec![0], true)), "one is gone");
        scanned.clear();
        assert_eq!(which(&due(&mut scanned, &[])), None);
    }

    #[test]
    fn what_is_gone_is_forgotten_and_the_newest_stays() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let clean = catalog("read");
        let mut lock = Lock::default();
        lock.set("a", ServiceLock::of(&clean, &[Kind::Tool]));
        let (lock, mut memory) = (Arc::new(lock), Memory::default());
        let one = compared(&lock, &clean);
        assert!(one.checked.lists(Kind::Tool, "read") && !one.checked.lists(Kind::Tool, "write"));
        assert!(!keep(&mut memory, &a, one));
        // The next one comes when the last has gone: the same is told once, and a clean one does not live on.
        drop(clean);
        let other = catalog("write");
        assert!(!keep(&mut memory, &a, compared(&lock, &other)) && memory.services[&a].len() == 1);
        drop(other);
        let again = catalog("write");
        assert!(keep(&mut memory, &a, compared(&lock, &again)) && memory.services[&a].len() == 1);
        drop(again);
        let held = catalog("read");
        memory.swept_at = 0;
        keep(&mut memory, &b, compared(&lock, &held));
        assert!(!memory.services.contains_key(&a), "a service that is gone is forgotten");
        let many: Vec<_> = (0..300).map(|_| catalog("read")).collect();
        many.iter().for_each(|one| {
            keep(&mut memory, &a, compared(&lock, one));
        });
        let last = memory.services[&a].last().unwrap().catalog.upgrade().unwrap();
        assert!(memory.services[&a].len() == MAX_REMEMBERED && Arc::ptr_eq(&last, &many[299]));
    }
}
