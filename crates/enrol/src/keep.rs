//! Keeps a certificate fresh: renews it at two thirds of its life, and takes up what is believed and revoked as soon as the
//! authority says so. While the authority is away, everything goes on with what there is, until the certificate ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_identity::{Credentials, Material, Reload, WorkloadKey, renew_at};
use outrigger_proxy::dial::ClientTlsProvider;

use crate::contact::{Contact, ContactError};
use crate::obtain::{by_proof, material, outcome, save, unusable};
use crate::pace::Pace;
use crate::protocol::{Bundle, Grant, Query};
use crate::report::Report;
use crate::source::Source;

/// The clock is looked at this often: a timer alone would sleep through the time in which the machine does.
const LOOK: Duration = Duration::from_secs(30);
/// The least time between two renewals, and between two answers about what is believed.
const PAUSE: Duration = Duration::from_millis(200);

/// Who hears of each change, on a thread that may block.
pub(crate) type Hook = Arc<dyn Fn(Reload) + Send + Sync>;

/// What keeps an identity fresh that an authority gave.
pub struct Renewer {
    source: Source,
    credentials: Arc<Credentials>,
    contact: Contact,
    material: Material,
    /// Of what is believed now.
    version: String,
    report: Report,
    /// Of the renewal that goes on, so that a proof that can be used once is not wasted when an answer is lost.
    key: Option<Arc<WorkloadKey>>,
    due: SystemTime,
    pace: Pace,
}

impl Renewer {
    pub(crate) fn new(
        source: Source,
        credentials: Arc<Credentials>,
        material: Material,
        version: String,
        report: Report,
    ) -> Self {
        let (shown, authority) = (Arc::clone(&credentials), source.authority.clone());
        let tls: ClientTlsProvider = Arc::new(move || shown.client_config(&authority));
        let contact = Contact::new(&source.endpoint, tls);
        let due = due(SystemTime::now(), credentials.not_after());
        Self { source, credentials, contact, material, version, report, key: None, due, pace: Pace::default() }
    }

    /// Goes on for ever. `changed` hears of every change. Safe to cancel.
    pub(crate) async fn run(mut self, changed: Hook) {
        let mut news = Pace::default();
        loop {
            let asked = tokio::select! {
                biased;
                () = until(self.due) => None,
                asked = self.contact.bundle(&self.version) => Some(asked),
            };
            match asked {
                None => self.renew(&changed).await,
                Some(Ok(bundle)) => {
                    news.worked();
                    if let Some(bundle) = bundle {
                        self.believe(bundle, &changed).await;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Some(Err(error)) => {
                    tracing::debug!(authority = self.source.url, %error, "no news of what is believed");
                    // Rested, but not past the renewal.
                    let rest = SystemTime::now() + news.failed(fastrand::f64());
                    until(rest.min(self.due)).await;
                }
            }
        }
    }

    /// One try to get the next certificate. What comes of it decides when the next try is due.
    async fn renew(&mut self, changed: &Hook) {
        let why = match self.ask().await {
            Ok((grant, renewed)) => match self.offer(renewed.clone(), changed).await {
                Ok(()) => return self.renewed(&grant, renewed),
                Err(error) => unusable(&error, &grant),
            },
            Err(why) => why,
        };
        self.report.failed(outcome(&why), self.credentials.not_after(), &why);
        self.due = SystemTime::now() + self.pace.failed(fastrand::f64());
    }

    /// With the present certificate while it is good, else with the proof of the settings.
    async fn ask(&mut self) -> Result<(Grant, Material), ContactError> {
        if SystemTime::now() >= self.credentials.not_after() {
            return by_proof(&self.source, Some(self.credentials.id()), &mut self.key).await;
        }
        let key = match &self.key {
            Some(key) => Arc::clone(key),
            None => Arc::clone(self.key.insert(Arc::new(WorkloadKey::generate()?))),
        };
        let life = self.source.life.map(|life| life.as_secs());
        let query = Query { csr: key.request(Some(self.credentials.id()))?, proof: None, life };
        let grant = self.contact.certificate(&query).await?;
        let renewed = material(&grant, key);
        Ok((grant, renewed))
    }

    fn renewed(&mut self, grant: &Grant, renewed: Material) {
        self.report.renewed();
        tracing::info!(serial = grant.serial, "the certificate was renewed");
        save(&self.source, &renewed);
        self.material = renewed;
        self.version.clone_from(&grant.bundle.version);
        self.key = None;
        self.due = due(SystemTime::now(), self.credentials.not_after());
        self.pace.worked();
        // The next question comes from who we are now.
        self.contact.renew();
    }

    /// Takes up other roots and revocations beside the present certificate.
    async fn believe(&mut self, bundle: Bundle, changed: &Hook) {
        let next = Material { ca_pem: bundle.ca, crl_pem: bundle.crl, ..self.material.clone() };
        // Also when it is of no use: it would come again at once.
        self.version = bundle.version;
        match self.offer(next.clone(), changed).await {
            Ok(()) => {
                tracing::info!("took up what the authority believes and has revoked");
                save(&self.source, &next);
                self.material = next;
                self.contact.renew();
            }
            Err(error) => {
                tracing::error!(%error, "what the authority believes cannot be used; the last good one stays");
            }
        }
    }

    /// Verifies and swaps where that may take its time.
    async fn offer(&self, material: Material, changed: &Hook) -> Result<(), outrigger_identity::CredentialsError> {
        let (credentials, changed) = (Arc::clone(&self.credentials), Arc::clone(changed));
        let work = tokio::task::spawn_blocking(move || match credentials.offer(material) {
            Reload::Failed(error) => Err(error),
            reload => {
                changed(reload);
                Ok(())
            }
        });
        // A panic in the hook has been reported, and the certificate is in use.
        work.await.unwrap_or(Ok(()))
    }
}

/// When to renew what was received now.
fn due(received: SystemTime, not_after: SystemTime) -> SystemTime {
    renew_at(received, not_after, fastrand::f64()).max(received + PAUSE)
}

/// Waits for a moment of the real clock, however that is set.
pub(crate) async fn until(moment: SystemTime) {
    while let Ok(left) = moment.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_certificate_is_due_at_two_thirds_of_what_is_left_of_it() {
        let now = UNIX_EPOCH + Duration::from_secs(1 << 30);
        let hour = Duration::from_secs(3600);
        let due_at = due(now, now + hour).duration_since(now).unwrap();
        assert!(due_at <= hour * 2 / 3 && due_at >= hour / 2, "{due_at:?}");
        // One that is over is due soon, not in a loop without rest.
        assert_eq!(due(now, now - hour), now + PAUSE);
    }
}
