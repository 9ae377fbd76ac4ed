//! What a call counts against, told for a store that several processes share. The buckets of this process are not asked.

use super::{Allowance, Limits, Per, Quota};
use crate::capability::Capability;
use crate::principal::Principal;
use crate::rule::RuleId;

/// One count that a call is held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// The limit or rule, as refusals name it.
    pub limit: String,
    /// What is counted: the limit, and the client, service or tool.
    pub key: String,
    /// How much of what.
    pub amount: Amount,
}

/// How much is taken of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// One call of a rate limit.
    Call(Per, Quota),
    /// One call of a rule's rate.
    RuleCall(Quota),
    /// So much of a rule's budget.
    Cost(Allowance, u64),
}

impl Limits {
    /// Everything that a call counts against, in the order in which it is asked. `rule` is the one that allows it; `cost` is
    /// asked only where there is a budget.
    pub fn charges(
        &self,
        who: &Principal,
        what: &Capability<'_>,
        rule: Option<&RuleId>,
        cost: impl FnOnce() -> u64,
    ) -> Vec<Charge> {
        let mut charges = Vec::new();
        for limit in &self.limits {
            let (coverage, per) = (&limit.rule.coverage, limit.rule.per);
            if !(coverage.covers_service(what.service) && coverage.counts_name(what)) {
                continue;
            }
            let counted = match per {
                Per::Client => who.id().to_owned(),
                Per::Service => what.service.to_owned(),
                Per::Tool => format!("{}\0{}\0{}", what.service, what.kind, what.name),
            };
            let name = limit.rule.name.to_string();
            charges.push(Charge {
                key: format!("{name}\0{counted}"),
                limit: name,
                amount: Amount::Call(per, limit.rule.quota),
            });
        }
        let Some(of_rule) = rule.and_then(|rule| self.of_rules.get(rule)) else { return charges };
        let limit = of_rule.limit.rule.to_string();
        let charge =
            |kind: &str, amount| Charge { key: format!("{limit}\0{kind}\0{}", who.id()), limit: limit.clone(), amount };
        charges.extend(of_rule.limit.quota.map(|quota| charge("rate", Amount::RuleCall(quota))));
        if let Some(allowance) = of_rule.limit.budget {
            let cost = cost();
            charges.extend((cost > 0).then(|| charge("budget", Amount::Cost(allowance, cost))));
        }
        charges
    }
}

#[cfg(test)]
mod tests {
    use super::{Amount, Charge};
    use crate::capability::{Capability, CapabilityKind};
    use crate::limit::{Allowance, Limits, Per, Quota};
    use crate::policy_set::PolicySet;
    use crate::principal::Principal;
    use std::time::Duration;

    const POLICY: &str = r#"
apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: p }
spec:
  authorization:
    rules:
      - { name: r, services: [vector], capabilities: ["*"], limits: { rate: 1/s, burst: 2 }, budget: { cost: 9, per: 1m } }
      - { name: free, services: [fs], capabilities: ["*"] }
  limits:
    - { name: each, per: client, rate: 5/s, burst: 5 }
    - { name: writes, per: tool, services: [fs], capabilities: ["write*"], rate: 1/s }
  costs:
    - { services: [vector], capabilities: [embed], cost: 4 }
    - { services: [vector], capabilities: [look], cost: 0 }
"#;

    fn charges(service: &str, name: &str) -> Vec<Charge> {
        let set = PolicySet::compile(&[("p.yaml", POLICY)]).unwrap();
        let (limits, ada) = (Limits::of_policy(&set, 64), Principal::user("ada").unwrap());
        let what = Capability { kind: CapabilityKind::Tool, service, name };
        let decision = set.decide(&ada, &what);
        let crate::policy_set::Decision::Allow { rule, .. } = decision else { panic!("{decision:?}") };
        limits.charges(&ada, &what, rule.as_ref(), || set.cost_of(&what))
    }

    #[test]
    fn a_call_counts_against_what_covers_it_and_against_the_rule_that_allows_it() {
        let quota = |count, burst| Quota::new(count, Duration::from_secs(1), burst).unwrap();
        let of = |charges: &[Charge]| charges.iter().map(|c| (c.limit.clone(), c.amount)).collect::<Vec<_>>();
        let each = ("p/each".to_owned(), Amount::Call(Per::Client, quota(5, 5)));
        let rate = ("p/r".to_owned(), Amount::RuleCall(quota(1, 2)));
        let cost = Amount::Cost(Allowance { most: 9, per: Duration::from_secs(60) }, 4);
        assert_eq!(of(&charges("fs", "read")), std::slice::from_ref(&each));
        let writes = ("p/writes".to_owned(), Amount::Call(Per::Tool, quota(1, 1)));
        assert_eq!(of(&charges("fs", "writeA")), [each.clone(), writes]);
        assert_eq!(of(&charges("vector", "embed")), [each.clone(), rate.clone(), ("p/r".to_owned(), cost)]);
        assert_eq!(of(&charges("vector", "look")), [each, rate], "what is free costs nothing");
    }

    #[test]
    fn what_is_counted_apart_has_keys_of_its_own() {
        let (a, b) = (charges("fs", "writeA"), charges("fs", "writeB"));
        assert_eq!(a[0].key, b[0].key, "one client");
        assert_ne!(a[1].key, b[1].key, "two tools");
        let keys: std::collections::HashSet<_> = charges("vector", "embed").into_iter().map(|c| c.key).collect();
        assert_eq!(keys.len(), 3);
    }
}
