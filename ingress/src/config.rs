//! The settings of the ingress, from a file, the environment, or both. Every one is declared here and nowhere else;
//! `docs/CONFIGURATION.md` and the JSON Schema come from these declarations.

mod approvals;
mod clients;
mod discovery;
mod integrity;
mod limits;
mod mesh_service;
mod oauth;
mod quota;
mod registration;
pub mod safety;
mod services;
mod sessions;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use outrigger_config::kinds::{Scheme, Url};
use outrigger_config::sections::{self, Identity, Log, Output, Trace};
use outrigger_config::{Diagnostic, Diagnostics, Env, Fields, Settings, doc, kinds, load};
use outrigger_mcp::names::Naming;
use outrigger_proxy::peek::HeaderChecks;

pub use approvals::Approvals;
pub use clients::{Clients, Tls, client_tls, host_pattern, origin, tokens_from_file};
pub use discovery::{Consul, Discovery, Kubernetes, is_label};
pub use integrity::{Handling, Integrity, read as integrity};
pub use limits::{Limits, Timeouts};
pub use mesh_service::{MAX_ITEMS, MeshService};
pub use oauth::{Introspection, Issuer, OAuth, Signature, read as oauth};
pub use quota::{QuotaStore, WhenAway};
pub use registration::Registration;
pub use safety::{Adaptive, Breaker, Concurrency, Repeat, Retries, Safety};
pub use services::{Service, naming};
pub use sessions::Sessions;

/// All settings of one ingress. Immutable: a reload makes a new one.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The URL under which clients know this ingress, for metadata that names it.
    pub public_url: Option<Url>,
    /// Where health, metrics and pages are shown.
    pub admin: SocketAddr,
    /// TLS on the client listener; plain HTTP without it.
    pub tls: Option<Tls>,
    /// Who clients may be.
    pub clients: Clients,
    /// Identity providers whose tokens clients may present.
    pub oauth: Option<OAuth>,
    /// Who we are in the mesh, and whom we believe.
    pub identity: Identity,
    /// The services, in file order.
    pub services: Vec<Service>,
    /// How sidecars register themselves.
    pub registration: Registration,
    /// Where services are looked up.
    pub discovery: Discovery,
    /// What becomes of headers that repeat the body, on the merged endpoint.
    pub header_checks: HeaderChecks,
    /// How capabilities are named on the merged endpoint.
    pub naming: Naming,
    /// Sessions of clients that speak 2025-11-25 or older.
    pub sessions: Sessions,
    /// Whether clients may use HTTP+SSE.
    pub http_sse: bool,
    /// Policy files.
    pub policy: Vec<PathBuf>,
    /// Where limits are counted that ingresses share; each counts for itself without it.
    pub quota_store: Option<QuotaStore>,
    /// How calls wait for a person.
    pub approvals: Approvals,
    /// What definitions are held to.
    pub integrity: Integrity,
    /// What is held at most.
    pub limits: Limits,
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// The log.
    pub log: Log,
    /// Where a line per request goes.
    pub access_log: Output,
    /// Where a line per decision goes.
    pub audit: Output,
    /// How the audit is protected.
    pub audit_trail: sections::AuditTrail,
    /// Trace context.
    pub trace: Trace,
    /// Threads that handle requests; one per core when absent.
    pub threads: Option<usize>,
    /// The file that all this was read from; its services are read again when it changes.
    pub file: Option<PathBuf>,
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

    /// Reads the settings from a file, if there is one, and the variables of this process, which win.
    ///
    /// # Errors
    /// The file cannot be read; every mistake in both.
    pub fn from_file(path: Option<&Path>) -> Result<Self, String> {
        let env = |name: &str| std::env::var(name).ok();
        let file = path.map(|path| {
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
            text.map(|text| (path.display().to_string(), text))
        });
        let file = file.transpose()?;
        let file = file.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
        let config = Self::from_sources(file, &env).map_err(|mistakes| mistakes.to_string())?;
        Ok(Self { file: path.map(Path::to_owned), ..config })
    }

    /// All settings of the ingress, for documentation and JSON Schema.
    pub fn describe() -> Settings {
        outrigger_config::describe(read)
    }
}

/// Declares every setting. All are read before the first `?`, so that every mistake is found.
fn read(f: &mut Fields<'_>) -> Option<Config> {
    let listen = read_listen(f);
    let public_url = public_url(f, Some("OUTRIGGER_PUBLIC_URL"));
    let admin = f.section("admin", "Health, metrics, the catalog and pages, in plain text.", read_admin);
    let tls =
        f.optional_section("tls", "TLS for clients; without this section they speak plain HTTP.", clients::client_tls);
    let text = "Tokens of identity providers (OAuth 2.1); without this section only static tokens are known.";
    let oauth = f.optional_section("oauth", text, oauth::read);
    if oauth.is_some() && public_url.is_none() {
        let hint = "give the URL that clients know: `public_url: https://mcp.example.com`";
        f.mistake("oauth", "tokens are for an endpoint with a name, and this ingress has none", hint);
    }
    let clients = clients::read(f, listen, tls.as_ref());
    let identity = f.section("identity", "Who this ingress is in the mesh, and whom it believes.", sections::identity);
    let trust_domain = identity.as_ref().map(|identity| identity.trust_domain.as_str());
    let header_checks = HeaderChecks::of(sections::header_checks(f));
    let text = "Sidecars that register themselves, beside those of `services`.";
    let registration = f.section("registration", text, registration::read);
    let text = "Services that are looked up, beside those of `services`; `registration.max_services` and `max_replicas` bound them, too.";
    let discovery = f.section("discovery", text, discovery::read);
    let others = registration.as_ref().is_some_and(|registration| registration.listen.is_some())
        || discovery.as_ref().is_some_and(Discovery::is_on);
    let services = services::read(f, trust_domain, header_checks, others);
    let naming = f.section("names", "Names of capabilities on the merged endpoint.", services::naming);
    let text = "Sessions of clients that speak 2025-11-25 or older.";
    let sessions = f.section("sessions", text, sessions::read);
    let http_sse = sections::http_sse(f, Some("OUTRIGGER_HTTP_SSE"));
    let policy = read_policy(f, discovery.as_ref().is_some_and(Discovery::has_policies));
    let text = "A Redis or Valkey in which ingresses count limits and budgets of the policy together; without this section each counts for itself.";
    let quota_store = f.optional_section_or("quota_store", text, quota::VARIABLE, quota::read);
    let text = "Calls that a person has to approve (`approval` of policy rules).";
    let approvals = f.section("approvals", text, approvals::read);
    let text = "Definitions of tools, prompts and resources, held to those that somebody approved.";
    let integrity = f.section("integrity", text, integrity::read);
    let limits = f.section("limits", "What the ingress holds at most.", limits::read_limits);
    let timeouts = f.section("timeouts", "How long each step may take.", limits::read_timeouts);
    let log = f.section("log", "The log, on standard error.", sections::log);
    let access_log = sections::access_log(f);
    let audit = sections::audit(f);
    let audit_trail = f.section(
        "audit_trail",
        "How the audit is protected: signed, kept in segments, and never silently lost.",
        sections::audit_trail,
    );
    let trace = f.section("trace", "Trace context (W3C).", sections::trace);
    let text = doc("Threads that handle requests; without it, one per core.").env("OUTRIGGER_THREADS");
    let threads = f.optional("threads", text, kinds::count(1..=1024));
    Some(Config {
        listen,
        public_url,
        admin: admin?,
        tls,
        clients: clients?,
        oauth,
        identity: identity?,
        services,
        registration: registration?,
        discovery: discovery?,
        header_checks,
        naming: naming?,
        sessions: sessions?,
        http_sse,
        policy,
        quota_store,
        approvals: approvals?,
        integrity: integrity?,
        limits: limits?,
        timeouts: timeouts?,
        log: log?,
        access_log,
        audit,
        audit_trail: audit_trail?,
        trace: trace?,
        threads,
        file: None,
        warnings: Vec::new(),
    })
}

fn read_listen(f: &mut Fields<'_>) -> SocketAddr {
    let text = doc("Where clients connect. Port 0 lets the system choose.").env("OUTRIGGER_LISTEN");
    let text = text.because("nobody else can reach it until somebody decides so");
    f.with_default("listen", text, kinds::listen(), (Ipv4Addr::LOCALHOST, 8080).into())
}

/// Reads `public_url`, with the variable that also sets it.
pub fn public_url(f: &mut Fields<'_>, env: Option<&'static str>) -> Option<Url> {
    let text = doc("The URL under which clients know this ingress, when something in front of it has another name.");
    let text = text.example("https://mcp.example.com");
    let text = env.into_iter().fold(text, |text, env| text.env(env));
    let url = f.optional("public_url", text, kinds::url());
    if url.as_ref().is_some_and(|url| matches!(url.scheme, Scheme::Unix(_))) {
        f.mistake("public_url", "clients cannot use a socket file", "write https://host");
    }
    url
}

fn read_admin(f: &mut Fields<'_>) -> Option<SocketAddr> {
    let text = doc("Where `/healthz`, `/readyz`, `/metrics` and `/catalog` are served.").env("OUTRIGGER_ADMIN_LISTEN");
    let text = text.because("it shows the names of all services and asks for no login");
    Some(f.with_default("listen", text, kinds::listen(), (Ipv4Addr::LOCALHOST, 9090).into()))
}

fn read_policy(f: &mut Fields<'_>, others: bool) -> Vec<PathBuf> {
    let text =
        doc("Policy files, read again when they change. Rate limits are part of policy.").env("OUTRIGGER_POLICY");
    let text = text.because("without a policy every call is denied").example("[/etc/outrigger/policy.yaml]");
    let policy = f.with_default("policy", text, kinds::list_of(kinds::path()), Vec::new());
    if policy.is_empty() && !others {
        f.warn("policy", "no policy file: every call will be denied", "name one with `policy:` or OUTRIGGER_POLICY");
    }
    policy
}

#[cfg(test)]
mod tests;
