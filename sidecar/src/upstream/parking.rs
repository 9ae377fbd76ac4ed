//! Calls that wait for their client's answer: parked here, found again by a sealed `requestState`.
//!
//! The state says in the clear which replica made it, so that any ingress finds the way back ([`owner`]). The rest is
//! opaque to everybody else: AES-256-GCM over the handle, the replica, the caller, a digest of what was called and an
//! expiry (basic/patterns/mrtr asks servers to treat it as hostile). It can be used once. When nobody comes back the
//! server is told so and the call is cancelled; a call is never run a second time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest, rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use outrigger_mcp::{
    bridge::{
        owner,
        to_server::{Answer, Ask},
    },
    canonical::canonical,
    edit::rebuild_object,
    envelope::{Message, Param},
    json::quote,
};
use outrigger_proxy::failure::Failure;
use outrigger_telemetry::{
    Metrics, ServiceMetrics,
    metrics::{LimitKind, OpenGuard},
};

use super::{Lease, exchange::Exchange, owner::Owner};

const HANDLE: usize = 16;
const DIGEST: usize = 32;

/// A call that waits for answers.
#[derive(Debug)]
pub struct Parked {
    /// The call at the server.
    pub exchange: Exchange,
    /// Keeps its session in use.
    pub lease: Lease,
    /// What the server asked.
    pub asks: Vec<Ask>,
    /// The answers so far, in the same order.
    pub answers: Vec<Option<Answer>>,
}

struct Lot {
    parked: Parked,
    owner: Owner,
    digest: [u8; DIGEST],
    until: SystemTime,
    _counted: OpenGuard,
}

/// The parked calls of a sidecar.
pub struct Parking {
    replica: String,
    key: RandomizedNonceKey,
    lots: Mutex<HashMap<[u8; HANDLE], Lot>>,
    limits: ParkingLimits,
    metrics: Arc<Metrics>,
    service_metrics: Arc<ServiceMetrics>,
}

/// How many calls wait, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct ParkingLimits {
    /// Calls at most.
    pub all: usize,
    /// Calls of one principal.
    pub each: usize,
    /// How long a client may take to answer.
    pub patience: Duration,
}

impl Parking {
    /// An empty lot of this replica.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(
        replica: &str,
        service: &str,
        limits: ParkingLimits,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, &'static str> {
        let mut key = [0u8; 32];
        rand::fill(&mut key).map_err(|_| "no randomness")?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| "no AES-256-GCM")?;
        Ok(Self {
            replica: replica.to_owned(),
            key,
            lots: Mutex::new(HashMap::new()),
            limits,
            metrics: metrics.clone(),
            service_metrics: metrics.service(service),
        })
    }

    fn lots(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; HANDLE], Lot>> {
        // Every use is one map operation, so a panic elsewhere leaves nothing half done.
        self.lots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls are parked.
    pub fn waiting(&self) -> usize {
        self.lots().len()
    }

    /// Parks a call and returns the state that finds it.
    ///
    /// # Errors
    /// [`Failure::Limited`] when too many are parked; the call is cancelled then.
    pub fn park(&self, parked: Parked, request: &Message, owner: &Owner) -> Result<String, Failure> {
        let mut handle = [0u8; HANDLE];
        rand::fill(&mut handle).map_err(|_| Failure::Internal("no randomness".into()))?;
        let digest = digest_of(request);
        let until = SystemTime::now() + self.limits.patience;
        let state = self.seal(&handle, &digest, &owner.exact, until)?;
        let mut lots = self.lots();
        let mine = lots.values().filter(|lot| lot.owner.principal == owner.principal).count();
        if mine >= self.limits.each {
            return Err(self.limited("limits.parked_calls_per_principal"));
        }
        if lots.len() >= self.limits.all {
            return Err(self.limited("limits.parked_calls"));
        }
        parked.exchange.wait(true);
        let lot = Lot { parked, owner: owner.clone(), digest, until, _counted: self.metrics.call_parked() };
        lots.insert(handle, lot);
        Ok(state)
    }

    fn limited(&self, setting: &str) -> Failure {
        Failure::over(&self.service_metrics, LimitKind::ParkedCalls, setting, self.limits.patience)
    }

    /// Finds the call that a retry belongs to, and takes it out.
    ///
    /// # Errors
    /// [`Failure::InvalidParams`] when the state is forged, another caller's, or for another request;
    /// [`Failure::Interaction`] when the call is gone, or held by another replica.
    pub fn resume(&self, request: &Message, owner: &Owner) -> Result<Parked, Failure> {
        let refused = || Failure::InvalidParams("requestState is not valid for this request".into());
        let state = request.text(Param::RequestState).ok_or_else(refused)?;
        let (replica, sealed) = owner::split(&state).ok_or_else(refused)?;
        if replica != self.replica {
            return Err(Failure::Interaction("another replica holds this interaction, or held it; call again"));
        }
        let (handle, sealed_digest, until) = self.open(sealed, &owner.exact).ok_or_else(refused)?;
        if sealed_digest != digest_of(request) {
            return Err(refused());
        }
        let mut lots = self.lots();
        let gone = Failure::Interaction("the interaction is over: nobody answered in time; call again");
        match lots.get(&handle) {
            None if until > SystemTime::now() => {
                Err(Failure::InvalidParams("requestState has been used already".into()))
            }
            None => Err(gone),
            // The seal holds both already; the lot has the last word all the same.
            Some(lot) if lot.owner != *owner || lot.digest != sealed_digest => Err(refused()),
            Some(_) => {
                let parked = lots.remove(&handle).map(|lot| lot.parked).ok_or(gone)?;
                parked.exchange.wait(false);
                Ok(parked)
            }
        }
    }

    /// Gives up calls whose client took too long. The server gets an answer to each question before the call is
    /// cancelled, because some wait for one forever.
    pub async fn expire(&self) {
        let now = SystemTime::now();
        let late: Vec<Parked> = {
            let mut lots = self.lots();
            let handles: Vec<_> = lots.iter().filter(|(_, lot)| lot.until <= now).map(|(h, _)| *h).collect();
            handles.into_iter().filter_map(|h| lots.remove(&h)).map(|lot| lot.parked).collect()
        };
        for parked in late {
            for ask in &parked.asks {
                if let Err(error) = parked.exchange.send(ask.abandon()).await {
                    tracing::debug!(%error, "could not give up a question");
                }
            }
        }
    }

    fn seal(&self, handle: &[u8], digest: &[u8], caller: &str, until: SystemTime) -> Result<String, Failure> {
        let expiry = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut text = [handle, digest, &expiry.to_be_bytes()].concat();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(self.bound_to(caller)), &mut text)
            .map_err(|_| Failure::Internal("sealing failed".into()))?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.extend_from_slice(&text);
        Ok(owner::mark(&self.replica, &URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// What the seal covers besides what is sealed: the part in the clear, whose length is fixed, and the caller.
    fn bound_to(&self, caller: &str) -> Vec<u8> {
        [self.replica.as_bytes(), caller.as_bytes()].concat()
    }

    fn open(&self, state: &str, caller: &str) -> Option<([u8; HANDLE], [u8; DIGEST], SystemTime)> {
        let sealed = URL_SAFE_NO_PAD.decode(state).ok()?;
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let plain = self.key.open_in_place(nonce, Aad::from(self.bound_to(caller)), &mut text).ok()?;
        let (handle, rest) = plain.split_first_chunk::<HANDLE>()?;
        let (digest, expiry) = rest.split_first_chunk::<DIGEST>()?;
        let until = UNIX_EPOCH + Duration::from_secs(u64::from_be_bytes(expiry.try_into().ok()?));
        Some((*handle, *digest, until))
    }
}

/// What a retry must repeat: the method and every parameter, however it spells them. Its answers and its state are its own,
/// and so is `_meta`: progress, trace and log level of a retry are new, and who may answer is the owner's to say. Only asked
/// for where a call waits for its client.
fn digest_of(request: &Message) -> [u8; DIGEST] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&canonical(quote(&request.method_name()).as_bytes()));
    let own = |name: &str| matches!(name, "_meta" | "requestState" | "inputResponses");
    let params = request.params().object().map(|at| rebuild_object(request.body(), at, own, &[]));
    context.update(&canonical(params.as_deref().unwrap_or(b"{}")));
    context.finish().as_ref().try_into().unwrap_or([0; DIGEST])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(method: &str, params: &str) -> [u8; DIGEST] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        digest_of(&Message::parse(text.into()).unwrap())
    }

    #[test]
    fn a_retry_repeats_the_method_and_every_parameter() {
        let calls: [(&str, &str, &[&str]); 4] = [
            (
                "tools/call",
                r#"{"name":"t","arguments":{"a":1},"task":{"ttl":1}}"#,
                &[
                    r#"{"name":"u","arguments":{"a":1},"task":{"ttl":1}}"#,
                    r#"{"name":"t","arguments":{"a":2},"task":{"ttl":1}}"#,
                    r#"{"name":"t","arguments":{"a":1}}"#,
                    r#"{"name":"t","task":{"ttl":1}}"#,
                ],
            ),
            (
                "prompts/get",
                r#"{"name":"t","arguments":{"a":"1"}}"#,
                &[r#"{"name":"t"}"#, r#"{"name":"t","arguments":{}}"#],
            ),
            ("resources/read", r#"{"uri":"n:///x"}"#, &[r#"{"uri":"n:///y"}"#, r#"{"uri":"n:///x","other":1}"#, "{}"]),
            (
                "completion/complete",
                r#"{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a","value":"v"},"context":{"arguments":{"b":"1"}}}"#,
                &[
                    r#"{"ref":{"type":"ref/prompt","name":"q"},"argument":{"name":"a","value":"v"},"context":{"arguments":{"b":"1"}}}"#,
                    r#"{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a","value":"w"},"context":{"arguments":{"b":"1"}}}"#,
                    r#"{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a","value":"v"},"context":{"arguments":{"b":"2"}}}"#,
                    r#"{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a","value":"v"}}"#,
                ],
            ),
        ];
        for (method, params, others) in calls {
            let parked = digest(method, params);
            for other in others {
                assert_ne!(digest(method, other), parked, "{method} {other}");
            }
            let answers = r#"{"_meta":{"progressToken":7},"requestState":"s","inputResponses":{"r1":{}},"#;
            assert_eq!(digest(method, &params.replacen('{', answers, 1)), parked, "{method}");
            assert_ne!(digest("tools/other", params), parked, "{method}");
        }
    }
}
