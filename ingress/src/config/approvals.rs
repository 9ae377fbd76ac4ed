//! How calls wait for a person.

use std::time::Duration;

use outrigger_config::{Fields, doc, kinds};

/// The `approvals` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approvals {
    /// How long a request is held while somebody with a role is waited for.
    pub hold: Duration,
    /// Calls that wait at most.
    pub most: usize,
    /// Calls of one principal that wait at most.
    pub most_each: usize,
}

/// Reads an `approvals` section.
pub(super) fn read(f: &mut Fields<'_>) -> Option<Approvals> {
    let text = doc(
        "How long a request is held while somebody with the role is waited for; after that its client is told to call again.",
    );
    let text = text.because("clients give up after a minute");
    let times = Duration::from_secs(1)..=Duration::from_secs(600);
    let hold = f.with_default("hold", text, kinds::duration(times), Duration::from_secs(50));
    let text = doc("Calls that wait for a person at most, each with up to 16 KiB of arguments in memory.");
    let most = f.with_default("most", text.because("more than people look at"), kinds::count(1..=100_000), 1000);
    let text = doc("Calls of one principal that wait at most.").because("one client cannot fill the desk");
    let most_each = f.with_default("most_each", text, kinds::count(1..=10_000), 20);
    Some(Approvals { hold, most, most_each })
}
