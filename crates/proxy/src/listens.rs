//! Streams on which callers listen: so many in all, and so many of one principal. Each lasts, so a place of it is not one
//! among the calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_telemetry::ServiceMetrics;
use outrigger_telemetry::metrics::{LimitKind, OpenGuard};

use crate::failure::Failure;

/// When to come back while as many streams as allowed are open: listeners stay.
const RETRY: Duration = Duration::from_secs(30);

/// Streams of one session of a client that have one place together: its ingress has several while it subscribes to one thing
/// after another.
const TOGETHER: usize = 16;

/// All listens of a proxy, whatever the revision of who listens.
#[derive(Debug)]
pub struct Listens {
    max: usize,
    max_per_principal: usize,
    metrics: Arc<ServiceMetrics>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    /// Only principals that have any.
    of: HashMap<Arc<str>, usize>,
    /// Streams by principal and session, of those that have any.
    sessions: HashMap<(Arc<str>, Box<str>), usize>,
}

/// A place among the listens, until it is dropped.
#[derive(Debug)]
pub struct Listening {
    listens: Arc<Listens>,
    principal: Arc<str>,
    session: Option<Box<str>>,
    _open: OpenGuard,
}

impl Listens {
    /// None are open. What is open, and what is refused, counts in `metrics`.
    pub fn new(max: usize, max_per_principal: usize, metrics: Arc<ServiceMetrics>) -> Arc<Self> {
        Arc::new(Self { max, max_per_principal, metrics, open: Mutex::default() })
    }

    /// A place for one more listen of a principal.
    ///
    /// # Errors
    /// [`Failure::Limited`], which names the setting.
    pub fn begin(self: &Arc<Self>, principal: &str) -> Result<Listening, Failure> {
        self.begin_in(principal, None)
    }

    /// The same for a stream of a session, if it is of one. A few streams of one session have one place together.
    ///
    /// # Errors
    /// As [`Listens::begin`].
    pub fn begin_in(self: &Arc<Self>, principal: &str, session: Option<&str>) -> Result<Listening, Failure> {
        let over = |setting| Failure::over(&self.metrics, LimitKind::Listens, setting, RETRY);
        let mut open = self.lock();
        let own = open.of.get_key_value(principal).map(|(name, count)| (Arc::clone(name), *count));
        let (principal, count) = own.unwrap_or_else(|| (principal.into(), 0));
        let session: Option<Box<str>> = session.map(Into::into);
        let key = session.clone().map(|session| (Arc::clone(&principal), session));
        let together = key.as_ref().and_then(|key| open.sessions.get(key)).copied().unwrap_or(0);
        if together.is_multiple_of(TOGETHER) {
            if count >= self.max_per_principal {
                return Err(over("limits.listens_per_principal"));
            }
            if open.all >= self.max {
                return Err(over("limits.listens"));
            }
            open.all += 1;
            open.of.insert(Arc::clone(&principal), count + 1);
        }
        if let Some(key) = key {
            open.sessions.insert(key, together + 1);
        }
        Ok(Listening { listens: Arc::clone(self), principal, session, _open: self.metrics.listen_opened() })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Both counts are changed by statements that cannot fail.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut open = self.listens.lock();
        if let Some(session) = self.session.take() {
            let key = (Arc::clone(&self.principal), session);
            let left = open.sessions.get(&key).map_or(0, |count| count - 1);
            match left {
                0 => open.sessions.remove(&key),
                left => open.sessions.insert(key, left),
            };
            if !left.is_multiple_of(TOGETHER) {
                return;
            }
        }
        open.all -= 1;
        if let Some(count) = open.of.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                open.of.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_telemetry::{Metrics, Role};

    #[test]
    fn streams_of_a_session_have_a_place_together() {
        let metrics = Metrics::new(Role::Sidecar).unwrap().service("*");
        let listens = Listens::new(9, 2, metrics);
        let mut held: Vec<_> = (0..TOGETHER).map(|_| listens.begin_in("ada", Some("c.1")).unwrap()).collect();
        let other = listens.begin_in("ada", Some("c.2")).unwrap();
        assert!(listens.begin("ada").is_err(), "two places are taken");
        assert!(listens.begin_in("ada", Some("c.1")).is_err(), "one place is not for everything");
        assert!(listens.begin_in("ada", Some("c.2")).is_ok());
        held.truncate(1);
        assert!(listens.begin("ada").is_err());
        assert_eq!(listens.metrics.listens_open(), 2, "each stream counts, whoever it has its place with");
        held.clear();
        assert!(listens.begin("ada").is_ok());
        drop(other);
        let open = listens.lock();
        assert!(open.all == 0 && open.of.is_empty() && open.sessions.is_empty());
    }

    #[test]
    fn one_principal_takes_its_part_and_gives_it_back() {
        let metrics = Metrics::new(Role::Ingress).unwrap();
        let listens = Listens::new(3, 2, metrics.service("*"));
        let refused = |principal| match listens.begin(principal) {
            Err(Failure::Limited { limit, service: None, .. }) => limit,
            other => format!("{other:?}"),
        };
        let ada = (listens.begin("ada").unwrap(), listens.begin("ada").unwrap());
        assert_eq!(refused("ada"), "limits.listens_per_principal");
        let bob = listens.begin("bob").unwrap();
        assert_eq!(refused("bob"), "limits.listens");
        drop(ada);
        let again = (listens.begin("bob").unwrap(), listens.begin("eve").unwrap());
        assert_eq!(refused("bob"), "limits.listens_per_principal", "its own limit is named first");
        drop((bob, again));
        assert!(listens.lock().of.is_empty() && listens.lock().all == 0);
        let told = String::from_utf8(metrics.encode().unwrap()).unwrap();
        assert!(told.contains(r#"outrigger_limited_total{limit="listens",service="*"} 3"#), "{told}");
    }
}
