//! Join tokens: each lets a service prove itself, a number of times and until a moment. The file has their digests only.
//!
//! A use belongs to a key: the same key may come again, because an answer can be lost on its way, and a certificate for a
//! key is of no use to somebody else.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::files;

/// What every token begins with, so that people and scanners of leaked secrets know one.
const PREFIX: &str = "orj_";
const FILE: &str = "tokens.json";
/// Tokens in a file: far more than services.
const MAX_TOKENS: usize = 10_000;
/// Uses of one token: each is a line in the file.
pub(crate) const MAX_USES: u32 = 10_000;
/// How long an expired token is remembered, so that its holder learns why it does not work.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);

/// A token as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Token {
    /// The public half, to speak of it.
    pub(crate) id: String,
    pub(crate) service: String,
    sha256: String,
    pub(crate) created: u64,
    pub(crate) expires: u64,
    pub(crate) uses: u32,
    /// It is kept in the directory of its service (`join`), and goes when another takes its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    kept: bool,
    /// Digests of the keys that used it.
    #[serde(default)]
    pub(crate) used_by: Vec<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct Store {
    tokens: Vec<Token>,
}

/// Why a token proves nothing.
#[derive(Debug)]
pub(crate) enum Useless {
    /// Nobody made it, or it was revoked.
    Unknown,
    Expired(String),
    Used(String),
    /// What it proves is not what was asked for.
    Refused(outrigger_identity::RequestError),
    /// The file.
    Broken(anyhow::Error),
}

/// Makes a token and returns it. It cannot be shown again.
pub(crate) fn create(dir: &Path, service: &str, uses: u32, ttl: Duration) -> anyhow::Result<(Token, String)> {
    add(dir, service, uses, ttl, false)
}

/// The same for a token that is kept where its service finds it: those that were kept there before are worth nothing from now on.
pub(crate) fn create_kept(dir: &Path, service: &str, uses: u32, ttl: Duration) -> anyhow::Result<(Token, String)> {
    add(dir, service, uses, ttl, true)
}

/// What is known of a token, unless it is over.
pub(crate) fn find(dir: &Path, text: &str, now: SystemTime) -> anyhow::Result<Option<Token>> {
    let digest = digest_of(text);
    let found = load(dir)?.tokens.into_iter().find(|token| same(&token.sha256, &digest));
    Ok(found.filter(|token| token.expires > seconds(now)))
}

fn add(dir: &Path, service: &str, uses: u32, ttl: Duration, kept: bool) -> anyhow::Result<(Token, String)> {
    if uses == 0 || uses > MAX_USES {
        bail!("a token can be used 1 to {MAX_USES} times");
    }
    let (id, secret) = (random::<6>()?, random::<32>()?);
    let id = HEXLOWER.encode(&id);
    let text = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
    let now = seconds(SystemTime::now());
    let token = Token {
        id,
        service: service.to_owned(),
        sha256: digest_of(&text),
        created: now,
        expires: now.saturating_add(ttl.as_secs()),
        uses,
        kept,
        used_by: Vec::new(),
    };
    change(dir, |store| {
        store.forget(now);
        if kept {
            store.tokens.retain(|token| !(token.kept && token.service == service));
        }
        if store.tokens.len() >= MAX_TOKENS {
            bail!("there are {MAX_TOKENS} tokens; revoke some: outrigger ca token revoke ID");
        }
        store.tokens.push(token.clone());
        Ok(())
    })?;
    Ok((token, text))
}

/// All that are remembered, oldest first.
pub(crate) fn list(dir: &Path) -> anyhow::Result<Vec<Token>> {
    Ok(load(dir)?.tokens)
}

/// Forgets a token. False when there is none of this id.
pub(crate) fn revoke(dir: &Path, id: &str) -> anyhow::Result<bool> {
    change(dir, |store| {
        let before = store.tokens.len();
        store.tokens.retain(|token| token.id != id);
        Ok(store.tokens.len() < before)
    })
}

/// Uses a token for a key. `fits` is asked with the service whether that is what the request is for; only then the token is
/// used. Returns the token's id and its service.
pub(crate) fn redeem(
    dir: &Path,
    text: &str,
    key: &[u8],
    now: SystemTime,
    fits: impl FnOnce(&str) -> Result<(), outrigger_identity::RequestError>,
) -> Result<(String, String), Useless> {
    let key = HEXLOWER.encode(key);
    let id =
        text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).map(|(id, _)| id).ok_or(Useless::Unknown)?;
    let redeemed = change(dir, |store| {
        let found = store.tokens.iter_mut().find(|token| token.id == id);
        let Some(token) = found.filter(|token| same(&token.sha256, &digest_of(text))) else {
            return Ok(Err(Useless::Unknown));
        };
        if token.expires <= seconds(now) {
            return Ok(Err(Useless::Expired(token.id.clone())));
        }
        let again = token.used_by.contains(&key);
        if !again && token.used_by.len() >= token.uses as usize {
            return Ok(Err(Useless::Used(token.id.clone())));
        }
        if let Err(error) = fits(&token.service) {
            return Ok(Err(Useless::Refused(error)));
        }
        if !again {
            token.used_by.push(key);
        }
        Ok(Ok((token.id.clone(), token.service.clone())))
    });
    redeemed.unwrap_or_else(|error| Err(Useless::Broken(error)))
}

/// Reads, changes and writes the file while no other process does.
fn change<T>(dir: &Path, edit: impl FnOnce(&mut Store) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let lock = File::open(dir).and_then(|handle| handle.lock().map(|()| handle));
    let _exclusive = lock.with_context(|| format!("cannot use the directory {}", dir.display()))?;
    let mut store = load(dir)?;
    let before = serde_json::to_vec_pretty(&store)?;
    let result = edit(&mut store)?;
    let after = serde_json::to_vec_pretty(&store)?;
    if before != after {
        // A use that was forgotten could be used again.
        files::write_through(&dir.join(FILE), &after, files::PRIVATE)?;
    }
    Ok(result)
}

fn load(dir: &Path) -> anyhow::Result<Store> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Ok(Store::default());
    }
    serde_json::from_str(&files::read(&path)?).with_context(|| format!("{} cannot be understood", path.display()))
}

impl Store {
    fn forget(&mut self, now: u64) {
        self.tokens.retain(|token| token.expires.saturating_add(REMEMBERED.as_secs()) > now);
    }
}

fn digest_of(text: &str) -> String {
    HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref())
}

fn same(one: &str, other: &str) -> bool {
    verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no random numbers from the system"))?;
    Ok(bytes)
}

/// Since 1970.
pub(crate) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn use_it(dir: &Path, text: &str, key: u8) -> Result<(String, String), Useless> {
        redeem(dir, text, &[key], SystemTime::now(), |_| Ok(()))
    }

    #[test]
    fn a_token_is_used_up_by_keys_and_not_by_tries() {
        let dir = tempfile::tempdir().unwrap();
        let (token, text) = create(dir.path(), "fs", 2, HOUR).unwrap();
        for key in [1, 1, 2, 1, 2] {
            assert_eq!(use_it(dir.path(), &text, key).unwrap(), (token.id.clone(), "fs".to_owned()));
        }
        assert!(matches!(use_it(dir.path(), &text, 3), Err(Useless::Used(id)) if id == token.id));
        assert_eq!(list(dir.path()).unwrap()[0].used_by.len(), 2);
        let file = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(!file.contains(text.splitn(3, '_').nth(2).unwrap()), "the secret is not kept");
    }

    #[test]
    fn a_request_that_does_not_fit_costs_no_use() {
        let dir = tempfile::tempdir().unwrap();
        let (_, text) = create(dir.path(), "fs", 1, HOUR).unwrap();
        let refused = redeem(dir.path(), &text, &[1], SystemTime::now(), |service| {
            assert_eq!(service, "fs");
            Err(outrigger_identity::RequestError::Authority)
        });
        assert!(matches!(refused, Err(Useless::Refused(_))));
        use_it(dir.path(), &text, 2).unwrap();
    }

    #[test]
    fn unknown_expired_and_revoked_tokens_prove_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (token, text) = create(dir.path(), "fs", 1, HOUR).unwrap();
        let later = SystemTime::now() + HOUR * 2;
        assert!(matches!(redeem(dir.path(), &text, &[1], later, |_| Ok(())), Err(Useless::Expired(_))));
        let mut forged = text.clone();
        forged.replace_range(text.len() - 1.., if text.ends_with('A') { "B" } else { "A" });
        for unknown in ["", "orj_", "x", forged.as_str(), &text[4..]] {
            assert!(matches!(use_it(dir.path(), unknown, 1), Err(Useless::Unknown)), "{unknown}");
        }
        assert!(revoke(dir.path(), &token.id).unwrap() && !revoke(dir.path(), &token.id).unwrap());
        assert!(matches!(use_it(dir.path(), &text, 1), Err(Useless::Unknown)));
        assert!(create(dir.path(), "fs", 0, HOUR).is_err());
    }

    #[test]
    fn a_broken_file_lets_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        let (_, text) = create(dir.path(), "fs", 1, HOUR).unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(matches!(use_it(dir.path(), &text, 1), Err(Useless::Broken(_))));
        assert!(create(dir.path(), "fs", 1, HOUR).is_err(), "and nothing is written over it");
    }
}
