//! The keys of one identity provider: found by its metadata, kept, and fetched again when they get old or when a token names
//! one that is not known.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::{KeyFetchOutcome, KeyFetches};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::config::Issuer;
use crate::oauth::TokenRefused;
use crate::oauth::discover::discover;
use crate::oauth::fetch::{FetchError, Fetcher};
use crate::oauth::introspect::Introspection;
use crate::oauth::seen;
use crate::oauth::token::algorithm;

/// Keys are fetched again when they are this old: a provider that replaces one goes on showing the old one for longer.
const REFRESH: Duration = Duration::from_secs(600);
/// A token with an unknown key makes us ask again, but no more often than this: anybody can make up such tokens, and a
/// provider that replaces its key should not have its users wait for long.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// After a failure, a little longer each time.
const RETRY: [u64; 5] = [1, 2, 5, 15, 60];
/// Keys that are kept of one provider.
const MAX_KEYS: usize = 64;

/// One identity provider.
pub(crate) struct Provider {
    config: Issuer,
    algorithms: Vec<Algorithm>,
    fetcher: Arc<Fetcher>,
    introspection: Option<Introspection>,
    keys: ArcSwapOption<Keys>,
    /// Held while keys are fetched, so that callers who need them wait for one answer together. What failed last, and when.
    fetching: Mutex<Option<(Instant, Result<(), FetchError>)>>,
    fetches: KeyFetches,
}

/// The document of a provider (RFC 7517 section 5).
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

struct Keys {
    /// What they were read from.
    document: Bytes,
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    family: AlgorithmFamily,
    /// The one algorithm it is for, when it says so.
    algorithm: Option<Algorithm>,
    key: Arc<DecodingKey>,
}

impl Provider {
    pub(super) fn new(config: &Issuer, metrics: &Metrics) -> Result<Self, String> {
        let fetcher = Arc::new(Fetcher::new(config.ca.as_deref())?);
        let introspection = config.introspection.as_ref();
        let introspection = introspection.map(|how| Introspection::new(config, how, &fetcher, metrics)).transpose()?;
        Ok(Self {
            introspection,
            algorithms: config.algorithms.iter().map(|signature| algorithm(*signature)).collect(),
            fetcher,
            keys: ArcSwapOption::empty(),
            fetching: Mutex::default(),
            fetches: metrics.key_fetches(&config.issuer),
            config: config.clone(),
        })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.config.issuer
    }

    pub(super) fn config(&self) -> &Issuer {
        &self.config
    }

    /// What tells about its opaque tokens.
    pub(super) fn introspection(&self) -> Option<&Introspection> {
        self.introspection.as_ref()
    }

    /// The key that a token names. Asks the provider when it is not known, unless it was asked just now.
    pub(super) async fn key(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<DecodingKey>, TokenRefused> {
        if !self.algorithms.contains(&algorithm) {
            return Err(TokenRefused::Invalid(format!("the algorithm {algorithm:?} is not accepted")));
        }
        let known = |keys: &Keys| keys.find(kid, algorithm);
        if let Some(key) = self.keys.load().as_deref().and_then(known) {
            return Ok(key);
        }
        let asked = self.ask().await;
        if let Some(key) = self.keys.load().as_deref().and_then(known) {
            return Ok(key);
        }
        match asked {
            Err(cause) if self.keys.load().is_none() => {
                Err(TokenRefused::Unknown { issuer: self.config.issuer.clone(), cause: cause.to_string() })
            }
            _ => Err(TokenRefused::Invalid("signed with a key that its issuer does not have".to_owned())),
        }
    }

    /// Fetches the keys now and then, for as long as it is polled.
    pub(crate) async fn keep_fresh(&self) {
        if self.introspection.is_some() && self.config.jwks_uri.is_none() {
            // It need not have keys; when a token is signed with one after all, they are fetched.
            return;
        }
        let mut failures = 0;
        loop {
            let pause = match self.ask().await {
                Ok(()) => {
                    failures = 0;
                    REFRESH
                }
                Err(error) => {
                    if failures == 0 {
                        let issuer = &self.config.issuer;
                        tracing::warn!(issuer, %error, "the keys of an identity provider cannot be had; tokens are checked with those that are known");
                    }
                    failures += 1;
                    Duration::from_secs(*RETRY.get(failures - 1).unwrap_or(&60))
                }
            };
            // No two ingresses of a fleet at once, for as long as they run.
            sleep(pause.mul_f64(1.0 - 0.1 * fastrand::f64())).await;
        }
    }

    /// Asks the provider; whoever comes meanwhile, or shortly after, has the same answer.
    async fn ask(&self) -> Result<(), FetchError> {
        let mut last = self.fetching.lock().await;
        if let Some((when, outcome)) = &*last
            && when.elapsed() < if outcome.is_ok() { ASK_AGAIN } else { Duration::from_secs(1) }
        {
            return outcome.clone();
        }
        let fetched = self.fetch().await;
        self.fetches.record(if fetched.is_ok() { KeyFetchOutcome::Ok } else { KeyFetchOutcome::Failed });
        let outcome = fetched.map(|keys| {
            let before = self.keys.swap(Some(Arc::new(keys)));
            let same = |now: &Keys| before.as_ref().is_some_and(|before| before.document == now.document);
            if !self.keys.load().as_deref().is_some_and(same) {
                // A token of a key that is gone is good no longer.
                seen::forget();
            }
        });
        *last = Some((Instant::now(), outcome.clone()));
        outcome
    }

    async fn fetch(&self) -> Result<Keys, FetchError> {
        let uri = match &self.config.jwks_uri {
            Some(uri) => uri.clone(),
            None => discover(&self.fetcher, &self.config.issuer).await?.jwks_uri()?,
        };
        let body = self.fetcher.get(&uri).await?;
        let set: KeySet = serde_json::from_slice(&body).map_err(|error| FetchError::Content(uri, error.to_string()))?;
        Ok(Keys { keys: set.keys.into_iter().filter_map(Key::of).take(MAX_KEYS).collect(), document: body })
    }
}

impl Keys {
    /// The key of this id; without an id, the only one that fits.
    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<Arc<DecodingKey>> {
        let mut fitting = self
            .keys
            .iter()
            .filter(|key| key.family == algorithm.family() && key.algorithm.is_none_or(|only| only == algorithm));
        match kid {
            Some(kid) => fitting.find(|key| key.id.as_deref() == Some(kid)).map(|key| Arc::clone(&key.key)),
            None => {
                let first = fitting.next()?;
                fitting.next().is_none().then(|| Arc::clone(&first.key))
            }
        }
    }
}

impl Key {
    /// Those that check signatures. Others are passed over: a set may hold keys of kinds that nobody here knows
    /// (RFC 7517 section 5), and one of them must not take the others away.
    fn of(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let common = &jwk.common;
        let signs = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let verifies = common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        let family = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa,
            AlgorithmParameters::EllipticCurve(_) => AlgorithmFamily::Ec,
            AlgorithmParameters::OctetKeyPair(_) => AlgorithmFamily::Ed,
            // A shared secret has no place in a public document.
            _ => return None,
        };
        // One that names an algorithm which is unknown here is for that alone.
        let algorithm = match common.key_algorithm {
            Some(named) => Some(named.to_string().parse().ok()?),
            None => None,
        };
        let key = Arc::new(DecodingKey::from_jwk(&jwk).ok()?);
        (signs && verifies).then(|| Self { id: common.key_id.clone(), family, algorithm, key })
    }
}
