//! How much a rule lets through: requests, connections and bytes, for each destination that it names. The engines are those
//! of the limits of calls.

use std::sync::Arc;
use std::time::Duration;

use super::rule::{Destination, EgressRule};
use super::rules::{Allowed, Rules};
use crate::limit::{Allowance, Bucket, Concurrency, ConcurrencyPermit, Nanos, Quota, Spending};

/// The limits of one rule; each destination of it has them for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// Tunnels and requests that begin.
    pub rate: Option<Quota>,
    /// Tunnels and requests that are open.
    pub connections: Option<usize>,
    /// Bytes to the destination.
    pub bytes_out: Option<Allowance>,
}

/// Which limit was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Too many in this time; try again then.
    Rate(Duration),
    /// Too many at once.
    Connections,
    /// Too much was sent; more from then on.
    Bytes(Duration),
}

/// The counts of one destination of one rule.
#[derive(Debug)]
pub struct Meter {
    budget: Budget,
    taken: Bucket,
    open: Option<Arc<Concurrency>>,
    sent: Spending,
}

/// The counts of all destinations whose rules have limits.
#[derive(Debug, Default)]
pub struct Meters(Vec<Box<[Arc<Meter>]>>);

impl Over {
    /// The word in logs, answers and settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Over::Rate(_) => "rate",
            Over::Connections => "connections",
            Over::Bytes(_) => "bytes_out",
        }
    }

    /// When another try makes sense.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Over::Rate(wait) | Over::Bytes(wait) => Some(wait),
            Over::Connections => None,
        }
    }
}

impl Meter {
    fn new(budget: Budget) -> Self {
        Self {
            budget,
            taken: Bucket::default(),
            open: budget.connections.map(Concurrency::new),
            sent: Spending::default(),
        }
    }

    /// Something begins: takes its place, and a token. The permit is to be held for as long as it is open.
    ///
    /// # Errors
    /// [`Over`]; then nothing is taken.
    pub fn enter(&self, now: Nanos) -> Result<Option<ConcurrencyPermit>, Over> {
        let permit = match &self.open {
            Some(open) => Some(open.try_acquire().ok_or(Over::Connections)?),
            None => None,
        };
        self.send(0, now)?;
        if let Some(rate) = &self.budget.rate {
            // Spent whatever becomes of it.
            let _taken = self.taken.take(rate, now).map_err(Over::Rate)?;
        }
        Ok(permit)
    }

    /// Bytes are about to be sent.
    ///
    /// # Errors
    /// [`Over`]; then none of them may be.
    pub fn send(&self, bytes: u64, now: Nanos) -> Result<(), Over> {
        self.budget.bytes_out.iter().try_for_each(|most| self.sent.spend(most, bytes, now)).map_err(Over::Bytes)
    }
}

impl Meters {
    /// The meters of rules. Destinations whose rule has the same limits as `before` keep their counts, so that a reload
    /// gives nobody a fresh start.
    pub fn new(rules: &Rules, before: Option<(&Rules, &Meters)>) -> Meters {
        let kept = |rule: &EgressRule, destination: &Destination| {
            let (rules, meters) = before?;
            let at = rules.rules().iter().position(|old| old.id == rule.id && old.budget == rule.budget)?;
            let place = rules.rules().get(at)?.hosts.iter().position(|old| old == destination)?;
            meters.0.get(at)?.get(place).cloned()
        };
        let of = |rule: &EgressRule| -> Box<[Arc<Meter>]> {
            if rule.budget == Budget::default() {
                return Box::default();
            }
            let new = |to| kept(rule, to).unwrap_or_else(|| Arc::new(Meter::new(rule.budget)));
            rule.hosts.iter().map(new).collect()
        };
        Meters(rules.rules().iter().map(of).collect())
    }

    /// The meter of a decision by the same rules, where its rule has limits.
    pub fn of(&self, allowed: &Allowed<'_>) -> Option<&Arc<Meter>> {
        let (rule, place) = allowed.entry();
        self.0.get(rule as usize)?.get(place as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::{Ask, Host, Request, Tools};

    fn rules(rate: u64) -> Rules {
        let hosts = ["a.test", "*.b.test"].map(|text| Destination::parse(text).unwrap()).into();
        let mut rule = EgressRule::new("limited", hosts);
        let per = Duration::from_secs(60);
        rule.budget = Budget {
            rate: Quota::new(rate, per, 2),
            connections: Some(1),
            bytes_out: Some(Allowance { most: 100, per }),
        };
        let free = EgressRule::short(Destination::parse("free.test").unwrap());
        Rules::new(vec![free, rule])
    }

    fn meter(rules: &Rules, meters: &Meters, host: &str) -> Option<Arc<Meter>> {
        let host = Host::parse(host).unwrap();
        let ask = Ask { host: &host, port: 443, tools: Tools::Outside, request: Request::Sealed, addresses: &[] };
        meters.of(&rules.decide(&ask).unwrap()).cloned()
    }

    #[test]
    fn each_destination_counts_for_itself_and_each_limit_refuses() {
        let rules = rules(10);
        let meters = Meters::new(&rules, None);
        assert!(meter(&rules, &meters, "free.test").is_none());
        let (a, b) = (meter(&rules, &meters, "a.test").unwrap(), meter(&rules, &meters, "x.b.test").unwrap());
        assert!(Arc::ptr_eq(&b, &meter(&rules, &meters, "y.b.test").unwrap()), "a wildcard is one destination");
        let first = a.enter(Nanos(0)).unwrap();
        assert_eq!(a.enter(Nanos(0)).unwrap_err(), Over::Connections);
        assert!(b.enter(Nanos(0)).is_ok(), "another destination");
        drop(first);
        drop(a.enter(Nanos(0)).unwrap());
        assert!(matches!(a.enter(Nanos(0)), Err(Over::Rate(_))), "what connections refused took no token");
        assert_eq!(a.send(90, Nanos(0)), Ok(()));
        assert!(matches!(a.send(11, Nanos(0)), Err(Over::Bytes(_))));
        assert_eq!(a.send(10, Nanos(0)), Ok(()));
        let later = Nanos(30_000_000_000);
        assert!(matches!(a.enter(later), Err(Over::Bytes(_))), "nothing is left to be sent");
    }

    #[test]
    fn a_reload_keeps_the_counts_of_what_stays() {
        let before = rules(10);
        let old = Meters::new(&before, None);
        let same = rules(10);
        let kept = Meters::new(&same, Some((&before, &old)));
        let a = meter(&before, &old, "a.test").unwrap();
        assert!(Arc::ptr_eq(&a, &meter(&same, &kept, "a.test").unwrap()));
        let other = rules(20);
        let new = Meters::new(&other, Some((&before, &old)));
        assert!(!Arc::ptr_eq(&a, &meter(&other, &new, "a.test").unwrap()));
    }
}
