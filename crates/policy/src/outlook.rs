//! What becomes of a recorded call under another policy, as far as the record tells: a record has no roles, scopes, claims
//! or arguments, but it says which rule let the call through.

use crate::capability::Capability;
use crate::condition::{Facts, Listed, Memo, Truth, When};
use crate::policy_set::PolicySet;
use crate::principal::{Principal, PrincipalKind};
use crate::rule::{Admits, Effect, Mode, Requirement, Rule, RuleId};
use serde::Serialize;

/// A call as the audit has it.
#[derive(Debug, Clone)]
pub struct Recorded<'a> {
    /// Who called.
    pub who: &'a Principal,
    /// What.
    pub what: Capability<'a>,
    /// Whether it was allowed.
    pub allowed: bool,
    /// The rule that allowed or denied it.
    pub rule: Option<&'a str>,
}

/// The answer of a policy to a recorded call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outlook {
    /// By this rule, or because only policies in audit mode are about the service.
    Allowed(Option<RuleId>),
    /// By this rule, or because none allows it.
    Denied(Option<RuleId>),
    /// That depends on what these rules ask and the record does not hold.
    Undecidable(Vec<RuleId>),
}

/// What is known of a rule and a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    Yes,
    No,
    Maybe,
}

/// What two policies answer to a recorded call. Rules that both have, and that were in force when it was recorded, are
/// known by what the record says of them.
pub fn compare(old: &PolicySet, new: &PolicySet, call: &Recorded<'_>) -> [Outlook; 2] {
    let in_force: Vec<&Rule> = old.rules_of(call.what.service).collect();
    let named = in_force.iter().find(|rule| call.rule == Some(rule.id.as_str()));
    let by_denial = named.is_some_and(|rule| rule.effect == Effect::Deny);
    let about = |rule: &Rule| {
        let told = if in_force.contains(&rule) { told(rule, call, by_denial) } else { None };
        told.unwrap_or_else(|| guess(rule, call))
    };
    [old.outlook(call, &about), new.outlook(call, &about)]
}

impl PolicySet {
    fn outlook(&self, call: &Recorded<'_>, about: &dyn Fn(&Rule) -> About) -> Outlook {
        let open = self.is_open(call.what.service);
        let of = |effect: Effect, wanted: About| {
            self.rules_of(call.what.service)
                .filter(move |rule| rule.effect == effect && self.counts(rule, open))
                .filter(|rule| rule.effect == Effect::Allow || rule.mode == Mode::Enforce)
                .filter(move |rule| about(rule) == wanted)
        };
        let ids =
            |rules: &mut dyn Iterator<Item = &Rule>| -> Vec<RuleId> { rules.map(|rule| rule.id.clone()).collect() };
        if let Some(rule) = of(Effect::Deny, About::Yes).next() {
            return Outlook::Denied(Some(rule.id.clone()));
        }
        let allowing = of(Effect::Allow, About::Yes).next();
        let free = allowing.is_some() || (open && !call.who.is_anonymous());
        let denying = ids(&mut of(Effect::Deny, About::Maybe));
        let perhaps = ids(&mut of(Effect::Allow, About::Maybe));
        match (free, denying.is_empty(), perhaps.is_empty()) {
            (true, true, _) => Outlook::Allowed(allowing.map(|rule| rule.id.clone())),
            (true, false, _) => Outlook::Undecidable(denying),
            (false, _, true) => Outlook::Denied(None),
            (false, _, false) => Outlook::Undecidable([denying, perhaps].concat()),
        }
    }
}

/// What the record itself says of a rule that was in force; `by_denial`: a rule that denies is what denied the call.
fn told(rule: &Rule, call: &Recorded<'_>, by_denial: bool) -> Option<About> {
    let named = call.rule == Some(rule.id.as_str());
    match (call.allowed, rule.effect) {
        (true, Effect::Allow) if named => Some(About::Yes),
        (true, Effect::Deny) if rule.mode == Mode::Enforce => Some(About::No),
        (false, Effect::Deny) if named => Some(About::Yes),
        (false, Effect::Allow) if rule.mode == Mode::Enforce && !by_denial => Some(About::No),
        _ => None,
    }
}

fn guess(rule: &Rule, call: &Recorded<'_>) -> About {
    if !rule.covers_name(&call.what) {
        return About::No;
    }
    let asked = match &rule.admits {
        Admits::Anyone => About::Yes,
        Admits::Authenticated(_) if call.who.is_anonymous() => About::No,
        Admits::Authenticated(requires) => requires.iter().map(|need| met(need, call.who)).fold(About::Yes, both),
    };
    both(asked, rule.when.as_ref().map_or(About::Yes, |when| holds(when, call)))
}

/// A user's grants and claims are not recorded; a workload has none.
fn met(need: &Requirement, who: &Principal) -> About {
    let granted = matches!(need, Requirement::Scope(_) | Requirement::Role(_) | Requirement::Claim { .. });
    match granted && matches!(who.kind(), PrincipalKind::User { .. }) {
        true => About::Maybe,
        false if need.holds(who) => About::Yes,
        false => About::No,
    }
}

fn holds(when: &When, call: &Recorded<'_>) -> About {
    let reads = when.0.reads();
    if reads.principal && matches!(call.who.kind(), PrincipalKind::User { .. }) {
        return About::Maybe;
    }
    let facts = Facts { who: call.who, what: &call.what, circumstances: &Listed(None), memo: Memo::new() };
    match when.0.evaluate(&facts) {
        Ok(Truth::True) => About::Yes,
        Ok(Truth::False) => About::No,
        Ok(Truth::Unknown) | Err(_) => About::Maybe,
    }
}

fn both(one: About, other: About) -> About {
    match (one, other) {
        (About::No, _) | (_, About::No) => About::No,
        (About::Yes, About::Yes) => About::Yes,
        _ => About::Maybe,
    }
}

#[cfg(test)]
mod tests {
    use super::{Outlook, Recorded, compare};
    use crate::capability::{Capability, CapabilityKind};
    use crate::policy_set::PolicySet;
    use crate::principal::Principal;

    fn policy(rules: &str) -> PolicySet {
        let text = format!(
            "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: p }}\nspec:\n  authorization:\n    rules:\n{rules}"
        );
        PolicySet::compile(&[("p", &text)]).unwrap()
    }

    fn words(old: &str, new: &str, who: &str, name: &str, decided: (bool, Option<&str>)) -> [&'static str; 2] {
        let who = match who.starts_with("spiffe://") {
            true => Principal::workload(who).unwrap(),
            false => Principal::user(who).unwrap(),
        };
        let what = Capability { kind: CapabilityKind::Tool, service: "fs", name };
        let (allowed, rule) = decided;
        compare(&policy(old), &policy(new), &Recorded { who: &who, what, allowed, rule }).map(|outlook| match outlook {
            Outlook::Allowed(_) => "allowed",
            Outlook::Denied(_) => "denied",
            Outlook::Undecidable(_) => "undecidable",
        })
    }

    const READERS: &str =
        "      - { name: readers, services: [fs], capabilities: ['read*'], requires: [ { scope: read } ] }\n";
    const ADMINS: &str =
        "      - { name: admins, services: [fs], capabilities: ['*'], requires: [ { role: admin } ] }\n";
    const NO_KEYS: &str = "      - { name: no-keys, effect: deny, services: [fs], capabilities: [readKeys] }\n";

    #[test]
    fn a_rule_that_stays_is_known_by_the_record() {
        let let_through = (true, Some("p/readers"));
        let both = [READERS, ADMINS].concat();
        assert_eq!(words(READERS, &both, "ada", "readFile", let_through), ["allowed", "allowed"]);
        assert_eq!(words(&both, ADMINS, "ada", "readFile", let_through), ["allowed", "undecidable"]);
        assert_eq!(words(READERS, &[READERS, NO_KEYS].concat(), "ada", "readKeys", let_through), ["allowed", "denied"]);
        let refused = (false, Some("p/readers"));
        assert_eq!(words(READERS, &both, "ada", "readFile", refused), ["denied", "undecidable"], "perhaps an admin");
        assert_eq!(words(&both, READERS, "ada", "readFile", refused), ["denied", "denied"]);
        let by_denial = (false, Some("p/no-keys"));
        let old = [READERS, NO_KEYS].concat();
        assert_eq!(words(&old, READERS, "ada", "readKeys", by_denial), ["denied", "undecidable"]);
    }

    #[test]
    fn of_a_workload_everything_is_recorded() {
        let workload =
            "      - { name: w, services: [fs], capabilities: ['*'], requires: [ { workload: indexer } ] }\n";
        let indexer = "spiffe://demo/indexer";
        assert_eq!(words(READERS, workload, indexer, "x", (false, None)), ["denied", "allowed"]);
        assert_eq!(words(workload, ADMINS, indexer, "x", (true, Some("p/w"))), ["allowed", "denied"]);
    }
}
