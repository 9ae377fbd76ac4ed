//! Puts the members of the mesh in force: settings that are read again, and sidecars that register, leave or are forgotten.

use std::sync::{Arc, Mutex, PoisonError};

use outrigger_identity::{Credentials, SpiffeError};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::config;
use crate::gateway::Gateway;
use crate::members::Members;
use crate::services::{Service, Surroundings};

/// The members, and what it takes to reach them.
#[derive(Debug)]
pub(crate) struct Registry {
    members: Mutex<Members>,
    credentials: Arc<Credentials>,
    changed: Notify,
}

impl Registry {
    pub(crate) fn new(members: Members, credentials: Arc<Credentials>) -> Self {
        Self { members: Mutex::new(members), credentials, changed: Notify::new() }
    }

    /// Changes something, and lets it count from now on. Services that stay keep all that is known of them, and their
    /// connections; calls at replicas that go end as they would have.
    ///
    /// # Errors
    /// A service has no valid SPIFFE id; nothing is in force of this change then.
    pub(crate) fn change<T>(
        &self,
        gateway: &Gateway,
        change: impl FnOnce(&mut Members) -> T,
    ) -> Result<T, SpiffeError> {
        // Held until all is in force, so that two changes do not undo each other. `Members` has no half-done states.
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let out = change(&mut members);
        let (wanted, _) = members.now(Instant::now());
        self.put_in_force(gateway, &wanted)?;
        gateway.metrics.registrations(members.registered());
        drop(members);
        self.changed.notify_one();
        Ok(out)
    }

    /// Asks something of the members.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Members) -> T) -> T {
        question(&self.members.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put_in_force(&self, gateway: &Gateway, wanted: &[config::Service]) -> Result<(), SpiffeError> {
        let with = Surroundings {
            credentials: &self.credentials,
            metrics: &gateway.metrics,
            connect: gateway.timeouts.common.connect,
            in_flight: gateway.limits.entrance.in_flight,
        };
        let old = gateway.services.load_full();
        let next = wanted.iter().map(|settings| match old.iter().find(|service| service.stays(settings)) {
            Some(service) => Ok((Arc::clone(service), true)),
            None => Service::new(settings, &with).map(|service| (Arc::new(service), false)),
        });
        // All of them, or none.
        let next = next.collect::<Result<Vec<_>, _>>()?;
        for ((service, stays), settings) in next.iter().zip(wanted) {
            if *stays {
                service.has_replicas(&settings.addresses, &with);
            }
        }
        let next: Vec<_> = next.into_iter().map(|(service, _)| service).collect();
        let same = |(a, b): (&Arc<Service>, &Arc<Service>)| Arc::ptr_eq(a, b);
        if next.len() != old.len() || !next.iter().zip(old.iter()).all(same) {
            let gone = old.iter().filter(|service| !next.iter().any(|other| other.name == service.name));
            let gone: Vec<_> = gone.cloned().collect();
            gateway.services.store(Arc::new(next));
            gone.iter().for_each(|service| gateway.metrics.remove_service(&service.name));
        }
        gateway.services_changed.notify_one();
        Ok(())
    }

    /// Forgets those whose time is over, until the future is dropped.
    pub(crate) async fn forget(&self, gateway: Arc<Gateway>) {
        loop {
            let next = self.members.lock().unwrap_or_else(PoisonError::into_inner).now(Instant::now()).1;
            let over = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {
                    // What was in force before had valid names.
                    let _ = self.change(&gateway, |_| ());
                }
                () = self.changed.notified() => {}
            }
        }
    }
}
