//! All rules in force, compiled and indexed, and the one question they answer: may this caller do that?
//!
//! A `PolicySet` is an immutable snapshot: it is built once per reload and shared behind a pointer. Deciding takes no
//! lock and allocates nothing; it costs a few hash lookups plus a walk over the rules that are left (`index.rs`).
//!
//! A call is denied if a rule denies it, else allowed if a rule allows it, else denied. Rules of documents in audit mode
//! deny nothing: what they would deny is told instead. Their allowing rules count only for services about which no other
//! document has any (`modes.rs`); such a service is open to every authenticated caller.

mod index;
mod modes;
mod quick;
mod scopes;

use crate::approval::Approval;
use crate::capability::Capability;
use crate::condition::{Circumstances, Facts, Listed, Memo, Truth, When};
use crate::limit::{LimitRule, RuleLimit};
use crate::principal::Principal;
use crate::rule::{Admits, Cost, Coverage, Effect, Mode, Rule, RuleId, Shown};
use index::Index;
use modes::Modes;
use serde::Serialize;
use std::convert::Infallible;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

/// A denial looks at no more rules than this for the one that came nearest to allowing the call.
const MAX_NEAR: usize = 32;

/// Whether sidecars insist on client certificates (`spec.authentication.mtls.mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MtlsMode {
    /// A caller without a certificate of the mesh is refused in the handshake. The default.
    #[default]
    Strict,
    /// A caller without a certificate is let through as anonymous, for moving a fleet over; rules still decide.
    Permissive,
}

/// Why a call was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DenyReason {
    /// A rule denies it.
    Forbidden,
    /// No rule covers the capability, for anybody.
    NoRule,
    /// Rules cover it, but the caller proved nothing about itself and they ask for that.
    NotAuthenticated,
    /// Rules cover it, but the caller lacks something that each of them requires.
    RequirementNotMet,
    /// The caller has what is required, but the condition of the rule does not hold.
    ConditionNotMet,
    /// A condition could not be evaluated, of a rule that denies or of one that would have to allow.
    ConditionFailed,
}

impl DenyReason {
    /// A closed label for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            DenyReason::Forbidden => "forbidden",
            DenyReason::NoRule => "no_rule",
            DenyReason::NotAuthenticated => "not_authenticated",
            DenyReason::RequirementNotMet => "requirement_not_met",
            DenyReason::ConditionNotMet => "condition_not_met",
            DenyReason::ConditionFailed => "condition_failed",
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DenyReason::Forbidden => "a rule denies it",
            DenyReason::NoRule => "no rule covers it",
            DenyReason::NotAuthenticated => "the caller is not authenticated",
            DenyReason::RequirementNotMet => "the caller does not meet what the rules require",
            DenyReason::ConditionNotMet => "the condition of the rule does not hold",
            DenyReason::ConditionFailed => "the condition of the rule cannot be evaluated",
        })
    }
}

/// A refusal. Says which rule, for the log and the audit record; what of it the caller may learn is for the reply
/// phase to decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// Why.
    pub reason: DenyReason,
    /// The rule that denies it, else the one that would have allowed it with the fewest further requirements met.
    pub rule: Option<RuleId>,
}

/// The answer to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead.
    Allow {
        /// The first rule that allows it; none where only documents in audit mode have rules, and none allows it.
        rule: Option<RuleId>,
        /// What documents in audit mode would have answered.
        would_deny: Option<Denial>,
    },
    /// Do not.
    Deny(Denial),
}

impl Decision {
    /// Whether the call may go ahead.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow { .. })
    }
}

/// All rules in force.
#[derive(Debug, Clone)]
pub struct PolicySet {
    /// Sorted by policy name, then as written, so that the order of files and documents has no effect.
    pub(crate) rules: Box<[Rule]>,
    allowing: Index,
    denying: Index,
    /// Those that want approval.
    approving: Index,
    modes: Modes,
    /// A hash of each rule's content, same index as `rules`.
    fingerprints: Box<[u64]>,
    limits: Box<[Arc<LimitRule>]>,
    costs: Box<[Cost]>,
    /// Rules that show arguments in the audit.
    showing: Box<[(RuleId, Arc<Shown>)]>,
    mtls: MtlsMode,
}

/// The first of the rules that deny a call, of either mode.
#[derive(Debug, Default)]
struct Forbidding {
    enforced: Option<Denial>,
    audited: Option<Denial>,
}

/// What came of asking the rules that allow.
struct Allowing<'a> {
    /// The first that allows the call.
    rule: Option<&'a Rule>,
    /// One whose condition could not be evaluated.
    failed: Option<&'a Rule>,
    /// The first that only its condition keeps from allowing it.
    unmet: Option<&'a Rule>,
}

/// What a rule says to a request.
enum Says {
    /// It is about it.
    Yes,
    /// It is not.
    No,
    /// It would be, but for its condition.
    Unmet,
    /// Its condition cannot be evaluated.
    Failed,
}

impl PolicySet {
    /// The set without any rule: denies everything.
    pub fn deny_all() -> PolicySet {
        PolicySet::from_rules(Vec::new(), Vec::new(), MtlsMode::Strict)
    }

    /// Allows everything to every authenticated caller. For a sidecar without a policy file: its handshake has
    /// already limited callers to the mesh. Anonymous callers are still denied.
    pub fn allow_all() -> PolicySet {
        let rule = Rule {
            id: RuleId::new("built-in", "authenticated"),
            effect: Effect::Allow,
            mode: Mode::Enforce,
            coverage: Coverage::everything(),
            admits: Admits::Authenticated(Box::default()),
            when: None,
            limit: None,
            approval: None,
            shown: None,
        };
        PolicySet::from_rules(vec![rule], Vec::new(), MtlsMode::Strict)
    }

    /// Indexes rules that are in their final order.
    pub(crate) fn from_rules(rules: Vec<Rule>, limits: Vec<Arc<LimitRule>>, mtls: MtlsMode) -> PolicySet {
        let showing =
            rules.iter().filter_map(|rule| Some((rule.id.clone(), Arc::clone(rule.shown.as_ref()?)))).collect();
        PolicySet {
            allowing: Index::new(&rules, |rule| rule.effect == Effect::Allow),
            denying: Index::new(&rules, |rule| rule.effect == Effect::Deny),
            approving: Index::new(&rules, |rule| rule.approval.is_some()),
            modes: Modes::new(&rules),
            fingerprints: rules.iter().map(hash).collect(),
            rules: rules.into(),
            limits: limits.into(),
            costs: Box::default(),
            showing,
            mtls,
        }
    }

    pub(crate) fn with_costs(self, costs: Vec<Cost>) -> PolicySet {
        PolicySet { costs: costs.into(), ..self }
    }

    /// Decides whether something may be listed, as far as that can be told before a call: what depends on the call alone
    /// counts as allowed.
    pub fn decide(&self, who: &Principal, what: &Capability<'_>) -> Decision {
        self.decide_in(who, what, &Listed(None))
    }

    /// Decides one request under its circumstances.
    pub fn decide_in(&self, who: &Principal, what: &Capability<'_>, circumstances: &dyn Circumstances) -> Decision {
        let facts = Facts { who, what, circumstances, memo: Memo::new() };
        let forbidding = self.forbidding(&facts);
        if let Some(denial) = forbidding.enforced {
            return Decision::Deny(denial);
        }
        let open = self.modes.is_open(what.service);
        let would_deny = forbidding.audited;
        let allowing = self.allowing(&facts, open);
        if let Some(rule) = allowing.rule {
            return Decision::Allow { rule: Some(rule.id.clone()), would_deny };
        }
        let denial = match allowing.failed {
            Some(rule) => Denial { reason: DenyReason::ConditionFailed, rule: Some(rule.id.clone()) },
            None => self.not_allowed(who, what, open, allowing.unmet),
        };
        if open && !who.is_anonymous() {
            return Decision::Allow { rule: None, would_deny: would_deny.or(Some(denial)) };
        }
        Decision::Deny(denial)
    }

    /// Whether [`PolicySet::decide_in`] allows it, without saying why: for the many entries of a list.
    pub fn allows_in(&self, who: &Principal, what: &Capability<'_>, circumstances: &dyn Circumstances) -> bool {
        let facts = Facts { who, what, circumstances, memo: Memo::new() };
        if self.forbidding(&facts).enforced.is_some() {
            return false;
        }
        let open = self.modes.is_open(what.service);
        (open && !who.is_anonymous()) || self.allowing(&facts, open).rule.is_some()
    }

    /// Whether anything at all of this service could be allowed to the caller: asked before a request fans out, so
    /// that a service is not even contacted for somebody who may use none of it.
    pub fn may_use_service(&self, who: &Principal, service: &str) -> bool {
        let closes = |rule: &Rule| {
            rule.mode == Mode::Enforce
                && rule.when.is_none()
                && rule.coverage.is_whole_service()
                && rule.coverage.covers_service(service)
                && rule.admits(who)
        };
        let open = self.modes.is_open(service);
        let opens = |rule: &Rule| self.counts(rule, open) && rule.coverage.covers_service(service) && rule.admits(who);
        let denied = self.denying.lists_of_service(who, service, |list| self.any(list, closes)).is_break();
        !denied
            && ((open && !who.is_anonymous())
                || self.allowing.lists_of_service(who, service, |list| self.any(list, opens)).is_break())
    }

    /// A number that two callers share when they satisfy the same rules, and therefore see the same lists: the key
    /// under which prepared lists are cached. Rules enter by content, so a reload that changes what a caller may
    /// see changes its class too.
    pub fn visibility_class(&self, who: &Principal) -> u64 {
        // A condition may tell any two callers apart.
        let mut personal = false;
        // Summed, because the order in which rules are found differs between callers.
        let mut sum = self.modes.class(who);
        for index in [&self.allowing, &self.denying] {
            let _: ControlFlow<Infallible> = index.lists_about(who, |list| {
                for (rule, at) in self.rules_at(list) {
                    if rule.admits(who) {
                        let fingerprint = self.fingerprints.get(at).copied().unwrap_or_default();
                        sum = sum.wrapping_add(fingerprint);
                        personal |= rule.when.as_ref().is_some_and(|when| when.0.reads().principal);
                    }
                }
                ControlFlow::Continue(())
            });
        }
        if personal { sum.wrapping_add(hash(who)) } else { sum }
    }

    /// The rate limits in force, for [`Limits`](crate::limit::Limits).
    pub fn limits(&self) -> &[Arc<LimitRule>] {
        &self.limits
    }

    /// The limits that stand in rules.
    pub(crate) fn rule_limits(&self) -> impl Iterator<Item = &Arc<RuleLimit>> {
        self.rules.iter().filter_map(|rule| rule.limit.as_ref())
    }

    /// What a call costs, for budgets: the most that is said of it, else 1. Asks every cost.
    pub fn cost_of(&self, what: &Capability<'_>) -> u64 {
        let covers = |cost: &&Cost| cost.coverage.covers_service(what.service) && cost.coverage.counts_name(what);
        self.costs.iter().filter(covers).map(|cost| cost.cost).max().unwrap_or(1)
    }

    /// Whether any rule wants calls to be approved.
    pub fn asks_approval(&self) -> bool {
        !self.approving.is_empty()
    }

    /// Whose word a call that is allowed waits for: of every rule that wants it and is about the call.
    ///
    /// # Errors
    /// The first rule of which that cannot be told, because its condition cannot be evaluated: the call is denied.
    pub fn approvals_in(
        &self,
        who: &Principal,
        what: &Capability<'_>,
        circumstances: &dyn Circumstances,
    ) -> Result<Vec<(RuleId, Arc<Approval>)>, RuleId> {
        let facts = Facts { who, what, circumstances, memo: Memo::new() };
        let mut wanted = Vec::new();
        let failed = self.approving.lists_for(who, what, |list| {
            for (rule, at) in self.rules_at(list) {
                match (says(rule, &facts), &rule.approval) {
                    (Says::Failed, _) => return ControlFlow::Break(rule.id.clone()),
                    (Says::Yes, Some(approval)) => wanted.push((at, rule.id.clone(), Arc::clone(approval))),
                    (Says::Yes | Says::No | Says::Unmet, _) => {}
                }
            }
            ControlFlow::Continue(())
        });
        if let ControlFlow::Break(rule) = failed {
            return Err(rule);
        }
        wanted.sort_unstable_by_key(|(at, ..)| *at);
        wanted.dedup_by_key(|(at, ..)| *at);
        Ok(wanted.into_iter().map(|(_, rule, approval)| (rule, approval)).collect())
    }

    /// A number that another set of rules does not have.
    pub fn version(&self) -> u64 {
        hash(&self.fingerprints)
    }

    /// The arguments that the audit shows of a call about which this rule decided. Asks every rule that shows any.
    pub fn shown(&self, rule: &RuleId) -> Option<&Arc<Shown>> {
        self.showing.iter().find(|(id, _)| id == rule).map(|(_, shown)| shown)
    }

    /// Whether sidecars insist on client certificates.
    pub fn mtls_mode(&self) -> MtlsMode {
        self.mtls
    }

    /// Number of rules, for the log line of a reload.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// The rules that cover the service, in order. Asks each; for explanations.
    pub(crate) fn rules_of(&self, service: &str) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.coverage.covers_service(service))
    }

    /// Whether a rule has a say in the answer: those that allow in audit mode have one only where the service is open.
    pub(crate) fn counts(&self, rule: &Rule, open: bool) -> bool {
        open || rule.mode == Mode::Enforce || rule.effect == Effect::Deny
    }

    /// Whether only documents in audit mode rule over the service, so that nothing is denied to the authenticated.
    pub(crate) fn is_open(&self, service: &str) -> bool {
        self.modes.is_open(service)
    }

    fn forbidding(&self, facts: &Facts<'_>) -> Forbidding {
        let mut found = Forbidding::default();
        if self.denying.is_empty() {
            return found;
        }
        let (mut enforced, mut audited) = (usize::MAX, usize::MAX);
        let mut look = |list: &[u32]| {
            for (rule, at) in self.rules_at(list) {
                let (first, slot) = match rule.mode {
                    Mode::Enforce => (&mut enforced, &mut found.enforced),
                    Mode::Audit => (&mut audited, &mut found.audited),
                };
                if at >= *first {
                    continue;
                }
                let reason = match says(rule, facts) {
                    Says::No | Says::Unmet => continue,
                    Says::Yes => DenyReason::Forbidden,
                    Says::Failed => DenyReason::ConditionFailed,
                };
                (*first, *slot) = (at, Some(Denial { reason, rule: Some(rule.id.clone()) }));
            }
            ControlFlow::<Infallible>::Continue(())
        };
        // Where the text of a name says little about where it leads, rules cannot be found by it.
        let _ = match facts.what.hides() {
            true => self.denying.lists_of_service(facts.who, facts.what.service, &mut look),
            false => self.denying.lists_for(facts.who, facts.what, &mut look),
        };
        found
    }

    /// The first rule that allows the request.
    fn allowing(&self, facts: &Facts<'_>, open: bool) -> Allowing<'_> {
        let mut first: Option<(usize, &Rule)> = None;
        let mut failed: Option<(usize, &Rule)> = None;
        let mut unmet: Option<(usize, &Rule)> = None;
        let before = |found: Option<(usize, &Rule)>, at: usize| found.is_none_or(|(best, _)| at < best);
        let _: ControlFlow<Infallible> = self.allowing.lists_for(facts.who, facts.what, |list| {
            for (rule, at) in self.rules_at(list).take_while(|(_, at)| before(first, *at)) {
                if !self.counts(rule, open) {
                    continue;
                }
                match says(rule, facts) {
                    Says::No => {}
                    Says::Failed if before(failed, at) => failed = Some((at, rule)),
                    Says::Unmet if before(unmet, at) => unmet = Some((at, rule)),
                    Says::Failed | Says::Unmet => {}
                    Says::Yes => {
                        first = Some((at, rule));
                        break;
                    }
                }
            }
            ControlFlow::Continue(())
        });
        let rule = |found: Option<(usize, _)>| found.map(|(_, rule)| rule);
        Allowing { rule: rule(first), failed: rule(failed), unmet: rule(unmet) }
    }

    /// Why no rule allows the call: the first that only its condition kept from it, or one that the caller lacks least for.
    fn not_allowed(&self, who: &Principal, what: &Capability<'_>, open: bool, unmet: Option<&Rule>) -> Denial {
        if let Some(rule) = unmet {
            return Denial { reason: DenyReason::ConditionNotMet, rule: Some(rule.id.clone()) };
        }
        let mut nearest: Option<(usize, usize, &Rule)> = None;
        let mut left = MAX_NEAR;
        let _ = self.allowing.lists_covering(what, |list| {
            for (rule, at) in self.rules_at(list) {
                if left == 0 {
                    return ControlFlow::Break(());
                }
                // Nothing is missing for none of them, or it would be above; less than one thing cannot be.
                if nearest.is_some_and(|(fewest, first, _)| fewest <= 1 && first < at) {
                    break;
                }
                left -= 1;
                if self.counts(rule, open) && rule.coverage.covers_service(what.service) && rule.covers_name(what) {
                    let missing = rule.missing(who);
                    if nearest.is_none_or(|(fewest, first, _)| (missing, at) < (fewest, first)) {
                        nearest = Some((missing, at, rule));
                    }
                }
            }
            ControlFlow::Continue(())
        });
        let reason = match nearest {
            None => DenyReason::NoRule,
            Some(_) if who.is_anonymous() => DenyReason::NotAuthenticated,
            Some(_) => DenyReason::RequirementNotMet,
        };
        Denial { reason, rule: nearest.map(|(_, _, rule)| rule.id.clone()) }
    }

    fn any(&self, list: &[u32], wanted: impl Fn(&Rule) -> bool) -> ControlFlow<()> {
        match self.rules_at(list).any(|(rule, _)| wanted(rule)) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn rules_at<'a>(&'a self, list: &[u32]) -> impl Iterator<Item = (&'a Rule, usize)> {
        list.iter().filter_map(|at| Some((self.rules.get(*at as usize)?, *at as usize)))
    }
}

/// Whether the rule is about this request.
fn says(rule: &Rule, facts: &Facts<'_>) -> Says {
    let Facts { who, what, .. } = facts;
    if !(rule.coverage.covers_service(what.service) && rule.covers_name(what) && rule.admits(who)) {
        return Says::No;
    }
    let Some(When(condition)) = &rule.when else { return Says::Yes };
    match condition.evaluate(facts) {
        Ok(Truth::True) => Says::Yes,
        Ok(Truth::False) => Says::Unmet,
        // Something is listed if some call of it could be allowed.
        Ok(Truth::Unknown) if rule.effect == Effect::Allow => Says::Yes,
        Ok(Truth::Unknown) => Says::No,
        Err(_) => Says::Failed,
    }
}

/// The same within one process; never stored or sent.
fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
