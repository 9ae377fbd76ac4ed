//! From the question of an API server to its answer (AdmissionReview, admission.k8s.io/v1): what the pod gets, or why not.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use outrigger_inject::{Namespace, Settings, Verdict, diff, inject};
use outrigger_telemetry::metrics::InjectionOutcome;
use serde_json::{Value, json};

use super::check;

/// What API servers of all supported versions speak.
pub(crate) const VERSION: &str = "admission.k8s.io/v1";
/// Pods that the kubelet made and only shows to the API server.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What the answer is about, for log and metrics.
pub(crate) struct Answered {
    /// The `response` member.
    pub(crate) response: Value,
    pub(crate) outcome: InjectionOutcome,
    /// Why not.
    pub(crate) refusal: Option<String>,
}

/// The question in a review, with the `uid` that the answer repeats.
pub(crate) fn question(review: &Value) -> Option<(&str, &Value)> {
    let question = review.get("request").filter(|_| review["apiVersion"] == VERSION)?;
    Some((question["uid"].as_str()?, question))
}

/// Whether nothing is done whatever the pod says: it is none, or was created by nobody who could be asked.
pub(crate) fn is_exempt(question: &Value, namespaces: &[String]) -> bool {
    let is_pod = question["kind"]["kind"] == "Pod" && question["kind"]["group"] == "";
    let namespace = question["namespace"].as_str().unwrap_or_default();
    !is_pod
        || question["operation"] != "CREATE"
        || !question["subResource"].as_str().unwrap_or_default().is_empty()
        || namespaces.iter().any(|exempt| exempt == namespace)
        || !question["object"]["metadata"]["annotations"][MIRROR].is_null()
}

/// Nothing to do.
pub(crate) fn untouched(uid: &str, outcome: InjectionOutcome) -> Answered {
    Answered { response: json!({"uid": uid, "allowed": true}), outcome, refusal: None }
}

/// Injects.
pub(crate) fn answer(uid: &str, question: &Value, namespace: &Namespace, settings: &Settings) -> Answered {
    let pod = &question["object"];
    let injection = match inject(pod, namespace, false, settings) {
        Ok(Verdict::NotAsked) => return untouched(uid, InjectionOutcome::NotAsked),
        Ok(Verdict::Present) => return untouched(uid, InjectionOutcome::Present),
        Ok(Verdict::Injected(injection)) => injection,
        Err(refusal) => return refused(uid, &refusal.to_string()),
    };
    if let Some(mistakes) = Some(check::mistakes(&injection)).filter(|mistakes| !mistakes.is_empty()) {
        return refused(uid, &mistakes.join("; "));
    }
    let patch = Value::Array(diff(pod, &injection.pod)).to_string();
    let mut response = json!({"uid": uid, "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch)});
    if !injection.warnings.is_empty() {
        let warnings: Vec<String> = injection.warnings.iter().map(|warning| format!("outrigger: {warning}")).collect();
        response["warnings"] = warnings.into();
    }
    Answered { response, outcome: InjectionOutcome::Injected, refusal: None }
}

fn refused(uid: &str, why: &str) -> Answered {
    let message = format!("no sidecar for this pod: {why}");
    let status = json!({"status": "Failure", "message": message, "reason": "Invalid", "code": 422});
    let response = json!({"uid": uid, "allowed": false, "status": status});
    Answered { response, outcome: InjectionOutcome::Refused, refusal: Some(why.to_owned()) }
}
