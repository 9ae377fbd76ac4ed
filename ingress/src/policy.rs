//! The policy in force with the state of its limits, as one snapshot; and how it is read from files.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrigger_conditions::Cel;
use outrigger_policy::limit::DEFAULT_MAX_KEYS;
use outrigger_policy::{ClientLimits, Limits, Nanos, PolicySet, Principal, Reader};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::gateway::Gateway;
use crate::snapshot::announce;

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

/// A policy that is no file: the name under which its mistakes are told, and its text.
pub type Text = (String, String);

/// Where the policy comes from.
#[derive(Debug)]
pub struct Sources {
    /// Files.
    pub paths: Vec<PathBuf>,
    /// What is no file; nothing as long as it is not known, and then everything is denied. Held while a policy is put in
    /// force, so that an older one never follows a newer one.
    texts: Mutex<Option<Vec<Text>>>,
    reloaded: watch::Sender<()>,
}

impl Sources {
    /// Of files; `more` is known later if there is to be any.
    pub fn new(paths: Vec<PathBuf>, more: bool) -> Self {
        Self { paths, texts: Mutex::new((!more).then(Vec::new)), reloaded: watch::Sender::new(()) }
    }

    /// The first policy.
    ///
    /// # Errors
    /// The files are wrong, whatever else there will be.
    pub fn first(&self) -> Result<PolicySet, PolicyError> {
        let files = load(&self.paths, &[])?;
        Ok(if self.lock().is_none() { PolicySet::deny_all() } else { files })
    }

    /// Reads the files again and puts everything in force; says how many rules there are. Reads files.
    ///
    /// # Errors
    /// [`PolicyError`]; what was in force stays.
    pub fn reload(&self, gateway: &Gateway) -> Result<usize, PolicyError> {
        let texts = self.lock();
        let rules = self.put_in_force(gateway, texts.as_deref())?;
        self.reloaded.send_replace(());
        Ok(rules)
    }

    /// Changes when files were read again and were good.
    pub fn reloaded(&self) -> watch::Receiver<()> {
        self.reloaded.subscribe()
    }

    /// These are the policies beside the files from now on. Reads files.
    ///
    /// # Errors
    /// [`PolicyError`]; what was in force stays.
    pub fn set(&self, gateway: &Gateway, next: Vec<Text>) -> Result<usize, PolicyError> {
        let mut texts = self.lock();
        let rules = self.put_in_force(gateway, Some(&next))?;
        *texts = Some(next);
        Ok(rules)
    }

    fn put_in_force(&self, gateway: &Gateway, texts: Option<&[Text]>) -> Result<usize, PolicyError> {
        let files = load(&self.paths, texts.unwrap_or_default())?;
        let next = gateway.policy.load().reloaded(if texts.is_some() { files } else { PolicySet::deny_all() });
        let rules = next.rules.rule_count();
        gateway.policy.store(Arc::new(next));
        announce(&gateway.generation);
        Ok(rules)
    }

    /// Texts are replaced as a whole.
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Text>>> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads and compiles all policy files, and texts beside them; without any, everything is denied. Reads files: not for a hot
/// path.
///
/// # Errors
/// [`PolicyError`] with every mistake.
pub fn load(paths: &[PathBuf], more: &[Text]) -> Result<PolicySet, PolicyError> {
    if paths.is_empty() && more.is_empty() {
        return Ok(PolicySet::deny_all());
    }
    let mut files = Vec::with_capacity(paths.len() + more.len());
    for path in paths {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|cause| PolicyError::Read { path: path.clone(), cause })?;
        files.push((path.display().to_string(), text));
    }
    let files: Vec<(&str, &str)> =
        files.iter().chain(more).map(|(name, text)| (name.as_str(), text.as_str())).collect();
    Reader { engine: Some(&Cel), service: None }.compile(&files).map_err(PolicyError::Mistakes)
}
