//! One compiled rule: which capabilities it covers, whom it is about, and what it says about them.
//!
//! A rule allows or denies, and whatever denies wins. So the order of rules cannot matter: an allowing rule never takes
//! something away from anybody, and a denying one never gives.

use crate::approval::Approval;
use crate::capability::{Capability, CapabilityKind};
use crate::condition::When;
use crate::glob::Glob;
use crate::limit::RuleLimit;
use crate::principal::{Principal, PrincipalKind};
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// The name of a rule, `<policy name>/<rule name>`: what logs, audit records and denials carry. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(Arc<str>);

impl RuleId {
    pub(crate) fn new(policy: &str, rule: &str) -> RuleId {
        RuleId(format!("{policy}/{rule}").into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for RuleId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// One thing a rule asks of the caller. Looks at nothing but the caller, so all the rules a caller satisfies are
/// known before any capability is named (see `PolicySet::visibility_class`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Requirement {
    /// The scope was granted.
    Scope(Box<str>),
    /// The role was granted.
    Role(Box<str>),
    /// A workload whose SPIFFE id fits (pattern starts with `spiffe://`).
    WorkloadId(Glob),
    /// A workload whose service name fits.
    WorkloadService(Glob),
    /// A user whose subject fits.
    Subject(Glob),
    /// A claim that has at least one of these values.
    Claim {
        /// Its name.
        name: Box<str>,
        /// Compared exactly.
        any: Box<[Box<str>]>,
    },
}

impl Requirement {
    /// Whether the caller has what is asked.
    pub(crate) fn holds(&self, who: &Principal) -> bool {
        let workload = who.via().unwrap_or(who);
        match (self, who.kind()) {
            (Requirement::WorkloadId(_) | Requirement::WorkloadService(_), _) => self.names(workload),
            (Requirement::Scope(scope), _) => who.has_scope(scope),
            (Requirement::Role(role), _) => who.has_role(role),
            (Requirement::Claim { name, any }, _) => {
                let held = who.claim(name);
                any.iter().any(|wanted| held.binary_search_by(|value| (**value).cmp(wanted)).is_ok())
            }
            (Requirement::Subject(glob), PrincipalKind::User { subject }) => glob.matches(subject),
            (Requirement::Subject(_), _) => false,
        }
    }

    /// Whether this is a workload that is asked for.
    fn names(&self, workload: &Principal) -> bool {
        match (self, workload.kind()) {
            (Requirement::WorkloadId(glob), PrincipalKind::Workload { spiffe_id, .. }) => glob.matches(spiffe_id),
            (Requirement::WorkloadService(glob), PrincipalKind::Workload { service, .. }) => glob.matches(service),
            _ => false,
        }
    }
}

/// What a rule that names somebody exactly can be found by, as a hash: `kind` keeps a role from meeting a scope of the
/// same name. Two names may share a number, so whoever finds a rule by it asks the rule again.
pub(crate) fn name_key(kind: NameKind, name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (kind, name).hash(&mut hasher);
    hasher.finish()
}

/// The name by which a claim with a value is found.
pub(crate) fn claim_key(name: &str, value: &str) -> String {
    format!("{name}\0{value}")
}

/// What kind of name a [`name_key`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum NameKind {
    Subject,
    WorkloadId,
    WorkloadService,
    Claim,
    Role,
    Scope,
}

impl Requirement {
    /// The name that only few callers have, if this asks for one exactly; those that come first tell most apart.
    pub(crate) fn name(&self) -> Option<(NameKind, Cow<'_, str>)> {
        let exact = |kind, glob: &Glob| glob.exact().map(|name| (kind, name.to_owned().into()));
        match self {
            Requirement::Subject(glob) => exact(NameKind::Subject, glob),
            Requirement::WorkloadId(glob) => exact(NameKind::WorkloadId, glob),
            Requirement::WorkloadService(glob) => exact(NameKind::WorkloadService, glob),
            Requirement::Claim { name, any } => match &**any {
                [value] => Some((NameKind::Claim, claim_key(name, value).into())),
                _ => None,
            },
            Requirement::Role(name) => Some((NameKind::Role, Cow::Borrowed(name))),
            Requirement::Scope(name) => Some((NameKind::Scope, Cow::Borrowed(name))),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Requirement::Scope(scope) => write!(f, "scope \"{scope}\""),
            Requirement::Role(role) => write!(f, "role \"{role}\""),
            Requirement::WorkloadId(glob) | Requirement::WorkloadService(glob) => {
                write!(f, "workload \"{glob}\"")
            }
            Requirement::Subject(glob) => write!(f, "subject \"{glob}\""),
            Requirement::Claim { name, any } => write!(f, "claim {name} \"{}\"", any.join("\" or \"")),
        }
    }
}

/// Who is let in by a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Admits {
    /// Everybody, also callers that proved nothing: written as `{ anonymous: true }`.
    Anyone,
    /// Callers that proved who they are and meet every requirement.
    Authenticated(Box<[Requirement]>),
}

impl Admits {
    /// The name by which to find a rule that so admits: the one that fewest callers have.
    pub(crate) fn name(&self) -> Option<(NameKind, Cow<'_, str>)> {
        match self {
            Admits::Anyone => None,
            Admits::Authenticated(requires) => {
                requires.iter().filter_map(Requirement::name).min_by_key(|(kind, _)| *kind)
            }
        }
    }
}

/// A set of capability kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Kinds(u8);

impl Kinds {
    pub(crate) const ALL: Kinds = Kinds(0b1111);
    pub(crate) const NONE: Kinds = Kinds(0);

    pub(crate) fn with(self, kind: CapabilityKind) -> Kinds {
        Kinds(self.0 | Kinds::bit(kind))
    }

    pub(crate) fn contains(self, kind: CapabilityKind) -> bool {
        self.0 & Kinds::bit(kind) != 0
    }

    fn bit(kind: CapabilityKind) -> u8 {
        1 << kind as u8
    }
}

/// A set of capabilities, written as patterns: what a rule covers and what a limit counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Coverage {
    pub(crate) services: Box<[Glob]>,
    pub(crate) capabilities: Box<[Glob]>,
    pub(crate) kinds: Kinds,
}

impl Coverage {
    pub(crate) fn everything() -> Coverage {
        Coverage { services: [Glob::any()].into(), capabilities: [Glob::any()].into(), kinds: Kinds::ALL }
    }

    pub(crate) fn covers_service(&self, service: &str) -> bool {
        self.services.iter().any(|glob| glob.matches(service))
    }

    /// Whether the capability may be used under this coverage, its service taken as covered already. A URI that
    /// climbs out of where it starts fits only a pattern that promises nothing about the start, or one that spells
    /// exactly this URI.
    pub(crate) fn covers_name(&self, what: &Capability<'_>) -> bool {
        let fits = |glob: &Glob| glob.matches(what.name) && (glob.is_any() || glob.exact().is_some() || !what.climbs());
        self.kinds.contains(what.kind) && self.capabilities.iter().any(fits)
    }

    /// Whether the capability falls under this coverage of a denying rule, its service taken as covered already. A URI
    /// whose text hides where it leads may lead to whatever is forbidden, so every such rule covers it.
    pub(crate) fn forbids_name(&self, what: &Capability<'_>) -> bool {
        let fits = |glob: &Glob| glob.matches(what.name);
        self.kinds.contains(what.kind) && (self.capabilities.iter().any(fits) || what.hides())
    }

    /// Whether this is every capability of the services it names.
    pub(crate) fn is_whole_service(&self) -> bool {
        self.kinds == Kinds::ALL && self.capabilities.iter().any(Glob::is_any)
    }

    /// Whether a call of the capability counts here, its service taken as covered already. For limits: no way of
    /// spelling a URI may slip past one.
    pub(crate) fn counts_name(&self, what: &Capability<'_>) -> bool {
        self.kinds.contains(what.kind) && self.capabilities.iter().any(|glob| glob.matches(what.name))
    }
}

/// What a rule does with a call that it covers, of a caller that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Lets it through, unless another rule denies it. The default.
    #[default]
    Allow,
    /// Refuses it, whatever other rules say.
    Deny,
}

/// Whether the rules of a document act or only tell (`spec.mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They decide. The default.
    #[default]
    Enforce,
    /// What they would deny is let through and told.
    Audit,
}

/// Arguments that the audit shows (`audit.arguments` of a rule): the names that lead to each.
pub type Shown = [Box<[Box<str>]>];

/// One rule, compiled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Rule {
    pub(crate) id: RuleId,
    pub(crate) effect: Effect,
    pub(crate) mode: Mode,
    pub(crate) coverage: Coverage,
    pub(crate) admits: Admits,
    pub(crate) when: Option<When>,
    /// How often, and for how much, each caller may do what it allows.
    pub(crate) limit: Option<Arc<RuleLimit>>,
    /// Whose word each call waits for.
    pub(crate) approval: Option<Arc<Approval>>,
    /// Arguments that the audit shows of calls about which it decides.
    pub(crate) shown: Option<Arc<Shown>>,
}

/// What calls of some capabilities cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) coverage: Coverage,
    pub(crate) cost: u64,
}

impl Rule {
    /// Whether the rule is about this caller.
    pub(crate) fn admits(&self, who: &Principal) -> bool {
        self.missing(who) == 0
    }

    /// Whether the rule is about this capability, its service taken as covered already.
    pub(crate) fn covers_name(&self, what: &Capability<'_>) -> bool {
        match self.effect {
            Effect::Allow => self.coverage.covers_name(what),
            Effect::Deny => self.coverage.forbids_name(what),
        }
    }

    /// How many things the caller lacks for this rule; 0 means that the rule is about it.
    pub(crate) fn missing(&self, who: &Principal) -> usize {
        match &self.admits {
            Admits::Anyone => 0,
            // Being nobody is one lack more than having proven an identity without the grants.
            Admits::Authenticated(requires) => {
                usize::from(who.is_anonymous()) + requires.iter().filter(|need| !need.holds(who)).count()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Admits, Coverage, Effect, Kinds, Mode, Requirement, Rule, RuleId};
    use crate::capability::{Capability, CapabilityKind};
    use crate::glob::Glob;
    use crate::principal::Principal;

    fn glob(pattern: &str) -> Glob {
        Glob::new(pattern).unwrap()
    }

    #[test]
    fn each_requirement_looks_at_its_own_kind_of_caller() {
        let fs = Principal::workload("spiffe://demo/fs").unwrap();
        let user = Principal::user("fs").unwrap().with_grants(["admin"], ["read"]).unwrap();
        assert!(Requirement::WorkloadService(glob("f*")).holds(&fs));
        assert!(Requirement::WorkloadId(glob("spiffe://demo/*")).holds(&fs));
        assert!(!Requirement::WorkloadService(glob("*")).holds(&user), "a user is no workload of the same name");
        assert!(!Requirement::WorkloadId(glob("spiffe://other/*")).holds(&fs));
        assert!(Requirement::Subject(glob("f*")).holds(&user));
        assert!(!Requirement::Subject(glob("*")).holds(&fs), "a workload is no user of the same name");
        assert!(Requirement::Scope("read".into()).holds(&user));
        assert!(Requirement::Role("admin".into()).holds(&user));
        assert!(!Requirement::Role("read".into()).holds(&user), "scopes and roles are two things");
    }

    #[test]
    fn no_requirement_still_means_authenticated() {
        let rule = |admits| Rule {
            id: RuleId::new("p", "r"),
            effect: Effect::Allow,
            mode: Mode::Enforce,
            coverage: Coverage::everything(),
            admits,
            when: None,
            limit: None,
            approval: None,
            shown: None,
        };
        let authenticated = rule(Admits::Authenticated(Box::default()));
        assert!(authenticated.admits(&Principal::user("ada").unwrap()));
        assert!(!authenticated.admits(&Principal::anonymous()));
        assert!(rule(Admits::Anyone).admits(&Principal::anonymous()));
    }

    #[test]
    fn kinds_narrow_a_rule() {
        let tools = Coverage { kinds: Kinds::NONE.with(CapabilityKind::Tool), ..Coverage::everything() };
        let what = Capability { kind: CapabilityKind::Tool, service: "fs", name: "x" };
        assert!(tools.covers_name(&what));
        assert!(!tools.covers_name(&Capability { kind: CapabilityKind::Prompt, ..what }));
    }

    #[test]
    fn a_uri_prefix_does_not_cover_what_climbs_out_of_it() {
        let covers = |pattern: &str, name: &str| {
            let coverage = Coverage { capabilities: [glob(pattern)].into(), ..Coverage::everything() };
            coverage.covers_name(&Capability { kind: CapabilityKind::Resource, service: "fs", name })
        };
        assert!(covers("file:///public/*", "file:///public/a"));
        assert!(!covers("file:///public/*", "file:///public/../etc/passwd"));
        assert!(!covers("file:///public/*", "file:///public/%2e%2e/etc/passwd"));
        assert!(covers("*", "file:///public/../etc/passwd"), "everything is everything");
        assert!(covers("file:///a/../b", "file:///a/../b"), "spelt out on purpose");
        let limited = Coverage { capabilities: [glob("file:///public/*")].into(), ..Coverage::everything() };
        let name = "file:///public/../etc/passwd";
        let climbing = Capability { kind: CapabilityKind::Resource, service: "fs", name };
        assert!(limited.counts_name(&climbing), "a limit counts it all the same");
    }
}
