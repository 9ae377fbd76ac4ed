//! All rules in force, compiled and indexed by service, and the one question they answer: may this caller do that?
//!
//! A `PolicySet` is an immutable snapshot: it is built once per reload and shared behind a pointer. Deciding takes
//! no lock and allocates nothing; it costs one hash lookup plus one walk over the rules of that service.

use crate::capability::Capability;
use crate::limit::LimitRule;
use crate::principal::Principal;
use crate::rule::{Admits, Coverage, Rule, RuleId};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

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
    /// No rule covers the capability, for anybody.
    NoRule,
    /// Rules cover it, but the caller proved nothing about itself and they ask for that.
    NotAuthenticated,
    /// Rules cover it, but the caller lacks something that each of them requires.
    RequirementNotMet,
}

impl DenyReason {
    /// A closed label for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            DenyReason::NoRule => "no_rule",
            DenyReason::NotAuthenticated => "not_authenticated",
            DenyReason::RequirementNotMet => "requirement_not_met",
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DenyReason::NoRule => "no rule covers it",
            DenyReason::NotAuthenticated => "the caller is not authenticated",
            DenyReason::RequirementNotMet => "the caller does not meet what the rules require",
        })
    }
}

/// The answer to one call. Says which rule, for the log and the audit record; what of it the caller may learn is
/// for the reply phase to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead.
    Allow {
        /// The first rule that allows it.
        rule: RuleId,
    },
    /// Do not.
    Deny {
        /// Why.
        reason: DenyReason,
        /// The rule that would have allowed it with the fewest further requirements met.
        nearest: Option<RuleId>,
    },
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
    /// For each service that some rule names exactly: all rules that cover it, also those with patterns.
    by_service: HashMap<Box<str>, Box<[u32]>>,
    /// For every other service: the rules that name services by pattern.
    by_pattern: Box<[u32]>,
    /// A hash of each rule's content, same index as `rules`.
    fingerprints: Box<[u64]>,
    limits: Box<[Arc<LimitRule>]>,
    mtls: MtlsMode,
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
            coverage: Coverage::everything(),
            admits: Admits::Authenticated(Box::default()),
        };
        PolicySet::from_rules(vec![rule], Vec::new(), MtlsMode::Strict)
    }

    /// Indexes rules that are in their final order.
    pub(crate) fn from_rules(rules: Vec<Rule>, limits: Vec<Arc<LimitRule>>, mtls: MtlsMode) -> PolicySet {
        let named: BTreeSet<&str> =
            rules.iter().flat_map(|rule| rule.coverage.services.iter().filter_map(|glob| glob.exact())).collect();
        let indices = |wanted: &dyn Fn(&Rule) -> bool| -> Box<[u32]> {
            (0_u32..).zip(&rules).filter(|(_, rule)| wanted(rule)).map(|(index, _)| index).collect()
        };
        let by_service = named
            .into_iter()
            .map(|service| (Box::from(service), indices(&|rule| rule.coverage.covers_service(service))))
            .collect();
        let by_pattern = indices(&|rule| rule.coverage.services.iter().any(|glob| glob.exact().is_none()));
        let fingerprints = rules.iter().map(fingerprint).collect();
        PolicySet { rules: rules.into(), by_service, by_pattern, fingerprints, limits: limits.into(), mtls }
    }

    /// Decides one call.
    pub fn decide(&self, who: &Principal, what: &Capability<'_>) -> Decision {
        let mut nearest: Option<(usize, &RuleId)> = None;
        for rule in self.rules_of(what.service).filter(|rule| rule.coverage.covers_name(what)) {
            match rule.missing(who) {
                0 => {
                    return Decision::Allow { rule: rule.id.clone() };
                }
                missing if nearest.is_none_or(|(fewest, _)| missing < fewest) => nearest = Some((missing, &rule.id)),
                _ => {}
            }
        }
        let reason = match nearest {
            None => DenyReason::NoRule,
            Some(_) if who.is_anonymous() => DenyReason::NotAuthenticated,
            Some(_) => DenyReason::RequirementNotMet,
        };
        Decision::Deny { reason, nearest: nearest.map(|(_, id)| id.clone()) }
    }

    /// Whether anything at all of this service could be allowed to the caller: asked before a request fans out, so
    /// that a service is not even contacted for somebody who may use none of it.
    pub fn may_use_service(&self, who: &Principal, service: &str) -> bool {
        self.rules_of(service).any(|rule| rule.admits(who))
    }

    /// A number that two callers share when they satisfy the same rules, and therefore see the same lists: the key
    /// under which prepared lists are cached. Rules enter by content, so a reload that changes what a caller may
    /// see changes its class too.
    pub fn visibility_class(&self, who: &Principal) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (rule, fingerprint) in self.rules.iter().zip(&self.fingerprints) {
            if rule.admits(who) {
                hasher.write_u64(*fingerprint);
            }
        }
        hasher.finish()
    }

    /// The rate limits in force, for [`Limits`](crate::limit::Limits).
    pub fn limits(&self) -> &[Arc<LimitRule>] {
        &self.limits
    }

    /// Whether sidecars insist on client certificates.
    pub fn mtls_mode(&self) -> MtlsMode {
        self.mtls
    }

    /// Number of rules, for the log line of a reload.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// The rules that cover the service, in order.
    pub(crate) fn rules_of(&self, service: &str) -> impl Iterator<Item = &Rule> {
        let (indices, by_name) = match self.by_service.get(service) {
            Some(indices) => (indices, true),
            None => (&self.by_pattern, false),
        };
        indices
            .iter()
            .filter_map(|index| self.rules.get(*index as usize))
            .filter(move |rule| by_name || rule.coverage.covers_service(service))
    }
}

/// The same within one process; never stored or sent.
fn fingerprint(rule: &Rule) -> u64 {
    let mut hasher = DefaultHasher::new();
    rule.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
