//! Limits that stand in a rule: how often, and for how much, each caller may do what the rule allows.

use std::sync::Arc;
use std::time::Duration;

use super::bucket::{Bucket, Nanos, Quota};
use super::keys::KeyTable;
use super::spending::{Allowance, Spending};
use crate::principal::Principal;
use crate::rule::RuleId;

/// The limits of one rule, compiled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleLimit {
    pub(crate) rule: RuleId,
    /// Calls of each caller.
    pub(crate) quota: Option<Quota>,
    /// What the calls of each caller may cost.
    pub(crate) budget: Option<Allowance>,
}

/// The refusal of a call that a rule allows, but not that often or not for that much.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {} of rule {rule} is used up; try again in {} ms", if *.of_budget { "budget" } else { "rate" }, retry_after.as_millis().max(1))]
pub struct Exceeded {
    /// The rule.
    pub rule: RuleId,
    /// It is the budget that is used up, not the rate.
    pub of_budget: bool,
    /// When a further call can be admitted. A call that costs more than the whole budget never can.
    pub retry_after: Duration,
}

/// The limits of one rule with what its callers have used of them.
#[derive(Debug)]
pub(super) struct OfRule {
    pub(super) limit: Arc<RuleLimit>,
    rates: KeyTable<Bucket>,
    spent: KeyTable<Spending>,
}

impl OfRule {
    pub(super) fn new(limit: &Arc<RuleLimit>, max_keys: usize) -> OfRule {
        OfRule { limit: Arc::clone(limit), rates: KeyTable::new(max_keys), spent: KeyTable::new(max_keys) }
    }

    /// Counts a call, whole or not at all.
    pub(super) fn check(&self, who: &Principal, cost: impl FnOnce() -> u64, now: Nanos) -> Result<(), Exceeded> {
        let refuse = |of_budget, retry_after| Exceeded { rule: self.limit.rule.clone(), of_budget, retry_after };
        let taken = match &self.limit.quota {
            Some(quota) => {
                let bucket = self.rates.bucket(&who.id(), now);
                let taken = bucket.take(quota, now).map_err(|wait| refuse(false, wait))?;
                Some((bucket, taken))
            }
            None => None,
        };
        let Some(allowance) = &self.limit.budget else { return Ok(()) };
        let cost = cost();
        if cost == 0 {
            return Ok(());
        }
        self.spent.bucket(&who.id(), now).spend(allowance, cost, now).map_err(|wait| {
            if let Some((bucket, taken)) = taken {
                bucket.give_back(taken);
            }
            refuse(true, wait)
        })
    }

    pub(super) fn forget_idle(&self, now: Nanos) -> usize {
        self.rates.forget_idle(now) + self.spent.forget_idle(now)
    }

    pub(super) fn keys(&self) -> usize {
        self.rates.len() + self.spent.len()
    }
}
