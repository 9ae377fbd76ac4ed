//! Services that are looked up: what an orchestrator knows becomes members of the mesh, as if they had registered.
//!
//! ```text
//!  API server --list, watch--> reflect (a copy of the objects) --> endpoints (pure) --+
//!                                                                  mesh_services      |
//!                                                                                      +--> found --> registry
//!  Consul --blocking queries--------------------------------------> consul -----------+
//! ```
//!
//! Whatever a source says, a replica counts only if its certificate is for the service: a source can send calls nowhere else.
//! A source that is away changes nothing.

mod consul;
mod contact;
mod endpoints;
mod found;
mod kubernetes;
mod mesh_services;
mod policies;
mod reflect;
mod status;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use outrigger_runtime::Readiness;
use outrigger_telemetry::metrics::{DiscoveryMetrics, DiscoverySource};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{Config, Discovery};
use crate::gateway::Gateway;

/// Changes gathered before they are put in force: a rollout comes as a row of events.
const GATHER: Duration = Duration::from_millis(20);
/// When somebody for whom there was no room is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// First and longest pause between questions that fail.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(20));
/// Mistakes that are logged each time that they change.
const LOGGED: usize = 20;

/// Everything that looks services up.
pub(crate) struct Sources {
    kubernetes: Option<(kubernetes::Cluster, DiscoveryMetrics)>,
    policies: Option<(policies::Policies, DiscoveryMetrics)>,
    consul: Option<consul::Catalog>,
}

impl Sources {
    /// Reads what has to be there at start.
    ///
    /// # Errors
    /// What is missing, for the operator.
    pub(crate) fn new(config: &Config, gateway: &Gateway, readiness: &Readiness) -> Result<Self, String> {
        let Discovery { kubernetes, consul } = &config.discovery;
        let mut on = Vec::new();
        on.extend(kubernetes.is_some().then_some(DiscoverySource::Kubernetes));
        on.extend(config.discovery.has_policies().then_some(DiscoverySource::Policies));
        on.extend(consul.is_some().then_some(DiscoverySource::Consul));
        let mut all = Self { kubernetes: None, policies: None, consul: None };
        if on.is_empty() {
            return Ok(all);
        }
        let metrics = gateway.metrics.discovery(&on).map_err(|error| error.to_string())?;
        for (source, metrics) in on.into_iter().zip(metrics) {
            match source {
                DiscoverySource::Kubernetes => {
                    let cluster = kubernetes.as_ref().map(kubernetes::Cluster::new).transpose()?;
                    all.kubernetes = cluster.map(|cluster| (cluster, metrics));
                }
                DiscoverySource::Policies => {
                    let policies = kubernetes.as_ref().map(|settings| policies::Policies::new(settings, readiness));
                    all.policies = policies.map(|policies| (policies, metrics));
                }
                DiscoverySource::Consul => {
                    let most = config.registration.max_services;
                    all.consul = consul.as_ref().map(|settings| consul::Catalog::new(settings, most, metrics));
                }
            }
        }
        Ok(all)
    }

    /// Looks up until the future is dropped. `known` is told when everything has been looked up once.
    pub(crate) async fn run(self, gateway: Arc<Gateway>, known: watch::Sender<bool>) {
        let mut tasks = JoinSet::new();
        let mut first = Vec::new();
        if let Some((cluster, metrics)) = self.kubernetes {
            let known = watch::Sender::new(false);
            first.push(known.subscribe());
            tasks.spawn(cluster.run(Arc::clone(&gateway), metrics, known));
        }
        if let Some((policies, metrics)) = self.policies {
            tasks.spawn(policies.run(Arc::clone(&gateway), metrics));
        }
        if let Some(catalog) = self.consul {
            let known = watch::Sender::new(false);
            first.push(known.subscribe());
            tasks.spawn(catalog.run(Arc::clone(&gateway), known));
        }
        for mut one in first {
            let _ = one.wait_for(|known| *known).await;
        }
        known.send_replace(true);
        while tasks.join_next().await.is_some() {}
    }
}

/// Reads bytes as what an API server sends of each kind of object, and makes of them what would be made. Says whether all replicas
/// among that have a name and an address that they may have. For the fuzz target `watch`.
pub fn read_anything(data: &[u8]) -> bool {
    let (mut services, mut slices, mut objects) = (Vec::new(), Vec::new(), Vec::new());
    let lines = || data.split(|byte| *byte == b'\n');
    services.extend(lines().flat_map(read_as::<endpoints::Named>));
    slices.extend(lines().flat_map(read_as::<endpoints::Slice>));
    objects.extend(lines().flat_map(read_as::<mesh_services::ServiceObject>));
    lines().flat_map(read_as::<policies::PolicyObject>).for_each(drop);
    let (services, objects) = (services.into_iter().collect(), objects.into_iter().collect::<BTreeMap<_, _>>());
    let mut described = mesh_services::read(objects.iter(), false, &BTreeMap::new());
    let (mut selected, mut mistakes) = endpoints::annotated(&services);
    described.select(&mut selected);
    let reading = endpoints::Reading { port: 8443, any_address: false };
    let slices = slices.iter().map(|(key, slice)| (key, slice));
    let replicas = endpoints::replicas(&selected, slices, reading, &mut mistakes);
    let good = replicas.iter().chain(&described.replicas).all(|(service, at)| {
        outrigger_mcp::names::check_service(service).is_ok() && at.host.parse().is_ok_and(endpoints::is_of_a_pod)
    });
    described.blame(&mistakes);
    described.statuses(|_| mesh_services::Seen::default());
    good
}

/// A page of a list, or an event of a watch.
fn read_as<T: wire::Object>(data: &[u8]) -> Vec<(wire::Key, T)> {
    let page = wire::page::<T>(data).map(|page| page.objects).unwrap_or_default();
    let event = match wire::event::<T>(data) {
        wire::Event::Kept(key, _, object) => Some((key, object)),
        _ => None,
    };
    page.into_iter().chain(event).collect()
}

/// Doubles, with a random part so that many ingresses do not come back at once.
fn pause(failures: u32) -> Duration {
    let full = BACKOFF.0.saturating_mul(1_u32 << failures.saturating_sub(1).min(10)).min(BACKOFF.1);
    full.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Logs mistakes that were not there before.
struct Told {
    what: &'static str,
    before: BTreeSet<String>,
}

impl Told {
    fn new(what: &'static str) -> Self {
        Self { what, before: BTreeSet::new() }
    }

    fn tell(&mut self, mistakes: BTreeSet<String>) {
        let new: Vec<_> = mistakes.difference(&self.before).collect();
        for mistake in new.iter().take(LOGGED) {
            tracing::warn!(what = self.what, "{mistake}");
        }
        if new.len() > LOGGED {
            tracing::warn!(what = self.what, more = new.len() - LOGGED, "and more mistakes");
        }
        self.before = mistakes;
    }
}

/// Percent-encoding for a part of a URL: only unreserved characters stay (RFC 3986 section 2.3).
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        for (failures, full) in [(1, 200), (2, 400), (30, 20_000), (u32::MAX, 20_000)] {
            let pause = pause(failures).as_millis();
            assert!((full / 2..=full).contains(&pause), "{failures}: {pause}");
        }
    }

    #[test]
    fn parts_of_urls_stay_parts() {
        assert_eq!(encode("a-b_c.d~1"), "a-b_c.d~1");
        assert_eq!(encode("a=b,c in (d)&x=/?#é"), "a%3Db%2Cc%20in%20%28d%29%26x%3D%2F%3F%23%C3%A9");
    }
}
