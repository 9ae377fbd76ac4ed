//! Chains that were verified already, so that a member which comes back does not cost its authority's signature again: the
//! dearest step of a handshake. That the peer holds the key of its certificate is proven in every handshake all the same.
//!
//! Of what decides on a chain, only the time changes while a verifier lives: authorities and revocation lists are fixed
//! when it is made, and with new ones comes a new verifier, which knows nobody. So a chain stays good until the first of
//! its certificates ends. Only the very same bytes are known again, and only what was found good is remembered.
//!
//! A chain is verified before its holder has proven anything: whoever has a copy of a good one can have it remembered, and displace
//! others. That costs them one verification, and gains nothing.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, UnixTime};

use crate::peer::{self, PeerFacts};

/// Most chains that are remembered. Past it all are forgotten, which costs each of them one verification.
const MAX_CHAINS: usize = 256;
/// Bytes of the longest chain that is remembered: of authorities with keys of usual sizes one has less than three thousand.
const MAX_BYTES: usize = 8 << 10;

/// By the bytes of their first certificates.
#[derive(Debug, Default)]
pub(crate) struct KnownChains(RwLock<HashMap<Box<[u8]>, Known>>);

#[derive(Debug)]
struct Known {
    intermediates: Box<[Box<[u8]>]>,
    facts: PeerFacts,
    /// When it was verified. The clock may be set back to where it was not valid yet.
    since: SystemTime,
    /// The earliest end among its certificates, which still belongs to their lives (RFC 5280, section 4.1.2.5).
    until: SystemTime,
}

impl KnownChains {
    /// What the first certificate says, if exactly this chain was found good and is still alive at `now`.
    pub(crate) fn find(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Option<PeerFacts> {
        // A map that is only ever added to or emptied is good after a panic, too.
        let chains = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let known = chains.get(leaf.as_ref())?;
        let now = time(now);
        let alive = known.since <= now && now <= known.until;
        let same = known.intermediates.iter().map(AsRef::as_ref).eq(intermediates.iter().map(AsRef::as_ref));
        (alive && same).then(|| known.facts.clone())
    }

    /// Remembers a chain that was found good at `now`, unless it is very long or one of its certificates has ended, which nobody
    /// needed, or cannot be read.
    pub(crate) fn remember(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        facts: &PeerFacts,
        now: UnixTime,
    ) {
        if leaf.len() + intermediates.iter().map(|certificate| certificate.len()).sum::<usize>() > MAX_BYTES {
            return;
        }
        let mut ends = intermediates.iter().map(|certificate| peer::life(certificate).map(|(_, end)| end));
        let until = ends.try_fold(facts.not_after, |until, end| end.map(|end| until.min(end)));
        let since = time(now);
        let Some(until) = until.ok().filter(|until| since <= *until) else { return };
        let known = Known {
            intermediates: intermediates.iter().map(|certificate| certificate.as_ref().into()).collect(),
            facts: facts.clone(),
            since,
            until,
        };
        let mut chains = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if chains.len() >= MAX_CHAINS {
            chains.clear();
        }
        chains.insert(leaf.as_ref().into(), known);
    }
}

fn time(time: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject;

    use super::*;
    use crate::root::{Rank, Root};
    use crate::spiffe::{SpiffeId, TrustDomain};

    const HOUR: Duration = Duration::from_secs(3600);

    fn facts() -> PeerFacts {
        let id = SpiffeId::parse("spiffe://demo.outrigger.local/fs").unwrap();
        PeerFacts { id, not_before: SystemTime::now(), not_after: SystemTime::now() + 2 * HOUR }
    }

    fn intermediate() -> [CertificateDer<'static>; 1] {
        let domain = TrustDomain::parse("demo.outrigger.local").unwrap();
        let (_, pem) = Root::generate(&domain, HOUR, Rank::Signer).unwrap();
        [CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()]
    }

    fn after(time: Duration) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + time)
    }

    #[test]
    fn it_keeps_a_bounded_number_of_chains() {
        let known = KnownChains::default();
        let leaves = (0..=MAX_CHAINS).map(|number| CertificateDer::from(number.to_be_bytes().to_vec()));
        let leaves: Vec<_> = leaves.collect();
        for leaf in &leaves {
            known.remember(leaf, &[], &facts(), UnixTime::now());
            assert!(known.find(leaf, &[], UnixTime::now()).is_some());
            assert!(known.0.read().unwrap().len() <= MAX_CHAINS);
        }
        assert!(known.find(&leaves[0], &[], UnixTime::now()).is_none());
    }

    #[test]
    fn it_keeps_none_that_is_long_or_cannot_be_read() {
        let known = KnownChains::default();
        let long = CertificateDer::from(vec![0; MAX_BYTES + 1]);
        known.remember(&long, &[], &facts(), UnixTime::now());
        assert!(known.find(&long, &[], UnixTime::now()).is_none());
        let (short, [certificate]) = (CertificateDer::from(vec![3]), intermediate());
        let many = vec![certificate; MAX_BYTES / 256];
        known.remember(&short, &many, &facts(), UnixTime::now());
        assert!(known.find(&short, &many, UnixTime::now()).is_none());
        let (leaf, unreadable) = (CertificateDer::from(vec![1]), [CertificateDer::from(vec![2])]);
        known.remember(&leaf, &unreadable, &facts(), UnixTime::now());
        assert!(known.find(&leaf, &unreadable, UnixTime::now()).is_none());
    }

    #[test]
    fn a_chain_ends_with_the_first_of_its_certificates() {
        let intermediate = intermediate();
        let (known, leaf) = (KnownChains::default(), CertificateDer::from(vec![1]));
        known.remember(&leaf, &intermediate, &facts(), UnixTime::now());
        assert!(known.find(&leaf, &intermediate, after(HOUR / 2)).is_some());
        assert!(known.find(&leaf, &intermediate, after(HOUR + HOUR / 2)).is_none());
        assert!(known.find(&leaf, &[], after(HOUR / 2)).is_none());

        // One that nobody needs, because it has ended: not even while nothing is known.
        let known = KnownChains::default();
        known.remember(&leaf, &intermediate, &facts(), after(HOUR + HOUR / 2));
        assert!(known.0.read().unwrap().is_empty());
    }
}
