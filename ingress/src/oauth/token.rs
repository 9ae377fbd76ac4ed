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
const MAX_TOKEN: usize = 16 * 1024;

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
    let until = claims.get("exp").and_then(Value::as_f64).and_then(|exp| Duration::try_from_secs_f64(exp).ok());
    let until = until.and_then(|exp| UNIX_EPOCH.checked_add(exp)).and_then(|exp| exp.checked_add(issuer.clock_skew));
    let principal = principal(&claims, issuer)?;
    Ok(Proven { principal, until: Some(until.unwrap_or_else(SystemTime::now)) })
}

fn principal(claims: &Map<String, Value>, issuer: &Issuer) -> Result<Principal, TokenRefused> {
    let subject = find(claims, &issuer.subject).and_then(Value::as_str);
    let subject = subject
        .filter(|subject| !subject.is_empty())
        .ok_or_else(|| invalid(&format!("it has no claim {}, a text", issuer.subject)))?;
    let roles = issuer.roles.as_deref().and_then(|claim| find(claims, claim)).map(words).unwrap_or_default();
    let scopes = find(claims, &issuer.scope).map(words).unwrap_or_default();
    let user = Principal::user(&format!("{}{subject}", issuer.subject_prefix))
        .and_then(|user| user.with_grants(roles, scopes));
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
