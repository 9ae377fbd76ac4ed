//! All rules of a service, and the decision about one connection or request.
//!
//! A `Rules` is an immutable snapshot. Deciding takes no lock and allocates nothing; its cost does not grow with the
//! number of rules that name other hosts.

use std::net::IpAddr;

use super::address::{Special, special};
use super::host::{Host, Name};
use super::index::{Entry, Index};
use super::rule::{Destination, EgressRule};
use crate::rule::RuleId;

/// Which tool calls may be behind a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tools<'a> {
    /// No call is at work, or calls are not known here.
    Outside,
    /// One of the calls of these tools; one name is certainty.
    Among(&'a [&'a str]),
    /// One of the calls of these tools, and a rule must be for every one of them.
    EachOf(&'a [&'a str]),
}

/// What is known of the request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// It can be read.
    Read {
        /// The HTTP method.
        method: &'a str,
        /// Path and query, beginning with `/`.
        path: &'a str,
    },
    /// It is inside a tunnel.
    Sealed,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask<'a> {
    /// Where to.
    pub host: &'a Host,
    /// The port, never 0.
    pub port: u16,
    /// On whose behalf.
    pub tools: Tools<'a>,
    /// With which request.
    pub request: Request<'a>,
    /// The addresses that the host has; empty before it is resolved, and then asked again.
    pub addresses: &'a [IpAddr],
}

/// Why not. Later ones came further, so the rule that they name is nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No rule names the host.
    Host,
    /// Rules name the host, on other ports.
    Port,
    /// Rules name the host and port, for other tools.
    Tool,
    /// The rule asks for something of the request, which cannot be read inside a tunnel; or the tunnel is to port 80.
    Sealed,
    /// The rule allows other methods or paths.
    Request,
    /// An address that is never dialled unless the rule names its range.
    Address(IpAddr, Special),
}

/// Go ahead, by this rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed<'r> {
    /// The rule.
    pub rule: &'r EgressRule,
    /// The destination of it as it was written, for metrics: a closed set.
    pub destination: &'r Destination,
    entry: Entry,
}

impl Allowed<'_> {
    /// The places of rule and destination among those of the set.
    pub(super) fn entry(&self) -> Entry {
        self.entry
    }
}

/// Do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied<'r> {
    /// Why.
    pub reason: Reason,
    /// The rule that came nearest to allowing it.
    pub nearest: Option<&'r RuleId>,
    /// The name itself has no rule, but names below it have.
    pub apex: bool,
}

/// The answer.
pub type Decision<'r> = Result<Allowed<'r>, Denied<'r>>;

impl Reason {
    /// How far the ask came.
    fn progress(self) -> u8 {
        match self {
            Reason::Host => 0,
            Reason::Port => 1,
            Reason::Tool => 2,
            Reason::Sealed => 3,
            Reason::Request => 4,
            Reason::Address(..) => 5,
        }
    }

    /// The word for logs, answers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Host => "host",
            Reason::Port => "port",
            Reason::Tool => "tool",
            Reason::Sealed => "sealed",
            Reason::Request => "request",
            Reason::Address(..) => "address",
        }
    }
}

/// All rules in force.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Box<[EgressRule]>,
    index: Index,
    per_tool: bool,
}

impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl Eq for Rules {}

impl Rules {
    /// Compiles rules. Of several that allow the same, the first is the one that is named.
    pub fn new(rules: Vec<EgressRule>) -> Rules {
        let index = Index::new(&rules);
        let per_tool = rules.iter().any(|rule| !rule.tools.is_empty());
        Rules { rules: rules.into(), index, per_tool }
    }

    /// The rules, as they were given.
    pub fn rules(&self) -> &[EgressRule] {
        &self.rules
    }

    /// Whether some rule names tools, so that it matters which call is behind a connection.
    pub fn per_tool(&self) -> bool {
        self.per_tool
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Denied`], with the reason of the rule that came furthest.
    pub fn decide(&self, ask: &Ask<'_>) -> Decision<'_> {
        let mut furthest: Option<(Reason, &RuleId)> = None;
        for entry @ (rule, destination) in self.index.find(ask.host) {
            let Some(rule) = self.rules.get(rule as usize) else { continue };
            let Some(destination) = rule.hosts.get(destination as usize) else { continue };
            let Err(reason) = self.consider(rule, destination, ask) else {
                return Ok(Allowed { rule, destination, entry });
            };
            if furthest.is_none_or(|(other, _)| reason.progress() > other.progress()) {
                furthest = Some((reason, &rule.id));
            }
        }
        Err(match furthest {
            Some((reason, nearest)) => Denied { reason, nearest: Some(nearest), apex: false },
            None => self.unknown(ask),
        })
    }

    /// The destination that covers the name for these tools, the nearest of several: then it may be looked up.
    ///
    /// # Errors
    /// [`Reason::Host`] or [`Reason::Tool`].
    pub fn names(&self, name: &Name, tools: Tools<'_>) -> Result<&Destination, Reason> {
        let mut reason = Reason::Host;
        for (rule, place) in self.index.find(&Host::Name(name.clone())) {
            let Some(rule) = self.rules.get(rule as usize) else { continue };
            if rule.covers_tools(&tools, self.per_tool) {
                return rule.hosts.get(place as usize).ok_or(reason);
            }
            reason = Reason::Tool;
        }
        Err(reason)
    }

    fn consider(&self, rule: &EgressRule, destination: &Destination, ask: &Ask<'_>) -> Result<(), Reason> {
        if !rule.covers_port(destination, ask.port) {
            return Err(Reason::Port);
        }
        if !rule.covers_tools(&ask.tools, self.per_tool) {
            return Err(Reason::Tool);
        }
        if !rule.covers_request(&ask.request, ask.port) {
            return Err(if ask.request == Request::Sealed { Reason::Sealed } else { Reason::Request });
        }
        let guard =
            |address: &IpAddr| rule.guard(destination, *address).map_err(|special| Reason::Address(*address, special));
        // All of them: a name with one forbidden address among good ones is no accident.
        ask.addresses.iter().try_for_each(guard)
    }

    fn unknown(&self, ask: &Ask<'_>) -> Denied<'_> {
        let (reason, apex) = match ask.host {
            Host::Name(name) => (Reason::Host, self.index.is_apex(name)),
            Host::Address(address) => {
                (special(*address).map_or(Reason::Host, |(_, why)| Reason::Address(*address, why)), false)
            }
        };
        Denied { reason, nearest: None, apex }
    }
}

#[cfg(test)]
mod tests;
