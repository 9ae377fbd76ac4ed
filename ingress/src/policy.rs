//! The policy in force with the state of its limits, as one snapshot; and how it is read from files.

use std::path::PathBuf;

use outrigger_conditions::Cel;
use outrigger_policy::limit::DEFAULT_MAX_KEYS;
use outrigger_policy::{ClientLimits, Limits, Nanos, PolicySet, Principal, Reader};
use tokio::time::Instant;

/// The rules, and the buckets of the rate limits that came with them.
#[derive(Debug)]
pub struct PolicyState {
    /// Who may do what.
    pub rules: PolicySet,
    /// How often.
    pub limits: Limits,
    clock: Clock,
}

/// Counts from its making, which limits need: all snapshots of a process share one.
#[derive(Debug, Clone, Copy)]
struct Clock(Instant);

/// A policy that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file cannot be read.
    #[error("cannot read the policy file {path}: {cause}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// There are mistakes in it.
    #[error("{0}")]
    Mistakes(outrigger_config::Diagnostics),
}

impl PolicyState {
    /// The first policy of a process.
    pub fn new(rules: PolicySet) -> Self {
        let limits = Limits::of_policy(&rules, DEFAULT_MAX_KEYS);
        Self { rules, limits, clock: Clock(Instant::now()) }
    }

    /// The next one: limits that stay keep their buckets, so that a reload gives nobody a fresh burst.
    #[must_use]
    pub fn reloaded(&self, rules: PolicySet) -> Self {
        Self { limits: self.limits.reload_policy(&rules), rules, clock: self.clock }
    }

    /// The time as limits count it.
    pub fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.clock.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The caller's own buckets.
    pub fn client_limits(&self, who: &Principal) -> ClientLimits {
        self.limits.for_client(who, self.now())
    }
}

/// Reads and compiles all policy files; without any, everything is denied. Reads files: not for a hot path.
///
/// # Errors
/// [`PolicyError`] with every mistake.
pub fn load(paths: &[PathBuf]) -> Result<PolicySet, PolicyError> {
    if paths.is_empty() {
        return Ok(PolicySet::deny_all());
    }
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|cause| PolicyError::Read { path: path.clone(), cause })?;
        files.push((path.display().to_string(), text));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    Reader { engine: Some(&Cel), service: None }.compile(&files).map_err(PolicyError::Mistakes)
}
