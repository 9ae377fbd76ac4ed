//! Certificates of a mesh on one machine: made at the start, replaced before they end.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use outrigger_identity::{Authority, AuthorityOptions, TrustDomain, renew_at, write_leaf};

use super::state::StateDir;

/// The clock is looked at this often: a timer alone would sleep through the time in which the machine does.
const LOOK: Duration = Duration::from_secs(60);
/// The least time between two renewals of one certificate, when lives are very short or renewing fails.
const PAUSE: Duration = Duration::from_secs(1);

/// Every member's certificate, with the authority that renews it.
pub(crate) struct Identities {
    authority: Authority,
    life: Duration,
    members: Vec<Member>,
}

struct Member {
    name: String,
    dir: std::path::PathBuf,
    due: SystemTime,
}

impl Identities {
    /// Opens the authority (or makes one) and issues a certificate for each name.
    ///
    /// # Errors
    /// An authority of another mesh or past its end, and what cannot be written.
    pub(crate) fn prepare(
        state: &StateDir,
        trust_domain: &str,
        names: impl IntoIterator<Item = String>,
        life: Duration,
    ) -> anyhow::Result<Self> {
        let authority = authority(&state.ca(), trust_domain)?;
        let member = |name: String| Member { dir: state.identity(&name), name, due: SystemTime::UNIX_EPOCH };
        let mut identities = Self { authority, life, members: names.into_iter().map(member).collect() };
        for index in 0..identities.members.len() {
            identities.issue(index)?;
        }
        Ok(identities)
    }

    /// Where the root certificate is.
    pub(crate) fn ca_file(&self) -> std::path::PathBuf {
        self.authority.certificate_path()
    }

    /// Renews each certificate at two thirds of its life, for ever. `trouble` is told what fails; it is tried again.
    pub(crate) async fn keep(mut self, trouble: impl Fn(String)) {
        loop {
            tokio::time::sleep(self.until_next(SystemTime::now())).await;
            let now = SystemTime::now();
            for index in 0..self.members.len() {
                if self.members.get(index).is_some_and(|member| member.due <= now)
                    && let Err(error) = self.issue(index)
                {
                    trouble(format!("a certificate could not be renewed: {error:#}"));
                }
            }
        }
    }

    /// How long to sleep at most before looking again.
    fn until_next(&self, now: SystemTime) -> Duration {
        let left = self.members.iter().map(|member| member.due.duration_since(now).unwrap_or_default());
        left.min().unwrap_or(LOOK).clamp(PAUSE, LOOK)
    }

    /// Issues one member's certificate. Its processes read the files by themselves.
    fn issue(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(member) = self.members.get_mut(index) else {
            return Ok(());
        };
        let now = SystemTime::now();
        member.due = now + PAUSE; // when what follows fails
        let issued = self.authority.issue(&member.name, self.life, &[])?;
        write_leaf(&member.dir, &member.name, &issued)?;
        // From now, not from its beginning: that lies some minutes back, for clocks that differ.
        member.due = renew_at(now, issued.not_after, fastrand::f64()).max(now + PAUSE);
        Ok(())
    }
}

fn authority(dir: &Path, trust_domain: &str) -> anyhow::Result<Authority> {
    let wanted = TrustDomain::parse(trust_domain)?;
    if !dir.join("ca.pem").exists() {
        return Ok(Authority::init(dir, &wanted, &AuthorityOptions::default())?);
    }
    let broken = || {
        let what = "restore ca.key and ca.pem from a backup, or move the directory away to start anew";
        format!("the authority in {} cannot be used; {what}", dir.display())
    };
    let authority = Authority::load(dir).with_context(broken)?;
    if *authority.trust_domain() != wanted {
        let made = authority.trust_domain();
        bail!(
            "the authority in {} is the one of {made}, and this mesh is {wanted}: use another --dir, or move it away",
            dir.display()
        );
    }
    if authority.not_after() <= SystemTime::now() {
        bail!("the authority in {} has expired; move the directory away, and a new one is made", dir.display());
    }
    Ok(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn prepare(state: &StateDir, domain: &str) -> anyhow::Result<Identities> {
        Identities::prepare(state, domain, ["fs".to_owned(), "ingress".to_owned()], DAY)
    }

    #[test]
    fn the_authority_is_made_once_and_certificates_at_every_start() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let read = |path: std::path::PathBuf| std::fs::read(path).unwrap();
        prepare(&state, "demo.outrigger.local").unwrap();
        let first = (read(state.ca().join("ca.pem")), read(state.identity("fs").join("fs.pem")));
        let again = prepare(&state, "demo.outrigger.local").unwrap();
        assert_eq!(read(again.ca_file()), first.0);
        assert_ne!(read(state.identity("fs").join("fs.pem")), first.1);
        let refused = prepare(&state, "other.outrigger.local").err().unwrap().to_string();
        assert!(refused.contains("demo.outrigger.local"), "{refused}");
    }

    #[test]
    fn renewal_is_due_at_two_thirds_of_the_life_from_now() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let before = SystemTime::now();
        let identities = prepare(&state, "demo.outrigger.local").unwrap();
        for member in &identities.members {
            let after = member.due.duration_since(before).unwrap();
            assert!(after <= DAY / 3 * 2 + PAUSE && after >= DAY / 2, "{after:?}");
        }
        assert_eq!(identities.until_next(before), LOOK);
        assert_eq!(identities.until_next(before + DAY), PAUSE);
    }
}
