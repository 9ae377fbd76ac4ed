//! What keeps a pod from getting a sidecar: found before anything is changed, each with what to do.

use serde_json::Value;

use crate::environment::AGENT_VARIABLE;
use crate::names::{ALL_CONTAINERS, ALL_VOLUMES, IDENTITY_PATH, PROGRAM_PATH, USER};
use crate::plan::{Identity, Plan};
use crate::pod::{all_containers, items, list, name_of};
use crate::refusal::Refusal;
use crate::settings::{Egress, Settings};

/// That it is a pod at all, as far as the rest relies on it.
pub(crate) fn is_pod(pod: &Value) -> Result<(), Refusal> {
    let spec = pod["spec"].as_object().ok_or(Refusal::NotAPod("it has no `spec`"))?;
    if spec.get("containers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Err(Refusal::NotAPod("it has no containers"));
    }
    for name in ["initContainers", "containers", "ephemeralContainers", "volumes"] {
        match spec.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::Array(all)) if all.iter().all(Value::is_object) => {}
            Some(_) => return Err(Refusal::NotAPod("a list in its `spec` is none, or holds something else")),
        }
    }
    match pod.get("metadata") {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(_) => Err(Refusal::NotAPod("its `metadata` is no object")),
    }
}

/// Whether sidecars are possible there at all.
pub(crate) fn place(pod: &Value) -> Result<(), Refusal> {
    let spec = &pod["spec"];
    if spec["hostNetwork"].as_bool() == Some(true) {
        return Err(Refusal::HostNetwork);
    }
    if spec["os"]["name"].as_str() == Some("windows") {
        return Err(Refusal::Windows);
    }
    Ok(())
}

/// That nothing of the pod is where something of ours will be.
pub(crate) fn room(pod: &Value, plan: &Plan<'_>, settings: &Settings) -> Result<(), Refusal> {
    names(pod)?;
    users(pod)?;
    for container in all_containers(pod) {
        ports(container, plan)?;
        if plan.egress == Egress::Redirect {
            privileges(container)?;
        }
    }
    if plan.egress == Egress::Redirect {
        all_containers(pod).try_for_each(|container| other_user(container, pod))?;
    }
    if let Some(server) = list(pod, "containers").get(plan.server.container) {
        own_files(server)?;
        if plan.is_stdio() {
            variables(server, plan)?;
        }
    }
    match pod["spec"]["restartPolicy"].as_str() {
        Some(policy @ ("Never" | "OnFailure")) if !settings.native && !plan.is_stdio() => {
            Err(Refusal::NeverEnds(policy.to_owned()))
        }
        _ => Ok(()),
    }
}

fn names(pod: &Value) -> Result<(), Refusal> {
    if let Some(taken) = all_containers(pod).map(name_of).find(|name| ALL_CONTAINERS.contains(name)) {
        return Err(Refusal::ContainerName(taken.to_owned()));
    }
    if let Some(taken) = list(pod, "volumes").iter().map(name_of).find(|name| ALL_VOLUMES.contains(name)) {
        return Err(Refusal::VolumeName(taken.to_owned()));
    }
    Ok(())
}

fn users(pod: &Value) -> Result<(), Refusal> {
    let is_ours = |context: &Value| context["runAsUser"].as_u64() == Some(USER);
    if is_ours(&pod["spec"]["securityContext"]) {
        return Err(Refusal::User("the pod".to_owned()));
    }
    match all_containers(pod).find(|container| is_ours(&container["securityContext"])) {
        Some(container) => Err(Refusal::User(format!("the container `{}`", name_of(container)))),
        None => Ok(()),
    }
}

fn ports(container: &Value, plan: &Plan<'_>) -> Result<(), Refusal> {
    let is_used = |name: &str| match name {
        "egress-port" => plan.egress != Egress::Off,
        "dns-port" => plan.egress == Egress::Redirect,
        _ => true,
    };
    let used: Vec<_> = plan.ports.all().into_iter().filter(|(name, _)| is_used(name)).collect();
    for port in items(&container["ports"]) {
        let number = port["containerPort"].as_u64();
        if let Some((annotation, port)) = used.iter().find(|(_, port)| Some(u64::from(*port)) == number) {
            return Err(Refusal::Port { container: name_of(container).to_owned(), port: *port, annotation });
        }
    }
    Ok(())
}

/// That a container cannot take away the rules of redirection, or send below them.
fn privileges(container: &Value) -> Result<(), Refusal> {
    let context = &container["securityContext"];
    let has = |names: &[&str]| {
        items(&context["capabilities"]["add"]).iter().filter_map(Value::as_str).any(|name| names.contains(&name))
    };
    let what = if context["privileged"].as_bool() == Some(true) {
        "is privileged"
    } else if has(&["NET_ADMIN", "CAP_NET_ADMIN", "SYS_ADMIN", "CAP_SYS_ADMIN", "ALL"]) {
        "has the capability NET_ADMIN or more"
    } else if has(&["NET_RAW", "CAP_NET_RAW"]) {
        "has the capability NET_RAW"
    } else if context["allowPrivilegeEscalation"].as_bool() == Some(true) {
        "has `allowPrivilegeEscalation: true`"
    } else {
        return Ok(());
    };
    Err(Refusal::Privileged { container: name_of(container).to_owned(), what })
}

/// That a container is, by what the pod says, neither the sidecar's user nor one that can become it. What user its image has is
/// not known here.
fn other_user(container: &Value, pod: &Value) -> Result<(), Refusal> {
    let contexts = [&container["securityContext"], &pod["spec"]["securityContext"]];
    let user = contexts.into_iter().map(|context| &context["runAsUser"]).find(|user| !user.is_null());
    match user.and_then(Value::as_u64) {
        Some(user) if user != 0 && user != USER => Ok(()),
        _ => Err(Refusal::UserUnknown(name_of(container).to_owned())),
    }
}

fn own_files(server: &Value) -> Result<(), Refusal> {
    let mounted = items(&server["volumeMounts"]).iter().filter_map(|mount| mount["mountPath"].as_str());
    let taken = |at: &str| [IDENTITY_PATH, PROGRAM_PATH].into_iter().find(|ours| at.trim_end_matches('/') == *ours);
    match mounted.filter_map(taken).next() {
        Some(path) => Err(Refusal::Mount { container: name_of(server).to_owned(), path }),
        None => Ok(()),
    }
}

/// A stdio server's container is the sidecar's, too; what somebody sets there by hand would be lost or win by chance.
fn variables(server: &Value, plan: &Plan<'_>) -> Result<(), Refusal> {
    let of_agent = |name: &str| name == AGENT_VARIABLE && matches!(plan.identity, Identity::WorkloadApi(_));
    let set = items(&server["env"]).iter().map(name_of).find(|name| name.starts_with("OUTRIGGER_") || of_agent(name));
    match set {
        Some(variable) => {
            Err(Refusal::Variable { container: name_of(server).to_owned(), variable: variable.to_owned() })
        }
        None => Ok(()),
    }
}
