//! Names of what is added to a pod, and where it lies.

/// The sidecar.
pub const SIDECAR: &str = "outrigger-sidecar";
/// What installs the rules of redirection.
pub const REDIRECT: &str = "outrigger-redirect";
/// What copies the sidecar into the pod of a stdio server.
pub const COPY: &str = "outrigger-copy";
pub(crate) const ALL_CONTAINERS: [&str; 3] = [SIDECAR, REDIRECT, COPY];

/// Token, roots and policy of the sidecar.
pub const IDENTITY_VOLUME: &str = "outrigger-identity";
/// The program for the container of a stdio server.
pub const PROGRAM_VOLUME: &str = "outrigger-program";
/// Further settings.
pub const SETTINGS_VOLUME: &str = "outrigger-settings";
/// A policy of the pod's own.
pub const POLICY_VOLUME: &str = "outrigger-policy";
/// The socket of an agent of the SPIFFE Workload API.
pub const AGENT_VOLUME: &str = "outrigger-workload-api";
pub(crate) const ALL_VOLUMES: [&str; 5] =
    [IDENTITY_VOLUME, PROGRAM_VOLUME, SETTINGS_VOLUME, POLICY_VOLUME, AGENT_VOLUME];

pub(crate) const IDENTITY_PATH: &str = "/var/run/secrets/outrigger";
pub(crate) const PROGRAM_PATH: &str = "/opt/outrigger";
pub(crate) const SETTINGS_PATH: &str = "/etc/outrigger/settings";
pub(crate) const AGENT_PATH: &str = "/spiffe-workload-api";
pub(crate) const POLICY_PATH: &str = "/etc/outrigger/policy";

/// The program in our images.
pub(crate) const PROGRAM: &str = "/outrigger-sidecar";
/// The same where it was copied to.
pub(crate) const COPIED_PROGRAM: &str = "/opt/outrigger/outrigger-sidecar";
/// The user that sidecars run as; rules of redirection go by it.
pub(crate) const USER: u64 = 1337;
