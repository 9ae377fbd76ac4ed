//! The settings of `outrigger inject` and `outrigger inject serve`, from a file, the environment, or both.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger_config::kinds::{self, Checked, HostPort, Scheme, Url};
use outrigger_config::sections::{
    self, KIB, Log, MIB, MINUTE, SECOND, any_duration, how_many, service_name, trust_domain,
};
use outrigger_config::{Diagnostic, Diagnostics, Env, Fields, Kind, Settings, doc, load};
use outrigger_inject::{AgentVolume, Egress, Images, Resources, WorkloadApi};

use crate::kubernetes::ApiServer;

/// Has sidecars ask an agent.
const AGENT: &str = "OUTRIGGER_WORKLOAD_API";
const HOUR: Duration = Duration::from_secs(3600);

/// All settings of an injector.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// What pods get.
    pub(crate) mesh: Mesh,
    pub(crate) workload_api: Option<WorkloadApi>,
    pub(crate) images: Images,
    pub(crate) resources: Resources,
    /// Seconds.
    pub(crate) token_life: Duration,
    pub(crate) audience: String,
    pub(crate) egress: Egress,
    /// A policy file for sidecars.
    pub(crate) policy: Option<PathBuf>,
    pub(crate) native: Native,
    /// The webhook.
    pub(crate) serve: Serve,
    pub(crate) kubernetes: ApiServer,
    pub(crate) log: Log,
    /// Things to tell the operator that stop nothing.
    pub(crate) warnings: Vec<Diagnostic>,
}

/// What sidecars are told of their mesh.
#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    pub(crate) trust_domain: String,
    /// May be absent where an agent gives certificates.
    pub(crate) authority: Option<Authority>,
    pub(crate) ingress: Vec<HostPort>,
    pub(crate) address: std::net::IpAddr,
}

/// The authority of the mesh.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    pub(crate) at: HostPort,
    pub(crate) anchor: Anchor,
}

/// How the authority is known.
#[derive(Debug, Clone)]
pub(crate) enum Anchor {
    File(PathBuf),
    /// Of a root's public key.
    Digest([u8; 32]),
}

/// Whether sidecars are init containers that go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Native {
    /// As the cluster's version says.
    Auto,
    Always,
    Never,
}

/// What only the webhook needs.
#[derive(Debug, Clone)]
pub(crate) struct Serve {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) certificate: Certificate,
    /// The MutatingWebhookConfiguration whose `caBundle` is kept current.
    pub(crate) webhook: Option<String>,
    /// Namespaces whose pods are left alone.
    pub(crate) exempt: Vec<String>,
    pub(crate) connections: usize,
    pub(crate) body_bytes: usize,
    pub(crate) handshake: Duration,
    pub(crate) body: Duration,
    pub(crate) drain: Duration,
}

/// Where the webhook's own certificate comes from.
#[derive(Debug, Clone)]
pub(crate) enum Certificate {
    /// Nothing is said of it.
    None,
    /// Files that somebody replaces, such as cert-manager.
    Files { cert: PathBuf, key: PathBuf },
    /// The authority of the mesh.
    Enrolled { service: String, proof: sections::JoinProof, dir: Option<PathBuf> },
}

impl Config {
    /// Reads the settings from an optional `(file name, text)` and the environment, which wins.
    pub(crate) fn from_sources(file: Option<(&str, &str)>, env: Env<'_>) -> Result<Self, Diagnostics> {
        let loaded = load(file, env, read)?;
        Ok(Self { warnings: loaded.warnings, ..loaded.value })
    }

    /// The same from a file, if there is one, and the variables of this process.
    pub(crate) fn from_file(path: Option<&Path>) -> anyhow::Result<Self> {
        crate::daemon::settings(path, Self::from_sources)
    }

    /// All settings, for documentation and JSON Schema.
    pub(crate) fn describe() -> Settings {
        outrigger_config::describe(read)
    }
}

fn read(f: &mut Fields<'_>) -> Option<Config> {
    let text = doc("Where the API server asks, over TLS. Port 0 lets the system choose.").env("OUTRIGGER_LISTEN");
    let text = text.because("the API server is elsewhere");
    let listen = f.with_default("listen", text, kinds::listen(), (Ipv4Addr::UNSPECIFIED, 9443).into());
    let admin = f.section("admin", "Health and metrics, in plain text.", |f| {
        let text = doc("Where `/healthz`, `/readyz` and `/metrics` are served.").env("OUTRIGGER_ADMIN_LISTEN");
        let text = text.because("it runs in a pod, and the kubelet asks from outside of it; nothing there is secret");
        Some(f.with_default("listen", text, kinds::listen(), (Ipv4Addr::UNSPECIFIED, 9444).into()))
    });
    let text = "Sidecars have their certificates from an agent of the SPIFFE Workload API on their node, such as SPIRE's, where their pods do not say otherwise.";
    let workload_api = f.optional_section_or("workload_api", text, AGENT, read_workload_api);
    let of_agent = workload_api.is_some();
    let mesh = f.section("mesh", "What sidecars are told of their mesh.", |f| read_mesh(f, of_agent));
    let images = f.section("images", "Container images of what is injected.", read_images);
    let resources = f.section("resources", "What a sidecar asks of its node; annotations change it.", read_resources);
    let token = f.section("token", "The service-account token by which a sidecar proves itself.", read_token);
    let text = doc(
        "How egress is held where a pod does not say: `off`, `proxy` (variables lead the server to the sidecar) or `redirect` (rules of the kernel do).",
    );
    let text =
        text.because("without an allowlist everything would be refused; an annotation with one turns `proxy` on");
    let egress = f.with_default("egress", text.env("OUTRIGGER_INJECT_EGRESS"), egress_kind(), Egress::Off);
    let text = doc("The policy of sidecars whose pod names none: it goes along with each pod.");
    let text = text.because("the ingress may call everything, after it has decided itself, and nobody else may");
    let policy = f.optional("policy", text.env("OUTRIGGER_POLICY"), kinds::path());
    let kubernetes = f.section("kubernetes", "The API server, and what it can do.", read_kubernetes);
    let serve =
        f.section("webhook", "How the API server knows the webhook, and which pods it leaves alone.", read_webhook);
    let certificate = f.section("tls", "The certificate of the webhook.", read_certificate);
    let limits = f.section("limits", "What the webhook holds at most.", read_limits);
    let timeouts = f.section("timeouts", "How long each step may take.", read_timeouts);
    let log = f.section("log", "The log, on standard error.", sections::log);
    let ((kubernetes, native), (webhook, exempt)) = (kubernetes?, serve?);
    let ((connections, body_bytes), (handshake, body, drain)) = (limits?, timeouts?);
    let (audience, token_life) = token?;
    let (admin, certificate) = (admin?, certificate?);
    let serve = Serve { listen, admin, certificate, webhook, exempt, connections, body_bytes, handshake, body, drain };
    Some(Config {
        mesh: mesh?,
        workload_api,
        images: images?,
        resources: resources?,
        token_life,
        audience,
        egress,
        policy,
        native,
        serve,
        kubernetes,
        log: log?,
        warnings: Vec::new(),
    })
}

fn read_workload_api(f: &mut Fields<'_>) -> Option<WorkloadApi> {
    let rule = Checked {
        name: "volume of an agent",
        pattern: "^(csi:[^\\s:/]+|/[^\\s:]*)$",
        accepts: |text| {
            let driver = text.strip_prefix("csi:").is_some_and(|name| !name.is_empty() && !name.contains([':', '/']));
            (driver || text.starts_with('/')) && !text.contains([' ', '\t', '\n']) && (driver || !text.contains(':'))
        },
        hint: "csi:csi.spiffe.io for a CSI driver, or the directory on the nodes: /run/spire/agent-sockets",
    };
    let text = doc(
        "How the directory with its socket comes into pods: `csi:` and the name of a driver, or a directory of the node (`hostPath`), which takes namespaces of the Pod Security level `privileged`.",
    );
    let volume = f.required("volume", text.env(AGENT).example("csi:csi.spiffe.io"), kinds::checked(rule))?;
    let file = Checked {
        name: "name of a file",
        pattern: "^[A-Za-z0-9._-]+$",
        accepts: |text| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !text.is_empty() && ![".", ".."].contains(&text) && text.bytes().all(good)
        },
        hint: "the name alone, without a directory: spire-agent.sock",
    };
    let text = doc("The name of the socket in that directory.").because("what SPIRE's charts and its CSI driver have");
    let socket = f.with_default("socket", text, kinds::checked(file), "spire-agent.sock".to_owned());
    let volume = match volume.strip_prefix("csi:") {
        Some(driver) => AgentVolume::Csi(driver.to_owned()),
        None => AgentVolume::Host(volume),
    };
    Some(WorkloadApi { volume, socket })
}

fn read_mesh(f: &mut Fields<'_>, of_agent: bool) -> Option<Mesh> {
    let text = doc("The mesh that injected sidecars belong to.").env("OUTRIGGER_TRUST_DOMAIN");
    let domain = f.required("trust_domain", text.example("demo.outrigger.local"), trust_domain());
    let text = doc("Where sidecars, and the webhook itself, ask for certificates.").env("OUTRIGGER_CA_URL");
    let text = text.example("https://outrigger-ca.outrigger-system.svc:8440");
    let url = f.optional("ca_url", text, kinds::url());
    if url.as_ref().is_some_and(|url| url.scheme != Scheme::Https || url.path != "/") {
        f.mistake("ca_url", "an authority is asked over TLS, at a path of its own", "write https://host:port");
    }
    let text = doc(
        "How sidecars, and the webhook itself, know the authority: the SHA-256 of a root's public key, from `outrigger ca show`.",
    );
    let ca_sha256 = f.optional("ca_sha256", text.env("OUTRIGGER_CA_SHA256"), sections::key_digest());
    let text = doc("Instead of `ca_sha256`: a file with the authority's roots (PEM), which go along with each pod. Read again when it changes; a webhook whose own certificate is of the authority hears of changes from there.").env("OUTRIGGER_ENROLL_CA");
    let ca = f.optional("ca", text.example("/etc/outrigger/ca.pem"), kinds::path());
    let anchor = match (ca, ca_sha256) {
        (Some(path), None) => Some(Anchor::File(path)),
        (None, Some(digest)) => Some(Anchor::Digest(digest)),
        (None, None) if url.is_none() => None,
        (given, _) => {
            let what = if given.is_some() { "both given" } else { "both missing" };
            f.mistake("ca", format!("`ca` and `ca_sha256` are {what}"), "give one of them");
            None
        }
    };
    let authority = match (url, anchor) {
        (Some(url), Some(anchor)) => Some(Authority { at: url.authority, anchor }),
        (None, None) if of_agent => None,
        (None, _) => {
            let hint = "for example `ca_url: https://outrigger-ca.outrigger-system.svc:8440`, or set OUTRIGGER_CA_URL; or `workload_api`";
            f.mistake("ca_url", "this setting is missing", hint);
            None
        }
        // It was said what is wrong.
        (Some(_), None) => None,
    };
    let text = doc("Ingresses where sidecars register themselves. A headless service stands for all its ingresses.");
    let text = text.env("OUTRIGGER_INGRESS").example("[outrigger-ingress.outrigger-system.svc:8444]");
    let ingress = f.optional("ingress", text, kinds::list_of(kinds::host_port())).unwrap_or_default();
    let text = doc("The address that sidecars listen on: `0.0.0.0`, or `::` where pods have addresses of IPv6.");
    let text = text.because("most clusters have IPv4").env("OUTRIGGER_SIDECAR_ADDRESS");
    let address = f.with_default("address", text, address_kind(), Ipv4Addr::UNSPECIFIED.into());
    Some(Mesh { trust_domain: domain?, authority, ingress, address })
}

fn read_images(f: &mut Fields<'_>) -> Option<Images> {
    let name = |name: &str| format!("{name}:{}", env!("CARGO_PKG_VERSION"));
    let same = "of the same version as the injector";
    let text = doc("The sidecar. Its entry point must be the sidecar.").because(same).env("OUTRIGGER_SIDECAR_IMAGE");
    let sidecar = f.with_default("sidecar", text, image(), name("outrigger-sidecar"));
    let text = doc("What installs the rules of `redirect`: the sidecar beside nftables.").because(same);
    let text = text.env("OUTRIGGER_REDIRECT_IMAGE");
    let redirect = f.with_default("redirect", text, image(), name("outrigger-redirect"));
    let text = doc("When nodes fetch these images.").because("a tag that names a version does not change");
    let policies = &[("IfNotPresent", "IfNotPresent"), ("Always", "Always"), ("Never", "Never")];
    let text = text.env("OUTRIGGER_PULL_POLICY");
    let pull_policy = f.with_default("pull_policy", text, kinds::choice(policies), "IfNotPresent").to_owned();
    Some(Images { sidecar, redirect, pull_policy })
}

fn read_resources(f: &mut Fields<'_>) -> Option<Resources> {
    let text =
        doc("Processor time that is reserved.").because("an idle one uses less than a thousandth; calls cost 0.1 ms");
    let cpu_request = f.with_default("cpu_request", text.env("OUTRIGGER_CPU_REQUEST"), quantity(), "10m".to_owned());
    let text = doc("The most processor time. Without it, any.").env("OUTRIGGER_CPU_LIMIT");
    let cpu_limit = f.optional("cpu_limit", text, quantity());
    let text = doc("Memory that is reserved.").because("idle it has 8 MiB");
    let text = text.env("OUTRIGGER_MEMORY_REQUEST");
    let memory_request = f.with_default("memory_request", text, quantity(), "16Mi".to_owned());
    let text = doc("The most memory.").because(
        "sixteen times what an idle one has: a bound for what goes wrong, and room for hundreds of calls at once",
    );
    let text = text.env("OUTRIGGER_MEMORY_LIMIT");
    let memory_limit = f.with_default("memory_limit", text, quantity(), "128Mi".to_owned());
    Some(Resources { cpu_request, cpu_limit, memory_request, memory_limit })
}

fn read_token(f: &mut Fields<'_>) -> Option<(String, Duration)> {
    let text = doc("For whom it is made: `kubernetes.audience` of the authority.").env("OUTRIGGER_TOKEN_AUDIENCE");
    let text = text.because("the authority's default");
    let audience = f.with_default("audience", text, kinds::text(), "outrigger".to_owned());
    let text = doc("How long it lives; the kubelet replaces it in time.").because("the least that is common");
    let life = f.with_default("life", text, kinds::duration(10 * MINUTE..=24 * HOUR), HOUR);
    Some((audience, life))
}

fn read_kubernetes(f: &mut Fields<'_>) -> Option<(ApiServer, Native)> {
    let text = doc(
        "Whether sidecars are native (init containers that go on, Kubernetes 1.29): `auto` asks the cluster, and without one assumes it.",
    );
    let text = text.because("since 1.33 they cannot be turned off").env("OUTRIGGER_NATIVE_SIDECARS");
    let words = &[("auto", Native::Auto), ("always", Native::Always), ("never", Native::Never)];
    let native = f.with_default("native_sidecars", text, kinds::choice(words), Native::Auto);
    let text = doc("The API server.").because("its name inside every cluster").env("OUTRIGGER_KUBERNETES_URL");
    let authority = HostPort { host: "kubernetes.default.svc".into(), port: 443 };
    let inside = Url { scheme: Scheme::Https, authority, path: "/".into() };
    let url = f.with_default("url", text, kinds::url(), inside);
    if url.scheme != Scheme::Https {
        f.mistake("url", "tokens do not go over plain text", "write https://host");
    }
    let mounted = |name: &str| PathBuf::from(format!("/var/run/secrets/kubernetes.io/serviceaccount/{name}"));
    let text = doc("Certificates (PEM) of its authority.").because("where every pod has it");
    let ca = f.with_default("ca", text, kinds::path(), mounted("ca.crt"));
    let text = doc("The token with which the webhook asks it.").because("where every pod has it");
    let token_file = f.with_default("token_file", text, kinds::path(), mounted("token"));
    Some((ApiServer { url, ca, token_file }, native))
}

fn read_webhook(f: &mut Fields<'_>) -> Option<(Option<String>, Vec<String>)> {
    let text = doc(
        "The MutatingWebhookConfiguration whose `caBundle` is kept current, where the certificate is of the authority. Without it somebody else has to.",
    );
    let text = text.env("OUTRIGGER_WEBHOOK").example("outrigger-injector");
    let name = f.optional("configuration", text, kinds::text());
    let text = doc(
        "Namespaces whose pods are left alone, whatever they say; that of the injector (POD_NAMESPACE) is always one.",
    );
    let text = text.because("what a cluster needs to run must not wait for a webhook").env("OUTRIGGER_EXEMPT");
    let system = ["kube-system", "kube-public", "kube-node-lease"].map(str::to_owned).to_vec();
    let exempt = f.with_default("exempt", text, kinds::list_of(kinds::text()), system);
    Some((name, exempt))
}

fn read_certificate(f: &mut Fields<'_>) -> Option<Certificate> {
    let text = doc(
        "Certificate chain (PEM) for the name of the webhook's service, as cert-manager writes it. Read again when the file changes.",
    );
    let cert = f.optional("cert", text.env("OUTRIGGER_CERT").example("/tls/tls.crt"), kinds::path());
    let text = doc("Its private key (PEM).").env("OUTRIGGER_KEY").example("/tls/tls.key");
    let key = f.optional("key", text, kinds::path());
    let text = doc(
        "Instead: the service-account token by which the authority of the mesh knows the webhook. The authority must give it the name of its service (`hosts`).",
    );
    let text = text.env("OUTRIGGER_KUBERNETES_TOKEN_FILE").example("/var/run/secrets/outrigger/token");
    let kubernetes = f.optional("kubernetes_token_file", text, kinds::path());
    let text = doc("Instead: a file with a join token.").env("OUTRIGGER_JOIN_TOKEN_FILE");
    let token = f.optional("token_file", text, kinds::path());
    let text = doc("Which service of the mesh the webhook is.").because("its service account is called so");
    let service = f.with_default("service", text.env("OUTRIGGER_SERVICE"), service_name(), "injector".to_owned());
    let text = doc("Where key and certificate are kept over restarts. Without it the key never leaves memory.");
    let dir = f.optional("dir", text.env("OUTRIGGER_IDENTITY_DIR").example("/var/lib/outrigger"), kinds::path());
    let given = [cert.is_some() || key.is_some(), kubernetes.is_some(), token.is_some()];
    if given.iter().filter(|given| **given).count() > 1 {
        let one = "give `cert` and `key`, or `kubernetes_token_file`, or `token_file`";
        f.mistake("", "the certificate comes from two places", one);
    }
    let enrolled = |proof| Certificate::Enrolled { service: service.clone(), proof, dir: dir.clone() };
    Some(match (cert, key, kubernetes, token) {
        (Some(cert), Some(key), ..) => Certificate::Files { cert, key },
        (_, _, Some(path), _) => enrolled(sections::JoinProof::KubernetesTokenFile(path)),
        (_, _, _, Some(path)) => enrolled(sections::JoinProof::TokenFile(path)),
        (None, None, None, None) => Certificate::None,
        _ => {
            f.mistake("", "of `cert` and `key` only one is given", "give both");
            return None;
        }
    })
}

fn read_limits(f: &mut Fields<'_>) -> Option<(usize, usize)> {
    let text = doc("Open connections.").because("an API server keeps a few");
    let connections = f.with_default("connections", text, how_many(), 256);
    let text = doc("Bytes of a question.").because("an object has at most 1.5 MiB, and may be there twice");
    let body_bytes = f.with_default("body_bytes", text, kinds::bytes(64 * KIB..=64 * MIB), 4 * MIB);
    Some((connections, body_bytes))
}

fn read_timeouts(f: &mut Fields<'_>) -> Option<(Duration, Duration, Duration)> {
    let text = doc("A TLS handshake.").because("ten times what it takes over a bad link");
    let handshake = any_duration(f, "handshake", text, 10 * SECOND);
    let text = doc("The body of a question.").because("API servers wait 10 s for an answer by default");
    let body = any_duration(f, "body", text, 5 * SECOND);
    let text = doc("The end waiting for questions that have begun.").because("an answer takes milliseconds");
    let drain = f.with_default("drain", text, kinds::duration(Duration::ZERO..=10 * MINUTE), 5 * SECOND);
    Some((handshake, body, drain))
}

fn egress_kind() -> Kind<Egress> {
    kinds::choice(&[("off", Egress::Off), ("proxy", Egress::Proxy), ("redirect", Egress::Redirect)])
}

fn address_kind() -> Kind<std::net::IpAddr> {
    let parse = |text: &str| {
        let hint = "an IP address: 0.0.0.0 or ::";
        text.parse().map_err(|_| kinds::Mistake::new(format!("`{text}` is not an address"), hint))
    };
    let schema = serde_json::json!({"type": "string", "pattern": "^[0-9a-fA-F.:]+$"});
    Kind::scalar("address", schema, parse, ToString::to_string)
}

fn image() -> Kind<String> {
    kinds::checked(Checked {
        name: "image",
        pattern: "^[^\\s]+$",
        accepts: |text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()),
        hint: "registry.example/outrigger-sidecar:1.0",
    })
}

fn quantity() -> Kind<String> {
    kinds::checked(Checked {
        name: "quantity",
        pattern: "^[0-9]+(\\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi)?$",
        accepts: outrigger_inject::is_quantity,
        hint: "a number and a unit of Kubernetes: 10m, 64Mi",
    })
}
