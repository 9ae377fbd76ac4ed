//! Sidecars in pods of Kubernetes: from a pod to the patch that adds one, or the reason why not. Pure.
//!
//! ```text
//!  pod, annotations --> plan: which service, how its server is reached, how egress is held
//!                         --> checks: nothing of the pod is where something of ours will be
//!                               --> containers, volumes, probes: the pod with its sidecar --> patch
//! ```
//!
//! Pods are JSON values, not types: what is in them and not our business passes through, of whatever version it is.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod annotations;
mod checks;
mod containers;
mod environment;
pub mod names;
pub mod patch;
mod plan;
mod pod;
mod probes;
pub mod refusal;
pub mod review;
pub mod settings;
mod undo;
mod volumes;
pub mod workload;

use serde_json::{Value, json};

pub use annotations::Namespace;
use annotations::{Annotations, INJECTED, asked};
pub use patch::diff;
use plan::Plan;
pub use refusal::Refusal;
pub use settings::{AgentVolume, Anchor, Authority, Egress, Images, Resources, Settings, WorkloadApi, is_quantity};
pub use volumes::usual_policy;

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It does not ask for a sidecar, or says that it wants none.
    NotAsked,
    /// It has one already. API servers ask twice.
    Present,
    /// It gets one.
    Injected(Box<Injection>),
}

/// A pod with its sidecar.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// The pod.
    pub pod: Value,
    /// The service that it is now.
    pub service: String,
    /// What the person who made it should know.
    pub warnings: Vec<String>,
    /// How the sidecar is configured, for whoever knows which values are good. The command of a stdio server is among them.
    pub environment: Vec<(&'static str, String)>,
    /// Further settings are in a ConfigMap: `environment` is not all.
    pub has_config: bool,
}

/// Gives a pod (`metadata` and `spec`) a sidecar if it asks for one, or if `all` do that say nothing.
///
/// # Errors
/// [`Refusal`]: it asks for what it cannot have.
pub fn inject(pod: &Value, namespace: &Namespace, all: bool, settings: &Settings) -> Result<Verdict, Refusal> {
    if !asked(pod, namespace)?.unwrap_or(all) {
        // One that says no may carry whatever it likes; one that says nothing may have been misspelled.
        if !speaks(pod) {
            annotations::silent(pod)?;
        }
        return Ok(Verdict::NotAsked);
    }
    checks::is_pod(pod)?;
    if is_injected(pod) {
        return Ok(Verdict::Present);
    }
    checks::place(pod)?;
    let mut plan = Plan::make(pod, Annotations::read(pod, namespace)?, settings)?;
    checks::room(pod, &plan, settings)?;
    let mut changed = pod.clone();
    let environment = change(&mut changed, &mut plan, settings)?;
    let has_config = plan.annotations.get("config").is_some();
    Ok(Verdict::Injected(Box::new(Injection {
        pod: changed,
        service: plan.service,
        warnings: plan.warnings,
        environment,
        has_config,
    })))
}

/// Whether a pod itself says whether it wants a sidecar, well or badly; the others go by their namespace.
pub fn speaks(pod: &Value) -> bool {
    asked(pod, &Namespace::default()) != Ok(None)
}

/// Whether a pod has what we would give it: both what says so and what must then be there, because people copy annotations.
fn is_injected(pod: &Value) -> bool {
    let says = pod["metadata"]["annotations"][INJECTED].is_string();
    says && pod::list(pod, "volumes").iter().any(|volume| pod::name_of(volume) == names::IDENTITY_VOLUME)
}

fn change(
    changed: &mut Value,
    plan: &mut Plan<'_>,
    settings: &Settings,
) -> Result<Vec<(&'static str, String)>, Refusal> {
    let mut probes = Vec::new();
    let stdio = plan.is_stdio();
    if !stdio && plan.rewrite_probes {
        for list in ["initContainers", "containers"] {
            for container in changed["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                // Native sidecars of the pod. Where ours is not native it begins after them, too late to probe them.
                if list == "containers" || (settings.native && container["restartPolicy"] == "Always") {
                    probes.extend(probes::rewrite(container, plan.ports.admin, &mut plan.warnings));
                }
            }
        }
    }
    if let Some(server) = changed["spec"]["containers"].get_mut(plan.server.container).filter(|_| !stdio) {
        containers::beside(server, plan);
    }
    let mut environment = environment::variables(plan, &probes, settings);
    let mut first = Vec::new();
    let mut last = Vec::new();
    if stdio {
        first.push(containers::copy(plan, settings));
        if let Some(server) = changed["spec"]["containers"].get_mut(plan.server.container) {
            containers::wrap(server, plan, &environment);
        }
    } else {
        let sidecar = containers::sidecar(plan, &environment, settings)?;
        let redirect = (plan.egress == Egress::Redirect).then(|| containers::redirect(plan, settings));
        if settings.native {
            // Before the pod's own, which then have the sidecar's way out.
            first.extend(redirect);
            first.push(sidecar);
        } else {
            // After the pod's own, which would find nobody where the rules lead.
            last.extend(redirect);
            if let Some(containers) = pod::object(changed, "spec").and_then(|spec| spec.get_mut("containers")) {
                containers.as_array_mut().into_iter().for_each(|all| all.insert(0, sidecar.clone()));
            }
        }
    }
    if plan.egress == Egress::Redirect {
        close(changed, plan);
    }
    finish(changed, first, last, plan, settings);
    if let plan::Reached::Started(program) = &plan.server.reached {
        environment.push(("OUTRIGGER_COMMAND", quoted(program)));
    }
    Ok(environment)
}

/// Nobody but the sidecar sends below the rules, or becomes its user, as far as the pod can say.
fn close(changed: &mut Value, plan: &mut Plan<'_>) {
    for list in ["initContainers", "containers"] {
        let containers = changed["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if names::ALL_CONTAINERS.contains(&pod::name_of(container)) {
                continue;
            }
            plan.warnings.extend(probes::closed(container, [plan.ports.mesh, plan.ports.admin]));
            containers::confine(container);
        }
    }
}

fn finish(changed: &mut Value, first: Vec<Value>, last: Vec<Value>, plan: &Plan<'_>, settings: &Settings) {
    let spec = &mut changed["spec"];
    let some = !first.is_empty() || !last.is_empty();
    if let Some(list) = some.then(|| pod::array(spec, "initContainers")).flatten() {
        list.splice(0..0, first);
        list.extend(last);
    }
    if let Some(list) = pod::array(spec, "volumes") {
        list.extend(volumes::volumes(plan, settings));
    }
    let Some(metadata) = pod::object(changed, "metadata") else { return };
    for (member, pairs) in
        [("annotations", volumes::annotations(plan, settings)), ("labels", volumes::labels(plan).to_vec())]
    {
        let all = metadata.entry(member).or_insert_with(|| json!({}));
        if all.is_null() {
            *all = json!({});
        }
        for (name, value) in pairs {
            if let Some(all) = all.as_object_mut() {
                all.insert(name.to_owned(), value.into());
            }
        }
    }
}

/// Words in one line, as the sidecar's settings read it.
fn quoted(words: &[String]) -> String {
    let word = |word: &String| format!("'{}'", word.replace('\'', "'\\''"));
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}
