//! Puts the members of the mesh in force: settings that are read again, and sidecars that register or are found,
//! leave or are forgotten.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_identity::{Credentials, SpiffeError};
use outrigger_proxy::peek::HeaderChecks;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::config;
use crate::gateway::Gateway;
use crate::members::Members;
use crate::services::{Service, Surroundings};
use crate::snapshot::refresh;

/// Changes gathered before they are put in force: many sidecars come at once when an ingress starts.
const GATHER: Duration = Duration::from_millis(10);
/// They are gathered so many times as long as it took to put the last ones in force, if that is longer: with thousands of
/// services that come at once, this must not be all that the ingress does.
const REST: u32 = 4;

/// The members, and what it takes to reach them.
#[derive(Debug)]
pub(crate) struct Registry {
    members: Mutex<Members>,
    /// Held while something is put in force, so that two do not undo each other.
    applying: Mutex<()>,
    credentials: Arc<Credentials>,
    changed: Notify,
    /// How often the settings changed.
    configured: watch::Sender<u64>,
}

impl Registry {
    pub(crate) fn new(members: Members, credentials: Arc<Credentials>) -> Self {
        Self {
            members: Mutex::new(members),
            applying: Mutex::new(()),
            credentials,
            changed: Notify::new(),
            configured: watch::Sender::new(0),
        }
    }

    /// Somebody came or went: it counts within milliseconds.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Members) -> T) -> T {
        let out = change(&mut self.lock());
        self.changed.notify_one();
        out
    }

    /// Other settings count from now on. Services that stay keep all that is known of them, and their connections; calls at
    /// replicas that go end as they would have.
    ///
    /// # Errors
    /// A service has no valid SPIFFE id. Calls go where they went; the change is tried again when a sidecar comes or goes.
    pub(crate) fn configure(&self, gateway: &Gateway, services: Vec<config::Service>) -> Result<(), SpiffeError> {
        let usual = |service: &config::Service| service.spiffe_id == self.usual_id(&service.name);
        self.lock().configure(services, usual);
        let applied = self.apply(gateway);
        self.configured.send_modify(|times| *times += 1);
        applied
    }

    /// What objects say of services, by their names; the settings say it of those that they name.
    pub(crate) fn describe(&self, described: &BTreeMap<String, config::MeshService>) {
        if self.ask(|members| !members.is_described(described)) {
            self.change(|members| members.describe(described.clone()));
        }
    }

    /// Tells of every time that other settings count.
    pub(crate) fn reconfigured(&self) -> watch::Receiver<u64> {
        self.configured.subscribe()
    }

    /// A service that the settings do not name.
    pub(crate) fn usual(&self, name: &str, header_checks: HeaderChecks) -> config::Service {
        config::Service {
            name: name.to_owned(),
            addresses: Vec::new(),
            spiffe_id: self.usual_id(name),
            header_checks,
            safety: config::Safety::default(),
        }
    }

    /// Who the sidecars of a service are that the settings do not name.
    fn usual_id(&self, service: &str) -> String {
        format!("spiffe://{}/{service}", self.credentials.id().trust_domain())
    }

    /// Asks something of the members.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Members) -> T) -> T {
        question(&self.lock())
    }

    /// `Members` has no half-done states.
    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, gateway: &Gateway) -> Result<(), SpiffeError> {
        let _one = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let (wanted, departed, registered) = {
            let mut members = self.lock();
            (members.now(Instant::now()), members.departed(), members.registered())
        };
        gateway.metrics.registrations(registered);
        self.put_in_force(gateway, &wanted)?;
        let mut news = false;
        for service in gateway.services.load().iter() {
            news |= service.set_departed(departed.contains(&*service.name));
        }
        if news {
            refresh(gateway);
        }
        Ok(())
    }

    fn put_in_force(&self, gateway: &Gateway, wanted: &[config::Service]) -> Result<(), SpiffeError> {
        let with = Surroundings {
            credentials: &self.credentials,
            metrics: &gateway.metrics,
            connect: gateway.timeouts.common.connect,
            in_flight: gateway.limits.entrance.in_flight,
        };
        let old = gateway.services.load_full();
        let known: HashMap<&str, &Arc<Service>> = old.iter().map(|service| (&*service.name, service)).collect();
        let stays = |settings: &config::Service| known.get(&*settings.name).filter(|service| service.stays(settings));
        let next = wanted.iter().map(|settings| match stays(settings) {
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
            let names: HashSet<_> = next.iter().map(|service| Arc::clone(&service.name)).collect();
            gateway.services.store(Arc::new(next));
            let gone = old.iter().filter(|service| !names.contains(&service.name));
            gone.for_each(|service| gateway.metrics.remove_service(&service.name));
        }
        gateway.services_changed.notify_one();
        Ok(())
    }

    /// Puts in force who came and went, and forgets those whose time is over, until the future is dropped.
    pub(crate) async fn keep(&self, gateway: Arc<Gateway>) {
        let mut took = Duration::ZERO;
        loop {
            let next = self.ask(Members::next_end);
            let over = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                () = self.changed.notified() => sleep(GATHER.max(took * REST)).await,
            }
            let began = Instant::now();
            if let Err(error) = self.apply(&gateway) {
                // Who registers has proved such a name, what is found was checked, and so were the settings.
                tracing::error!(%error, "the services cannot be put in force");
            }
            took = began.elapsed();
        }
    }
}
