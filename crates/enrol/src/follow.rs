//! An identity from an agent of the SPIFFE Workload API: the first one waited for as long as it takes, and each that follows
//! taken up as the agent hands it out. While the agent is away, everything goes on until the certificate ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_config::sections::AgentSocket;
use outrigger_identity::{CredentialOptions, Credentials, CredentialsError, Reload, Svid, X509SvidResponse};
use outrigger_telemetry::metrics::RenewalOutcome;

use crate::agent::{Messages, StreamError};
use crate::keep::{Hook, until};
use crate::obtain::Waiting;
use crate::pace::Pace;
use crate::report::Report;

/// The least time between two messages that are looked at: an agent that says the same without rest costs little.
const PAUSE: Duration = Duration::from_millis(200);
/// Agents hand out another certificate at half of its life. One that has not at three quarters is asked again.
const LATE: f64 = 0.75;
/// How many federated trust domains that are of no use are named of one message.
const TOLD_AT_ONCE: usize = 5;

/// What keeps the identity of an agent fresh.
pub struct Follower {
    socket: AgentSocket,
    credentials: Arc<Credentials>,
    /// None while there is no stream.
    messages: Option<Messages>,
    report: Report,
    pace: Pace,
}

/// Waits for the first identity. Safe to cancel.
pub(crate) async fn first(socket: &AgentSocket, options: &CredentialOptions, waiting: Waiting) -> Follower {
    let mut pace = Pace::default();
    let mut report = Report::new(waiting, format!("the agent at {socket}"));
    loop {
        match attempt(socket, options).await {
            Ok((credentials, messages)) => {
                report.renewed();
                tracing::info!(id = %credentials.id(), agent = %socket, "the agent gave a certificate");
                let (socket, messages) = (socket.clone(), Some(messages));
                return Follower { socket, credentials, messages, report, pace: Pace::default() };
            }
            Err(why) => report.none_yet(outcome(&why), &why),
        }
        tokio::time::sleep(pace.failed(fastrand::f64())).await;
    }
}

async fn attempt(
    socket: &AgentSocket,
    options: &CredentialOptions,
) -> Result<(Arc<Credentials>, Messages), StreamError> {
    let mut messages = Messages::open(socket).await?;
    let message = messages.first().await?;
    let svid = X509SvidResponse::parse(&message)?.identity(options.expected.as_ref())?;
    tell_left_out(socket, &svid);
    // What the message calls it and what the certificate says must be the same.
    let options = CredentialOptions { expected: Some(svid.id().clone()), ..options.clone() };
    let credentials = Credentials::enrolled(svid, &options).map_err(|error| unusable(&error))?;
    Ok((credentials, messages))
}

/// Warns of federated trust domains that cannot be believed. Agents send a message only when something has changed.
fn tell_left_out(socket: &AgentSocket, svid: &Svid) {
    for why in svid.left_out().iter().take(TOLD_AT_ONCE) {
        tracing::warn!("a federated trust domain is left out of what the agent at {socket} says: {why}");
    }
}

impl Follower {
    /// Who we are.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials)
    }

    /// Goes on for ever. `changed` hears of every change. Safe to cancel.
    pub(crate) async fn run(mut self, changed: Hook) {
        let mut stream = self.messages.take();
        let mut since = SystemTime::now();
        loop {
            let Some(messages) = &mut stream else {
                stream = Some(self.open_again(&changed).await);
                since = SystemTime::now();
                continue;
            };
            let came = tokio::select! {
                biased;
                came = messages.next() => came,
                () = until(late(since, self.credentials.not_after())) => Err(StreamError::Late),
            };
            let taken = match came {
                Ok(message) => self.take_up(&message, &changed).await,
                Err(why) => Err(why),
            };
            if let Err(why) = taken {
                self.failed(&why);
                // Before another one is opened: agents bound the streams of one caller.
                stream = None;
                continue;
            }
            since = SystemTime::now();
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn failed(&mut self, why: &StreamError) {
        self.report.failed(outcome(why), self.credentials.not_after(), why);
    }

    /// Asks until there is a stream whose first message can be used.
    async fn open_again(&mut self, changed: &Hook) -> Messages {
        loop {
            let wait = SystemTime::now() + self.pace.failed(fastrand::f64());
            let end = self.credentials.not_after();
            // The end is said when it comes, not when there is another try.
            if SystemTime::now() < end && end < wait {
                until(end).await;
                self.report.not_renewed(end, &StreamError::Late);
            }
            until(wait).await;
            let why = match self.attempt(changed).await {
                Ok(messages) => return messages,
                Err(why) => why,
            };
            self.failed(&why);
        }
    }

    async fn attempt(&mut self, changed: &Hook) -> Result<Messages, StreamError> {
        let mut messages = Messages::open(&self.socket).await?;
        let message = messages.first().await?;
        self.take_up(&message, changed).await?;
        Ok(messages)
    }

    /// Takes up what a message gives. When it is of no use, everything stays as it was.
    async fn take_up(&mut self, message: &[u8], changed: &Hook) -> Result<(), StreamError> {
        let svid = X509SvidResponse::parse(message)?.identity(Some(self.credentials.id()))?;
        tell_left_out(&self.socket, &svid);
        let not_after = offer(self.credentials(), svid, Arc::clone(changed)).await?;
        if not_after.is_some() {
            self.report.renewed();
            tracing::info!("took up what the agent gave");
        }
        if SystemTime::now() < self.credentials.not_after() {
            self.report.good();
            self.pace.worked();
        }
        Ok(())
    }
}

/// Verifies and swaps where that may take its time. The end of the new certificate, if anything is new.
async fn offer(credentials: Arc<Credentials>, svid: Svid, changed: Hook) -> Result<Option<SystemTime>, StreamError> {
    let work = tokio::task::spawn_blocking(move || match credentials.offer(svid) {
        Reload::Failed(error) => Err(unusable(&error)),
        Reload::Unchanged => Ok(None),
        reload @ Reload::Swapped { not_after } => {
            changed(reload);
            Ok(Some(not_after))
        }
    });
    // A panic in the hook has been reported, and the certificate is in use.
    work.await.unwrap_or(Ok(None))
}

/// When a certificate that was received at `since` should have been followed by another one. One that has ended is asked
/// for with the pauses of [`Pace`], for which the stream must end first.
fn late(since: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after.duration_since(since).unwrap_or_default();
    since + life.mul_f64(LATE).max(PAUSE)
}

fn unusable(error: &CredentialsError) -> StreamError {
    StreamError::Unusable(error.to_string())
}

fn outcome(error: &StreamError) -> RenewalOutcome {
    match error {
        StreamError::Denied(_) => RenewalOutcome::Refused,
        _ => RenewalOutcome::Failed,
    }
}
