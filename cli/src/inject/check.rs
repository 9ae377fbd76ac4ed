//! Whether a sidecar would start as it is told to: by its own settings, before a pod waits for it in vain.

use outrigger_inject::Injection;
use outrigger_sidecar::config::Config;

/// Every mistake in the values that annotations gave, with the hints that the sidecar's settings have.
pub(crate) fn mistakes(injection: &Injection) -> Vec<String> {
    if injection.has_config {
        // The rest is in a file that only the pod sees.
        return Vec::new();
    }
    let variable =
        |name: &str| injection.environment.iter().find(|(own, _)| *own == name).map(|(_, value)| value.clone());
    match Config::from_sources(None, &variable) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.0.iter().map(|mistake| mistake.to_string().trim().replace('\n', " ")).collect(),
    }
}
