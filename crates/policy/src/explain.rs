//! Why a caller may or may not do something, for people: the text of `outrigger policy explain` and its JSON.
//!
//! An explanation looks at every rule where a decision stops at the first, and it allocates: it is for operators,
//! never for the caller of a request, to whom it would tell what exists.

use crate::capability::{Capability, CapabilityKind};
use crate::policy_set::{Decision, DenyReason, PolicySet};
use crate::principal::Principal;
use crate::rule::{Admits, Rule, RuleId};
use serde::Serialize;
use std::fmt;

/// The decision about one capability, with everything that led to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Who asked ([`Principal::id`]).
    pub principal: String,
    /// The service.
    pub service: String,
    /// The kind of capability.
    pub kind: CapabilityKind,
    /// Its own name.
    pub capability: String,
    /// The answer, the same as `decide` gives.
    pub allowed: bool,
    /// The rule that allows it, or the nearest to allowing it.
    pub rule: Option<RuleId>,
    /// Why it is denied.
    pub reason: Option<DenyReason>,
    /// Every rule that covers the capability, in order.
    pub considered: Vec<Considered>,
    /// How many further rules are about this service, but not this capability.
    pub other_rules_of_service: usize,
}

/// One rule that covers the capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// The rule.
    pub rule: RuleId,
    /// What the caller lacks for it. Empty: this rule allows the call.
    pub missing: Vec<String>,
}

impl PolicySet {
    /// Explains the decision about one capability.
    pub fn explain(&self, who: &Principal, what: &Capability<'_>) -> Explanation {
        let (covering, others): (Vec<&Rule>, Vec<&Rule>) =
            self.rules_of(what.service).partition(|rule| rule.coverage.covers_name(what));
        let (allowed, rule, reason) = match self.decide(who, what) {
            Decision::Allow { rule } => (true, Some(rule), None),
            Decision::Deny { reason, nearest } => (false, nearest, Some(reason)),
        };
        let considered = covering
            .into_iter()
            .map(|rule| Considered { rule: rule.id.clone(), missing: missing_texts(rule, who) })
            .collect();
        Explanation {
            principal: who.id().to_owned(),
            service: what.service.to_owned(),
            kind: what.kind,
            capability: what.name.to_owned(),
            allowed,
            rule,
            reason,
            considered,
            other_rules_of_service: others.len(),
        }
    }
}

fn missing_texts(rule: &Rule, who: &Principal) -> Vec<String> {
    let Admits::Authenticated(requires) = &rule.admits else {
        return Vec::new();
    };
    let identity = who.is_anonymous().then(|| "an authenticated caller".to_owned());
    let unmet = requires.iter().filter(|need| !need.holds(who)).map(ToString::to_string);
    identity.into_iter().chain(unmet).collect()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explanation { principal, service, kind, capability, .. } = self;
        let verdict = if self.allowed { "allowed" } else { "denied" };
        write!(
            f,
            "{verdict}: {principal} may{} use {kind} {service}.{capability}",
            if self.allowed { "" } else { " not" }
        )?;
        match (&self.reason, &self.rule) {
            (None, Some(rule)) => write!(f, "\n  by rule {rule}")?,
            (Some(reason), Some(rule)) => write!(f, "\n  because {reason}; nearest rule: {rule}")?,
            (Some(reason), None) => write!(f, "\n  because {reason}")?,
            (None, None) => {}
        }
        for considered in &self.considered {
            if considered.missing.is_empty() {
                write!(f, "\n  - {}: allows", considered.rule)?;
            } else {
                write!(f, "\n  - {}: needs {}", considered.rule, considered.missing.join(" and "))?;
            }
        }
        if self.considered.is_empty() && self.other_rules_of_service > 0 {
            let count = self.other_rules_of_service;
            let (rules, are) = if count == 1 { ("rule", "is") } else { ("rules", "are") };
            write!(f, "\n  {count} {rules} {are} about service {service}, but not about this {kind}")?;
        }
        Ok(())
    }
}
