//! Which services only documents in audit mode rule over.

use crate::glob::Glob;
use crate::principal::Principal;
use crate::rule::{Effect, Mode, Rule};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Whose allowing rules name which services. Empty as long as no document in audit mode allows anything.
#[derive(Debug, Clone, Default)]
pub(super) struct Modes {
    enforced: Named,
    audited: Named,
    /// Of all rules: where one document in audit mode depends on what others rule over, any change may change a list.
    fingerprint: u64,
}

#[derive(Debug, Clone, Default)]
struct Named {
    exact: HashSet<Box<str>>,
    patterns: Vec<Glob>,
}

impl Modes {
    pub(super) fn new(rules: &[Rule]) -> Modes {
        let mut modes = Modes::default();
        if !rules.iter().any(|rule| rule.mode == Mode::Audit && rule.effect == Effect::Allow) {
            return modes;
        }
        let mut hasher = DefaultHasher::new();
        rules.hash(&mut hasher);
        modes.fingerprint = hasher.finish();
        for rule in rules.iter().filter(|rule| rule.effect == Effect::Allow) {
            let named = match rule.mode {
                Mode::Enforce => &mut modes.enforced,
                Mode::Audit => &mut modes.audited,
            };
            rule.coverage.services.iter().for_each(|service| named.add(service));
        }
        modes
    }

    /// Whether the service is ruled over in audit mode only.
    pub(super) fn is_open(&self, service: &str) -> bool {
        self.audited.has(service) && !self.enforced.has(service)
    }

    /// What lists depend on besides the rules that are about the caller.
    pub(super) fn class(&self, who: &Principal) -> u64 {
        match who.is_anonymous() {
            true => self.fingerprint.rotate_left(1),
            false => self.fingerprint,
        }
    }
}

impl Named {
    fn add(&mut self, service: &Glob) {
        match service.exact() {
            Some(name) => drop(self.exact.insert(name.into())),
            None if self.patterns.contains(service) => {}
            None => self.patterns.push(service.clone()),
        }
    }

    fn has(&self, service: &str) -> bool {
        self.exact.contains(service) || self.patterns.iter().any(|pattern| pattern.matches(service))
    }
}
