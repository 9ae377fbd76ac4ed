//! How often: the one rate limiting engine, over an injected clock.
//!
//! A limit counts per client, per service or per tool. Finding the buckets of a call needs a table lookup under a
//! lock; callers therefore resolve handles once (per client session, per catalog entry) and keep them, and a call
//! then costs a few atomic operations:
//!
//! ```text
//!  Limits::for_client(who)  ----\
//!                                >-- check(client, capability, now) -> Ok | Limited { limit, retry_after }
//!  Limits::for_capability(what) /
//! ```
//!
//! Everything here is per process: two replicas of an ingress each grant the full rate.

mod breaker;
mod bucket;
mod charge;
mod concurrency;
mod keys;
mod per_rule;
mod spending;

pub use breaker::{BreakerRule, Breakers};
pub use bucket::{Bucket, MAX_BURST, MAX_PER_SECOND, Nanos, Quota, Taken};
pub use charge::{Amount, Charge};
pub use concurrency::{Concurrency, ConcurrencyPermit};
pub use per_rule::{Exceeded, RuleLimit};
pub use spending::{Allowance, Spending};

use crate::capability::Capability;
use crate::policy_set::PolicySet;
use crate::principal::Principal;
use crate::rule::{Coverage, RuleId};
use keys::KeyTable;
use per_rule::OfRule;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// Most keys (clients, services or tools) that one limit tells apart, by default: at under 100 bytes each, 8192
/// cost less than a megabyte when all are in use at once.
pub const DEFAULT_MAX_KEYS: usize = 8192;

/// What each bucket of a limit stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// One bucket per caller ([`Principal::id`]); all anonymous callers share one.
    Client,
    /// One bucket per service, whoever calls.
    Service,
    /// One bucket per capability of a service, whoever calls.
    Tool,
}

impl Per {
    /// Every way of counting, in documentation order.
    pub const ALL: [Per; 3] = [Per::Client, Per::Service, Per::Tool];

    /// The word used in policy files and as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Per::Client => "client",
            Per::Service => "service",
            Per::Tool => "tool",
        }
    }
}

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One rate limit of the policy, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRule {
    /// `<policy name>/<limit name>`.
    pub(crate) name: Arc<str>,
    pub(crate) per: Per,
    pub(crate) coverage: Coverage,
    pub(crate) quota: Quota,
}

/// The refusal of a call that came too soon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rate limit {limit} (per {per}) reached; try again in {} ms", retry_after.as_millis().max(1))]
pub struct Limited {
    /// The limit, `<policy name>/<limit name>`. Where several refuse: the one with the longest wait.
    pub limit: Arc<str>,
    /// What it counts.
    pub per: Per,
    /// When a further call can be admitted, counted from the time that was passed in.
    pub retry_after: Duration,
}

/// The rate limits in force, with their state. An immutable snapshot like the policy it comes from, except for the
/// buckets.
#[derive(Debug)]
pub struct Limits {
    limits: Box<[Arc<Limit>]>,
    of_rules: HashMap<RuleId, Arc<OfRule>>,
    max_keys: usize,
}

/// One limit with its buckets.
#[derive(Debug)]
struct Limit {
    rule: Arc<LimitRule>,
    buckets: KeyTable,
}

/// The buckets of one client, resolved once and kept while the client is known.
#[derive(Debug, Clone)]
pub struct ClientLimits {
    principal: Principal,
    held: Box<[Held]>,
}

/// The limits that apply to one capability, with the buckets that do not depend on the client.
#[derive(Debug, Clone)]
pub struct CapabilityLimits {
    per_client: Box<[Arc<Limit>]>,
    shared: Box<[Held]>,
}

/// A limit with one of its buckets.
#[derive(Debug, Clone)]
struct Held {
    limit: Arc<Limit>,
    bucket: Arc<Bucket>,
}

impl Limits {
    /// The limits of a policy, with full buckets. `max_keys` bounds the buckets of each limit
    /// ([`DEFAULT_MAX_KEYS`]).
    pub fn new(rules: &[Arc<LimitRule>], max_keys: usize) -> Limits {
        Limits { limits: Box::default(), of_rules: HashMap::new(), max_keys }.reload(rules)
    }

    /// All limits of a policy, those that stand in its rules too, with full buckets.
    pub fn of_policy(policy: &PolicySet, max_keys: usize) -> Limits {
        Limits::new(&[], max_keys).reload_policy(policy)
    }

    /// All limits of a changed policy. One that has not changed keeps what was used of it.
    #[must_use]
    pub fn reload_policy(&self, policy: &PolicySet) -> Limits {
        let keep_or_make = |limit: &Arc<RuleLimit>| match self.of_rules.get(&limit.rule) {
            Some(kept) if kept.limit == *limit => Arc::clone(kept),
            _ => Arc::new(OfRule::new(limit, self.max_keys)),
        };
        let of_rules = policy.rule_limits().map(|limit| (limit.rule.clone(), keep_or_make(limit))).collect();
        Limits { of_rules, ..self.reload(policy.limits()) }
    }

    /// The limits of a changed policy. A limit that has not changed keeps its buckets, so a reload gives nobody a
    /// fresh burst; handles resolved before stay valid for the limits they were resolved from.
    #[must_use]
    pub fn reload(&self, rules: &[Arc<LimitRule>]) -> Limits {
        let keep_or_make = |rule: &Arc<LimitRule>| match self.limits.iter().find(|limit| limit.rule == *rule) {
            Some(limit) => Arc::clone(limit),
            None => Arc::new(Limit { rule: Arc::clone(rule), buckets: KeyTable::new(self.max_keys) }),
        };
        let limits = rules.iter().map(keep_or_make).collect();
        Limits { limits, of_rules: self.of_rules.clone(), max_keys: self.max_keys }
    }

    /// Resolves the buckets of a client. Takes a lock per client limit; keep the result.
    pub fn for_client(&self, who: &Principal, now: Nanos) -> ClientLimits {
        let of_client = self.limits.iter().filter(|limit| limit.rule.per == Per::Client);
        let held = of_client.map(|limit| limit.hold(limit.client_bucket(who, now))).collect();
        ClientLimits { principal: who.clone(), held }
    }

    /// Resolves the limits and buckets of a capability. Takes a lock per limit; keep the result beside the
    /// capability's catalog entry for as long as this `Limits` is in force.
    pub fn for_capability(&self, what: &Capability<'_>, now: Nanos) -> CapabilityLimits {
        let (mut per_client, mut shared) = (Vec::new(), Vec::new());
        for limit in &self.limits {
            let coverage = &limit.rule.coverage;
            if !coverage.covers_service(what.service) || !coverage.counts_name(what) {
                continue;
            }
            match limit.rule.per {
                Per::Client => per_client.push(Arc::clone(limit)),
                Per::Service => shared.push(limit.hold(limit.buckets.bucket(&what.service, now))),
                Per::Tool => shared.push(limit.hold(limit.buckets.bucket(what, now))),
            }
        }
        // The most shared buckets are taken last: what races for a client's own bucket is then refused before it
        // has touched one that others wait for.
        shared.sort_by_key(|held| held.limit.rule.per == Per::Service);
        CapabilityLimits { per_client: per_client.into(), shared: shared.into() }
    }

    /// Takes one token from every bucket of the call, or from none.
    ///
    /// # Errors
    /// [`Limited`] names the limit that makes the caller wait longest.
    pub fn check(client: &ClientLimits, capability: &CapabilityLimits, now: Nanos) -> Result<(), Limited> {
        let buckets = || capability.buckets(client, now);
        let refusals = buckets()
            .filter_map(|(limit, bucket)| bucket.peek(&limit.rule.quota, now).err().map(|wait| limit.refuse(wait)));
        match refusals.max_by_key(|refusal| refusal.retry_after) {
            Some(refusal) => Err(refusal),
            None => take_all(buckets(), now),
        }
    }

    /// Counts a call that `rule` allows against the limits that stand in the rule. `cost` is asked only where there is a
    /// budget. Costs nothing where no rule has limits, and a lock where this one has.
    ///
    /// # Errors
    /// [`Exceeded`]; the call is then not counted.
    pub fn check_rule(
        &self,
        rule: Option<&RuleId>,
        who: &Principal,
        cost: impl FnOnce() -> u64,
        now: Nanos,
    ) -> Result<(), Exceeded> {
        if self.of_rules.is_empty() {
            return Ok(());
        }
        rule.and_then(|rule| self.of_rules.get(rule)).map_or(Ok(()), |limits| limits.check(who, cost, now))
    }

    /// Forgets the keys that no call needs remembered; to be called now and then (a minute is fine) so that memory
    /// falls after a rush. Gives the number forgotten.
    pub fn forget_idle(&self, now: Nanos) -> usize {
        let of_rules: usize = self.of_rules.values().map(|limits| limits.forget_idle(now)).sum();
        of_rules + self.limits.iter().map(|limit| limit.buckets.forget_idle(now)).sum::<usize>()
    }

    /// Number of keys held over all limits, for a gauge.
    pub fn keys(&self) -> usize {
        let of_rules: usize = self.of_rules.values().map(|limits| limits.keys()).sum();
        of_rules + self.limits.iter().map(|limit| limit.buckets.len()).sum::<usize>()
    }
}

impl CapabilityLimits {
    /// Every bucket of a call: the client's own first.
    fn buckets<'a>(&'a self, client: &'a ClientLimits, now: Nanos) -> impl Iterator<Item = (&'a Limit, BucketRef<'a>)> {
        let own = self.per_client.iter().map(move |limit| (&**limit, client.bucket(limit, now)));
        let shared = self.shared.iter().map(|held| (&*held.limit, BucketRef::Held(&held.bucket)));
        own.chain(shared)
    }
}

impl ClientLimits {
    /// The client's bucket of a limit. Handles from before a reload may lack it; then it is looked up, which costs
    /// a lock and is right all the same.
    fn bucket(&self, limit: &Arc<Limit>, now: Nanos) -> BucketRef<'_> {
        match self.held.iter().find(|held| Arc::ptr_eq(&held.limit, limit)) {
            Some(held) => BucketRef::Held(&held.bucket),
            None => BucketRef::LookedUp(limit.client_bucket(&self.principal, now)),
        }
    }
}

impl Limit {
    fn client_bucket(&self, who: &Principal, now: Nanos) -> Arc<Bucket> {
        self.buckets.bucket(&who.id(), now)
    }

    fn hold(self: &Arc<Self>, bucket: Arc<Bucket>) -> Held {
        Held { limit: Arc::clone(self), bucket }
    }

    fn refuse(&self, retry_after: Duration) -> Limited {
        Limited { limit: Arc::clone(&self.rule.name), per: self.rule.per, retry_after }
    }
}

enum BucketRef<'a> {
    Held(&'a Bucket),
    LookedUp(Arc<Bucket>),
}

impl Deref for BucketRef<'_> {
    type Target = Bucket;

    fn deref(&self) -> &Bucket {
        match self {
            BucketRef::Held(bucket) => bucket,
            BucketRef::LookedUp(bucket) => bucket,
        }
    }
}

/// Takes from each bucket; gives back what was taken when a later one refuses, which after the peek happens only to
/// calls that race each other. Recursion keeps what was taken on the stack; its depth is the number of limits that
/// apply to one call, which the policy compiler bounds.
fn take_all<'a>(mut buckets: impl Iterator<Item = (&'a Limit, BucketRef<'a>)>, now: Nanos) -> Result<(), Limited> {
    fn step<'a>(rest: &mut dyn Iterator<Item = (&'a Limit, BucketRef<'a>)>, now: Nanos) -> Result<(), Limited> {
        let Some((limit, bucket)) = rest.next() else {
            return Ok(());
        };
        let taken = bucket.take(&limit.rule.quota, now).map_err(|wait| limit.refuse(wait))?;
        step(rest, now).inspect_err(|_| bucket.give_back(taken))
    }
    step(&mut buckets, now)
}

#[cfg(test)]
mod tests;
