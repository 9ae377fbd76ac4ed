//! One `SecurityPolicy` document: the declaration of its form, from which reading, mistakes and JSON Schema follow.
//!
//! Values are read straight into their compiled shape, so a pattern that does not compile is reported at its own
//! line and column together with everything else that is wrong. The kinds of values are in `values`.

pub(crate) mod values;
mod when;

use crate::approval;
use crate::limit::{Allowance, LimitRule, MAX_BURST, Quota, RuleLimit};
use crate::policy_set::MtlsMode;
use crate::rule::{Admits, Cost, Coverage, Effect, Kinds, Mode, Requirement, Rule, RuleId, Shown};
use outrigger_config::{Doc, Fields, Node, doc, kinds};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
pub(crate) use when::WhenReader;

use values::{EFFECTS, MODES, MTLS_MODES, PER, argument, capability_kind, glob, grant, name, service_glob, workload};

/// Largest cost of a call, and largest budget.
const MAX_COST: u64 = 1_000_000_000;

/// Most arguments that a rule shows in the audit.
const MAX_SHOWN: usize = 16;

/// What one document says.
#[derive(Debug)]
pub(crate) struct PolicyDocument {
    /// `metadata.name`.
    pub(crate) name: String,
    pub(crate) mtls: Option<MtlsMode>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) limits: Vec<Arc<LimitRule>>,
    pub(crate) costs: Vec<Cost>,
}

/// Reads one document. `name_is_new` sees the policy's name and says what is wrong with it across documents.
pub(crate) fn read(
    f: &mut Fields<'_>,
    engine: &WhenReader<'_>,
    name_is_new: impl FnOnce(&str, &Fields<'_>) -> Result<(), String>,
) -> Option<PolicyDocument> {
    f.required("apiVersion", doc("Version of this form.").example("mcpx.io/v1"), kinds::choice(&[("mcpx.io/v1", ())]));
    f.required("kind", doc("Kind of document.").example("SecurityPolicy"), kinds::choice(&[("SecurityPolicy", ())]));
    let name = f.section("metadata", "About the policy.", |f| {
        let text = doc("The policy's name, unique over all files. Rule ids begin with it.").example("demo");
        let name = f.required("name", text, name())?;
        if let Err(taken) = name_is_new(&name, f) {
            f.mistake("name", taken, "give each policy a name of its own");
        }
        Some(name)
    });
    if !f.has("spec") {
        f.mistake("", "there is no `spec`, so this policy says nothing", "add `spec:` with `authorization:` and rules");
    }
    // With a wrong name the rules are still read, for their mistakes.
    let policy = name.clone().unwrap_or_default();
    let (mtls, rules, limits, costs) = f.section("spec", "What the policy says.", |f| {
        let text =
            doc("`enforce`: the rules decide. `audit`: what they would deny is let through, logged and counted.")
                .because("a policy that only watches protects nothing")
                .example("audit");
        let mode = f.with_default("mode", text, kinds::choice(MODES), Mode::Enforce);
        if mode == Mode::Audit && f.has("limits") {
            let hint = "put the limits into a policy of their own";
            f.mistake("limits", "limits are always in force, and this policy only watches", hint);
        }
        let mtls = f.optional_section("authentication", "How callers prove who they are.", read_authentication);
        let rules =
            f.optional_section("authorization", "Who may use what.", |f| Some(read_rules(f, &policy, mode, engine)));
        let limits = read_limits(f, &policy);
        Some((mtls, rules.unwrap_or_default(), limits, read_costs(f)))
    })?;
    Some(PolicyDocument { name: name?, mtls, rules, limits, costs })
}

fn read_authentication(f: &mut Fields<'_>) -> Option<MtlsMode> {
    f.optional_section("mtls", "Mutual TLS between the members of the mesh.", |f| {
        let text =
            doc("STRICT refuses callers without a certificate of the mesh; PERMISSIVE lets them in as anonymous.")
                .because("a mesh is closed unless somebody opens it")
                .example("STRICT");
        f.required("mode", text, kinds::choice(MTLS_MODES))
    })
}

fn read_rules(f: &mut Fields<'_>, policy: &str, mode: Mode, engine: &WhenReader<'_>) -> Vec<Rule> {
    let mut seen = HashSet::new();
    f.list("rules", "What no rule allows is denied, and what a rule denies is not allowed by any other.", |f| {
        let name = read_name(f, &mut seen, "The rule's name, unique in its policy.");
        let text = doc("`allow` or `deny`. What a rule denies is denied, whatever others allow.")
            .because("most rules allow something")
            .example("deny");
        let effect = f.with_default("effect", text, kinds::choice(EFFECTS), Effect::Allow);
        let services =
            f.required("services", doc("Services, as patterns.").example("[\"fs\"]"), kinds::list_of(service_glob()));
        let text = doc("Names of tools and prompts, URIs of resources, as patterns.").example("[\"read*\"]");
        let capabilities = f.required("capabilities", text, kinds::list_of(glob()));
        let text = doc("Kinds of capability: tool, prompt, resource, template.").because("most rules mean every kind");
        let only = f.optional("kinds", text, kinds::list_of(capability_kind()));
        let admits = read_requires(f, effect);
        let text =
            doc("A condition in CEL over principal, service, capability, annotations, arguments, time and source.")
                .because("most rules hold always")
                .example("\"annotations.readOnlyHint\"");
        let condition = f.optional("when", text, kinds::text());
        for (list, is_empty) in [
            ("services", services.as_ref().is_some_and(Vec::is_empty)),
            ("capabilities", capabilities.as_ref().is_some_and(Vec::is_empty)),
            ("kinds", only.as_ref().is_some_and(Vec::is_empty)),
        ] {
            mistake_if_empty(f, list, is_empty);
        }
        let quota = f.optional_section("limits", "How often each caller may do what the rule allows.", read_quota);
        let budget = f.optional_section("budget", "For how much each caller may do what the rule allows.", read_budget);
        for (name, given) in [("limits", quota.is_some()), ("budget", budget.is_some())] {
            if given && (effect, mode) != (Effect::Allow, Mode::Enforce) {
                let hint = "put it into a rule that allows, in a policy that is enforced";
                f.mistake(name, "there is nothing here that could be limited", hint);
            }
        }
        let text = "A person has to approve each call that the rule is about, whatever else allows it.";
        let approval = f.optional_section("approval", text, approval::read);
        let shown =
            f.optional_section("audit", "What the audit holds of calls about which the rule decides.", read_shown);
        if approval.is_some() && (effect, mode) != (Effect::Allow, Mode::Enforce) {
            let hint = "put it into a rule that allows, in a policy that is enforced";
            f.mistake("approval", "there is nothing here that could be approved", hint);
        }
        // Everything has been read: a schema is made by reading, too.
        let kinds = only.map_or(Kinds::ALL, |kinds| kinds.into_iter().fold(Kinds::NONE, Kinds::with));
        let coverage = Coverage { services: services?.into(), capabilities: capabilities?.into(), kinds };
        let when = match condition {
            Some(source) => Some(engine.read(f, &source, &coverage)?),
            None => None,
        };
        let id = RuleId::new(policy, &name?);
        // A condition that this process does not know is one about services that do not concern it.
        let when = match when {
            Some(None) => return None,
            Some(when) => when,
            None => None,
        };
        let limited = quota.is_some() || budget.is_some();
        let limit = limited.then(|| Arc::new(RuleLimit { rule: id.clone(), quota, budget }));
        let approval = approval.map(Arc::new);
        Some(Rule { id, effect, mode, coverage, admits, when, limit, approval, shown })
    })
}

fn read_shown(f: &mut Fields<'_>) -> Option<Arc<Shown>> {
    let text = doc("Arguments that are written out, `.` between the names of nested ones; all others stay a digest.");
    let names = f.required("arguments", text.example("[path, options.mode]"), kinds::list_of(argument()))?;
    if names.is_empty() || names.len() > MAX_SHOWN {
        let hint = "name those that an auditor has to see";
        f.mistake("arguments", format!("1 to {MAX_SHOWN} arguments can be shown"), hint);
    }
    Some(names.iter().map(|name| name.split('.').map(Into::into).collect()).collect())
}

/// Whom the rule is about. A mistake in an entry fails the whole reading, so leaving the entry out is safe.
fn read_requires(f: &mut Fields<'_>, effect: Effect) -> Admits {
    let (mut entries, mut anonymous) = (0_usize, false);
    let requirements = f.list(
        "requires",
        "All must hold. Absent: any authenticated caller; where the rule denies, every caller.",
        |f| {
            entries += 1;
            let (requirement, opens) = read_requirement(f);
            anonymous |= opens;
            requirement
        },
    );
    if entries == 0 && is_empty_list(f, "requires") {
        f.mistake(
            "requires",
            "an empty list requires nothing",
            "leave `requires` out: the rule is then about every authenticated caller, or everybody where it denies",
        );
    }
    if anonymous && entries > 1 {
        let hint = "keep `{ anonymous: true }` alone, or remove it";
        f.mistake("requires", "`anonymous` lets everybody in, so nothing can stand beside it", hint);
    }
    if anonymous && effect == Effect::Deny {
        let hint =
            "leave `requires` out to deny everybody; callers that prove nothing are let in only by a rule that says so";
        f.mistake("requires", "`anonymous` opens a rule to everybody, and this one denies", hint);
    }
    let everybody = anonymous || (effect == Effect::Deny && entries == 0);
    if everybody { Admits::Anyone } else { Admits::Authenticated(requirements.into()) }
}

/// One entry: what it requires, and whether it is the word that opens the rule to everybody.
fn read_requirement(f: &mut Fields<'_>) -> (Option<Requirement>, bool) {
    const WORDS: [&str; 6] = ["scope", "role", "workload", "subject", "claim", "anonymous"];
    let scope = f.optional("scope", doc("A scope that was granted.").example("read"), grant());
    let role = f.optional("role", doc("A role that was granted.").example("admin"), grant());
    let text = doc("A workload: pattern for its SPIFFE id (spiffe://...) or its service name.").example("agent-*");
    let workload = f.optional("workload", text, workload());
    let subject = f.optional("subject", doc("A user: pattern for the token's subject.").example("ci-*"), glob());
    let claim = f.optional_section("claim", "Something else that the caller's token says.", |f| {
        let text = doc("The claim's name, exactly as policy sees it.").example("department");
        let name = f.required("name", text, kinds::text());
        let text = doc("Values of which the claim has at least one; compared exactly.").example("[\"research\"]");
        let any = f.required("any", text, kinds::list_of(kinds::text()));
        mistake_if_empty(f, "any", any.as_ref().is_some_and(Vec::is_empty));
        let any = any?.into_iter().map(Into::into).collect();
        Some(Requirement::Claim { name: name?.into(), any })
    });
    let text = doc("`true`: everybody, also callers that prove nothing.").example("true");
    let anonymous = f.optional("anonymous", text, kinds::boolean());
    let given = WORDS.iter().filter(|word| f.has(word)).count();
    if given != 1 {
        let hint = format!("write exactly one of {} in each entry, and one entry per requirement", WORDS.join(", "));
        f.mistake("", format!("{given} requirements in one entry"), hint);
    }
    if anonymous == Some(false) {
        f.mistake("anonymous", "`false` is the default and requires nothing", "remove the entry");
    }
    let requirement = scope
        .map(|scope| Requirement::Scope(scope.into()))
        .or_else(|| role.map(|role| Requirement::Role(role.into())))
        .or(workload)
        .or_else(|| subject.map(Requirement::Subject))
        .or(claim);
    (requirement, anonymous == Some(true))
}

fn read_limits(f: &mut Fields<'_>, policy: &str) -> Vec<Arc<LimitRule>> {
    let mut seen = HashSet::new();
    f.list("limits", "How often things may be used. Every limit that covers a call counts.", |f| {
        let name = read_name(f, &mut seen, "The limit's name, unique in its policy.");
        let text = doc("What each bucket stands for: a client, a service or a tool.").example("client");
        let per = f.required("per", text, kinds::choice(PER));
        let every = doc("Services, as patterns.").because("a limit without a filter is for everything");
        let services = f.optional("services", every, kinds::list_of(service_glob()));
        let every = Doc { text: "Names or URIs, as patterns.", ..every };
        let capabilities = f.optional("capabilities", every, kinds::list_of(glob()));
        mistake_if_empty(f, "services", services.as_ref().is_some_and(Vec::is_empty));
        mistake_if_empty(f, "capabilities", capabilities.as_ref().is_some_and(Vec::is_empty));
        let quota = read_quota(f);
        let everything = Coverage::everything();
        let coverage = Coverage {
            services: services.map_or(everything.services, Into::into),
            capabilities: capabilities.map_or(everything.capabilities, Into::into),
            kinds: Kinds::ALL,
        };
        Some(Arc::new(LimitRule { name: format!("{policy}/{}", name?).into(), per: per?, coverage, quota: quota? }))
    })
}

fn read_budget(f: &mut Fields<'_>) -> Option<Allowance> {
    let text = doc("What the calls of one caller may cost together.").example("100");
    let most = f.required("cost", text, kinds::integer(1..=MAX_COST));
    let windows = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
    let text = doc("In how long; the window begins with the first call.").example("1h");
    let per = f.required("per", text, kinds::duration(windows));
    Some(Allowance { most: most?, per: per? })
}

fn read_costs(f: &mut Fields<'_>) -> Vec<Cost> {
    f.list(
        "costs",
        "What calls cost, for budgets: 1 where nothing is said, the most where several say something.",
        |f| {
            let services = f.required(
                "services",
                doc("Services, as patterns.").example("[\"vector\"]"),
                kinds::list_of(service_glob()),
            );
            let text =
                doc("Names or URIs, as patterns.").because("a service that costs something mostly costs it throughout");
            let capabilities = f.optional("capabilities", text, kinds::list_of(glob()));
            let cost = f.required("cost", doc("Of one call.").example("5"), kinds::integer(0..=MAX_COST));
            mistake_if_empty(f, "services", services.as_ref().is_some_and(Vec::is_empty));
            mistake_if_empty(f, "capabilities", capabilities.as_ref().is_some_and(Vec::is_empty));
            let everything = Coverage::everything();
            let capabilities = capabilities.map_or(everything.capabilities, Into::into);
            Some(Cost {
                coverage: Coverage { services: services?.into(), capabilities, kinds: Kinds::ALL },
                cost: cost?,
            })
        },
    )
}

fn read_quota(f: &mut Fields<'_>) -> Option<Quota> {
    let rate = f.required("rate", doc("Calls per second, minute or hour.").example("100/s"), kinds::rate());
    let text = doc("Calls at once after a rest. Default: one second's worth.").because("steady traffic needs no more");
    let burst = f.optional("burst", text, kinds::integer(1..=u64::from(MAX_BURST)));
    let rate = rate?;
    let worth = u64::from(rate.count) / rate.per.as_secs().max(1);
    let burst = u32::try_from(burst.unwrap_or(worth).clamp(1, u64::from(MAX_BURST))).ok()?;
    let quota = Quota::new(u64::from(rate.count), rate.per, burst);
    if quota.is_none() {
        f.mistake("rate", "the rate is faster than the clock", "at most 1000000000/s");
    }
    quota
}

/// A name that must not repeat in its list.
fn read_name(f: &mut Fields<'_>, seen: &mut HashSet<String>, text: &'static str) -> Option<String> {
    let name = f.required("name", doc(text).example("readers"), name())?;
    if !seen.insert(name.clone()) {
        f.mistake("name", format!("the name `{name}` stands in this list twice"), "give each entry a name of its own");
    }
    Some(name)
}

fn mistake_if_empty(f: &mut Fields<'_>, list: &str, is_empty: bool) {
    if is_empty {
        f.mistake(list, "an empty list covers nothing", "name at least one, or remove the whole entry");
    }
}

/// Whether the file has a list under `name` and nothing in it.
fn is_empty_list(f: &mut Fields<'_>, name: &'static str) -> bool {
    f.has(name) && f.raw(name).and_then(Node::items).is_some_and(<[Node]>::is_empty)
}
