//! Where services are looked up instead of being named here or registering themselves.

use std::net::IpAddr;
use std::path::PathBuf;

use outrigger_config::kinds::{Checked, HostPort, Scheme, Url};
use outrigger_config::{Fields, doc, kinds};

/// The API server's name in every cluster (Kubernetes documentation, "Accessing the API from a Pod").
const API: &str = "kubernetes.default.svc";
/// Where the kubelet puts what a pod needs to speak to the API server.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Has services of a cluster looked up.
const NAMESPACES: &str = "OUTRIGGER_DISCOVERY_NAMESPACES";
/// Has a Consul catalog looked up.
const CONSUL: &str = "OUTRIGGER_CONSUL";
/// Where sidecars listen unless somebody says otherwise.
const SIDECAR: u64 = 8443;

/// What is looked up, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovery {
    /// Services and EndpointSlices of a cluster.
    pub kubernetes: Option<Kubernetes>,
    /// A Consul catalog.
    pub consul: Option<Consul>,
}

impl Discovery {
    /// Whether services come from somewhere.
    pub fn is_on(&self) -> bool {
        self.kubernetes.is_some() || self.consul.is_some()
    }
}

impl Discovery {
    /// Whether policies come from a cluster.
    pub fn has_policies(&self) -> bool {
        self.kubernetes.as_ref().is_some_and(|cluster| !cluster.policy_namespaces.is_empty())
    }
}

/// A cluster's API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// Namespaces that are watched; empty is that of this pod, `*` all.
    pub namespaces: Vec<String>,
    /// Which Services, by their labels, in the API server's own words.
    pub selector: Option<String>,
    /// Whether `MeshService` objects count in the namespaces that are watched.
    pub mesh_services: bool,
    /// Namespaces whose `SecurityPolicy` objects count.
    pub policy_namespaces: Vec<String>,
    /// Where sidecars listen, if a Service does not say.
    pub port: u16,
    /// Whether endpoints may be on loopback or link-local addresses.
    pub any_address: bool,
    /// Objects of one kind that are held at most.
    pub max_objects: usize,
    /// The API server.
    pub url: Url,
    /// Who signs its certificate.
    pub ca: PathBuf,
    /// What we show it.
    pub token_file: PathBuf,
    /// The name of this pod's namespace.
    pub namespace_file: PathBuf,
}

/// A Consul catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consul {
    /// An agent or a server, `consul://host:port` or `consul+tls://host:port`.
    pub address: String,
    /// Services with this tag are found.
    pub tag: String,
    /// The datacenter, if it is not that of the agent.
    pub datacenter: Option<String>,
    /// What we show it.
    pub token_file: Option<PathBuf>,
    /// Who signs its certificate, instead of those that the machine believes.
    pub ca: Option<PathBuf>,
    /// Whether instances may be on loopback or link-local addresses.
    pub any_address: bool,
}

impl Consul {
    /// Where its HTTP API is.
    pub fn api(&self) -> Url {
        let (scheme, rest) = consul_address(&self.address).unwrap_or((Scheme::Http, ""));
        let authority = HostPort::parse(rest).unwrap_or(HostPort { host: rest.to_owned(), port: 8500 });
        Url { scheme, authority, path: "/".to_owned() }
    }
}

/// The scheme, and host with port.
fn consul_address(text: &str) -> Option<(Scheme, &str)> {
    let plain = text.strip_prefix("consul://").map(|rest| (Scheme::Http, rest));
    plain.or_else(|| text.strip_prefix("consul+tls://").map(|rest| (Scheme::Https, rest)))
}

/// Reads the `discovery` section.
pub(super) fn read(f: &mut Fields<'_>) -> Option<Discovery> {
    let text = "Services of a Kubernetes cluster: those with the annotation or label `outrigger.dev/service`, and their ready endpoints.";
    let kubernetes = f.optional_section_or("kubernetes", text, NAMESPACES, kubernetes);
    let text = "Services of a Consul catalog: those with a tag, where all checks of an instance pass.";
    let consul = f.optional_section_or("consul", text, CONSUL, consul);
    Some(Discovery { kubernetes, consul })
}

fn kubernetes(f: &mut Fields<'_>) -> Option<Kubernetes> {
    let text = doc("Namespaces whose services are found; `*` alone for all, which takes a ClusterRole.");
    let text = text.because("that of this pod: a Role there is enough").env(NAMESPACES).example("[tools, search]");
    let namespaces = f.with_default("namespaces", text, kinds::list_of(namespace()), Vec::new());
    if namespaces.len() > 1 && namespaces.iter().any(|name| name == "*") {
        f.mistake("namespaces", "`*` stands for all namespaces", "keep it alone, or name namespaces");
    }
    let text = doc("Which Services, by their labels, as `kubectl get --selector` has it.");
    let text = text.because("all that are annotated").example("team=search");
    let selector = f.optional("selector", text, kinds::text());
    let text = doc("Whether `MeshService` objects of these namespaces count, beside annotated Services.");
    let reason = "whoever may write them says what holds for services, and the cluster must know the resource";
    let mesh_services = f.with_default("mesh_services", text.because(reason), kinds::boolean(), false);
    let text =
        doc("Namespaces whose `SecurityPolicy` objects count here, for all services, beside the files of `policy`.");
    let reason = "whoever may write them decides who may call what, so none does unless somebody says so";
    let text = text.because(reason).example("[outrigger]");
    let policy_namespaces = f.with_default("policy_namespaces", text, kinds::list_of(namespace()), Vec::new());
    if policy_namespaces.iter().any(|name| name == "*") {
        let hint = "name the namespaces that are trusted with that";
        f.mistake("policy_namespaces", "policies of every namespace would let everybody allow everything", hint);
    }
    let text = doc(
        "Where sidecars listen in pods whose Service has neither `outrigger.dev/port` nor a port named `outrigger`.",
    );
    let port = f.with_default("port", text.because("the sidecar's own default"), kinds::integer(1..=65535), SIDECAR);
    let text = doc("Whether endpoints may have loopback and link-local addresses.");
    let reason =
        "no pod has such an address, and whoever may write EndpointSlices should not aim this ingress at its own node";
    let any_address = f.with_default("any_address", text.because(reason), kinds::boolean(), false);
    let text = doc(
        "Objects of one kind that are held at most; what is beyond is not found. With more policies than that in a namespace none of them changes, and an ingress that has just started denies everything.",
    );
    let text = text.because("a few hundred bytes each");
    let max_objects = f.with_default("max_objects", text, kinds::count(1..=1_000_000), 20_000);
    let text = doc("The API server.").because("its name in every cluster");
    let authority = HostPort { host: API.to_owned(), port: 443 };
    let url = Url { scheme: Scheme::Https, authority, path: "/".to_owned() };
    let url = f.with_default("url", text, kinds::url(), url);
    if matches!(url.scheme, Scheme::Unix(_)) || url.path != "/" {
        f.mistake("url", "a scheme, a host and a port are expected", "write https://host:6443");
    }
    if url.scheme == Scheme::Http && !is_here(&url.authority.host) {
        f.mistake(
            "url",
            "the account's token would be sent in clear",
            "write https://host:6443; http only for this machine",
        );
    }
    let account = |name: &str| PathBuf::from(format!("{ACCOUNT}/{name}"));
    let text = doc("Who signs the API server's certificate (PEM). Read again for every connection.");
    let text = text.because("where the kubelet puts it");
    let ca = f.with_default("ca", text, kinds::path(), account("ca.crt"));
    let text = doc("The token that the API server knows us by. Read again for every request: the kubelet renews it.");
    let text = text.because("where the kubelet puts it");
    let token_file = f.with_default("token_file", text, kinds::path(), account("token"));
    let text = doc("The file with the name of this pod's namespace.").because("where the kubelet puts it");
    let namespace_file = f.with_default("namespace_file", text, kinds::path(), account("namespace"));
    let port = u16::try_from(port).ok()?;
    Some(Kubernetes {
        namespaces,
        selector,
        mesh_services,
        policy_namespaces,
        port,
        any_address,
        max_objects,
        url,
        ca,
        token_file,
        namespace_file,
    })
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn consul(f: &mut Fields<'_>) -> Option<Consul> {
    let rule = Checked {
        name: "address of a Consul",
        pattern: "^consul(\\+tls)?://[^/@]+:[0-9]+$",
        accepts: |text| {
            consul_address(text).is_some_and(|(_, rest)| !rest.contains('@') && HostPort::parse(rest).is_some())
        },
        hint: "consul://host:8500, or consul+tls://host:8501; the token goes into `token_file`",
    };
    let text = doc("The HTTP API of an agent or a server; `consul+tls` for TLS.");
    let text = text.env(CONSUL).example("consul://127.0.0.1:8500");
    let address = f.required("address", text, kinds::checked(rule));
    let text = doc("Services with this tag are found.").because("others are none of the mesh");
    let tag = f.with_default("tag", text, kinds::text(), "outrigger".to_owned());
    let datacenter = f.optional("datacenter", doc("The datacenter, if it is not that of the agent."), kinds::text());
    let text =
        doc("A file with the ACL token, which needs `service:read` and `node:read`. Read again for every question.");
    let token_file = f.optional("token_file", text.env("OUTRIGGER_CONSUL_TOKEN_FILE"), kinds::path());
    let clear = address
        .as_ref()
        .and_then(|address| consul_address(address))
        .and_then(|(scheme, rest)| HostPort::parse(rest).filter(|at| scheme == Scheme::Http && !is_here(&at.host)));
    if token_file.is_some() && clear.is_some() {
        f.mistake(
            "token_file",
            "the token would be sent in clear",
            "write consul+tls://host:8501; consul:// only for an agent on this machine",
        );
    }
    let text = doc("Who signs its certificate (PEM); without it, those that the machine believes.");
    let ca = f.optional("ca", text.env("OUTRIGGER_CONSUL_CA"), kinds::path());
    let text = doc(
        "Whether instances may have loopback and link-local addresses, as those of a development agent do, and names instead of addresses.",
    );
    let reason = "whoever may register services should not aim this ingress at its own machine";
    let any_address = f.with_default("any_address", text.because(reason), kinds::boolean(), false);
    Some(Consul { address: address?, tag, datacenter, token_file, ca, any_address })
}

/// A name that can stand in a path (RFC 1123 label), or `*`.
fn namespace() -> kinds::Kind<String> {
    kinds::checked(Checked {
        name: "namespace",
        pattern: "^(\\*|[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)$",
        accepts: |text| text == "*" || is_label(text),
        hint: "the name of a namespace, or `*`",
    })
}

/// Whether this is an RFC 1123 label, as names of namespaces and Services are.
pub fn is_label(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= 63
        && text.bytes().all(|byte| good(byte) || byte == b'-')
        && ends.into_iter().all(|end| end.is_some_and(good))
}
