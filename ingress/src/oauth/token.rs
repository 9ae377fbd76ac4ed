//! One token (RFC 7519, RFC 9068): what must hold before it is believed, and who it names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use outrigger_policy::Principal;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::{Issuer, Signature};
use crate::oauth::{Proven, TokenRefused};

/// Longest token: far more than providers make, and what fits into the head of a request.
pub(super) const MAX_TOKEN: usize = 16 * 1024;
/// Longest time until a token ends: beyond it, times cannot be reckoned with.
const FOREVER: Duration = Duration::from_secs(1 << 36);
/// When an opaque token ends whose provider does not say so: streams that it opened begin anew then.
const UNTOLD: Duration = Duration::from_secs(3600);

/// What a token says of itself, not yet believed: enough to find the key that proves it.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) issuer: String,
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
}

/// Reads what is needed to find the key.
pub(super) fn claimed(token: &str) -> Result<Claimed, TokenRefused> {
    #[derive(Deserialize)]
    struct Unproven {
        iss: String,
    }
    if token.len() > MAX_TOKEN {
        return Err(invalid("longer than a token may be"));
    }
    let header = decode_header(token).map_err(|error| invalid(&format!("its header: {error}")))?;
    // RFC 9068 section 2.1 and RFC 7515 section 4.1.9: any other type is a token for something else.
    let kind = header.typ.as_deref().map(|kind| kind.trim_start_matches("application/").to_ascii_lowercase());
    if !matches!(kind.as_deref(), None | Some("jwt" | "at+jwt")) {
        return Err(invalid("its type is not one of access tokens"));
    }
    // RFC 7515 section 4.1.11: whoever does not understand what it names must not believe it, and nothing is understood here.
    if header.crit.is_some() {
        return Err(invalid("its header has extensions that must be understood"));
    }
    let unproven: Unproven = insecure_decode_claims(token).map_err(|error| invalid(&format!("its claims: {error}")))?;
    Ok(Claimed { issuer: unproven.iss, kid: header.kid, algorithm: header.alg })
}

/// Believes a token or not. `key` is one of the issuer's, for this algorithm.
pub(super) fn verify(
    token: &str,
    algorithm: Algorithm,
    key: &DecodingKey,
    issuer: &Issuer,
    resource: &str,
) -> Result<Proven, TokenRefused> {
    let mut rules = Validation::new(algorithm);
    rules.leeway = issuer.clock_skew.as_secs();
    rules.validate_nbf = true;
    rules.set_required_spec_claims(&["exp", "iss", "aud"]);
    rules.set_issuer(&[&issuer.issuer]);
    if issuer.audiences.is_empty() {
        rules.set_audience(&[resource]);
    } else {
        rules.set_audience(&issuer.audiences);
    }
    let claims = decode::<Map<String, Value>>(token, key, &rules).map_err(|error| invalid(&error.to_string()))?.claims;
    let until = moment(&claims, "exp").map_or_else(SystemTime::now, |exp| exp + issuer.clock_skew);
    Ok(Proven { principal: principal(&claims, issuer)?, until: Some(until) })
}

/// What a provider says of an opaque token that is good (RFC 7662 section 2.2).
#[derive(Debug)]
pub(super) struct Told {
    principal: Principal,
    audiences: Vec<String>,
    until: SystemTime,
}

/// Reads what a provider says of an opaque token; none when it is not good.
pub(super) fn told(claims: &Map<String, Value>, issuer: &Issuer) -> Result<Option<Told>, TokenRefused> {
    if claims.get("active") != Some(&Value::Bool(true)) {
        return Ok(None);
    }
    if claims.get("iss").is_some_and(|named| named.as_str() != Some(&issuer.issuer)) {
        return Err(invalid("its provider says that another one issued it"));
    }
    let now = SystemTime::now();
    if moment(claims, "nbf").is_some_and(|nbf| nbf > now + issuer.clock_skew) {
        return Err(invalid("it is not good yet"));
    }
    let until = moment(claims, "exp").map_or(now + UNTOLD, |exp| exp + issuer.clock_skew);
    if until <= now {
        return Ok(None);
    }
    let audiences = claims.get("aud").map(words).unwrap_or_default();
    Ok(Some(Told { principal: principal(claims, issuer)?, audiences, until }))
}

impl Told {
    /// When it ends.
    pub(super) fn until(&self) -> SystemTime {
        self.until
    }

    /// Who presents it at the endpoint of this URL.
    pub(super) fn at(&self, issuer: &Issuer, resource: &str) -> Result<Proven, TokenRefused> {
        let wanted = |audience: &String| match issuer.audiences.as_slice() {
            [] => audience == resource,
            named => named.contains(audience),
        };
        if !self.audiences.iter().any(wanted) {
            return Err(invalid("it is for something else"));
        }
        Ok(Proven { principal: self.principal.clone(), until: Some(self.until) })
    }
}

/// A claim that is a time: at most the end of what a clock can say.
fn moment(claims: &Map<String, Value>, name: &str) -> Option<SystemTime> {
    let seconds = claims.get(name)?.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())?;
    UNIX_EPOCH.checked_add(seconds.min(FOREVER))
}

fn principal(claims: &Map<String, Value>, issuer: &Issuer) -> Result<Principal, TokenRefused> {
    let subject = find(claims, &issuer.subject).and_then(Value::as_str);
    let subject = subject
        .filter(|subject| !subject.is_empty())
        .ok_or_else(|| invalid(&format!("it has no claim {}, a text", issuer.subject)))?;
    let roles = issuer.roles.as_deref().and_then(|claim| find(claims, claim)).map(words).unwrap_or_default();
    let scopes = find(claims, &issuer.scope).map(words).unwrap_or_default();
    let further = issuer.claims.iter().filter_map(|(name, path)| Some((name, values(find(claims, path)?))));
    let user = Principal::user(&format!("{}{subject}", issuer.subject_prefix))
        .and_then(|user| user.with_grants(roles, scopes))
        .and_then(|user| user.with_claims(further));
    user.map_err(|error| invalid(&error.to_string()))
}

/// A claim by its path. A name with dots in it counts before a path does: namespaced claims are URLs.
fn find<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    if let Some(whole) = claims.get(path) {
        return Some(whole);
    }
    let (first, rest) = path.split_once('.')?;
    find(claims.get(first)?.as_object()?, rest)
}

/// A list of texts, or the words of a text.
fn words(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => text.split_ascii_whitespace().map(str::to_owned).collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// What rules compare a claim with: a text, a number and a boolean as JSON has it, or each of a list. Objects are nothing that
/// a rule could ask for.
fn values(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Number(_) | Value::Bool(_) => vec![value.to_string()],
        Value::Array(list) => list.iter().filter(|value| !value.is_array()).flat_map(values).collect(),
        Value::Null | Value::Object(_) => Vec::new(),
    }
}

fn invalid(why: &str) -> TokenRefused {
    TokenRefused::Invalid(why.to_owned())
}

/// The name of an algorithm in settings, as the library has it.
pub(super) fn algorithm(signature: Signature) -> Algorithm {
    match signature {
        Signature::Rs256 => Algorithm::RS256,
        Signature::Rs384 => Algorithm::RS384,
        Signature::Rs512 => Algorithm::RS512,
        Signature::Ps256 => Algorithm::PS256,
        Signature::Ps384 => Algorithm::PS384,
        Signature::Ps512 => Algorithm::PS512,
        Signature::Es256 => Algorithm::ES256,
        Signature::Es384 => Algorithm::ES384,
        Signature::EdDsa => Algorithm::EdDSA,
    }
}
