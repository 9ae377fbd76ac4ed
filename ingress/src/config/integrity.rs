//! What definitions of services are held to: a file of those that somebody approved.

use std::path::PathBuf;

use outrigger_config::{Fields, doc, kinds};

/// The `integrity` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integrity {
    /// The approved definitions; without it, none are held to anything.
    pub lock: Option<PathBuf>,
    /// What becomes of a definition that is not the approved one.
    pub changed: Handling,
    /// What becomes of a definition that nobody approved.
    pub new: Handling,
    /// Whether definitions are looked through for what is meant to deceive.
    pub scan: bool,
}

/// What becomes of a definition that deviates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// It is listed and can be called; the log, a metric and the admin port say so.
    Warn,
    /// It is not listed, and calls are refused.
    Hide,
    /// It is listed as it is, and calls are refused.
    Refuse,
}

impl Handling {
    /// The word in the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Handling::Warn => "warn",
            Handling::Hide => "hide",
            Handling::Refuse => "refuse",
        }
    }
}

impl Default for Integrity {
    /// Nothing is held to anything, and everything is looked through.
    fn default() -> Self {
        Self { lock: None, changed: Handling::Hide, new: Handling::Hide, scan: true }
    }
}

const HANDLINGS: &[(&str, Handling)] =
    &[("warn", Handling::Warn), ("hide", Handling::Hide), ("refuse", Handling::Refuse)];

/// Reads an `integrity` section.
pub fn read(f: &mut Fields<'_>) -> Option<Integrity> {
    let text = doc("The definitions that somebody approved (`outrigger lock` writes it), read again when it changes.");
    let text = text.example("/etc/outrigger/outrigger.lock");
    let lock = f.optional("lock", text, kinds::path());
    let text = doc("A definition that is not the approved one: `warn` tells of it, `hide` does not list it and refuses calls, `refuse` lists it and refuses calls.")
        .because("a text that nobody read must not reach a model");
    let changed = f.with_default("changed", text, kinds::choice(HANDLINGS), Handling::Hide);
    let text = doc("A definition that nobody approved: as `changed`.").because("a server cannot approve its own tools");
    let new = f.with_default("new", text, kinds::choice(HANDLINGS), Handling::Hide);
    let text = doc("Look through definitions for hidden characters, instructions to the model and look-alike names, and tell what is found.")
        .because("it costs nothing per call, and stops nothing");
    let scan = f.with_default("scan", text, kinds::boolean(), true);
    if lock.is_none() {
        for name in ["changed", "new"].into_iter().filter(|name| f.has(name)).collect::<Vec<_>>() {
            f.warn(
                name,
                "nothing is held to anything without a lock",
                "name one with `lock:`; `outrigger lock` makes it",
            );
        }
    }
    Some(Integrity { lock, changed, new, scan })
}
