//! The settings of an outbound half that runs by itself: no server behind it, no mesh around it.

use std::net::SocketAddr;
use std::path::PathBuf;

use outrigger_config::sections::{self, Log};
use outrigger_config::{Diagnostic, Diagnostics, Env, Fields, doc, load};

use super::{Egress, egress, read_admin, read_threads};

/// All settings of `outrigger-sidecar --egress-only`. They are those of the sidecar; others are unknown here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressOnly {
    /// The name in logs, answers and metrics.
    pub service: String,
    /// Where health and metrics are shown.
    pub admin: Option<SocketAddr>,
    /// What may be reached.
    pub egress: Egress,
    /// The log.
    pub log: Log,
    /// Threads that move bytes.
    pub threads: usize,
    /// The file that it was read from, which is looked at again when it changes.
    pub file: Option<PathBuf>,
    /// Things to tell the operator that stop nothing.
    pub warnings: Vec<Diagnostic>,
}

impl EgressOnly {
    /// Reads the settings from an optional `(file name, text)` and the environment, which wins.
    ///
    /// # Errors
    /// Every mistake in both.
    pub fn from_sources(file: Option<(&str, &str)>, env: Env<'_>) -> Result<Self, Diagnostics> {
        // By itself it has an admin port only where one is asked for: several of them stand on one machine.
        let asks_for_admin = env("OUTRIGGER_ADMIN_LISTEN").is_some();
        let loaded = load(file, env, |f| {
            let asks_for_admin = asks_for_admin || f.has("admin");
            read(f, asks_for_admin)
        })?;
        Ok(Self { warnings: loaded.warnings, ..loaded.value })
    }
}

fn read(f: &mut Fields<'_>, asks_for_admin: bool) -> Option<EgressOnly> {
    let text = doc("The name in logs, answers and metrics.").env("OUTRIGGER_SERVICE");
    let service = f.with_default("service", text, sections::service_name(), "egress".to_owned());
    let admin = f.section("admin", "Health and metrics.", read_admin);
    let egress = f.section("egress", "What may be reached.", egress::read_always);
    let log = f.section("log", "The log, on standard error.", sections::log);
    let threads = read_threads(f);
    let admin = admin?;
    Some(EgressOnly {
        service,
        admin: asks_for_admin.then_some(admin.listen),
        egress: egress?,
        log: log?,
        threads,
        file: None,
        warnings: Vec::new(),
    })
}
