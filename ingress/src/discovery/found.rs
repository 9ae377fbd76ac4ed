//! Puts what one source knows into the registry: whoever is new joins, whoever is gone leaves.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use super::endpoints::Replica;
use crate::gateway::Gateway;
use crate::members::{Full, Lease, Origin};

/// The replicas that one source brought.
#[derive(Default)]
pub(super) struct Found {
    leases: HashMap<Replica, Lease>,
}

impl Found {
    /// These are the replicas now. Says how many are in force, and those that there is no room for.
    pub(super) fn apply(&mut self, gateway: &Arc<Gateway>, wanted: BTreeSet<Replica>) -> (usize, Vec<(Replica, Full)>) {
        let now = Instant::now();
        let mut refused = Vec::new();
        let (registry, leases) = (&gateway.registry, &mut self.leases);
        let checks = gateway.header_checks;
        let usual = |name: &str| registry.usual(name, checks);
        let same = registry.ask(|members| {
            // Other settings may have sent somebody away.
            leases.retain(|(service, _), lease| members.holds(service, *lease));
            leases.len() == wanted.len() && wanted.iter().all(|one| leases.contains_key(one))
        });
        if same {
            return (self.leases.len(), refused);
        }
        registry.change(|members| {
            // Whoever leaves makes room, and the last of a service is remembered; so one that moves comes first.
            let (staying, coming): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|one| leases.contains_key(one));
            let staying: BTreeSet<_> = staying.into_iter().collect();
            let gone: Vec<_> = leases.keys().filter(|one| !staying.contains(*one)).cloned().collect();
            for one in gone {
                if let Some(lease) = leases.remove(&one) {
                    tracing::info!(service = one.0, replica = %one.1, "a replica that was found is gone");
                    members.leave(&one.0, lease, now);
                }
            }
            for one in coming {
                let settings = members.configured(&one.0).cloned().unwrap_or_else(|| usual(&one.0));
                match members.join(settings, one.1.clone(), Origin::Found, now) {
                    Ok(lease) => {
                        tracing::info!(service = one.0, replica = %one.1, "a replica is found");
                        leases.insert(one, lease);
                    }
                    Err(full) => refused.push((one, full)),
                }
            }
        });
        (self.leases.len(), refused)
    }
}
