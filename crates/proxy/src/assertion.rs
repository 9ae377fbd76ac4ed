//! For whom an ingress calls a service: what it knows of the user, signed with the key of its certificate, for one service and
//! two minutes. Tokens end at the ingress; this goes on, and ends at the sidecar.
//!
//! Both sides remember: a signature is made once for a user and a service, and checked once on each thread, until it is about
//! to end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context, SHA256};
use http::{HeaderMap, HeaderValue};
use outrigger_identity::{Credentials, SpiffeId, StatementError};
use outrigger_policy::{Principal, PrincipalError, PrincipalKind};
use serde::{Deserialize, Serialize};

/// The header between ingress and sidecar. Nobody else's counts, and no server sees it.
pub const HEADER: &str = "outrigger-user";
/// How long an assertion lives: long enough to be made seldom, short enough that a copy of it is soon worth nothing.
const LIFE: Duration = Duration::from_secs(120);
/// How far the clocks of two members may be apart.
const SKEW: Duration = Duration::from_secs(30);
/// Assertions that one thread remembers; past it all are forgotten.
const MAX_KNOWN: usize = 4096;

/// Why an assertion is not believed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AssertionError {
    /// Several headers, of which one may be somebody else's.
    #[error("there are several")]
    Several,
    /// No signature, or none to believe.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// Signed by another member than the one who sent it.
    #[error("it is signed by `{0}`, who did not send it")]
    Signer(SpiffeId),
    /// Made for another service.
    #[error("it is for `{0}`")]
    Audience(String),
    /// It has ended, or would last longer than any may.
    #[error("it is not of now")]
    Time,
    /// What it says cannot be read.
    #[error("its contents cannot be read: {0}")]
    Contents(String),
    /// Nobody can be called that.
    #[error("whom it names: {0}")]
    User(#[from] PrincipalError),
}

/// What is signed. The issuer is whoever signed it.
#[derive(Serialize, Deserialize)]
struct Contents {
    /// SPIFFE id of the service.
    aud: String,
    /// The user, as policy names it.
    sub: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    roles: Vec<Arc<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scopes: Vec<Arc<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    claims: Vec<(Arc<str>, Vec<Arc<str>>)>,
    /// Seconds since 1970.
    exp: u64,
}

/// Makes assertions for one service.
pub struct Assertions {
    credentials: Arc<Credentials>,
    audience: Arc<str>,
}

struct Made {
    /// Held, so that no other principal comes to lie where it lies.
    _who: Principal,
    _audience: Arc<str>,
    generation: u64,
    renew: SystemTime,
    value: HeaderValue,
}

struct Believed {
    from: Principal,
    user: Principal,
    generation: u64,
    until: SystemTime,
}

thread_local! {
    static MADE: RefCell<HashMap<(usize, usize), Made>> = RefCell::default();
    static BELIEVED: RefCell<HashMap<[u8; 32], Believed>> = RefCell::default();
}

impl Assertions {
    /// For the service of this id.
    pub fn new(credentials: &Arc<Credentials>, audience: &SpiffeId) -> Self {
        Self { credentials: Arc::clone(credentials), audience: audience.as_str().into() }
    }

    /// The header that says for whom a call is, whose proof of who it is ends at `until`; none for those who are no users.
    ///
    /// # Errors
    /// The user has too many roles, scopes and claims, or our key cannot sign.
    pub fn of(&self, who: &Principal, until: Option<SystemTime>) -> Result<Option<HeaderValue>, StatementError> {
        let PrincipalKind::User { subject } = who.kind() else { return Ok(None) };
        let key = (who.address(), Arc::as_ptr(&self.audience).addr());
        let (now, generation) = (SystemTime::now(), self.credentials.generation());
        let known = MADE.with_borrow(|made| {
            let made = made.get(&key).filter(|made| now < made.renew && made.generation == generation);
            made.map(|made| made.value.clone())
        });
        if known.is_some() {
            return Ok(known);
        }
        let end = until.map_or(now + LIFE, |until| until.min(now + LIFE));
        let contents = Contents {
            aud: self.audience.to_string(),
            sub: subject.to_string(),
            roles: who.roles().to_vec(),
            scopes: who.scopes().to_vec(),
            claims: who.claims().iter().map(|claim| (claim.name().into(), claim.values().to_vec())).collect(),
            exp: end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        };
        let payload = serde_json::to_vec(&contents).unwrap_or_default();
        let value = HeaderValue::try_from(self.credentials.sign(&payload)?)
            .map_err(|_| StatementError::Form("a header cannot hold it"))?;
        let made = Made {
            _who: who.clone(),
            _audience: Arc::clone(&self.audience),
            generation,
            renew: now + end.duration_since(now).unwrap_or_default() / 2,
            value: value.clone(),
        };
        MADE.with_borrow_mut(|all| {
            if all.len() >= MAX_KNOWN {
                all.clear();
            }
            all.insert(key, made);
        });
        Ok(Some(value))
    }
}

impl std::fmt::Debug for Assertions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assertions").field("audience", &self.audience).finish_non_exhaustive()
    }
}

/// For whom a member calls us that may say so; none if it says nothing.
///
/// # Errors
/// [`AssertionError`]: what it says is not to be believed.
pub fn user(
    credentials: &Credentials,
    headers: &HeaderMap,
    from: &Principal,
) -> Result<Option<Principal>, AssertionError> {
    let mut given = headers.get_all(HEADER).iter();
    let value = match (given.next(), given.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.as_bytes(),
        (Some(_), Some(_)) => return Err(AssertionError::Several),
    };
    let mark = mark(credentials, value);
    let (now, generation) = (SystemTime::now(), credentials.generation());
    let known = BELIEVED.with_borrow(|believed| {
        let known = believed.get(&mark)?;
        let good = known.generation == generation && now < known.until && known.from == *from;
        good.then(|| known.user.clone())
    });
    if known.is_some() {
        return Ok(known);
    }
    let (user, until) = verify(credentials, value, from, now)?;
    BELIEVED.with_borrow_mut(|all| {
        if all.len() >= MAX_KNOWN {
            all.clear();
        }
        all.insert(mark, Believed { from: from.clone(), user: user.clone(), generation, until });
    });
    Ok(Some(user))
}

/// Stands for an assertion that reached us: of several members in one process each has its own.
fn mark(credentials: &Credentials, value: &[u8]) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    hash.update(credentials.id().as_str().as_bytes());
    hash.update(&[0]);
    hash.update(value);
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.finish().as_ref());
    digest
}

fn verify(
    credentials: &Credentials,
    value: &[u8],
    from: &Principal,
    now: SystemTime,
) -> Result<(Principal, SystemTime), AssertionError> {
    let (signer, payload) = credentials.statement(value)?;
    if signer.as_str() != from.id() {
        return Err(AssertionError::Signer(signer));
    }
    let contents: Contents =
        serde_json::from_slice(&payload).map_err(|error| AssertionError::Contents(error.to_string()))?;
    if contents.aud != credentials.id().as_str() {
        return Err(AssertionError::Audience(contents.aud));
    }
    let until = UNIX_EPOCH.checked_add(Duration::from_secs(contents.exp)).and_then(|end| end.checked_add(SKEW));
    let until = until.filter(|until| now < *until && *until <= now + LIFE + SKEW + SKEW).ok_or(AssertionError::Time)?;
    let user = Principal::user(&contents.sub)?.with_grants(contents.roles, contents.scopes)?;
    Ok((user.with_claims(contents.claims)?.through(from), until))
}

#[cfg(test)]
mod tests;
