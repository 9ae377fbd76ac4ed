//! What clients of older revisions, and callers that listen, hold at a proxy for as long as they are there.

use std::time::Duration;

use super::entrance::{KIB, MIB, MINUTE, any_duration, how_many};
use crate::fields::{Fields, doc};
use crate::kinds;

/// What sessions and listens are held to, one by one and together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLimits {
    /// Streams on which callers listen.
    pub listens: usize,
    /// Those of one principal.
    pub listens_per_principal: usize,
    /// Resources that one session or listen subscribes to.
    pub subscriptions: usize,
    /// Requests at work in one session, and questions to its client.
    pub session_requests: usize,
    /// Bytes of one broken stream held for its client.
    pub resume_bytes: usize,
}

/// Reads them from a `limits` section. `listens` is a default with its reason, `each` the one of a principal.
pub fn session_limits(
    f: &mut Fields<'_>,
    listens: (usize, &'static str),
    each: (usize, &'static str),
) -> SessionLimits {
    let text = doc("Streams on which callers listen: `subscriptions/listen`, and GET of older revisions.");
    let all = f.with_default("listens", text.because(listens.1), how_many(), listens.0);
    let text = doc("Such streams of one principal.").because(each.1);
    let own = f.with_default("listens_per_principal", text, how_many(), each.0);
    let text = doc("Resources that one session, or one listen, subscribes to.")
        .because("more than anybody has open; each is asked for at its server");
    let subscriptions = f.with_default("subscriptions", text, how_many(), 1000);
    let text =
        doc("Requests at work at once in one session of a client of 2025-11-25 or older, and as many questions to it.")
            .because("far more than an agent has, and as many as its service works on");
    let session_requests = f.with_default("session_requests", text, how_many(), 256);
    let text = doc("Bytes of one stream that are held for such a client while it is late or gone; of streams that ended, four times as many in a session.")
        .because("what tools tell on the way is small; results of MiB are asked for anew");
    let resume_bytes = f.with_default("resume_bytes", text, kinds::bytes(KIB..=64 * MIB), MIB);
    SessionLimits {
        listens: all,
        // Who lowers `listens` alone means both.
        listens_per_principal: own.min(all),
        subscriptions,
        session_requests,
        resume_bytes,
    }
}

/// Declares how long what a broken stream held can be asked for.
pub fn resume_timeout(f: &mut Fields<'_>) -> Duration {
    let text =
        doc("What was sent on a stream that broke being held for a client of 2025-11-25 that comes back for it.")
            .because("a lost connection is noticed and opened again within seconds");
    any_duration(f, "resume", text, MINUTE)
}
