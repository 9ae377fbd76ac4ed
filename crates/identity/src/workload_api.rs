//! What an agent of the SPIFFE Workload API says: one message of `FetchX509SVID`, read without trust.
//!
//! Of protobuf this is the part that the message needs: fields with a length are looked at, others are passed over. Nothing is
//! copied; what is inside the fields is DER, for others to read. Source: `workload.proto` of the SPIFFE Workload API.

use std::fmt;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;

use crate::spiffe::{SpiffeError, SpiffeId, TrustDomain};
use crate::svid::{ForeignRoots, Svid};

/// Most identities in one message; an agent has a few for one workload.
const MAX_SVIDS: usize = 64;
/// Most trust domains in one message, and most revocation lists.
const MAX_OTHERS: usize = 256;
/// How many ids an error names.
const NAMED: usize = 5;

/// Why a message of an agent is of no use.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It is not the message that it should be.
    #[error("not a message of the Workload API: {0}")]
    Malformed(&'static str),
    /// There is nothing in it for us.
    #[error("it has no identity for this process; make a registration entry whose selectors fit it")]
    Empty,
    /// There is, but not who we are.
    #[error(
        "it gives {given}, but this process is `{expected}`; change the registration entry, or say with `spiffe_id` who this process is"
    )]
    Unexpected {
        /// Whom it knows.
        given: String,
        /// Who we are.
        expected: SpiffeId,
    },
    /// A name that is none.
    #[error("it names something that is no SPIFFE id: {0}")]
    Name(#[from] SpiffeError),
    /// Roots of our own trust domain given as those of another one, or of one domain given twice.
    #[error("it gives roots for `{0}` that are not another trust domain's alone")]
    Bundle(TrustDomain),
    /// Roots of another trust domain that are none.
    #[error("what it gives as the roots of `{0}` is empty or not certificates")]
    Roots(TrustDomain),
}

/// A message, as it lies in the bytes that came.
#[derive(Default)]
pub struct X509SvidResponse<'a> {
    svids: Vec<RawSvid<'a>>,
    crls: Vec<&'a [u8]>,
    federated: Vec<(&'a [u8], &'a [u8])>,
}

#[derive(Default)]
struct RawSvid<'a> {
    id: &'a [u8],
    chain: &'a [u8],
    key: &'a [u8],
    bundle: &'a [u8],
}

impl<'a> X509SvidResponse<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// [`AgentError::Malformed`].
    pub fn parse(message: &'a [u8]) -> Result<Self, AgentError> {
        let mut found = Self::default();
        each_field(message, |number, value| match number {
            1 => add(&mut found.svids, MAX_SVIDS, RawSvid::parse(value)?),
            2 => add(&mut found.crls, MAX_OTHERS, value),
            3 => add(&mut found.federated, MAX_OTHERS, map_entry(value)?),
            _ => Ok(()),
        })?;
        Ok(found)
    }

    /// The identity of this process: `expected`, or the first one when any will do, as the API says.
    ///
    /// # Errors
    /// There is none, or what belongs to it cannot be read. Roots of another trust domain that are of no use are left out instead, see
    /// [`Svid::left_out`].
    pub fn identity(&self, expected: Option<&SpiffeId>) -> Result<Svid, AgentError> {
        let first = self.svids.first().ok_or(AgentError::Empty)?;
        let wanted = |it: &&RawSvid<'_>| expected.is_none_or(|id| it.id == id.as_str().as_bytes());
        let chosen = self.svids.iter().find(wanted);
        let chosen = match (chosen, expected) {
            (None, Some(expected)) => {
                return Err(AgentError::Unexpected { given: self.names(), expected: expected.clone() });
            }
            (chosen, _) => chosen.unwrap_or(first),
        };
        let id = SpiffeId::parse(text(chosen.id)?)?;
        let bundle = certificates(chosen.bundle)?;
        let (federated, left_out) = self.foreign(id.trust_domain());
        let crls = self.crls.iter().map(|crl| whole(crl)).collect::<Result<Vec<_>, _>>()?;
        let parts = (certificates(chosen.chain)?, whole(chosen.key)?);
        Ok(Svid::new(id, parts, &bundle, &crls, &federated).without(left_out))
    }

    /// The roots of other trust domains, and why some are left out: nobody of those is believed, and all else goes on. What is wrong
    /// with one of them is no reason to let our own certificate end.
    fn foreign(&self, own: &TrustDomain) -> (Vec<ForeignRoots<'a>>, Vec<AgentError>) {
        let mut federated: Vec<ForeignRoots<'_>> = Vec::with_capacity(self.federated.len());
        let mut left_out = Vec::new();
        for (name, bundle) in &self.federated {
            match foreign_roots(name, bundle) {
                // One that spoke for our own domain would decide who we believe at home.
                Ok((domain, _)) if domain == *own || federated.iter().any(|(known, _)| *known == domain) => {
                    left_out.push(AgentError::Bundle(domain));
                }
                Ok(roots) => federated.push(roots),
                Err(why) => left_out.push(why),
            }
        }
        (federated, left_out)
    }

    /// The first few ids, cut: they go into logs.
    fn names(&self) -> String {
        let shown = |svid: &RawSvid<'_>| {
            let id = text(svid.id).ok().and_then(|id| SpiffeId::parse(id).ok());
            id.map_or_else(|| "something that is no SPIFFE id".to_owned(), |id| format!("`{id}`"))
        };
        let mut names: Vec<String> = self.svids.iter().take(NAMED).map(shown).collect();
        if self.svids.len() > NAMED {
            names.push(format!("{} more", self.svids.len() - NAMED));
        }
        names.join(", ")
    }
}

impl fmt::Debug for X509SvidResponse<'_> {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509SvidResponse").field("svids", &self.svids.len()).finish_non_exhaustive()
    }
}

impl<'a> RawSvid<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, AgentError> {
        let mut svid = Self::default();
        each_field(message, |number, value| {
            match number {
                1 => svid.id = value,
                2 => svid.chain = value,
                3 => svid.key = value,
                4 => svid.bundle = value,
                _ => {}
            }
            Ok(())
        })?;
        Ok(svid)
    }
}

/// The roots of another trust domain: certificates that can be believed.
fn foreign_roots<'a>(name: &[u8], bundle: &'a [u8]) -> Result<ForeignRoots<'a>, AgentError> {
    let name = text(name)?;
    let domain = TrustDomain::parse(name.strip_prefix("spiffe://").unwrap_or(name))?;
    let usable = |roots: &Vec<&[u8]>| {
        let mut store = RootCertStore::empty();
        roots.iter().all(|root| store.add(CertificateDer::from(*root)).is_ok())
    };
    match certificates(bundle).ok().filter(usable) {
        Some(roots) => Ok((domain, roots)),
        None => Err(AgentError::Roots(domain)),
    }
}

fn map_entry(message: &[u8]) -> Result<(&[u8], &[u8]), AgentError> {
    let mut entry: (&[u8], &[u8]) = (&[], &[]);
    each_field(message, |number, value| {
        match number {
            1 => entry.0 = value,
            2 => entry.1 = value,
            _ => {}
        }
        Ok(())
    })?;
    Ok(entry)
}

fn add<T>(list: &mut Vec<T>, limit: usize, item: T) -> Result<(), AgentError> {
    if list.len() >= limit {
        return Err(AgentError::Malformed("there is too much of one kind in it"));
    }
    list.push(item);
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, AgentError> {
    std::str::from_utf8(bytes).map_err(|_| AgentError::Malformed("a name in it is not text"))
}

/// Tells `visit` of each field that has a length, in order. Fields of other kinds are of later versions of the message.
fn each_field<'a>(
    mut rest: &'a [u8],
    mut visit: impl FnMut(u64, &'a [u8]) -> Result<(), AgentError>,
) -> Result<(), AgentError> {
    const SHORT: AgentError = AgentError::Malformed("it ends within a field");
    while !rest.is_empty() {
        let (tag, after) = varint(rest)?;
        let (number, kind) = (tag >> 3, tag & 7);
        rest = match kind {
            0 => varint(after)?.1,
            1 => after.get(8..).ok_or(SHORT)?,
            5 => after.get(4..).ok_or(SHORT)?,
            2 => {
                let (length, after) = varint(after)?;
                let length = usize::try_from(length).map_err(|_| SHORT)?;
                let (value, after) = after.split_at_checked(length).ok_or(SHORT)?;
                visit(number, value)?;
                after
            }
            _ => return Err(AgentError::Malformed("a field of it is of no known kind")),
        };
    }
    Ok(())
}

/// A number of at most 64 bits, seven in each byte, the lowest first.
fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), AgentError> {
    let mut number = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if at == 9 && bits > 1 {
            break;
        }
        number |= bits << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((number, bytes.get(at + 1..).unwrap_or_default()));
        }
    }
    Err(AgentError::Malformed("a number in it has no end"))
}

/// Certificates in DER, one after the other; at least one.
fn certificates(mut rest: &[u8]) -> Result<Vec<&[u8]>, AgentError> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (one, after) = sequence(rest)?;
        add(&mut found, MAX_OTHERS, one)?;
        rest = after;
    }
    if found.is_empty() { Err(AgentError::Malformed("a certificate is missing")) } else { Ok(found) }
}

/// One thing in DER, and nothing behind it.
fn whole(bytes: &[u8]) -> Result<&[u8], AgentError> {
    match sequence(bytes)? {
        (one, []) => Ok(one),
        _ => Err(AgentError::Malformed("bytes follow what they should not")),
    }
}

/// Splits a SEQUENCE in DER (X.690, 8.1.3) off: it, and what follows.
fn sequence(bytes: &[u8]) -> Result<(&[u8], &[u8]), AgentError> {
    const BROKEN: AgentError = AgentError::Malformed("something in it is not DER");
    let (head, length) = match *bytes {
        [0x30, length @ 0..=0x7f, ..] => (2, usize::from(length)),
        [0x30, 0x81, a, ..] => (3, usize::from(a)),
        [0x30, 0x82, a, b, ..] => (4, usize::from(a) << 8 | usize::from(b)),
        [0x30, 0x83, a, b, c, ..] => (5, usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)),
        _ => return Err(BROKEN),
    };
    bytes.split_at_checked(head + length).ok_or(BROKEN)
}

#[cfg(test)]
mod tests;
