//! Sessions of legacy clients: how their ids are sealed.

use std::path::PathBuf;
use std::time::Duration;

use outrigger_config::sections::{HOUR, MINUTE};
use outrigger_config::{Fields, doc, kinds};

/// How ids of sessions are sealed, and how long others may take the sessions up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// A file with keys; without it a key is made up, and ends with the process.
    pub key_file: Option<PathBuf>,
    /// How long after its beginning a session can be taken up by another replica, or after a restart.
    pub max_age: Duration,
}

pub(super) fn read(f: &mut Fields<'_>) -> Option<Sessions> {
    let text = doc(
        "Keys that seal the ids of sessions, one in each line as `openssl rand -hex 32` makes them: the first seals, all \
         open. With the same file, replicas of the ingress take up each other's sessions. Read again when it changes.",
    );
    let text =
        text.because("without it a key is made up, and sessions end with the process").env("OUTRIGGER_SESSION_KEYS");
    let key_file = f.optional("key_file", text.example("/etc/outrigger/sessions.keys"), kinds::path());
    let text = doc("How long after its beginning a session can be taken up by another replica, or after a restart.")
        .because("a week of work is kept, and what was forgotten in a log of a proxy is worthless soon");
    let max_age = f.with_default("max_age", text, kinds::duration(MINUTE..=365 * 24 * HOUR), 7 * 24 * HOUR);
    Some(Sessions { key_file, max_age })
}
