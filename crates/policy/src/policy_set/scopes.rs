//! Which scopes would let a caller do what it may not do now: for asking it to get them.

use std::ops::ControlFlow;

use super::PolicySet;
use crate::capability::Capability;
use crate::condition::Circumstances;
use crate::principal::Principal;
use crate::rule::{Admits, Requirement, Rule};

/// Rules that are tried: whoever is denied makes us decide once for each.
const MAX_TRIED: usize = 8;

impl PolicySet {
    /// The scopes of the first rule that would allow the request if the caller had them: all that it asks for, of which those
    /// that the caller lacks are `tellable`. None where scopes alone would not help.
    pub fn scopes_wanted(
        &self,
        who: &Principal,
        what: &Capability<'_>,
        circumstances: &dyn Circumstances,
        tellable: &dyn Fn(&str) -> bool,
    ) -> Option<Vec<String>> {
        if who.is_anonymous() {
            return None;
        }
        let open = self.is_open(what.service);
        let mut candidates: Vec<(usize, &Rule)> = Vec::new();
        let _ = self.allowing.lists_covering(what, |list| {
            for (rule, at) in self.rules_at(list) {
                let covers = rule.coverage.covers_service(what.service) && rule.covers_name(what);
                if covers && self.counts(rule, open) && lacks_only(rule, who, tellable) {
                    candidates.push((at, rule));
                }
                if candidates.len() >= MAX_TRIED {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        candidates.sort_unstable_by_key(|(at, _)| *at);
        candidates.into_iter().find_map(|(_, rule)| {
            let wanted: Vec<String> = scopes(rule).map(str::to_owned).collect();
            let held = who.scopes().iter().map(|scope| &**scope);
            let with = who.with_grants(who.roles(), held.chain(wanted.iter().map(String::as_str))).ok()?;
            // A rule may deny it all the same, or a condition not hold.
            self.decide_in(&with, what, circumstances).is_allowed().then_some(wanted)
        })
    }
}

fn scopes(rule: &Rule) -> impl Iterator<Item = &str> {
    let requires: &[Requirement] = match &rule.admits {
        Admits::Anyone => &[],
        Admits::Authenticated(requires) => requires,
    };
    requires.iter().filter_map(|need| match need {
        Requirement::Scope(scope) => Some(&**scope),
        _ => None,
    })
}

/// Whether scopes that may be told are all that the caller lacks for a rule.
fn lacks_only(rule: &Rule, who: &Principal, tellable: &dyn Fn(&str) -> bool) -> bool {
    let Admits::Authenticated(requires) = &rule.admits else { return false };
    requires.iter().all(|need| match need {
        Requirement::Scope(scope) => who.has_scope(scope) || tellable(scope),
        other => other.holds(who),
    })
}
