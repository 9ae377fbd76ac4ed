//! identify: which tool calls are behind an outbound connection.
//!
//! Inbound notes each call of a tool while it is at work. An outbound connection that begins meanwhile belongs to one of
//! them: to the only one, which is certain, or else to the set.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrigger_telemetry::TraceContext;

/// Names of tools that one connection is held against at most.
const MAX_TOOLS: usize = 64;

/// The calls at work.
#[derive(Debug, Default)]
pub struct Calls {
    at_work: Mutex<Vec<Call>>,
}

#[derive(Debug, Clone)]
struct Call {
    number: u64,
    tool: Arc<str>,
    trace: TraceContext,
}

/// A call at work; dropping it ends it.
#[derive(Debug)]
pub struct AtWork {
    calls: Arc<Calls>,
    number: u64,
}

/// What is behind a connection.
#[derive(Debug, Clone, Default)]
pub struct Behind {
    /// The tools of the calls at work, each once.
    pub tools: Vec<Arc<str>>,
    /// The span of the call, when there is only one.
    pub trace: Option<TraceContext>,
}

impl Calls {
    /// Notes a call until the result is dropped.
    pub fn begin(self: &Arc<Self>, tool: Arc<str>, trace: TraceContext) -> AtWork {
        let mut at_work = self.lock();
        // Calls are few, and end out of order: the numbers only grow.
        let number = at_work.last().map_or(0, |call| call.number + 1);
        at_work.push(Call { number, tool, trace });
        AtWork { calls: Arc::clone(self), number }
    }

    /// What is at work now.
    pub fn behind(&self) -> Behind {
        let at_work = self.lock();
        let mut tools: Vec<Arc<str>> = Vec::new();
        for call in at_work.iter() {
            if tools.len() < MAX_TOOLS && !tools.contains(&call.tool) {
                tools.push(Arc::clone(&call.tool));
            }
        }
        let trace = if at_work.len() == 1 { at_work.first().map(|call| call.trace) } else { None };
        Behind { tools, trace }
    }

    /// Every use is one operation on the list, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.calls.lock().retain(|call| call.number != self.number);
    }
}

impl Behind {
    /// The names, borrowed.
    pub fn names(&self) -> Vec<&str> {
        self.tools.iter().map(AsRef::as_ref).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_call_is_certain_and_several_are_a_set() {
        let calls = Arc::new(Calls::default());
        let trace = TraceContext::under(None);
        assert!(calls.behind().tools.is_empty());
        let one = calls.begin("a".into(), trace);
        assert_eq!((calls.behind().names(), calls.behind().trace), (vec!["a"], Some(trace)));
        let two = calls.begin("b".into(), TraceContext::under(None));
        let three = calls.begin("b".into(), TraceContext::under(None));
        assert_eq!((calls.behind().names(), calls.behind().trace), (vec!["a", "b"], None));
        drop(one);
        assert_eq!(calls.behind().names(), ["b"]);
        drop(two);
        assert_eq!(calls.behind().names(), ["b"], "another call of the same tool");
        drop(three);
        assert!(calls.behind().tools.is_empty());
    }
}
