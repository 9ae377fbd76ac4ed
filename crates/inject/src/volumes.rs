//! What a sidecar reads: a token by which the authority knows its pod, the authority's roots, its policy, further settings.
//!
//! Policy and roots are annotations of the pod that the kubelet writes into files. So a namespace needs nothing in it for a
//! pod to start, and a pod shows what holds for it.

use serde_json::{Value, json};

use crate::annotations::{INJECTED, POLICY_TEXT, ROOTS, SERVICE_LABEL};
use crate::names::{AGENT_VOLUME, IDENTITY_VOLUME, POLICY_VOLUME, PROGRAM_VOLUME, SETTINGS_VOLUME};
use crate::plan::{Identity, Plan};
use crate::settings::{AgentVolume, Anchor, Authority, Settings};

/// The most bytes of the program that is copied, and a reserve for the next version.
const PROGRAM_SIZE: &str = "64Mi";
/// Readable for the sidecar's user, writable for none.
const MODE: u32 = 0o444;

/// The volumes of the pod.
pub(crate) fn volumes(plan: &Plan<'_>, settings: &Settings) -> Vec<Value> {
    let token = json!({"serviceAccountToken": {
        "path": "token", "audience": settings.audience, "expirationSeconds": settings.token_seconds}});
    let mut sources: Vec<Value> =
        matches!(plan.identity, Identity::Authority(_)).then_some(token).into_iter().collect();
    let written: Vec<Value> = annotations(plan, settings)
        .into_iter()
        .filter_map(|(name, _)| {
            let file = match name {
                POLICY_TEXT => "policy.yaml",
                ROOTS => "ca.pem",
                // A volume has to have something in it.
                INJECTED if sources.is_empty() => "injected",
                _ => return None,
            };
            let field = format!("metadata.annotations['{name}']");
            Some(json!({"path": file, "fieldRef": {"apiVersion": "v1", "fieldPath": field}}))
        })
        .collect();
    if !written.is_empty() {
        sources.push(json!({"downwardAPI": {"items": written}}));
    }
    let mut all = vec![json!({"name": IDENTITY_VOLUME, "projected": {"defaultMode": MODE, "sources": sources}})];
    let map = |volume: &str, name: &str| json!({"name": volume, "configMap": {"name": name, "defaultMode": MODE}});
    if let Some(name) = plan.annotations.get("policy") {
        all.push(map(POLICY_VOLUME, name));
    }
    if let Some(name) = plan.annotations.get("config") {
        all.push(map(SETTINGS_VOLUME, name));
    }
    if let Identity::WorkloadApi(agent) = plan.identity {
        all.push(match &agent.volume {
            AgentVolume::Csi(driver) => json!({"name": AGENT_VOLUME, "csi": {"driver": driver, "readOnly": true}}),
            AgentVolume::Host(path) => {
                json!({"name": AGENT_VOLUME, "hostPath": {"path": path, "type": "Directory"}})
            }
        });
    }
    if plan.is_stdio() {
        all.push(json!({"name": PROGRAM_VOLUME, "emptyDir": {"sizeLimit": PROGRAM_SIZE}}));
    }
    all
}

/// The annotations that the pod gets.
pub(crate) fn annotations(plan: &Plan<'_>, settings: &Settings) -> Vec<(&'static str, String)> {
    let mut all = vec![(INJECTED, env!("CARGO_PKG_VERSION").to_owned())];
    if plan.annotations.get("policy").is_none() {
        let policy = match &settings.policy {
            Some(policy) => policy.clone(),
            None => usual_policy(&plan.annotations.capabilities()),
        };
        all.push((POLICY_TEXT, policy));
    }
    if let Identity::Authority(Authority { anchor: Anchor::Bundle(roots), .. }) = plan.identity {
        all.push((ROOTS, roots.clone()));
    }
    all
}

/// The labels that the pod gets, for selectors of network policies and monitors.
pub(crate) fn labels(plan: &Plan<'_>) -> [(&'static str, String); 2] {
    [(INJECTED, "true".to_owned()), (SERVICE_LABEL, plan.service.clone())]
}

/// Whoever comes through the ingress, where it was decided who may do what, and nobody else.
pub fn usual_policy(capabilities: &[&str]) -> String {
    let capabilities = if capabilities.is_empty() { vec!["*"] } else { capabilities.to_vec() };
    format!(
        "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: sidecar }}\nspec:\n  authorization:\n    rules:\n      \
         - name: through-the-ingress\n        services: [\"*\"]\n        capabilities: {}\n        requires: [ {{ workload: \
         ingress }} ]\n",
        json!(capabilities)
    )
}
