//! Why a caller may or may not do something, for people: the text of `outrigger policy explain` and its JSON.
//!
//! An explanation looks at every rule where a decision stops at the first, and it allocates: it is for operators,
//! never for the caller of a request, to whom it would tell what exists.

use crate::capability::{Capability, CapabilityKind};
use crate::condition::{Circumstances, Facts, Listed, Memo, Truth, When};
use crate::policy_set::{Decision, Denial, DenyReason, PolicySet};
use crate::principal::Principal;
use crate::rule::{Admits, Effect, Mode, Rule, RuleId};
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
    /// The rule that allows or denies it, or the nearest to allowing it.
    pub rule: Option<RuleId>,
    /// Why it is denied.
    pub reason: Option<DenyReason>,
    /// What policies in audit mode would have answered to something that is allowed.
    pub would_deny: Option<Denial>,
    /// Rules that let each call wait for a person, and whose word they want.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<(RuleId, String)>,
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
    /// Whether it allows or denies.
    pub effect: Effect,
    /// Whether it acts or only tells.
    pub mode: Mode,
    /// Whether it has a say: in audit mode, what a rule allows counts only where no other policy has rules.
    pub counts: bool,
    /// What the caller lacks for it.
    pub missing: Vec<String>,
    /// Its condition, if it has one.
    pub condition: Option<Conditional>,
}

/// What became of a condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conditional {
    /// Whether the rule is about the request as far as the condition goes: it holds; or the rule allows and that depends on
    /// the call; or the rule denies and it cannot be evaluated.
    pub holds: bool,
    /// Its parts, each with its outcome.
    pub parts: Vec<String>,
}

impl Considered {
    /// Whether the rule is about the request.
    pub fn matches(&self) -> bool {
        self.missing.is_empty() && self.condition.as_ref().is_none_or(|condition| condition.holds)
    }
}

impl PolicySet {
    /// Explains the decision about one capability, as far as it can be told before a call.
    pub fn explain(&self, who: &Principal, what: &Capability<'_>) -> Explanation {
        self.explain_in(who, what, &Listed(None))
    }

    /// Explains the decision about one request.
    pub fn explain_in(&self, who: &Principal, what: &Capability<'_>, circumstances: &dyn Circumstances) -> Explanation {
        let (covering, others): (Vec<&Rule>, Vec<&Rule>) =
            self.rules_of(what.service).partition(|rule| rule.covers_name(what));
        let (allowed, rule, reason, would_deny) = match self.decide_in(who, what, circumstances) {
            Decision::Allow { rule, would_deny } => (true, rule, None, would_deny),
            Decision::Deny(Denial { reason, rule }) => (false, rule, Some(reason), None),
        };
        let approvals =
            if allowed { self.approvals_in(who, what, circumstances).unwrap_or_default() } else { Vec::new() };
        let approvals = approvals.into_iter().map(|(rule, approval)| (rule, approval.to_string())).collect();
        let open = self.is_open(what.service);
        let facts = Facts { who, what, circumstances, memo: Memo::new() };
        let considered = |rule: &Rule| Considered {
            rule: rule.id.clone(),
            effect: rule.effect,
            mode: rule.mode,
            counts: self.counts(rule, open),
            missing: missing_texts(rule, who),
            condition: rule.when.as_ref().map(|when| conditional(rule, when, &facts)),
        };
        // In the order in which they count: what denies, then what allows.
        let (denying, allowing): (Vec<&Rule>, Vec<&Rule>) =
            covering.into_iter().partition(|rule| rule.effect == Effect::Deny);
        let considered = denying.into_iter().chain(allowing).map(considered).collect();
        Explanation {
            principal: who.id().to_owned(),
            service: what.service.to_owned(),
            kind: what.kind,
            capability: what.name.to_owned(),
            allowed,
            rule,
            reason,
            would_deny,
            approvals,
            considered,
            other_rules_of_service: others.len(),
        }
    }
}

fn conditional(rule: &Rule, when: &When, facts: &Facts<'_>) -> Conditional {
    let holds = match when.0.evaluate(facts) {
        Ok(Truth::True) => true,
        Ok(Truth::False) => false,
        Ok(Truth::Unknown) => rule.effect == Effect::Allow,
        Err(_) => rule.effect == Effect::Deny,
    };
    Conditional { holds, parts: when.0.parts(facts).iter().map(ToString::to_string).collect() }
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
            (None, None) => f.write_str("\n  because only policies in audit mode have rules about this service")?,
            (Some(DenyReason::Forbidden), Some(rule)) => write!(f, "\n  by rule {rule}, which denies it")?,
            (Some(reason), Some(rule)) => write!(f, "\n  because {reason}; nearest rule: {rule}")?,
            (Some(reason), None) => write!(f, "\n  because {reason}")?,
        }
        match &self.would_deny {
            Some(Denial { reason, rule: Some(rule) }) => {
                write!(f, "\n  would be denied if enforced: {reason} ({rule})")?
            }
            Some(Denial { reason, rule: None }) => write!(f, "\n  would be denied if enforced: {reason}")?,
            None => {}
        }
        for (rule, whose) in &self.approvals {
            write!(f, "\n  each call waits for {whose}, as rule {rule} says")?;
        }
        for considered in &self.considered {
            write!(f, "\n  - {}: {considered}", considered.rule)?;
        }
        if self.considered.is_empty() && self.other_rules_of_service > 0 {
            let count = self.other_rules_of_service;
            let (rules, are) = if count == 1 { ("rule", "is") } else { ("rules", "are") };
            write!(f, "\n  {count} {rules} {are} about service {service}, but not about this {kind}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Considered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.effect, self.matches()) {
            (Effect::Allow, true) if !self.counts => f.write_str("would allow")?,
            (Effect::Allow, true) => f.write_str("allows")?,
            (Effect::Deny, true) if self.mode == Mode::Audit => f.write_str("would deny")?,
            (Effect::Deny, true) => f.write_str("denies")?,
            (Effect::Allow, false) if self.missing.is_empty() => f.write_str("needs its condition")?,
            (Effect::Deny, false) if self.missing.is_empty() => f.write_str("denies only under its condition")?,
            (Effect::Allow, false) => write!(f, "needs {}", self.missing.join(" and "))?,
            (Effect::Deny, false) => write!(f, "denies only with {}", self.missing.join(" and "))?,
        }
        if self.mode == Mode::Audit {
            f.write_str(" (audit mode)")?;
        }
        let parts = self.condition.iter().flat_map(|condition| &condition.parts);
        parts.into_iter().try_for_each(|part| write!(f, "\n      when {part}"))
    }
}
