//! What each part of a mesh on one machine is started with. Pure: texts from a manifest.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use outrigger_config::Secret;
use outrigger_ingress::config::Integrity;
use outrigger_policy::egress::{Host, Reason, Tools};
use outrigger_sidecar::config::{CatalogMode, Era, SessionScope};
use serde_json::{Map, Value, json};

use super::state::StateDir;
use super::{INGRESS, yaml};
use crate::files;
use crate::manifest::{Manifest, Service, Source};

const COMMENT: &str = "Written by `outrigger up` at every start: change mesh.yaml instead.";
/// Calls finish within this when the mesh is stopped: a person waits at the terminal.
const DRAIN: &str = "10s";

/// Where an issuer names the file with our secret there.
const CLIENT_SECRET: &str = "/introspection/client_secret_file";

/// Everything that the files of the parts are made from.
pub(crate) struct Plan<'a> {
    /// What the operator wants.
    pub(crate) manifest: &'a Manifest,
    /// The file that says it.
    pub(crate) file: Option<&'a Path>,
    /// Where the state is.
    pub(crate) state: &'a StateDir,
    /// This program, which carries the example services.
    pub(crate) program: &'a Path,
}

impl Plan<'_> {
    /// The settings of a service's sidecar.
    pub(crate) fn sidecar(&self, service: &Service) -> anyhow::Result<String> {
        let mut settings = Map::new();
        let mut set = |name: &str, value: Value| settings.insert(name.to_owned(), value);
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        set("service", json!(service.name));
        set("listen", json!(any_port));
        set("admin", json!({"listen": any_port}));
        match &service.source {
            Source::Url(url) => set("upstream", json!(url.to_string())),
            Source::Command(words) => set("command", json!(words)),
            Source::Example(example, args) => {
                let program = self.program.display().to_string();
                let words = [program.as_str(), "example", example.as_str()].into_iter();
                set("command", json!(words.chain(args.iter().map(String::as_str)).collect::<Vec<_>>()))
            }
        };
        if !service.env.is_empty() {
            let reveal = |(name, value): &(String, Secret)| (name.clone(), json!(value.reveal()));
            set("env", service.env.iter().map(reveal).collect::<Map<_, _>>().into());
        }
        if let Some(cwd) = &service.cwd {
            set("cwd", json!(files::absolute(cwd)?));
        }
        let mut sandbox = service.sandbox.clone();
        sandbox.closed.extend(self.closed()?);
        for (name, value) in sandbox.settings() {
            set(&name, value);
        }
        set("era", json!(era(service.era)));
        set("session", json!(session(service.session)));
        if service.catalog == CatalogMode::PerCaller {
            set("catalog", json!({"mode": "per_caller"}));
        }
        set("identity", self.identity(&service.name));
        let id = |name: &str| format!("spiffe://{}/{name}", self.manifest.trust_domain());
        let callers = std::iter::once(INGRESS).chain(self.callers(service)).map(id);
        set("allowed_callers", json!(callers.collect::<Vec<_>>()));
        set("policy", json!([self.state.inside_policy()]));
        set("audit", json!(self.state.audit(&service.name)));
        set("audit_trail", json!({"key": self.state.audit_key(&service.name)}));
        if let Some(egress) = &service.egress {
            let mut section = egress.given.clone();
            section.entry("listen").or_insert_with(|| json!(any_port));
            section.insert("log".into(), json!(self.state.egress(&service.name)));
            set("egress", section.into());
            set("mesh", json!({"file": self.state.services()}));
        }
        set("timeouts", json!({"drain": DRAIN}));
        Ok(yaml::document(COMMENT, &settings.into()))
    }

    /// What no service may read: a script that a command names opens the directory around it, in which these often lie.
    fn closed(&self) -> anyhow::Result<Vec<PathBuf>> {
        let key = self.manifest.ingress.tls.as_ref().map(|tls| tls.key.as_path());
        let oauth = self.manifest.ingress.oauth.iter();
        let secrets = oauth.flat_map(issuers).filter_map(|issuer| issuer.pointer(CLIENT_SECRET)?.as_str());
        let named = self.file.into_iter().chain(key).chain(secrets.map(Path::new)).map(files::absolute);
        std::iter::once(Ok(self.state.root().to_owned())).chain(named).collect()
    }

    /// The settings of the ingress, whose services are at these addresses. `token` is the digest of the client token;
    /// none with anonymous access.
    pub(crate) fn ingress(&self, services: &[(String, SocketAddr)], token: Option<&str>) -> anyhow::Result<String> {
        let wanted = &self.manifest.ingress;
        let mut settings = Map::new();
        let mut set = |name: &str, value: Value| settings.insert(name.to_owned(), value);
        set("listen", json!(wanted.listen));
        set("admin", json!({"listen": SocketAddr::from((Ipv4Addr::LOCALHOST, 0))}));
        if let Some(tls) = &wanted.tls {
            let mut section = json!({"cert": files::absolute(&tls.cert)?, "key": files::absolute(&tls.key)?});
            if let (Some(ca), Some(section)) = (&tls.client_ca, section.as_object_mut()) {
                section.insert("client_ca".to_owned(), json!(files::absolute(ca)?));
            }
            set("tls", section);
        }
        match token {
            None => set("anonymous", json!(true)),
            Some(digest) => {
                let token = &wanted.token;
                let grants =
                    json!({"subject": token.subject, "sha256": digest, "roles": token.roles, "scopes": token.scopes});
                set("tokens", json!([grants]))
            }
        };
        if let Some(url) = &wanted.public_url {
            set("public_url", json!(url.to_string()));
        }
        if let Some(oauth) = &wanted.oauth {
            set("oauth", with_absolute_files(oauth)?);
        }
        set("allowed_hosts", json!(wanted.allowed_hosts));
        set("allowed_origins", json!(wanted.allowed_origins));
        if wanted.http_sse {
            set("http_sse", json!(true));
        }
        let naming = wanted.naming;
        set("names", json!({"joiner": naming.joiner().as_str(), "max_length": naming.max_name()}));
        set("identity", self.identity(INGRESS));
        set("header_checks", json!(header_checks(wanted.tolerant)));
        let service = |(name, address): &(String, SocketAddr)| (name.clone(), self.service(name, *address));
        set("services", services.iter().map(service).collect::<Map<_, _>>().into());
        set("sessions", json!({"key_file": self.state.session_keys()}));
        set("policy", json!(self.policies()?));
        if wanted.integrity != Integrity::default() {
            set("integrity", integrity(&wanted.integrity)?);
        }
        set("audit", json!(self.state.audit(INGRESS)));
        set("audit_trail", json!({"key": self.state.audit_key(INGRESS)}));
        set("timeouts", json!({"drain": DRAIN}));
        Ok(yaml::document(COMMENT, &settings.into()))
    }

    /// What the ingress is told of a service.
    fn service(&self, name: &str, address: SocketAddr) -> Value {
        let mut settings = json!({"addresses": [address]});
        let service = self.manifest.services.iter().find(|service| service.name == name);
        if let Some(tolerant) = service.and_then(|service| service.tolerant) {
            settings["header_checks"] = json!(header_checks(tolerant));
        }
        if let (Some(service), Some(settings)) = (service, settings.as_object_mut()) {
            settings.extend(service.safety.clone());
        }
        settings
    }

    /// The policy of the ingress when the manifest names none: whoever authenticates may do everything.
    pub(crate) fn default_policy(&self) -> String {
        let requires = if self.manifest.ingress.anonymous { "\n        requires: [ { anonymous: true } ]" } else { "" };
        let about =
            "What clients may do. Written by `outrigger up` at every start, because mesh.yaml names no `policy`.";
        policy(about, "clients", "everything-to-clients", requires)
    }

    /// The policy of the sidecars: the ingress has decided about clients already, and whoever may reach a service under its
    /// name in the mesh may call it.
    pub(crate) fn inside_policy(&self) -> String {
        let requires = format!("\n        requires: [ {{ workload: \"{INGRESS}\" }} ]");
        let about = "Who may call the sidecars. Written by `outrigger up` at every start.";
        let mut text = policy(about, "inside", "through-the-ingress", &requires);
        for service in &self.manifest.services {
            for caller in self.callers(service) {
                let called = &service.name;
                text.push_str(&format!(
                    "      - name: {caller}-to-{called}\n        services: [\"{called}\"]\n        capabilities: [\"*\"]\n        \
                     requires: [ {{ workload: \"{caller}\" }} ]\n"
                ));
            }
        }
        text
    }

    /// The services that may reach this one as `http://<service>.mesh`.
    fn callers(&self, called: &Service) -> impl Iterator<Item = &str> {
        let name = Host::parse(&format!("{}.mesh", called.name)).ok();
        self.manifest.services.iter().filter_map(move |service| {
            let Some(Host::Name(name)) = &name else { return None };
            let named = service.egress.as_ref()?.settings.rules.names(name, Tools::Outside);
            // Named for some tools alone is named.
            (!matches!(named, Err(Reason::Host))).then_some(service.name.as_str())
        })
    }

    fn policies(&self) -> anyhow::Result<Vec<PathBuf>> {
        match self.manifest.policy.as_slice() {
            [] => Ok(vec![self.state.policy()]),
            named => named.iter().map(|path| files::absolute(path)).collect(),
        }
    }

    fn identity(&self, name: &str) -> Value {
        let (own, ca) = (self.state.identity(name), self.state.ca());
        json!({
            "trust_domain": self.manifest.trust_domain(),
            "cert": own.join(format!("{name}.pem")),
            "key": own.join(format!("{name}.key")),
            "ca": ca.join("ca.pem"),
            "crl": ca.join("crl.pem"),
        })
    }
}

/// The `oauth` section for the ingress, whose settings lie in another directory.
fn with_absolute_files(oauth: &Map<String, Value>) -> anyhow::Result<Value> {
    let mut oauth = Value::Object(oauth.clone());
    for issuer in oauth.get_mut("issuers").and_then(Value::as_array_mut).into_iter().flatten() {
        for pointer in ["/ca", CLIENT_SECRET] {
            if let Some(file) = issuer.pointer_mut(pointer)
                && let Some(path) = file.as_str()
            {
                *file = json!(files::absolute(Path::new(path))?);
            }
        }
    }
    Ok(oauth)
}

fn issuers(oauth: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    oauth.get("issuers").and_then(Value::as_array).into_iter().flatten()
}

fn policy(about: &str, name: &str, rule: &str, requires: &str) -> String {
    format!(
        "# {about}\n# docs/POLICY.md has the form.\napiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: {name} }}\n\
         spec:\n  authorization:\n    rules:\n      - name: {rule}\n        services: [\"*\"]\n        capabilities: [\"*\"]{requires}\n"
    )
}

fn era(era: Era) -> &'static str {
    match era {
        Era::Auto => "auto",
        Era::Modern => "modern",
        Era::Legacy => "legacy",
        Era::HttpSse => "http+sse",
    }
}

fn integrity(wanted: &Integrity) -> anyhow::Result<Value> {
    let mut section = json!({"scan": wanted.scan});
    if let Some(lock) = &wanted.lock {
        section["lock"] = json!(files::absolute(lock)?);
        section["changed"] = json!(wanted.changed.as_str());
        section["new"] = json!(wanted.new.as_str());
    }
    Ok(section)
}

fn header_checks(tolerant: bool) -> &'static str {
    if tolerant { "tolerant" } else { "strict" }
}

fn session(session: SessionScope) -> &'static str {
    match session {
        SessionScope::Shared => "shared",
        SessionScope::PerPrincipal => "per_principal",
        SessionScope::PerClientSession => "per_client_session",
        SessionScope::PerRequest => "per_request",
    }
}

#[cfg(test)]
mod tests;
