//! Approval by a person (`approval:` of a rule): a call that the rule is about waits until somebody has said yes to it.
//!
//! A rule with `approval` allows and demands at once. Its demand counts whatever else allows the call: adding such a rule
//! never opens anything, and who is not to be held up is left out by `requires`.

use std::fmt;
use std::time::Duration;

use outrigger_config::{Fields, doc, kinds};

use crate::document::values::grant;

/// Whose word lets a call go on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Approval {
    caller: bool,
    role: Option<Box<str>>,
    within: Duration,
}

impl Approval {
    /// The caller's own user may say it, asked by the client.
    pub fn caller(&self) -> bool {
        self.caller
    }

    /// Somebody else with this role may say it.
    pub fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// How long the call waits.
    pub fn within(&self) -> Duration {
        self.within
    }
}

impl fmt::Display for Approval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.caller, &self.role) {
            (true, None) => f.write_str("the caller's own user"),
            (false, Some(role)) => write!(f, "somebody with the role \"{role}\""),
            (_, Some(role)) => write!(f, "the caller's own user, or somebody with the role \"{role}\""),
            (false, None) => f.write_str("nobody"),
        }
    }
}

/// Reads an `approval` section.
pub(crate) fn read(f: &mut Fields<'_>) -> Option<Approval> {
    let text = doc("The user of the client that calls may say it: the client asks (elicitation).").example("true");
    let text = text.because("whoever wants something does not approve it");
    let caller = f.with_default("caller", text, kinds::boolean(), false);
    let text = doc("Somebody who was granted this role may say it, at the ingress. Never the caller.");
    let role = f.optional("role", text.example("release-manager"), grant());
    let text = doc("How long the call waits for it, and what was said counts.");
    let text = text.because("somebody has to be found, and what was approved long ago was not meant for now");
    let times = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
    let within = f.with_default("within", text, kinds::duration(times), Duration::from_secs(300));
    if !caller && role.is_none() && !f.is_describing() {
        f.mistake("", "nobody could approve this", "say who: `role: release-manager`, `caller: true`, or both");
    }
    Some(Approval { caller, role: role.map(Into::into), within })
}
