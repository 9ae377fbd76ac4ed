//! What is the same for all pods: who the mesh is, which images, and what a pod gets that says nothing of it.

use std::net::IpAddr;

/// What every injected sidecar is told, and how it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The mesh: the part of a SPIFFE id after `spiffe://`.
    pub trust_domain: String,
    /// Where sidecars ask for certificates. Of this and `workload_api` at least one is there.
    pub authority: Option<Authority>,
    /// Where an agent of the SPIFFE Workload API gives them, to pods that do not say otherwise.
    pub workload_api: Option<WorkloadApi>,
    /// Ingresses where sidecars register, as `host:port`; they do not without any.
    pub ingress: Vec<String>,
    /// For whom service-account tokens are made: `kubernetes.audience` of the authority.
    pub audience: String,
    /// Seconds that such a token lives; the kubelet replaces it at four fifths. At least 600.
    pub token_seconds: u64,
    /// The address that sidecars listen on: all of IPv4, or of IPv6 too.
    pub address: IpAddr,
    /// Container images.
    pub images: Images,
    /// What a sidecar asks of its node.
    pub resources: Resources,
    /// Whether the cluster knows native sidecars (init containers with `restartPolicy: Always`, Kubernetes 1.29).
    pub native: bool,
    /// How egress is held where the pod does not say.
    pub egress: Egress,
    /// The policy of sidecars where the pod has none of its own: a YAML document.
    pub policy: Option<String>,
}

/// The authority of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// `https://host:port`.
    pub url: String,
    /// How sidecars know it.
    pub anchor: Anchor,
}

/// An agent of the SPIFFE Workload API on each node, such as SPIRE's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadApi {
    /// How its directory comes into pods.
    pub volume: AgentVolume,
    /// The name of its socket there.
    pub socket: String,
}

/// How the directory with the socket of an agent comes into pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentVolume {
    /// By a CSI driver of this name: at every level of Pod Security.
    Csi(String),
    /// As this directory of the node, which takes the level `privileged`.
    Host(String),
}

/// How a sidecar knows the authority at its first contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anchor {
    /// By the SHA-256 of a root's public key, in hexadecimal.
    Digest(String),
    /// By its roots, PEM. They go along with each pod.
    Bundle(String),
}

/// Container images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// `outrigger-sidecar`: its entry point is the sidecar.
    pub sidecar: String,
    /// `outrigger-redirect`: the sidecar with what installs rules of the kernel.
    pub redirect: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
}

/// Quantities of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// What is reserved of processors.
    pub cpu_request: String,
    /// What can be used of them; any number without it.
    pub cpu_limit: Option<String>,
    /// What is reserved of memory.
    pub memory_request: String,
    /// The most memory.
    pub memory_limit: String,
}

/// How what the server dials is held to its allowlist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Egress {
    /// It is not.
    #[default]
    Off,
    /// The server is told of the sidecar's proxy by variables.
    Proxy,
    /// Rules of the kernel lead everything to the sidecar.
    Redirect,
}

/// Whether a text is a quantity of Kubernetes as people write them: a number, and one of its units.
pub fn is_quantity(text: &str) -> bool {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(number.len()..).unwrap_or_default();
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = match number.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(number),
    };
    is_number && ["", "m", "k", "Ki", "M", "Mi", "G", "Gi"].contains(&unit) && text.len() <= 20
}
