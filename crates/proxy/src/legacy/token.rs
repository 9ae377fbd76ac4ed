//! The id of a session as a sealed token: everything that another replica needs to go on with the session.
//!
//! ```text
//!  "s1." base64url( nonce, AES-256-GCM( id, begun, principal's hash, route, revision, lists, capabilities, info ) )
//! ```
//!
//! Possession proves nothing: whoever uses it must be the principal that it was sealed for.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::failure::Failure;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use outrigger_mcp::bridge::to_client::Client;
use outrigger_mcp::revision::Revision;
use outrigger_policy::Principal;

use super::keys::Keys;
use super::seam::{ListKind, Route};

/// What every id begins with: the form of what follows.
const MARK: &str = "s1.";
/// The longest id. Proxies and servers take headers of 8 KiB in all; whoever says more of itself than fits has a session
/// that only one replica can serve.
const MAX_TOKEN: usize = 4096;
/// Bytes of a session's name and of a principal's hash.
const SHORT: usize = 16;

/// What tells sessions apart inside the mesh: random, and never shown to a client.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SessionKey([u8; SHORT]);

/// What a session id says.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) key: SessionKey,
    /// Seconds since 1970.
    begun: u64,
    principal: [u8; SHORT],
    pub(super) route: Route,
    /// The lists whose changes the client was promised to be told of.
    pub(super) lists: Vec<ListKind>,
    /// What the client said of itself; `None` when that was too long to be carried along.
    pub(super) client: Option<Client>,
}

impl SessionKey {
    /// A fresh one.
    ///
    /// # Errors
    /// [`Failure::Internal`] when the system has no randomness.
    pub(super) fn random() -> Result<Self, Failure> {
        let mut key = [0; SHORT];
        rand::fill(&mut key).map_err(|_| Failure::Internal("no randomness from the system".into()))?;
        Ok(Self(key))
    }

    /// What the mesh knows the session by (docs/decisions/0002): the same on every replica, and after a restart, so that
    /// the session with a stateful server is found again.
    /// The principal is in it too, as a hash, so that limits can count what all its sessions hold together.
    pub(super) fn tag(self, principal: &Principal) -> String {
        format!("c.{}.{}", hex(&self.0), hex(&hash(principal)))
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// Whether an id has the form of ours.
pub(super) fn minted(id: &str) -> bool {
    let rest = id.strip_prefix(MARK).filter(|_| id.len() <= MAX_TOKEN);
    rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')))
}

impl Token {
    /// The token of a session that begins now.
    pub(super) fn begin(
        key: SessionKey,
        principal: &Principal,
        route: &Route,
        client: &Client,
        lists: &[ListKind],
    ) -> Self {
        Self {
            key,
            begun: seconds(SystemTime::now()),
            principal: hash(principal),
            route: route.clone(),
            lists: lists.to_vec(),
            client: Some(client.clone()),
        }
    }

    /// The session id. One that would be too long leaves out the client.
    ///
    /// # Errors
    /// [`Failure::Internal`].
    pub(super) fn seal(&self, keys: &Keys) -> Result<String, Failure> {
        let sealed = |client: Option<&Client>| {
            let sealed = keys.seal(self.write(client)).map_err(|error| Failure::Internal(error.to_string()))?;
            Ok::<_, Failure>(format!("{MARK}{}", URL_SAFE_NO_PAD.encode(sealed)))
        };
        // The arithmetic of lengths would be wrong one day: what is too long is seen when it is there.
        let whole =
            sealed(self.client.as_ref().filter(|client| client.capabilities.len() + client.info.len() < MAX_TOKEN))?;
        if whole.len() <= MAX_TOKEN { Ok(whole) } else { sealed(None) }
    }

    /// Reads a session id. `None` when it is not one of ours.
    pub(super) fn open(keys: &Keys, id: &str) -> Option<Self> {
        let rest = id.strip_prefix(MARK).filter(|_| id.len() <= MAX_TOKEN)?;
        let sealed = URL_SAFE_NO_PAD.decode(rest).ok()?;
        Self::read(&keys.open(&sealed)?)
    }

    /// Whether it was sealed for this principal.
    pub(super) fn is_of(&self, principal: &Principal) -> bool {
        self.principal == hash(principal)
    }

    /// Whether sessions that began when it did are over. A clock that runs ahead elsewhere does not shorten a life.
    pub(super) fn is_over(&self, max_age: Duration) -> bool {
        seconds(SystemTime::now()).saturating_sub(self.begun) >= max_age.as_secs()
    }

    fn write(&self, client: Option<&Client>) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.begun.to_be_bytes());
        out.extend_from_slice(&self.principal);
        let lists = ListKind::ALL.iter().enumerate().filter(|(_, kind)| self.lists.contains(kind));
        out.push(lists.fold(0, |bits, (at, _)| bits | 1 << at));
        put(
            &mut out,
            match &self.route {
                Route::Merged => b"",
                Route::Service(name) => name.as_bytes(),
            },
        );
        if let Some(client) = client {
            put(&mut out, client.revision.as_str().as_bytes());
            put(&mut out, &client.capabilities);
            put(&mut out, &client.info);
        }
        out
    }

    fn read(text: &[u8]) -> Option<Self> {
        let (key, rest) = text.split_first_chunk::<SHORT>()?;
        let (begun, rest) = rest.split_first_chunk::<8>()?;
        let (principal, rest) = rest.split_first_chunk::<SHORT>()?;
        let (bits, mut rest) = rest.split_first()?;
        let route = match std::str::from_utf8(take(&mut rest)?).ok()? {
            "" => Route::Merged,
            name => Route::Service(name.into()),
        };
        let lists = ListKind::ALL.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
        let client = if rest.is_empty() {
            None
        } else {
            let revision = Revision::parse(std::str::from_utf8(take(&mut rest)?).ok()?)?;
            let mut object = || take(&mut rest).map(Bytes::copy_from_slice);
            Some(Client { revision, capabilities: object()?, info: object()?, log_level: None })
        };
        Some(Self {
            key: SessionKey(*key),
            begun: u64::from_be_bytes(*begun),
            principal: *principal,
            route,
            lists: lists.map(|(_, kind)| *kind).collect(),
            client,
        })
    }
}

fn put(out: &mut Vec<u8>, part: &[u8]) {
    // Longer ones do not fit a token anyway.
    let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(part);
}

fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk::<2>()?;
    let (part, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *from = rest;
    Some(part)
}

fn hash(principal: &Principal) -> [u8; SHORT] {
    let whole = digest(&SHA256, principal.id().as_bytes());
    whole.as_ref().first_chunk().copied().unwrap_or_default()
}

/// What the event ids of a session on one replica begin with: another replica must not mistake them for its own.
///
/// # Errors
/// [`Failure::Internal`] when the system has no randomness.
pub(super) fn random_prefix() -> Result<String, Failure> {
    let mut bytes = [0; 6];
    rand::fill(&mut bytes).map_err(|_| Failure::Internal("no randomness from the system".into()))?;
    Ok(hex(&bytes))
}

/// A name for a session that says nothing of its tag, which clients do not learn; the same on every replica.
pub(super) fn short_name(tag: &str) -> String {
    hex(digest(&SHA256, tag.as_bytes()).as_ref().get(..6).unwrap_or_default())
}

fn hex(bytes: &[u8]) -> String {
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.filter_map(|nibble| char::from_digit(u32::from(nibble), 16)).collect()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
