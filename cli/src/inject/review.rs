//! From the question of an API server to its answer (AdmissionReview, admission.k8s.io/v1): what the pod gets, or why not.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use outrigger_inject::{Namespace, Settings, Verdict, diff, inject};
use outrigger_telemetry::metrics::InjectionOutcome;
use serde_json::{Value, json};

use super::check;

/// What the answer is about, for log and metrics.
pub(crate) struct Answered {
    /// The `response` member.
    pub(crate) response: Value,
    pub(crate) outcome: InjectionOutcome,
    /// Why not.
    pub(crate) refusal: Option<String>,
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
