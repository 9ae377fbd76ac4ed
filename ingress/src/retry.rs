//! When a call is sent once more. See docs/decisions/0007: what was sent is sent again only where it may run twice, and
//! an operator said so.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use outrigger_mcp::envelope::{Message, Param};
use outrigger_mcp::method::Method;
use outrigger_policy::Annotations;
use tokio::time::Instant;

use crate::config::{Repeat, Retries};

/// The first pause before a call that was sent is sent again; a random part of twice that each further time.
const PAUSE: Duration = Duration::from_millis(25);
/// One call, in the units that are counted.
const CALL: i64 = 100;

/// How many calls of a service may be sent again: a share of all, and some more after a rest.
#[derive(Debug)]
pub(crate) struct Budget {
    share: i64,
    most: i64,
    left: AtomicI64,
}

impl Budget {
    /// By the setting, and full.
    pub(crate) fn new(rule: &Retries) -> Self {
        let most = i64::try_from(rule.burst).unwrap_or(i64::MAX / CALL) * CALL;
        Self { share: i64::from(rule.share), most, left: AtomicI64::new(most) }
    }

    /// A call was sent for the first time.
    pub(crate) fn earn(&self) {
        // Those that race each other may pass the bound by a call.
        if self.left.load(Ordering::Relaxed) < self.most {
            self.left.fetch_add(self.share, Ordering::Relaxed);
        }
    }

    /// Takes one call from what is left, if there is one.
    pub(crate) fn spend(&self) -> bool {
        let one_less = |left: i64| (left >= CALL).then(|| left - CALL);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

/// Whether a call may run twice. `hints` are asked only for tools.
pub(crate) fn may_run_twice(message: &Message, setting: Repeat, hints: impl FnOnce() -> Annotations) -> bool {
    // What answers a question is taken up once.
    let fresh = [Param::RequestState, Param::InputResponses].iter().all(|field| message.params().get(*field).is_none());
    let may = match message.method {
        Method::ResourcesRead | Method::PromptsGet | Method::CompletionComplete => true,
        Method::ToolsCall => match setting {
            Repeat::Always => true,
            Repeat::Never => false,
            Repeat::Hints => {
                let hints = hints();
                hints.read_only || hints.idempotent
            }
        },
        _ => false,
    };
    fresh && may
}

/// How long to wait before the next attempt; random, so that many do not come back at once.
pub(crate) fn pause(attempt: u32) -> Duration {
    PAUSE.saturating_mul(1 << attempt.min(8)).mul_f64(0.5 + fastrand::f64())
}

/// When a call must be over, and what it may take in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// When it is cancelled.
    pub(crate) at: Instant,
    /// How long that is after its beginning.
    pub(crate) after: Duration,
}

impl Deadline {
    /// Beginning now.
    pub(crate) fn after(after: Duration) -> Self {
        Self { at: Instant::now() + after, after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn budget(share: u8, burst: usize) -> Budget {
        Budget::new(&Retries { attempts: 1, share, burst })
    }

    #[test]
    fn a_rested_budget_gives_its_burst_and_then_a_share() {
        let budget = budget(10, 2);
        assert_eq!([(); 3].map(|()| budget.spend()), [true, true, false]);
        let sent = (0..1000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(sent.count(), 100, "one in ten");
    }

    #[test]
    fn rest_gives_no_more_than_the_burst() {
        let budget = budget(100, 3);
        (0..1000).for_each(|_| budget.earn());
        assert_eq!((0..10).filter(|_| budget.spend()).count(), 3);
    }

    fn twice(text: &str, setting: Repeat, hints: &str) -> bool {
        let message = Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap();
        may_run_twice(&message, setting, || Annotations::of(Some(hints.as_bytes())))
    }

    #[test]
    fn only_reads_and_tools_that_say_so_run_twice() {
        let call = |method: &str, more: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"name":"x","uri":"x:y"{more}}}}}"#)
        };
        let (tool, read, idempotent) =
            (call("tools/call", ""), r#"{"readOnlyHint":true}"#, r#"{"idempotentHint":true}"#);
        assert!(twice(&tool, Repeat::Hints, read) && twice(&tool, Repeat::Hints, idempotent));
        assert!(!twice(&tool, Repeat::Hints, "{}") && !twice(&tool, Repeat::Hints, r#"{"readOnlyHint":"yes"}"#));
        assert!(!twice(&tool, Repeat::Never, read) && twice(&tool, Repeat::Always, "{}"));
        for method in ["resources/read", "prompts/get", "completion/complete"] {
            assert!(twice(&call(method, ""), Repeat::Never, "{}"), "{method} reads");
        }
        for method in ["tasks/update", "tasks/cancel", "subscriptions/listen", "x/y"] {
            assert!(!twice(&call(method, ""), Repeat::Always, read), "{method}");
        }
        for more in [r#","requestState":"s""#, r#","inputResponses":{}"#] {
            assert!(!twice(&call("tools/call", more), Repeat::Always, read), "{more}");
        }
    }
}
