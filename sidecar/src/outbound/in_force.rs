//! The rules of one moment, with what is counted for them; swapped whole by a reload.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use outrigger_egress::placeholder::Placeholders;
use outrigger_policy::egress::{Allowed, Destination, Meter, Meters, Rules};
use tokio_util::sync::CancellationToken;

use crate::config::{Credential, Egress, Mode};

/// Destinations that metrics tell apart; the rest share `other`.
const MAX_LABELS: usize = 500;

/// Rules, mode and counts.
#[derive(Debug)]
pub struct InForce {
    /// What may be reached.
    pub rules: Rules,
    /// Whether rules are enforced.
    pub mode: Mode,
    /// What requests of the rules get, and what must go nowhere else.
    pub credentials: Vec<Credential>,
    /// What stands for their secrets, by their places.
    pub placeholders: Placeholders,
    meters: Meters,
    labels: HashMap<Destination, Arc<str>>,
    /// Ids of rules that metrics tell apart.
    ids: HashSet<Arc<str>>,
    /// Others are in force now.
    pub replaced: CancellationToken,
}

impl InForce {
    /// Rules as they begin.
    pub fn new(settings: &Egress) -> Self {
        Self::with(settings, Meters::new(&settings.rules, None))
    }

    /// Changed rules: what stays among them goes on with its counts.
    pub fn reload(&self, settings: &Egress) -> Self {
        Self::with(settings, Meters::new(&settings.rules, Some((&self.rules, &self.meters))))
    }

    fn with(settings: &Egress, meters: Meters) -> Self {
        let Egress { rules, mode, credentials, .. } = settings;
        let ids = rules.rules().iter().take(MAX_LABELS).map(|rule| rule.id.as_str().into()).collect();
        let held = credentials.iter().enumerate();
        let held = held.filter_map(|(place, own)| Some((place, own.placeholder.as_ref()?.reveal().as_bytes())));
        Self {
            placeholders: Placeholders::new(held),
            labels: labels(rules),
            ids,
            meters,
            rules: rules.clone(),
            mode: *mode,
            credentials: credentials.clone(),
            replaced: CancellationToken::new(),
        }
    }

    /// Whether these settings say something else.
    pub fn differs_from(&self, settings: &Egress) -> bool {
        (&self.rules, self.mode, &self.credentials) != (&settings.rules, settings.mode, &settings.credentials)
    }

    /// How metrics call a rule.
    pub fn rule_label<'r>(&self, id: Option<&'r str>) -> &'r str {
        match id {
            Some(id) if self.ids.contains(id) => id,
            Some(_) => "other",
            None => "",
        }
    }

    /// How metrics call the destination of a decision.
    pub fn label(&self, allowed: &Allowed<'_>) -> Option<Arc<str>> {
        self.labels.get(allowed.destination).cloned()
    }

    /// What a decision's rule counts.
    pub fn meter(&self, allowed: &Allowed<'_>) -> Option<Arc<Meter>> {
        self.meters.of(allowed).cloned()
    }
}

fn labels(rules: &Rules) -> HashMap<Destination, Arc<str>> {
    let destinations = rules.rules().iter().flat_map(|rule| &rule.hosts);
    destinations.take(MAX_LABELS).map(|to| (to.clone(), to.to_string().into())).collect()
}
