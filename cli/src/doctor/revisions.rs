//! Which revisions a server speaks, over what: it is greeted in each, every time afresh.

use std::time::Duration;

use outrigger_mcp::revision::Revision;
use tokio::time::Instant;

use crate::output;

use super::greeting::greet;
use super::report::{Report, Tried};
use super::subject::Subject;
use super::wire::{Transport, Trouble};

/// Greets the server in every revision over every transport, and says which pair to use: the newest revision.
pub(super) async fn find(subject: &Subject, report: &mut Report) -> Option<(Transport, Revision)> {
    let mut best: Option<(Transport, Revision)> = None;
    for &transport in subject.transports() {
        for revision in Revision::ALL.into_iter().rev() {
            if transport == Transport::Sse && revision.is_modern() {
                continue;
            }
            let (spoken, over) = (revision.as_str(), transport.as_str());
            output::say(&format!("asking in {spoken} over {over}, for {:?} at most", subject.patience));
            let tried = one(subject, transport, revision, report).await;
            if let Some(trouble) = &tried.trouble {
                output::say(&format!("  {trouble}"));
            }
            let (spoken, hopeless) = (tried.spoken, tried.hopeless);
            report.tried.push(tried);
            if spoken && best.is_none_or(|(_, known)| known < revision) {
                best = Some((transport, revision));
            }
            if hopeless {
                break;
            }
        }
    }
    best
}

async fn one(subject: &Subject, transport: Transport, revision: Revision, report: &mut Report) -> Tried {
    let mut tried = Tried::new(transport, revision);
    let begun = Instant::now();
    let mut wire = match subject.open(transport).await {
        Ok(wire) => wire,
        Err(trouble) => {
            tried.trouble = Some(trouble.what);
            tried.hopeless = true;
            return tried;
        }
    };
    match greet(&mut wire, revision).await {
        Ok(greeted) => {
            tried.spoken = greeted.versions.iter().any(|version| version == revision.as_str());
            tried.answered = greeted.versions;
            tried.took_ms = Some(milliseconds(begun.elapsed()));
        }
        Err(Trouble { what, gone, silent }) => {
            tried.died = gone && transport == Transport::Stdio;
            // A program may die of one question and live with another; an address that refuses us will go on to.
            tried.hopeless = gone && transport != Transport::Stdio;
            // `initialize` is answered in whatever revision is spoken; who does not answer one answers none.
            if silent && !revision.is_modern() {
                tried.hopeless = true;
                tried.silent = true;
            }
            tried.trouble = Some(what);
        }
    }
    report.manners(wire.close(false).await);
    tried
}

/// As reports have it.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}
