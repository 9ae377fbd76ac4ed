//! identify: which tool calls are behind an outbound connection.
//!
//! Inbound notes each call of a tool while it is at work. An outbound connection that begins meanwhile belongs to one of
//! them: to those that its child serves, where children are told apart (`passes.rs`), to the one whose trace it carries, to the
//! only one, which is certain, or else to the set.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrigger_policy::egress::Tools;
use outrigger_telemetry::{EgressOfCall, TraceContext};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::passes::ChildId;
use super::tally::{Tallies, Tally};
use crate::config::Attribution;

/// Calls that hear of one connection at most, and whose traces it may show. The tools of all of them count.
const MAX_CALLS: usize = 64;

/// The calls at work.
#[derive(Debug)]
pub struct Calls {
    at_work: Mutex<Vec<Call>>,
    /// Tells of each beginning and end.
    changed: watch::Sender<()>,
    attribution: Attribution,
    /// Whose turn it is, where calls go one after the other.
    turn: Option<Arc<Semaphore>>,
}

#[derive(Debug, Clone)]
struct Call {
    number: u64,
    tool: Arc<str>,
    trace: TraceContext,
    tally: Arc<Tally>,
    /// The child that serves it, once that is known and one of several.
    child: Option<ChildId>,
}

/// A call at work; dropping it ends it.
#[derive(Debug)]
pub struct AtWork {
    calls: Arc<Calls>,
    number: u64,
    tally: Arc<Tally>,
    _turn: Option<OwnedSemaphorePermit>,
}

/// What is behind a connection.
#[derive(Debug, Clone, Default)]
pub struct Behind {
    /// The tools of the calls that it may belong to, each once.
    pub tools: Vec<Arc<str>>,
    calls: Vec<Call>,
    exact: bool,
    child: Option<ChildId>,
}

impl Calls {
    /// No call yet.
    pub fn new(attribution: Attribution) -> Arc<Self> {
        let turn = (attribution == Attribution::Serial).then(|| Arc::new(Semaphore::new(1)));
        Arc::new(Self { at_work: Mutex::default(), changed: watch::Sender::default(), attribution, turn })
    }

    /// Whether calls of tools are one after the other.
    pub fn takes_turns(&self) -> bool {
        self.turn.is_some()
    }

    /// Waits for a call's turn where calls go one after the other. Safe to cancel.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        Arc::clone(self.turn.as_ref()?).acquire_owned().await.ok()
    }

    /// Notes a call until the result is dropped.
    pub fn begin(self: &Arc<Self>, tool: Arc<str>, trace: TraceContext, turn: Option<OwnedSemaphorePermit>) -> AtWork {
        let tally = Arc::<Tally>::default();
        let number = {
            let mut at_work = self.lock();
            // Calls are few, and end out of order: the numbers only grow.
            let number = at_work.last().map_or(0, |call| call.number + 1);
            at_work.push(Call { number, tool, trace, tally: Arc::clone(&tally), child: None });
            number
        };
        self.changed.send_replace(());
        AtWork { calls: Arc::clone(self), number, tally, _turn: turn }
    }

    /// What is at work now.
    pub fn behind(&self) -> Behind {
        self.behind_child(None)
    }

    /// What is at work now in a child, where it is known.
    pub(super) fn behind_child(&self, child: Option<ChildId>) -> Behind {
        let at_work = self.lock();
        let mut of_child = at_work.iter().filter(|call| child.is_none() || call.child == child);
        let calls = of_child.by_ref().take(MAX_CALLS).cloned().collect();
        let exact = self.attribution != Attribution::Set;
        let mut behind = Behind { tools: Vec::new(), calls, exact, child }.named();
        of_child.for_each(|call| behind.also(call));
        behind
    }

    /// Hears of calls that begin and end.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Every use is one operation on the list, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AtWork {
    /// Says which child serves the call.
    pub fn runs_in(&self, child: ChildId) {
        if let Some(call) = self.calls.lock().iter_mut().find(|call| call.number == self.number) {
            call.child = Some(child);
        }
        self.calls.changed.send_replace(());
    }

    /// What the server dialled meanwhile, if anything.
    pub fn told(&self) -> Option<Box<EgressOfCall>> {
        self.tally.told()
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.calls.lock().retain(|call| call.number != self.number);
        self.calls.changed.send_replace(());
    }
}

impl Behind {
    /// The names, borrowed.
    pub fn names(&self) -> Vec<&str> {
        self.tools.iter().map(AsRef::as_ref).collect()
    }

    /// How rules see `names`, which are those of this.
    pub fn as_tools<'n>(&self, names: &'n [&'n str]) -> Tools<'n> {
        match names {
            [] => Tools::Outside,
            names if self.exact => Tools::EachOf(names),
            names => Tools::Among(names),
        }
    }

    /// The child that it comes from, where that is known.
    pub(super) fn child(&self) -> Option<ChildId> {
        self.child
    }

    /// Whether certainty is asked for, and there is none.
    pub fn uncertain(&self) -> bool {
        self.exact && self.tools.len() > 1
    }

    /// The span of the call, when there is only one.
    pub fn trace(&self) -> Option<TraceContext> {
        match self.calls.as_slice() {
            [call] => Some(call.trace),
            _ => None,
        }
    }

    /// A request shows its trace: it belongs to calls of that trace, or to the one whose span it continues. A trace that no
    /// call at work has says nothing. The server is who says it; it can only choose among its own calls.
    pub fn narrow(&mut self, trace: &TraceContext) {
        let only = |fits: &dyn Fn(&Call) -> bool| -> Vec<Call> {
            self.calls.iter().filter(|call| fits(call)).cloned().collect()
        };
        let mut calls = only(&|call| call.trace.same_span(trace));
        if calls.is_empty() {
            calls = only(&|call| call.trace.same_trace(trace));
        }
        if !calls.is_empty() {
            self.calls = calls;
            *self = std::mem::take(self).named();
        }
    }

    /// The counts of the calls, and whether there are several.
    pub(super) fn tallies(&self) -> (Tallies, bool) {
        (self.calls.iter().map(|call| Arc::clone(&call.tally)).collect(), self.calls.len() > 1)
    }

    fn named(mut self) -> Self {
        self.tools.clear();
        for call in std::mem::take(&mut self.calls) {
            self.also(&call);
            self.calls.push(call);
        }
        self
    }

    fn also(&mut self, call: &Call) {
        if !self.tools.contains(&call.tool) {
            self.tools.push(Arc::clone(&call.tool));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_call_is_certain_and_several_are_a_set() {
        let calls = Calls::new(Attribution::Set);
        let trace = TraceContext::under(None);
        assert!(calls.behind().tools.is_empty());
        let one = calls.begin("a".into(), trace, None);
        assert_eq!((calls.behind().names(), calls.behind().trace()), (vec!["a"], Some(trace)));
        let two = calls.begin("b".into(), TraceContext::under(None), None);
        let three = calls.begin("b".into(), TraceContext::under(None), None);
        assert_eq!((calls.behind().names(), calls.behind().trace()), (vec!["a", "b"], None));
        drop(one);
        assert_eq!(calls.behind().names(), ["b"]);
        drop(two);
        assert_eq!(calls.behind().names(), ["b"], "another call of the same tool");
        drop(three);
        assert!(calls.behind().tools.is_empty());
    }

    #[test]
    fn a_crowd_of_calls_hides_none() {
        let calls = Calls::new(Attribution::Exact);
        let begin = |tool: &str| calls.begin(tool.into(), TraceContext::under(None), None);
        let crowd: Vec<_> = (0..MAX_CALLS).map(|_| begin("a")).collect();
        assert!(!calls.behind().uncertain());
        let _one = begin("b");
        assert_eq!((calls.behind().names(), calls.behind().uncertain()), (vec!["a", "b"], true));
        drop(crowd);
        assert_eq!(calls.behind().names(), ["b"]);
    }

    #[test]
    fn a_trace_says_which_call_it_is() {
        let calls = Calls::new(Attribution::Exact);
        let (a, b) = (TraceContext::under(None), TraceContext::under(None));
        let _at_work =
            [("a", a), ("b", b), ("c", b.child())].map(|(tool, trace)| calls.begin(tool.into(), trace, None));
        let narrowed = |trace: &TraceContext| {
            let mut behind = calls.behind();
            behind.narrow(trace);
            behind.tools.join(",")
        };
        assert!(calls.behind().uncertain());
        assert_eq!(narrowed(&a.child()), "a");
        assert_eq!(narrowed(&b), "b", "the very span");
        assert_eq!(narrowed(&b.child()), "b,c", "two calls of one trace");
        assert_eq!(narrowed(&TraceContext::new_root()), "a,b,c", "of no call here");
    }

    #[test]
    fn a_child_is_behind_its_own_calls_alone() {
        let calls = Calls::new(Attribution::Exact);
        let [a, _b, c] = ["a", "b", "c"].map(|tool| calls.begin(tool.into(), TraceContext::under(None), None));
        a.runs_in(1);
        c.runs_in(2);
        assert_eq!(calls.behind_child(Some(1)).names(), ["a"], "the call of nobody yet is not its own");
        assert_eq!(calls.behind_child(Some(2)).names(), ["c"]);
        assert!(!calls.behind_child(Some(1)).uncertain() && calls.behind_child(Some(3)).tools.is_empty());
        assert_eq!(calls.behind().names(), ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn calls_take_turns_where_they_must() {
        let calls = Calls::new(Attribution::Serial);
        let turn = calls.turn().await;
        assert!(turn.is_some());
        let one = calls.begin("a".into(), TraceContext::under(None), turn);
        let mut next = Box::pin(calls.turn());
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(next.as_mut().poll(cx).is_pending())).await);
        drop(one);
        assert!(next.await.is_some());
        assert!(Calls::new(Attribution::Exact).turn().await.is_none());
    }
}
