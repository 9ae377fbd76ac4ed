//! `mesh.yaml`, the one file of `outrigger up`: which services, how to reach or start them, and where clients connect.

mod read;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use outrigger_config::kinds::Url;
use outrigger_config::{Diagnostic, Diagnostics, Env, Secret, Settings, load};
use outrigger_ingress::config::{Integrity, Tls};
use outrigger_mcp::names::Naming;
use outrigger_sidecar::config::{CatalogMode, Egress, Era, Sandbox, SessionScope};

use read::{default_listen, read};

/// The mesh that runs without a file.
const DEFAULT_MESH: &str = "demo";
/// The state directory that `outrigger up` uses unless told otherwise.
const DEFAULT_STATE: &str = ".outrigger";

/// One mesh on one machine.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its name; the trust domain is made from it.
    pub mesh: String,
    /// Where clients connect, and how.
    pub ingress: Ingress,
    /// Policy files; none: `outrigger up` allows everything to the token that it makes.
    pub policy: Vec<PathBuf>,
    /// The services, in file order; never empty.
    pub services: Vec<Service>,
    /// Things to tell the operator that stop nothing.
    pub warnings: Vec<Diagnostic>,
}

/// Where clients connect, and how.
#[derive(Debug, Clone)]
pub struct Ingress {
    /// The address.
    pub listen: SocketAddr,
    /// Clients need no token. Only on a loopback address.
    pub anonymous: bool,
    /// The URL under which clients know it.
    pub public_url: Option<Url>,
    /// Identity providers, as they were written, for the settings of the ingress.
    pub oauth: Option<serde_json::Map<String, serde_json::Value>>,
    /// What the token that `up` makes proves.
    pub token: Token,
    /// TLS for clients.
    pub tls: Option<Tls>,
    /// Further values of `Host`.
    pub allowed_hosts: Vec<String>,
    /// Values of `Origin` of web pages that may call.
    pub allowed_origins: Vec<String>,
    /// Whether headers that repeat the body may be wrong.
    pub tolerant: bool,
    /// Whether clients may use HTTP+SSE.
    pub http_sse: bool,
    /// How capabilities are named.
    pub naming: Naming,
    /// What definitions are held to.
    pub integrity: Integrity,
}

/// What the token that `up` makes proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Who presents it.
    pub subject: String,
    /// Roles granted, for policy.
    pub roles: Vec<String>,
    /// Scopes granted, for policy.
    pub scopes: Vec<String>,
}

impl Default for Token {
    fn default() -> Self {
        let [subject, admin, read, write] = ["local", "admin", "read", "write"].map(str::to_owned);
        Self { subject, roles: vec![admin], scopes: vec![read, write] }
    }
}

/// One service of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// What serves it.
    pub source: Source,
    /// Variables added to the environment of what `up` starts.
    pub env: Vec<(String, Secret)>,
    /// Working directory of what `up` starts.
    pub cwd: Option<PathBuf>,
    /// How what `up` starts is confined.
    pub sandbox: Sandbox,
    /// The MCP that the server speaks.
    pub era: Era,
    /// What one session of the server is shared by.
    pub session: SessionScope,
    /// Whether its lists depend on who asks.
    pub catalog: CatalogMode,
    /// Whether headers that repeat the body may be wrong; without it, as for the merged endpoint.
    pub tolerant: Option<bool>,
    /// What keeps it safe when things go wrong, as it was written, for the settings of the ingress.
    pub safety: serde_json::Map<String, serde_json::Value>,
    /// What it may reach through its sidecar; no proxy where absent.
    pub egress: Option<ServiceEgress>,
}

/// What a service may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEgress {
    /// What its sidecar will make of it.
    pub settings: Egress,
    /// The same as it was written, for the settings of the sidecar.
    pub given: serde_json::Map<String, serde_json::Value>,
}

/// What serves a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A bundled example service, with its arguments.
    Example(Example, Vec<String>),
    /// Somebody else's stdio server that the sidecar starts.
    Command(Vec<String>),
    /// A server that runs already.
    Url(Url),
}

/// The bundled example services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Example {
    /// Files below one directory.
    Fs,
    /// Text from the web.
    Http,
    /// Search over small documents.
    Vector,
}

const EXAMPLES: &[(&str, Example)] = &[("fs", Example::Fs), ("http", Example::Http), ("vector", Example::Vector)];

impl Example {
    /// Its name, also the argument of `outrigger example`.
    pub fn as_str(self) -> &'static str {
        match self {
            Example::Fs => "fs",
            Example::Http => "http",
            Example::Vector => "vector",
        }
    }
}

impl Manifest {
    /// Reads a manifest from `(file name, text)`; without one it is [`Manifest::bundled`] with the default state directory.
    ///
    /// # Errors
    /// Every mistake in the file.
    pub fn from_sources(file: Option<(&str, &str)>, env: Env<'_>) -> Result<Self, Diagnostics> {
        if file.is_none() {
            return Ok(Self::bundled(Path::new(DEFAULT_STATE)));
        }
        let loaded = load(file, env, read)?;
        Ok(Self { warnings: loaded.warnings, ..loaded.value })
    }

    /// The mesh that runs without a file: the three example services, with the files of `fs` below the state directory.
    pub fn bundled(state: &Path) -> Self {
        let root = state.join("data").display().to_string();
        let service = |(name, example): &(&str, Example)| Service {
            name: (*name).to_owned(),
            source: Source::Example(
                *example,
                if *example == Example::Fs { vec!["--root".into(), root.clone()] } else { vec![] },
            ),
            env: Vec::new(),
            cwd: None,
            sandbox: Sandbox::default(),
            era: Era::Auto,
            session: SessionScope::PerPrincipal,
            catalog: CatalogMode::Shared,
            tolerant: None,
            safety: serde_json::Map::new(),
            egress: None,
        };
        let ingress = Ingress {
            listen: default_listen(),
            anonymous: false,
            public_url: None,
            oauth: None,
            token: Token::default(),
            tls: None,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            tolerant: false,
            http_sse: false,
            naming: Naming::default(),
            integrity: Integrity::default(),
        };
        let services = EXAMPLES.iter().map(service).collect();
        Self { mesh: DEFAULT_MESH.to_owned(), ingress, policy: Vec::new(), services, warnings: Vec::new() }
    }

    /// The trust domain of the mesh.
    pub fn trust_domain(&self) -> String {
        format!("{}.outrigger.local", self.mesh)
    }

    /// All settings of a manifest, for documentation and JSON Schema.
    pub fn describe() -> Settings {
        outrigger_config::describe(read)
    }
}

#[cfg(test)]
mod tests;
