//! The containers that are added, and what a stdio server's own container becomes.

use serde_json::{Value, json};

use crate::environment;
use crate::names::{
    AGENT_PATH, AGENT_VOLUME, COPIED_PROGRAM, COPY, IDENTITY_PATH, IDENTITY_VOLUME, POLICY_PATH, POLICY_VOLUME,
    PROGRAM, PROGRAM_PATH, PROGRAM_VOLUME, REDIRECT, SETTINGS_PATH, SETTINGS_VOLUME, SIDECAR, USER,
};
use crate::plan::{Identity, Plan, Reached};
use crate::pod;
use crate::refusal::Refusal;
use crate::settings::{Egress, Settings, is_quantity};

/// The sidecar as a container of its own.
pub(crate) fn sidecar(
    plan: &Plan<'_>,
    variables: &[(&'static str, String)],
    settings: &Settings,
) -> Result<Value, Refusal> {
    let mut container = json!({
        "name": SIDECAR,
        "image": plan.annotations.get("image").unwrap_or(&settings.images.sidecar),
        "imagePullPolicy": settings.images.pull_policy,
        "env": environment::entries(variables),
        "ports": ports(plan),
        "startupProbe": {"httpGet": {"path": "/healthz", "port": plan.ports.admin, "scheme": "HTTP"},
            "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": ready(plan),
        "livenessProbe": alive(plan),
        "resources": resources(plan, settings)?,
        "securityContext": restricted(),
        "volumeMounts": mounts(plan),
    });
    if settings.native {
        container["restartPolicy"] = "Always".into();
        // The kubelet ends native sidecars last. This is run first, beside the hook of the server.
        container["lifecycle"] = json!({"preStop": {"exec": {"command": [PROGRAM, "drain"]}}});
    }
    Ok(container)
}

/// What installs the rules of redirection, with the one right that it needs.
pub(crate) fn redirect(plan: &Plan<'_>, settings: &Settings) -> Value {
    let inbound = format!("{},{}", plan.ports.mesh, plan.ports.admin);
    let (port, dns) = (plan.ports.egress.to_string(), plan.ports.dns.to_string());
    json!({
        "name": REDIRECT,
        "image": settings.images.redirect,
        "imagePullPolicy": settings.images.pull_policy,
        "args": ["install", "--port", port, "--dns-port", dns, "--inbound", inbound],
        "resources": short_lived(),
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

/// What puts the sidecar where a stdio server's container finds it.
pub(crate) fn copy(plan: &Plan<'_>, settings: &Settings) -> Value {
    json!({
        "name": COPY,
        "image": plan.annotations.get("image").unwrap_or(&settings.images.sidecar),
        "imagePullPolicy": settings.images.pull_policy,
        "args": ["copy", PROGRAM_PATH],
        "resources": short_lived(),
        "securityContext": restricted(),
        "volumeMounts": [{"name": PROGRAM_VOLUME, "mountPath": PROGRAM_PATH}],
    })
}

/// Makes the sidecar the first process of a stdio server's container, and the server its child.
pub(crate) fn wrap(server: &mut Value, plan: &Plan<'_>, variables: &[(&'static str, String)]) {
    let Reached::Started(program) = &plan.server.reached else { return };
    let words = [COPIED_PROGRAM, "--"].into_iter().map(str::to_owned).chain(program.iter().cloned());
    server["command"] = words.collect();
    add(server, "env", environment::entries(variables));
    add(server, "ports", ports(plan));
    let program = json!({"name": PROGRAM_VOLUME, "mountPath": PROGRAM_PATH, "readOnly": true});
    add(server, "volumeMounts", mounts(plan).into_iter().chain([program]).collect());
    for (name, probe) in [("readinessProbe", ready(plan)), ("livenessProbe", alive(plan))] {
        if server[name].is_null() {
            server[name] = probe;
        }
    }
}

/// What the server's own container gets beside a sidecar.
pub(crate) fn beside(server: &mut Value, plan: &mut Plan<'_>) {
    if plan.egress == Egress::Proxy {
        let has = |server: &Value, name: &str| pod::items(&server["env"]).iter().any(|it| pod::name_of(it) == name);
        for (name, value) in environment::proxy(plan.ports.egress) {
            if !has(server, &name) {
                add(server, "env", vec![json!({"name": name, "value": value})]);
            }
        }
    }
    let holder = pod::name_of(server).to_owned();
    if !server["lifecycle"]["preStop"].is_null() {
        plan.warnings.push(format!(
            "`{holder}` has a preStop hook of its own and ends after it; calls that take longer are lost"
        ));
        return;
    }
    // Answered when the calls at work have ended: until then the server must not be told to stop.
    let hook = json!({"httpGet": {"path": "/drain", "port": plan.ports.admin, "scheme": "HTTP"}});
    if let Some(lifecycle) = pod::object(server, "lifecycle") {
        lifecycle.insert("preStop".to_owned(), hook);
    }
}

/// Takes the capability by which a container could send below the rules, and the programs by which it could become another user;
/// nobody here may have either.
pub(crate) fn confine(container: &mut Value) {
    let Some(context) = pod::object(container, "securityContext") else { return };
    context.insert("allowPrivilegeEscalation".to_owned(), false.into());
    let capabilities = context.entry("capabilities").or_insert_with(|| json!({}));
    if capabilities.is_null() {
        *capabilities = json!({});
    }
    let Some(drop) = pod::array(capabilities, "drop") else { return };
    let has = |name: &str| drop.iter().any(|it| it.as_str().is_some_and(|it| it.trim_start_matches("CAP_") == name));
    if !has("ALL") && !has("NET_RAW") {
        drop.push("NET_RAW".into());
    }
}

fn add(container: &mut Value, list: &str, more: Vec<Value>) {
    if let Some(list) = pod::array(container, list) {
        list.extend(more);
    }
}

fn ports(plan: &Plan<'_>) -> Vec<Value> {
    let port = |name: &str, port: u16| json!({"name": name, "containerPort": port, "protocol": "TCP"});
    vec![port("outrigger-mesh", plan.ports.mesh), port("outrigger-admin", plan.ports.admin)]
}

fn ready(plan: &Plan<'_>) -> Value {
    json!({"httpGet": {"path": "/readyz", "port": plan.ports.admin, "scheme": "HTTP"}, "periodSeconds": 5, "timeoutSeconds": 3})
}

fn alive(plan: &Plan<'_>) -> Value {
    json!({"httpGet": {"path": "/healthz", "port": plan.ports.admin, "scheme": "HTTP"}, "periodSeconds": 10,
        "timeoutSeconds": 3, "failureThreshold": 6})
}

fn mounts(plan: &Plan<'_>) -> Vec<Value> {
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    let mut all = vec![mount(IDENTITY_VOLUME, IDENTITY_PATH)];
    if matches!(plan.identity, Identity::WorkloadApi(_)) {
        all.push(mount(AGENT_VOLUME, AGENT_PATH));
    }
    if plan.annotations.get("policy").is_some() {
        all.push(mount(POLICY_VOLUME, POLICY_PATH));
    }
    if plan.annotations.get("config").is_some() {
        all.push(mount(SETTINGS_VOLUME, SETTINGS_PATH));
    }
    all
}

/// The restricted level of Pod Security.
fn restricted() -> Value {
    json!({
        "runAsUser": USER,
        "runAsGroup": USER,
        "runAsNonRoot": true,
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// For containers that are over before the sidecar begins: what they reserve is not reserved besides.
fn short_lived() -> Value {
    json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}})
}

fn resources(plan: &Plan<'_>, settings: &Settings) -> Result<Value, Refusal> {
    let chosen = |name: &'static str, usual: Option<&String>| match plan.annotations.get(name) {
        Some(value) if is_quantity(value) => Ok(Some(value.to_owned())),
        Some(value) => {
            Err(crate::annotations::wrong(name, value, "a number and a unit of Kubernetes, such as 10m or 64Mi"))
        }
        None => Ok(usual.cloned()),
    };
    let usual = &settings.resources;
    let part = |cpu: Option<String>, memory: Option<String>| -> Value {
        let both = [("cpu", cpu), ("memory", memory)];
        both.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?)))).collect()
    };
    let requests =
        part(chosen("cpu-request", Some(&usual.cpu_request))?, chosen("memory-request", Some(&usual.memory_request))?);
    let limits =
        part(chosen("cpu-limit", usual.cpu_limit.as_ref())?, chosen("memory-limit", Some(&usual.memory_limit))?);
    Ok(json!({"requests": requests, "limits": limits}))
}
