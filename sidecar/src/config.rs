//! The settings of the sidecar, from a file, the environment, or both. Every one is declared here and nowhere else;
//! `docs/CONFIGURATION.md` and the JSON Schema come from these declarations.

mod alone;
pub mod egress;
mod limits;
mod mesh;
mod probes;
mod register;
mod sandbox;
mod upstream;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use outrigger_config::sections::{self, Identity, Log, Output, Trace};
use outrigger_config::{Diagnostic, Diagnostics, Env, Fields, Settings, doc, kinds, load};
use outrigger_proxy::peek::HeaderChecks;

pub use alone::EgressOnly;
pub use egress::{Attribution, Credential, Egress, EgressDns, EgressLimits, EgressTimeouts, Inspection, Mode, Source};
pub use limits::{Catalog, CatalogMode, Limits, Restart, Timeouts, catalog_mode};
pub use mesh::Mesh;
pub use probes::Probe;
pub use register::Register;
pub use sandbox::{Firmness, Sandbox, read as read_sandbox};
pub use upstream::{Command, Era, SessionScope, Upstream, era, session_scope, variables};

/// All settings of one sidecar. Immutable: a reload makes a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The name of the service that this sidecar stands for.
    pub service: String,
    /// Where the mesh connects, over mTLS.
    pub listen: SocketAddr,
    /// Where health, metrics and the catalog are shown, in plain text.
    pub admin: SocketAddr,
    /// Whether hooks of containers may have it drain, at the admin port.
    pub drain_hook: bool,
    /// Probes that are made for a kubelet which does not reach the server, under the ends of their paths.
    pub probes: Vec<(String, Probe)>,
    /// The server behind this sidecar.
    pub upstream: Upstream,
    /// How the child is confined.
    pub sandbox: Sandbox,
    /// The revisions to speak with the server.
    pub era: Era,
    /// How many sessions of the server there are.
    pub session: SessionScope,
    /// Whether clients that reach the sidecar directly may use HTTP+SSE.
    pub http_sse: bool,
    /// Who we are, and whom we believe.
    pub identity: Identity,
    /// Patterns of SPIFFE ids that may connect at all; none: every workload of the trust domain.
    pub allowed_callers: Vec<String>,
    /// Patterns of SPIFFE ids that may say who stands behind them; none: `ingress` of the own trust domain.
    pub ingresses: Vec<String>,
    /// Where the sidecar makes itself known.
    pub register: Register,
    /// What becomes of headers that repeat the body.
    pub header_checks: HeaderChecks,
    /// Policy files.
    pub policy: Vec<PathBuf>,
    /// What is held at most.
    pub limits: Limits,
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// How a child that ends is started again.
    pub restart: Restart,
    /// How the server's lists are learned.
    pub catalog: Catalog,
    /// The log.
    pub log: Log,
    /// Where a line per request goes.
    pub access_log: Output,
    /// Where a line per decision goes.
    pub audit: Output,
    /// How the audit is protected.
    pub audit_trail: sections::AuditTrail,
    /// What the server may reach; nothing listens for it where absent.
    pub egress: Option<Egress>,
    /// Where other services are.
    pub mesh: Mesh,
    /// Trace context.
    pub trace: Trace,
    /// Threads that handle requests.
    pub threads: usize,
    /// The file that it was read from, which is looked at again when it changes.
    pub file: Option<PathBuf>,
    /// The server's command, where the command line gives it: one line, as OUTRIGGER_COMMAND.
    pub given_command: Option<String>,
    /// Things to tell the operator that stop nothing.
    pub warnings: Vec<Diagnostic>,
}

impl Config {
    /// Reads the settings from an optional `(file name, text)` and the environment, which wins.
    ///
    /// # Errors
    /// Every mistake in both.
    pub fn from_sources(file: Option<(&str, &str)>, env: Env<'_>) -> Result<Self, Diagnostics> {
        let loaded = load(file, env, read)?;
        Ok(Self { warnings: loaded.warnings, ..loaded.value })
    }

    /// All settings of the sidecar, for documentation and JSON Schema.
    pub fn describe() -> Settings {
        outrigger_config::describe(read)
    }
}

/// Declares every setting. All are read before the first `?`, so that every mistake is found.
fn read(f: &mut Fields<'_>) -> Option<Config> {
    let text = doc("The service that this sidecar stands for: its SPIFFE id ends in it, and the ingress prefixes it.");
    let service = f.required("service", text.env("OUTRIGGER_SERVICE").example("fs"), sections::service_name());
    let listen = read_listen(f);
    let admin = f.section("admin", "Health, metrics and the catalog, in plain text and without secrets.", read_admin);
    let upstream = upstream::read(f);
    let sandbox = sandbox::read(f, Some("OUTRIGGER_SANDBOX"), "upstream");
    let era = upstream::read_era(f);
    let session = upstream::read_session(f);
    let http_sse = sections::http_sse(f, Some("OUTRIGGER_HTTP_SSE"));
    let identity = f.section("identity", "Who this workload is, and whom it believes.", sections::identity);
    let allowed_callers = read_allowed_callers(f);
    let ingresses = read_ingresses(f);
    let register = f.section("register", "Where this sidecar makes itself known.", register::read);
    let header_checks = HeaderChecks::of(sections::header_checks(f));
    let policy = read_policy(f);
    let limits = f.section("limits", "What the sidecar holds at most.", limits::read_limits);
    let timeouts = f.section("timeouts", "How long each step may take.", limits::read_timeouts);
    let restart = f.section("restart", "How a child process that ends is started again.", limits::read_restart);
    let catalog =
        f.section("catalog", "How the server's tools, prompts and resources are learned.", limits::read_catalog);
    let log = f.section("log", "The log, on standard error.", sections::log);
    let access_log = sections::access_log(f);
    let audit = sections::audit(f);
    let audit_trail = f.section(
        "audit_trail",
        "How the audit is protected: signed, kept in segments, and never silently lost.",
        sections::audit_trail,
    );
    let egress = f.section("egress", "What the server may reach, and the proxy that it finds for it.", egress::read);
    let mesh = f.section("mesh", "Where other services are, for what the server calls.", mesh::read);
    let trace = f.section("trace", "Trace context (W3C).", sections::trace);
    let threads = read_threads(f);
    let admin = admin?;
    Some(Config {
        service: service?,
        listen,
        admin: admin.listen,
        drain_hook: admin.drain,
        probes: admin.probes,
        upstream: upstream?,
        sandbox: sandbox?,
        era,
        session,
        http_sse,
        identity: identity?,
        allowed_callers,
        ingresses,
        register: register?,
        header_checks,
        policy,
        limits: limits?,
        timeouts: timeouts?,
        restart: restart?,
        catalog: catalog?,
        log: log?,
        access_log,
        audit,
        audit_trail: audit_trail?,
        egress: egress?,
        mesh: mesh?,
        trace: trace?,
        threads,
        file: None,
        given_command: None,
        warnings: Vec::new(),
    })
}

fn read_listen(f: &mut Fields<'_>) -> SocketAddr {
    let text = doc("Where the mesh connects, over mTLS. Port 0 lets the system choose.").env("OUTRIGGER_LISTEN");
    let reason = "peers come from other machines, and none gets past the handshake without a certificate of the mesh";
    f.with_default("listen", text.because(reason), kinds::listen(), (Ipv4Addr::UNSPECIFIED, 8443).into())
}

struct Admin {
    listen: SocketAddr,
    drain: bool,
    probes: Vec<(String, Probe)>,
}

fn read_admin(f: &mut Fields<'_>) -> Option<Admin> {
    let text = doc("Where `/healthz`, `/readyz`, `/metrics` and `/catalog` are served.").env("OUTRIGGER_ADMIN_LISTEN");
    let reason =
        "it is not encrypted: kubelet and Prometheus in other network namespaces need `0.0.0.0:15020`, set by choice";
    let listen = f.with_default("listen", text.because(reason), kinds::listen(), (Ipv4Addr::LOCALHOST, 15020).into());
    let text =
        doc("Whether `/drain` is served there, for hooks of containers: a `POST` from loopback has the sidecar drain.");
    let text = text
        .because("every process that shares the network namespace could end the service")
        .env("OUTRIGGER_ADMIN_DRAIN");
    let drain = f.with_default("drain", text, kinds::boolean(), false);
    Some(Admin { listen, drain, probes: probes::read(f) })
}

fn read_threads(f: &mut Fields<'_>) -> usize {
    let text = doc("Threads that handle requests.").env("OUTRIGGER_THREADS");
    let reason = "one server seldom fills a core of its proxy, and one thread keeps memory small beside each server";
    f.with_default("threads", text.because(reason), kinds::count(1..=256), 1)
}

fn read_allowed_callers(f: &mut Fields<'_>) -> Vec<String> {
    let text = doc("SPIFFE ids that may connect at all; `*` stands for any characters. Policy then decides each call.");
    let reason = "every workload of the trust domain may connect, and policy denies what it does not allow";
    let text = text.because(reason).env("OUTRIGGER_ALLOWED_CALLERS").example("[spiffe://demo.outrigger.local/ingress]");
    f.with_default("allowed_callers", text, kinds::list_of(sections::spiffe_id(true)), Vec::new())
}

fn read_ingresses(f: &mut Fields<'_>) -> Vec<String> {
    let text = doc(
        "SPIFFE ids that may say for whom they call, so that limits of each principal count it; `*` stands for any \
         characters. All others call for themselves alone.",
    );
    let reason = "`spiffe://<trust domain>/ingress`, the name that `outrigger ca` and `outrigger up` give it";
    let text = text.because(reason).env("OUTRIGGER_INGRESSES").example("[spiffe://demo.outrigger.local/edge]");
    f.with_default("ingresses", text, kinds::list_of(sections::spiffe_id(true)), Vec::new())
}

fn read_policy(f: &mut Fields<'_>) -> Vec<PathBuf> {
    let text =
        doc("Policy files, read again when they change. Rate limits are part of policy.").env("OUTRIGGER_POLICY");
    let text = text.because("without a policy every call is denied").example("[/etc/outrigger/policy.yaml]");
    let policy = f.with_default("policy", text, kinds::list_of(kinds::path()), Vec::new());
    if policy.is_empty() {
        f.warn("policy", "no policy file: every call will be denied", "name one with `policy:` or OUTRIGGER_POLICY");
    }
    policy
}

#[cfg(test)]
mod tests;
