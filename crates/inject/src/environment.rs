//! The variables by which a sidecar is configured.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::annotations::KNOWN;
use crate::names::{AGENT_PATH, IDENTITY_PATH, POLICY_PATH, SETTINGS_PATH};
use crate::plan::{Identity, Plan, Reached};
use crate::probes::Probe;
use crate::settings::{Anchor, Egress, Settings};

/// Where an agent of the SPIFFE Workload API listens (SPIFFE Workload Endpoint, section 4).
pub(crate) const AGENT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// Names and values, in the order in which people read them.
pub(crate) fn variables(plan: &Plan<'_>, probes: &[Probe], settings: &Settings) -> Vec<(&'static str, String)> {
    let mut all = vec![("OUTRIGGER_SERVICE", plan.service.clone())];
    if let Reached::At(upstream) = &plan.server.reached {
        all.push(("OUTRIGGER_UPSTREAM", upstream.clone()));
    }
    if plan.annotations.get("config").is_some() {
        all.push(("OUTRIGGER_CONFIG", format!("{SETTINGS_PATH}/sidecar.yaml")));
    }
    all.push(("OUTRIGGER_TRUST_DOMAIN", settings.trust_domain.clone()));
    match plan.identity {
        Identity::Authority(authority) => {
            all.push(("OUTRIGGER_CA_URL", authority.url.clone()));
            all.push(match &authority.anchor {
                Anchor::Digest(digest) => ("OUTRIGGER_CA_SHA256", digest.clone()),
                Anchor::Bundle(_) => ("OUTRIGGER_ENROLL_CA", format!("{IDENTITY_PATH}/ca.pem")),
            });
            all.push(("OUTRIGGER_KUBERNETES_TOKEN_FILE", format!("{IDENTITY_PATH}/token")));
        }
        Identity::WorkloadApi(agent) => {
            all.push((AGENT_VARIABLE, format!("unix://{AGENT_PATH}/{}", agent.socket)));
        }
    }
    let policy = if plan.annotations.get("policy").is_some() { POLICY_PATH } else { IDENTITY_PATH };
    all.push(("OUTRIGGER_POLICY", format!("{policy}/policy.yaml")));
    if !settings.ingress.is_empty() {
        all.push(("OUTRIGGER_INGRESS", settings.ingress.join(",")));
    }
    let at = |port| SocketAddr::new(settings.address, port).to_string();
    all.push(("OUTRIGGER_LISTEN", at(plan.ports.mesh)));
    all.push(("OUTRIGGER_ADMIN_LISTEN", at(plan.ports.admin)));
    if matches!(plan.server.reached, Reached::At(_)) {
        // For the hooks of both containers.
        all.push(("OUTRIGGER_ADMIN_DRAIN", "true".to_owned()));
    }
    all.push(("OUTRIGGER_DRAIN_TIMEOUT", format!("{}s", plan.drain)));
    if plan.egress != Egress::Off {
        all.push(("OUTRIGGER_EGRESS_LISTEN", format!("127.0.0.1:{}", plan.ports.egress)));
    }
    if plan.egress == Egress::Redirect {
        all.push(("OUTRIGGER_EGRESS_TRANSPARENT", "true".to_owned()));
        all.push(("OUTRIGGER_EGRESS_DNS_LISTEN", format!("127.0.0.1:{}", plan.ports.dns)));
    }
    if !probes.is_empty() {
        let probes: Vec<String> = probes.iter().map(|probe| format!("{}={}", probe.name, probe.target)).collect();
        all.push(("OUTRIGGER_PROBES", probes.join(",")));
    }
    let given = KNOWN.iter().filter_map(|known| Some((known.variable?, plan.annotations.get(known.name)?.to_owned())));
    all.extend(given);
    all
}

/// The same as Kubernetes has it, with what only the kubelet knows.
pub(crate) fn entries(variables: &[(&'static str, String)]) -> Vec<Value> {
    // Kubernetes replaces `$(NAME)` in values; `$$` stands for one that means itself.
    let own = variables.iter().map(|(name, value)| json!({"name": name, "value": value.replace("$(", "$$(")}));
    let of_pod = [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"), ("POD_IP", "status.podIP")];
    let field = |(name, path): (&str, &str)| json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
    own.chain(of_pod.into_iter().map(field)).collect()
}

/// For a server that is to find the sidecar's proxy by itself. Loopback is the pod's own.
pub(crate) fn proxy(port: u16) -> Vec<(String, String)> {
    let url = format!("http://127.0.0.1:{port}");
    let mut all = Vec::new();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        all.push((name.to_owned(), url.clone()));
        all.push((name.to_ascii_lowercase(), url.clone()));
    }
    for name in ["NO_PROXY", "no_proxy"] {
        all.push((name.to_owned(), "localhost,127.0.0.1,::1".to_owned()));
    }
    all.push(("NODE_USE_ENV_PROXY".to_owned(), "1".to_owned()));
    all
}
