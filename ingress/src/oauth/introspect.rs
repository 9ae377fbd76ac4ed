//! Opaque tokens: their provider says whether they are good, and for whom (RFC 7662). An answer counts for a while; whoever
//! brings the same token meanwhile waits for the same answer; a provider that fails is left alone for a moment.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use outrigger_config::Secret;
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::{IntrospectionOutcome, Introspections};
use serde_json::{Map, Value};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout};

use crate::config::{self, Issuer};
use crate::oauth::TokenRefused;
use crate::oauth::discover::discover;
use crate::oauth::fetch::{FetchError, Fetcher};
use crate::oauth::token::{MAX_TOKEN, Told, told};

/// Answers that are kept of one provider; those about tokens that are not good give way first.
const MAX_KNOWN: usize = 8192;
/// Questions at once: everybody can make up tokens, and a provider has other things to do.
const AT_ONCE: usize = 32;
/// How long it counts that an answer could not be had: those who waited for it need not ask one after the other.
const FAILED: Duration = Duration::from_secs(1);
/// Failures in a row after which a provider is left alone.
const TRIES: u32 = 5;
/// For how many seconds, a little longer each time.
const PAUSES: [u64; 5] = [1, 2, 5, 15, 30];

/// Asks one provider.
pub(super) struct Introspection {
    issuer: Issuer,
    how: config::Introspection,
    fetcher: Arc<Fetcher>,
    url: OnceCell<String>,
    secret: Mutex<Arc<Secret>>,
    answers: Mutex<Answers>,
    places: Semaphore,
    breaker: Mutex<Breaker>,
    metrics: Introspections,
}

/// What is known of a token, by its digest.
type Answer = Result<Option<Arc<Told>>, FetchError>;

#[derive(Default)]
struct Answers {
    known: HashMap<[u8; 32], (Answer, Instant)>,
    /// Held by whoever asks about a token, so that others wait for that answer.
    asking: HashMap<[u8; 32], Arc<tokio::sync::Mutex<()>>>,
}

#[derive(Default)]
struct Breaker {
    failures: u32,
    paused: Option<Instant>,
}

impl Introspection {
    pub(super) fn new(
        issuer: &Issuer,
        how: &config::Introspection,
        fetcher: &Arc<Fetcher>,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        Ok(Self {
            secret: Mutex::new(Arc::new(read_secret(&how.client_secret_file)?)),
            url: OnceCell::new_with(how.url.clone()),
            fetcher: Arc::clone(fetcher),
            answers: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
            breaker: Mutex::default(),
            metrics: metrics.introspections(&issuer.issuer),
            how: how.clone(),
            issuer: issuer.clone(),
        })
    }

    /// What the provider says of a token of this digest, and until when that counts; none if it is not good.
    pub(super) async fn ask(
        &self,
        token: &str,
        digest: &[u8; 32],
    ) -> Result<Option<(Arc<Told>, Instant)>, TokenRefused> {
        // RFC 6750 section 2.1: what no provider can have issued is not asked about.
        let wellformed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(wellformed) {
            return Err(TokenRefused::Invalid("no token can look like this".to_owned()));
        }
        let known = self.lock().find(digest);
        let (answer, fresh) = match known {
            Some(known) => known,
            None => self.ask_once(token, digest).await,
        };
        match answer {
            Ok(told) => Ok(told.map(|told| (told, fresh))),
            Err(cause) => Err(TokenRefused::Unknown { issuer: self.issuer.issuer.clone(), cause: cause.to_string() }),
        }
    }

    /// Asks, or waits for the answer that somebody else asks for.
    async fn ask_once(&self, token: &str, digest: &[u8; 32]) -> (Answer, Instant) {
        let turn = Arc::clone(self.lock().asking.entry(*digest).or_default());
        let _mine = turn.lock().await;
        let known = self.lock().find(digest);
        if let Some(known) = known {
            return known;
        }
        // Whoever goes away in the middle leaves the turn to the next.
        let guard = Asking { answers: &self.answers, digest };
        let answer = self.request(token).await;
        let fresh = Instant::now() + if answer.is_ok() { self.how.cache } else { FAILED.min(self.how.cache) };
        self.lock().keep(*digest, answer.clone(), fresh);
        drop(guard);
        (answer, fresh)
    }

    /// One question and its answer.
    async fn request(&self, token: &str) -> Answer {
        let slow = || FetchError::Slow(self.issuer.issuer.clone(), self.how.timeout);
        // Waiting for a place of ours says nothing of the provider.
        let Ok(Ok(_place)) = timeout(self.how.timeout, self.places.acquire()).await else {
            self.metrics.record(IntrospectionOutcome::Failed);
            return Err(slow());
        };
        if let Err(paused) = self.admit() {
            self.metrics.record(IntrospectionOutcome::Paused);
            return Err(paused);
        }
        let answered = timeout(self.how.timeout, self.exchange(token)).await.unwrap_or_else(|_| Err(slow()));
        let read = answered.and_then(|body| {
            let wrong = |error: serde_json::Error| FetchError::Content(self.issuer.issuer.clone(), error.to_string());
            serde_json::from_slice::<Map<String, Value>>(&body).map_err(wrong)
        });
        self.settle(read.as_ref().err());
        let told = read.map(|claims| {
            told(&claims, &self.issuer).unwrap_or_else(|refused| {
                tracing::debug!(issuer = self.issuer.issuer, %refused, "a token was refused");
                None
            })
        });
        self.metrics.record(match &told {
            Ok(Some(_)) => IntrospectionOutcome::Active,
            Ok(None) => IntrospectionOutcome::Inactive,
            Err(_) => IntrospectionOutcome::Failed,
        });
        told.map(|told| told.map(Arc::new))
    }

    async fn exchange(&self, token: &str) -> Result<Bytes, FetchError> {
        let find = || async { discover(&self.fetcher, &self.issuer.issuer).await?.introspection_endpoint() };
        let url = self.url.get_or_try_init(find).await?;
        match self.post(url, token).await {
            // Everybody can make up tokens that a provider does not even look at.
            Err(FetchError::Status(_, status)) if is_about_the_token(status) => {
                tracing::debug!(issuer = self.issuer.issuer, %status, "an identity provider does not look at a token");
                Ok(Bytes::from_static(br#"{"active":false}"#))
            }
            answer => answer,
        }
    }

    async fn post(&self, url: &str, token: &str) -> Result<Bytes, FetchError> {
        let form = format!("token={}&token_type_hint=access_token", encoded(token));
        let secret = Arc::clone(&self.secret.lock().unwrap_or_else(PoisonError::into_inner));
        let answer = self.fetcher.post(url, form.clone(), self.authorization(&secret)?).await;
        if !matches!(answer, Err(FetchError::Status(_, StatusCode::UNAUTHORIZED))) {
            return answer;
        }
        // Our secret may have been replaced.
        let Ok(read) = read_secret(&self.how.client_secret_file) else { return answer };
        if read.reveal() == secret.reveal() {
            return answer;
        }
        let read = Arc::new(read);
        *self.secret.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&read);
        self.fetcher.post(url, form, self.authorization(&read)?).await
    }

    /// RFC 6749 section 2.3.1.
    fn authorization(&self, secret: &Secret) -> Result<HeaderValue, FetchError> {
        let pair = format!("{}:{}", encoded(&self.how.client_id), encoded(secret.reveal()));
        let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))
            .map_err(|_| FetchError::Url(self.issuer.issuer.clone()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Whether the provider may be asked. After a pause one question tells whether it is back.
    fn admit(&self) -> Result<(), FetchError> {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match breaker.paused {
            Some(until) if now < until => Err(FetchError::Paused(self.issuer.issuer.clone(), breaker.failures)),
            Some(_) => {
                breaker.paused = Some(now + self.how.timeout);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn settle(&self, failed: Option<&FetchError>) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(error) = failed else {
            *breaker = Breaker::default();
            return;
        };
        let issuer = &self.issuer.issuer;
        breaker.failures = breaker.failures.saturating_add(1);
        if breaker.failures == 1 {
            tracing::warn!(issuer, %error, "an identity provider cannot be asked about tokens");
        }
        if breaker.failures >= TRIES {
            let times = (breaker.failures - TRIES) as usize;
            let pause = Duration::from_secs(*PAUSES.get(times).unwrap_or(&30));
            breaker.paused = Some(Instant::now() + pause);
            tracing::warn!(issuer, %error, failures = breaker.failures, ?pause, "an identity provider is left alone");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    fn find(&self, digest: &[u8; 32]) -> Option<(Answer, Instant)> {
        let (answer, fresh) = self.known.get(digest)?;
        let ended = matches!(answer, Ok(Some(told)) if told.until() <= SystemTime::now());
        (*fresh > Instant::now() && !ended).then(|| (answer.clone(), *fresh))
    }

    fn keep(&mut self, digest: [u8; 32], answer: Answer, fresh: Instant) {
        if self.known.len() >= MAX_KNOWN {
            let now = Instant::now();
            self.known.retain(|_, (_, fresh)| *fresh > now);
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.retain(|_, (answer, _)| matches!(answer, Ok(Some(_))));
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(digest, (answer, fresh));
    }
}

/// Takes the turn off the list when the answer is there, or nobody waits for it any more.
struct Asking<'a> {
    answers: &'a Mutex<Answers>,
    digest: &'a [u8; 32],
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).asking.remove(self.digest);
    }
}

fn read_secret(path: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    match text.trim() {
        "" => Err(format!("{} is empty; it should hold our secret at the identity provider", path.display())),
        secret => Ok(Secret::new(secret)),
    }
}

/// Whether a status is about the one token that was shown, and not about us, our place or how often we ask.
fn is_about_the_token(status: StatusCode) -> bool {
    let of_ours = [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::NOT_FOUND,
        StatusCode::METHOD_NOT_ALLOWED,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    status.is_client_error() && !of_ours.contains(&status)
}

/// As in a form.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_hold_any_secret() {
        assert_eq!(encoded("aZ0-._~"), "aZ0-._~");
        assert_eq!(encoded("a b&c=d+\u{e9}:"), "a%20b%26c%3Dd%2B%C3%A9%3A");
    }

    #[tokio::test]
    async fn answers_about_tokens_that_are_not_good_give_way() {
        let mut answers = Answers::default();
        let later = Instant::now() + Duration::from_secs(60);
        for n in 0..MAX_KNOWN {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&n.to_be_bytes());
            answers.keep(digest, Ok(None), later);
        }
        answers.keep([9; 32], Ok(None), later);
        assert_eq!(answers.known.len(), 1);
        assert!(answers.find(&[9; 32]).is_some());
        answers.keep([9; 32], Ok(None), Instant::now());
        assert!(answers.find(&[9; 32]).is_none(), "to be asked again");
    }
}
