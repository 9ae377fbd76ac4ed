//! Calls that wait for a person, and what persons said of them. Pure: the time is given.
//!
//! An entry is found by the call that it is about, so a client that calls again with the same parameters finds what it
//! asked for; a person finds it by its id. What was granted is taken out with the call that uses it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_policy::{Approval, RuleId};
use tokio::sync::watch;
use tokio::time::Instant;

/// Identifies a call: principal, service, capability, parameters, policy.
pub(super) type Binding = [u8; 32];

/// What a person is asked about.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Who calls.
    pub(super) who: Arc<str>,
    pub(super) service: Arc<str>,
    pub(super) kind: &'static str,
    pub(super) capability: Arc<str>,
    /// As much of the arguments as is shown, and whether that is all.
    pub(super) arguments: Arc<str>,
    pub(super) whole: bool,
    pub(super) trace: outrigger_telemetry::TraceContext,
    pub(super) digest: Option<outrigger_telemetry::ArgumentDigest>,
    pub(super) since: SystemTime,
}

/// What one rule wants.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    pub(super) rule: RuleId,
    pub(super) approval: Arc<Approval>,
    pub(super) met: bool,
}

/// What was said of a call in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// Who said it last.
    pub(super) by: Arc<str>,
    /// By which way.
    pub(super) how: How,
}

/// How a person was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// By a question to the client.
    Elicitation,
    /// At the admin port.
    Desk,
}

impl How {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            How::Elicitation => "elicitation",
            How::Desk => "desk",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting,
    Granted(Said),
    Refused(Said),
}

/// One call that waits.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) asked: Asked,
    pub(super) demands: Vec<Demand>,
    pub(super) until: Instant,
    binding: Binding,
    state: State,
    news: watch::Sender<()>,
}

/// What became of a call.
#[derive(Debug)]
pub(super) enum Found {
    /// It may go on, once: this was it.
    Granted { id: String, said: Said },
    /// It may not.
    Refused { id: String, said: Said },
    /// Nobody has said enough yet.
    Waiting { id: String, until: Instant, news: watch::Receiver<()>, asks_caller: bool },
    /// There is no such call.
    Unknown,
}

/// What a word that counts was about, as of when it was said.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) asked: Asked,
    /// The rule that is told where one has to be.
    pub(super) rule: Option<RuleId>,
    /// Whether the call may go on now.
    pub(super) granted: bool,
}

/// Why a person's word does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotCounted {
    /// Used, expired, or of another process.
    Unknown,
    /// It was asked for another call.
    OtherCall,
    /// It is said already.
    Over,
    /// The person lacks the role, or is the caller and no rule wants that one's word.
    Role,
    /// The person is the caller, and the rule wants somebody else.
    Own,
}

/// A new call finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// All callers together have too many.
    All,
    /// This one has.
    Caller,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Table {
    entries: HashMap<String, Entry>,
    by_call: HashMap<Binding, String>,
    /// Calls that were let through and whose server asked something: the digest of the state that the client brings back.
    going_on: HashMap<(Binding, [u8; 32]), Instant>,
    most: usize,
    most_each: usize,
}

impl Table {
    pub(super) fn new(most: usize, most_each: usize) -> Self {
        let (entries, by_call, going_on) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { entries, by_call, going_on, most, most_each }
    }

    /// Finds what became of a call. What was granted is used by this.
    pub(super) fn take(&mut self, call: &Binding, now: Instant) -> Found {
        let Some(id) = self.by_call.get(call).cloned() else { return Found::Unknown };
        let Some(entry) = self.entries.get(&id).filter(|entry| entry.until > now) else { return Found::Unknown };
        match &entry.state {
            State::Waiting => {
                let asks_caller = entry.demands.iter().any(|demand| !demand.met && demand.approval.caller());
                Found::Waiting { id, until: entry.until, news: entry.news.subscribe(), asks_caller }
            }
            State::Refused(said) => Found::Refused { id, said: said.clone() },
            State::Granted(said) => {
                let said = said.clone();
                self.remove(&id);
                Found::Granted { id, said }
            }
        }
    }

    /// Lets a call wait; gives its id.
    ///
    /// # Errors
    /// There is no room.
    pub(super) fn wait(
        &mut self,
        call: Binding,
        asked: Asked,
        demands: Vec<Demand>,
        now: Instant,
        id: String,
    ) -> Result<String, Full> {
        if let Some(known) = self.by_call.get(&call).filter(|id| self.entries.get(*id).is_some_and(|e| e.until > now)) {
            return Ok(known.clone());
        }
        self.sweep(now);
        if self.entries.len() >= self.most {
            return Err(Full::All);
        }
        if self.entries.values().filter(|entry| entry.asked.who == asked.who).count() >= self.most_each {
            return Err(Full::Caller);
        }
        let within = demands.iter().map(|demand| demand.approval.within()).min().unwrap_or_default();
        let entry = Entry {
            asked,
            demands,
            until: now + within,
            binding: call,
            state: State::Waiting,
            news: watch::Sender::new(()),
        };
        self.entries.insert(id.clone(), entry);
        self.by_call.insert(call, id.clone());
        Ok(id)
    }

    /// What somebody with these roles says at the desk. Gives what the entry is about.
    ///
    /// # Errors
    /// It does not count.
    pub(super) fn say(
        &mut self,
        id: &str,
        who: &str,
        has_role: impl Fn(&str) -> bool,
        yes: bool,
        now: Instant,
    ) -> Result<Settled, NotCounted> {
        let entry = self.entries.get_mut(id).filter(|entry| entry.until > now).ok_or(NotCounted::Unknown)?;
        let own = *entry.asked.who == *who;
        let may = |demand: &Demand| demand.approval.role().is_some_and(&has_role);
        if !entry.demands.iter().any(may) {
            return Err(NotCounted::Role);
        }
        if own {
            return Err(NotCounted::Own);
        }
        entry.settle(may, Said { by: who.into(), how: How::Desk }, yes)
    }

    /// What the client's own user says to a question about this very call.
    ///
    /// # Errors
    /// It does not count.
    pub(super) fn answer(&mut self, id: &str, call: &Binding, yes: bool, now: Instant) -> Result<Settled, NotCounted> {
        let entry = self.entries.get_mut(id).filter(|entry| entry.until > now).ok_or(NotCounted::Unknown)?;
        if entry.binding != *call {
            return Err(NotCounted::OtherCall);
        }
        if !entry.demands.iter().any(|demand| demand.approval.caller()) {
            return Err(NotCounted::Role);
        }
        let said = Said { by: Arc::clone(&entry.asked.who), how: How::Elicitation };
        entry.settle(|demand| demand.approval.caller(), said, yes)
    }

    /// Notes that a call which was let through asks its client something: its retry belongs to it.
    pub(super) fn goes_on(&mut self, call: Binding, state: [u8; 32], until: Instant, now: Instant) {
        self.going_on.retain(|_, until| *until > now);
        if self.going_on.len() < self.most {
            self.going_on.insert((call, state), until);
        }
    }

    /// Whether this retry belongs to a call that was let through. It does once.
    pub(super) fn went_on(&mut self, call: &Binding, state: &[u8; 32], now: Instant) -> bool {
        self.going_on.remove(&(*call, *state)).is_some_and(|until| until > now)
    }

    /// Everything that waits for somebody who has one of these roles.
    pub(super) fn waiting<'a>(
        &'a self,
        has_role: &'a impl Fn(&str) -> bool,
        now: Instant,
    ) -> impl Iterator<Item = (&'a String, &'a Entry)> {
        let may = move |entry: &Entry| {
            entry.demands.iter().any(|demand| !demand.met && demand.approval.role().is_some_and(has_role))
        };
        self.entries.iter().filter(move |(_, e)| e.state == State::Waiting && e.until > now && may(e))
    }

    /// How many calls wait.
    pub(super) fn count(&self) -> usize {
        self.entries.values().filter(|entry| entry.state == State::Waiting).count()
    }

    /// Forgets what is over; gives how many nobody had said enough of.
    pub(super) fn sweep(&mut self, now: Instant) -> usize {
        let over: Vec<String> =
            self.entries.iter().filter(|(_, entry)| entry.until <= now).map(|(id, _)| id.clone()).collect();
        let mut unanswered = 0;
        for id in over {
            unanswered += usize::from(self.remove(&id).is_some_and(|entry| entry.state == State::Waiting));
        }
        unanswered
    }

    fn remove(&mut self, id: &str) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.by_call.remove(&entry.binding);
        Some(entry)
    }
}

impl Entry {
    /// The rule that is told where one has to be.
    fn rule(&self) -> Option<RuleId> {
        let open = self.demands.iter().find(|demand| !demand.met).or_else(|| self.demands.first());
        open.map(|demand| demand.rule.clone())
    }

    fn settle(&mut self, may: impl Fn(&Demand) -> bool, said: Said, yes: bool) -> Result<Settled, NotCounted> {
        if self.state != State::Waiting {
            return Err(NotCounted::Over);
        }
        if yes {
            self.demands.iter_mut().filter(|demand| may(demand)).for_each(|demand| demand.met = true);
            if self.demands.iter().all(|demand| demand.met) {
                self.state = State::Granted(said);
            }
        } else {
            self.state = State::Refused(said);
        }
        self.news.send_replace(());
        let granted = matches!(self.state, State::Granted(_));
        Ok(Settled { asked: self.asked.clone(), rule: self.rule(), granted })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_policy::{Capability, CapabilityKind, Listed, PolicySet, Principal};

    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    fn demands(approval: &str) -> Vec<Demand> {
        let policy = format!(
            "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: p }}\nspec:\n  authorization:\n    rules:\n      \
             - {{ name: r, services: [\"*\"], capabilities: [\"*\"], approval: {approval} }}\n"
        );
        let rules = PolicySet::compile(&[("p", &policy)]).unwrap();
        let what = Capability { kind: CapabilityKind::Tool, service: "a", name: "t" };
        let wanted = rules.approvals_in(&Principal::user("ada").unwrap(), &what, &Listed(None)).unwrap();
        wanted.into_iter().map(|(rule, approval)| Demand { rule, approval, met: false }).collect()
    }

    fn asked(who: &str) -> Asked {
        Asked {
            who: who.into(),
            service: "a".into(),
            kind: "tool",
            capability: "t".into(),
            arguments: "{}".into(),
            whole: true,
            trace: outrigger_telemetry::TraceContext::new_root(),
            digest: None,
            since: SystemTime::now(),
        }
    }

    /// A table with one call of ada that waits for the role `boss`.
    fn one(now: Instant) -> Table {
        let mut table = Table::new(3, 2);
        table.wait([1; 32], asked("ada"), demands("{ role: boss, within: 60s }"), now, "x".into()).unwrap();
        table
    }

    fn granted(table: &mut Table, call: u8, now: Instant) -> bool {
        matches!(table.take(&[call; 32], now), Found::Granted { .. })
    }

    #[test]
    fn a_word_is_used_once_and_only_by_its_call() {
        let now = Instant::now();
        let mut table = one(now);
        assert!(!granted(&mut table, 1, now));
        assert!(table.say("x", "carol", |role| role == "boss", true, now).is_ok());
        assert!(!granted(&mut table, 2, now) && granted(&mut table, 1, now) && !granted(&mut table, 1, now));
        assert_eq!(table.say("x", "carol", |_| true, true, now).unwrap_err(), NotCounted::Unknown);
    }

    #[test]
    fn words_of_others_do_not_count() {
        let now = Instant::now();
        let mut table = one(now);
        assert_eq!(table.say("x", "carol", |role| role == "bosses", true, now).unwrap_err(), NotCounted::Role);
        assert_eq!(table.say("x", "ada", |_| true, true, now).unwrap_err(), NotCounted::Own);
        assert_eq!(table.answer("x", &[2; 32], true, now).unwrap_err(), NotCounted::OtherCall);
        // The rule wants somebody else: the caller's own word, yes or no, is none.
        assert_eq!(table.answer("x", &[1; 32], true, now).unwrap_err(), NotCounted::Role);
        assert_eq!(table.answer("x", &[1; 32], false, now).unwrap_err(), NotCounted::Role);
        assert!(!granted(&mut table, 1, now));
        assert_eq!(table.waiting(&|role: &str| role == "boss", now).count(), 1);
    }

    #[test]
    fn a_no_stays_and_everything_ends_in_time() {
        let now = Instant::now();
        let mut table = one(now);
        assert!(table.say("x", "carol", |_| true, false, now).is_ok());
        assert_eq!(table.say("x", "dave", |_| true, true, now).unwrap_err(), NotCounted::Over);
        assert!(matches!(table.take(&[1; 32], now), Found::Refused { .. }));
        assert!(matches!(table.take(&[1; 32], now + LIFE), Found::Unknown));
        let mut table = one(now);
        assert!(table.say("x", "carol", |_| true, true, now).is_ok());
        assert!(!granted(&mut table, 1, now + LIFE), "what was approved long ago was not meant for now");
        assert_eq!((table.sweep(now + LIFE), table.count()), (0, 0));
        let mut table = one(now);
        let Found::Waiting { news, .. } = table.take(&[1; 32], now) else { panic!("it waits") };
        assert_eq!(table.sweep(now + LIFE), 1, "nobody said anything");
        assert!(news.has_changed().is_err(), "who waits is told that it is over");
    }

    #[test]
    fn tables_have_bounds() {
        let now = Instant::now();
        let mut table = one(now);
        let mut wait = |call: u8, who: &str, now| {
            table.wait([call; 32], asked(who), demands("{ role: boss, within: 60s }"), now, call.to_string())
        };
        assert_eq!(wait(1, "ada", now).unwrap(), "x", "the same call waits once");
        assert!(wait(2, "ada", now).is_ok());
        assert_eq!(wait(3, "ada", now).unwrap_err(), Full::Caller);
        assert!(wait(4, "bob", now).is_ok());
        assert_eq!(wait(5, "eve", now).unwrap_err(), Full::All);
        assert!(wait(5, "eve", now + LIFE).is_ok(), "what is over makes room");
    }

    #[test]
    fn a_retry_goes_on_once_and_not_for_ever() {
        let now = Instant::now();
        let mut table = Table::new(1, 1);
        table.goes_on([1; 32], [7; 32], now + LIFE, now);
        table.goes_on([2; 32], [7; 32], now + LIFE, now);
        assert!(!table.went_on(&[2; 32], &[7; 32], now), "no room");
        assert!(!table.went_on(&[1; 32], &[8; 32], now));
        assert!(table.went_on(&[1; 32], &[7; 32], now) && !table.went_on(&[1; 32], &[7; 32], now));
        table.goes_on([1; 32], [7; 32], now + LIFE, now);
        assert!(!table.went_on(&[1; 32], &[7; 32], now + LIFE));
    }
}
