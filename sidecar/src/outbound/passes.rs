//! identify, by the child: where several children serve different callers, each has credentials of its own for the proxy, so that a
//! connection belongs to the calls of its child and to no others. Where a client shows none, the kernel says whose it is
//! (`holder.rs`).

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use outrigger_egress::request::{Field, named};

use super::Outbound;
use super::holder::holder;
use super::refusal::Why;
use super::wire::Wire;
use crate::config::Mode;

/// Random bytes in a secret.
const SECRET: usize = 24;
/// What stands before the number of a child in its user name.
const USER: &str = "child-";

/// A child of this sidecar; numbers are never used again.
pub type ChildId = u64;

/// The credentials of the children that live.
#[derive(Default)]
pub struct Passes(Mutex<Issued>);

#[derive(Default)]
struct Issued {
    next: ChildId,
    held: HashMap<ChildId, Held>,
}

struct Held {
    secret: Arc<str>,
    /// The process at the root of the child.
    process: Option<u32>,
}

/// The credentials of one child; worth nothing once this is dropped.
pub struct Pass {
    passes: Arc<Passes>,
    child: ChildId,
    secret: Arc<str>,
}

/// How a server that we start finds its proxy.
#[derive(Debug, Clone)]
pub struct WayOut {
    /// Where the proxy listens.
    pub proxy: SocketAddr,
    /// Where each child gets credentials of its own.
    pub passes: Option<Arc<Passes>>,
}

/// What a client shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown<'s> {
    Nothing,
    /// A user name and password.
    Pair(&'s [u8], &'s [u8]),
    /// Something that cannot be read.
    Unreadable,
}

impl Passes {
    /// Credentials for another child.
    ///
    /// # Errors
    /// Without random numbers.
    pub fn issue(self: &Arc<Self>) -> io::Result<Pass> {
        let mut random = [0; SECRET];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no random numbers"))?;
        let secret: Arc<str> = URL_SAFE_NO_PAD.encode(random).into();
        let child = {
            let mut issued = self.lock();
            issued.next += 1;
            let child = issued.next;
            issued.held.insert(child, Held { secret: Arc::clone(&secret), process: None });
            child
        };
        Ok(Pass { passes: Arc::clone(self), child, secret })
    }

    /// Whether any child has credentials.
    pub(super) fn any(&self) -> bool {
        !self.lock().held.is_empty()
    }

    fn verify(&self, user: &[u8], password: &[u8]) -> Option<ChildId> {
        let child = str::from_utf8(user).ok()?.strip_prefix(USER)?.parse().ok()?;
        let issued = self.lock();
        let secret = issued.held.get(&child)?.secret.as_bytes();
        verify_slices_are_equal(secret, password).ok().map(|()| child)
    }

    /// The children, with the process at the root of each.
    fn processes(&self) -> Vec<(ChildId, Option<u32>)> {
        self.lock().held.iter().map(|(child, held)| (*child, held.process)).collect()
    }

    /// Every use is one operation on the map, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Issued> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Whose it is.
    pub fn child(&self) -> ChildId {
        self.child
    }

    /// The proxy, with the credentials in it.
    pub fn url(&self, proxy: SocketAddr) -> String {
        format!("http://{USER}{}:{}@{proxy}", self.child, self.secret)
    }

    /// Says which process is at the root of the child.
    pub fn started(&self, process: u32) {
        if let Some(held) = self.passes.lock().held.get_mut(&self.child) {
            held.process = Some(process);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.passes.lock().held.remove(&self.child);
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("child", &self.child).finish_non_exhaustive()
    }
}

impl fmt::Debug for Passes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Passes").field(&self.lock().held.len()).finish()
    }
}

impl Outbound {
    /// The child that a connection comes from; `None` where children are not told apart.
    ///
    /// # Errors
    /// When the credentials are wrong, or there are none, nobody knows the child, and rules depend on it.
    pub(super) async fn child(
        &self,
        shown: Shown<'_>,
        client: &Wire,
        dialled: Option<SocketAddr>,
    ) -> Result<Option<ChildId>, Why> {
        if !self.passes.any() {
            return Ok(None);
        }
        match shown {
            Shown::Nothing => {}
            Shown::Pair(user, password) => {
                return self.passes.verify(user, password).map(Some).ok_or(Why::WrongPass);
            }
            Shown::Unreadable => return Err(Why::WrongPass),
        }
        let in_force = self.in_force();
        // Whose call it is decides nothing then, and looking for it costs.
        if !in_force.rules.per_tool() {
            return Ok(None);
        }
        match self.passes.processes().as_slice() {
            [(only, _)] => return Ok(Some(*only)),
            children => {
                if let Some(child) = self.holder_of(client, dialled, children).await {
                    return Ok(Some(child));
                }
            }
        }
        if in_force.mode == Mode::Observe { Ok(None) } else { Err(Why::NoPass) }
    }

    async fn holder_of(
        &self,
        client: &Wire,
        dialled: Option<SocketAddr>,
        children: &[(ChildId, Option<u32>)],
    ) -> Option<ChildId> {
        let (from, own) = client.ends().ok()?;
        let to = dialled.unwrap_or(own);
        let roots = children.iter().filter_map(|(child, process)| Some((*child, (*process)?))).collect();
        // Files of the kernel: they do not wait, but many of them take their time.
        tokio::task::spawn_blocking(move || holder(from, to, roots)).await.ok()?
    }
}

/// What a request shows (RFC 7617); `decoded` is where it is kept.
pub(super) fn shown<'d>(fields: &[Field<'_>], decoded: &'d mut Vec<u8>) -> Shown<'d> {
    let mut given = named(fields, "proxy-authorization");
    let value = match (given.next(), given.next()) {
        (None, _) => return Shown::Nothing,
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Shown::Unreadable,
    };
    let Some((scheme, encoded)) = value.split_at_checked(6) else { return Shown::Unreadable };
    if !scheme.eq_ignore_ascii_case(b"basic ") || STANDARD.decode_vec(encoded.trim_ascii(), decoded).is_err() {
        return Shown::Unreadable;
    }
    match decoded.iter().position(|&byte| byte == b':') {
        Some(at) => {
            let (user, password) = decoded.split_at(at);
            Shown::Pair(user, password.get(1..).unwrap_or_default())
        }
        None => Shown::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(text: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(text)).into_bytes()
    }

    #[test]
    fn credentials_are_good_for_their_child_while_it_lives_and_are_shown_nowhere() {
        let passes = Arc::<Passes>::default();
        let (one, two) = (passes.issue().unwrap(), passes.issue().unwrap());
        let url = one.url("127.0.0.1:15001".parse().unwrap());
        let (user, rest) = url.strip_prefix("http://").unwrap().split_once(':').unwrap();
        let secret = rest.strip_suffix("@127.0.0.1:15001").unwrap();
        assert_eq!(passes.verify(user.as_bytes(), secret.as_bytes()), Some(one.child()));
        let other = format!("{USER}{}", two.child());
        for (user, password) in [(other.as_str(), secret), (user, ""), (user, &secret[1..]), ("child-", secret)] {
            assert_eq!(passes.verify(user.as_bytes(), password.as_bytes()), None, "{user}");
        }
        assert!(secret.len() >= 32 && !format!("{one:?} {passes:?}").contains(secret));
        let (gone, secret) = (user.to_owned(), secret.to_owned());
        drop(one);
        assert_eq!(passes.verify(gone.as_bytes(), secret.as_bytes()), None);
        assert_ne!(passes.issue().unwrap().child(), two.child());
    }

    #[test]
    fn what_a_request_shows_is_read_or_wrong_but_never_nothing() {
        let mut decoded = Vec::new();
        let mut read = |values: &[&[u8]]| {
            let fields: Vec<_> = values.iter().map(|value| Field { name: "Proxy-Authorization", value }).collect();
            decoded.clear();
            match shown(&fields, &mut decoded) {
                Shown::Pair(user, password) => {
                    format!("{}|{}", String::from_utf8_lossy(user), String::from_utf8_lossy(password))
                }
                other => format!("{other:?}"),
            }
        };
        assert_eq!(read(&[]), "Nothing");
        assert_eq!(read(&[&basic("child-1:a:b")]), "child-1|a:b");
        for wrong in [&b"Basic"[..], b"Bearer abcdef", b"Basic !!!", &basic("no colon")] {
            assert_eq!(read(&[wrong]), "Unreadable");
        }
        assert_eq!(read(&[&basic("a:b"), &basic("a:b")]), "Unreadable");
    }
}
