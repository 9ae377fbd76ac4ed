//! The question of an API server (AdmissionReview, admission.k8s.io/v1): what it asks, and whether it is answered at all. Pure.

use serde_json::Value;

/// What API servers of all supported versions speak.
pub const VERSION: &str = "admission.k8s.io/v1";
/// Pods that the kubelet made and only shows to the API server.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The question in a review, with the `uid` that the answer repeats.
pub fn question(review: &Value) -> Option<(&str, &Value)> {
    let question = review.get("request").filter(|_| review["apiVersion"] == VERSION)?;
    Some((question["uid"].as_str()?, question))
}

/// Whether nothing is done whatever the pod says: it is none, or was created by nobody who could be asked.
pub fn is_exempt(question: &Value, namespaces: &[String]) -> bool {
    let is_pod = question["kind"]["kind"] == "Pod" && question["kind"]["group"] == "";
    let namespace = question["namespace"].as_str().unwrap_or_default();
    !is_pod
        || question["operation"] != "CREATE"
        || !question["subResource"].as_str().unwrap_or_default().is_empty()
        || namespaces.iter().any(|exempt| exempt == namespace)
        || !question["object"]["metadata"]["annotations"][MIRROR].is_null()
}
