//! What was found, for people and for programs.

use std::fmt::Write;

use outrigger_confine::Kernel;
use outrigger_mcp::catalog::{About, List};
use outrigger_mcp::catalog_kind::Kind;
use outrigger_mcp::revision::Revision;
use serde::Serialize;
use serde_json::Value;

use super::greeting::Greeted;
use super::wire::{Manners, Transport};

/// Everything about one server. Its JSON form is what `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    target: String,
    /// One entry per transport and revision that was tried.
    pub(super) tried: Vec<Tried>,
    /// What it said of itself, when it could be greeted.
    pub(super) server: Option<Server>,
    /// How long all lists took, in milliseconds.
    pub(super) lists_ms: Option<f64>,
    /// What it lists.
    pub(super) catalog: Catalog,
    /// How far a sidecar on this machine could confine it; only for programs.
    pub(super) sandbox: Option<Sandbox>,
    /// What will give trouble, the worst first.
    pub(super) findings: Vec<Finding>,
    #[serde(skip)]
    manners: Manners,
}

/// What this machine can enforce on a program that a sidecar starts.
#[derive(Debug, Serialize)]
pub(super) struct Sandbox {
    /// The version of Landlock; 0 without it.
    landlock: i32,
    /// What `sandbox: strict` needs and is not here.
    missing: Vec<String>,
}

impl From<Kernel> for Sandbox {
    fn from(kernel: Kernel) -> Self {
        Self { landlock: kernel.landlock, missing: kernel.missing() }
    }
}

/// One greeting.
#[derive(Debug, Serialize)]
pub(super) struct Tried {
    /// Over what.
    pub(super) transport: Transport,
    /// In which revision.
    pub(super) revision: &'static str,
    /// Whether the server took it.
    pub(super) spoken: bool,
    /// The revisions that it answered with.
    pub(super) answered: Vec<String>,
    /// From the start of the program, or the first byte that we sent, to the answer.
    pub(super) took_ms: Option<f64>,
    /// Why there was no usable answer.
    pub(super) trouble: Option<String>,
    /// The program died of the question.
    pub(super) died: bool,
    /// Nothing else over this transport will be answered.
    #[serde(skip)]
    pub(super) hopeless: bool,
    /// Not even a greeting that every server knows was answered.
    #[serde(skip)]
    pub(super) silent: bool,
}

impl Tried {
    /// Not answered yet.
    pub(super) fn new(transport: Transport, revision: Revision) -> Self {
        Self {
            transport,
            revision: revision.as_str(),
            spoken: false,
            answered: Vec::new(),
            took_ms: None,
            trouble: None,
            died: false,
            hopeless: false,
            silent: false,
        }
    }
}

/// What a server said of itself.
#[derive(Debug, Serialize)]
pub(super) struct Server {
    name: String,
    version: String,
    /// As it declared them.
    pub(super) capabilities: Value,
    pub(super) instructions: Option<String>,
}

impl From<Greeted> for Server {
    fn from(greeted: Greeted) -> Self {
        let text = |name| greeted.info.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            name: text("name"),
            version: text("version"),
            capabilities: greeted.capabilities,
            instructions: greeted.instructions,
        }
    }
}

/// The keys of everything that is listed: names, URIs, URI templates.
#[derive(Debug, Default, Serialize)]
pub(super) struct Catalog {
    tools: Vec<String>,
    prompts: Vec<String>,
    resources: Vec<String>,
    resource_templates: Vec<String>,
    /// The lists themselves, by kind as [`Kind::ALL`].
    #[serde(skip)]
    pub(super) definitions: [List; 4],
}

impl Catalog {
    /// Puts a list in.
    pub(super) fn set(&mut self, kind: Kind, list: List) {
        let keys = list.items().iter().map(|item| item.key().to_owned()).collect();
        match kind {
            Kind::Tool => self.tools = keys,
            Kind::Prompt => self.prompts = keys,
            Kind::Resource => self.resources = keys,
            Kind::Template => self.resource_templates = keys,
        }
        if let Some(slot) = self.definitions.get_mut(kind as usize) {
            *slot = list;
        }
    }

    fn lists(&self) -> [(&'static str, &[String]); 4] {
        [
            ("tools", &self.tools),
            ("prompts", &self.prompts),
            ("resources", &self.resources),
            ("resource templates", &self.resource_templates),
        ]
    }
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Broken.
    Error,
    /// Works here and not there.
    Warning,
    /// Good to know.
    Note,
}

/// Something that will give trouble.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// How bad.
    pub(super) level: Level,
    /// A word for programs.
    pub(super) code: &'static str,
    /// What it is about: tools, a list, the server.
    pub(super) subjects: Vec<String>,
    /// What is wrong, and what to do.
    pub(super) message: String,
    /// The revisions of clients that are concerned; none means all.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) clients: Vec<&'static str>,
}

impl Report {
    /// Of a server that was not asked yet.
    pub(super) fn new(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            tried: Vec::new(),
            server: None,
            lists_ms: None,
            catalog: Catalog::default(),
            sandbox: None,
            findings: Vec::new(),
            manners: Manners::default(),
        }
    }

    /// Everything that the server lists and says, as a mesh would have it.
    pub(super) fn catalog(&self) -> outrigger_mcp::catalog::Catalog {
        let [tools, prompts, resources, templates] = self.catalog.definitions.clone();
        let instructions = self.server.as_ref().and_then(|server| server.instructions.clone());
        let about = About { instructions, ..About::default() };
        outrigger_mcp::catalog::Catalog::new(tools, prompts, resources, templates, about, 0)
    }

    /// Notes something that concerns every client.
    pub(super) fn find(&mut self, level: Level, code: &'static str, subject: &str, message: impl Into<String>) {
        self.add(Finding {
            level,
            code,
            subjects: vec![subject.to_owned()],
            message: message.into(),
            clients: Vec::new(),
        });
    }

    /// Notes what is lost for clients of some revisions.
    pub(super) fn lossy(&mut self, clients: Vec<&'static str>, subject: &str, message: impl Into<String>) {
        let (level, code) = (Level::Note, "lossy");
        self.add(Finding { level, code, subjects: vec![subject.to_owned()], message: message.into(), clients });
    }

    /// The same thing about several tools is said once.
    fn add(&mut self, finding: Finding) {
        let same = |known: &&mut Finding| known.code == finding.code && known.message == finding.message;
        match self.findings.iter_mut().find(same) {
            Some(known) => known.subjects.extend(finding.subjects),
            None => self.findings.push(finding),
        }
    }

    /// Adds what a conversation showed.
    pub(super) fn manners(&mut self, manners: Manners) {
        self.manners.noise += manners.noise;
        self.manners.stays |= manners.stays;
        self.manners.first_noise = self.manners.first_noise.take().or(manners.first_noise);
    }

    /// What all conversations showed.
    pub(super) fn all_manners(&self) -> &Manners {
        &self.manners
    }

    /// Whether a mesh can use this server as it is.
    pub(super) fn usable(&self) -> bool {
        self.server.is_some() && self.findings.iter().all(|finding| finding.level > Level::Error)
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        match &self.server {
            Some(server) => writeln!(out, "{} {}  ({})", server.name, server.version, self.target)?,
            None => writeln!(out, "{} cannot be used", self.target)?,
        }
        for tried in &self.tried {
            let transport = tried.transport.as_str();
            let revision = tried.revision;
            match (tried.took_ms.filter(|_| tried.spoken), &tried.trouble) {
                (Some(ms), _) => writeln!(out, "  {revision}  {transport}  yes, {ms} ms")?,
                (None, Some(trouble)) => writeln!(out, "  {revision}  {transport}  no: {trouble}")?,
                (None, None) => writeln!(out, "  {revision}  {transport}  no: offers {}", tried.answered.join(", "))?,
            }
        }
        if let Some(ms) = self.lists_ms {
            writeln!(out, "catalog, read in {ms} ms")?;
            for (what, keys) in self.catalog.lists() {
                writeln!(out, "  {:3} {what}{}", keys.len(), shown(keys))?;
            }
        }
        match &self.sandbox {
            Some(Sandbox { landlock, missing }) if missing.is_empty() => {
                writeln!(out, "on this machine `sandbox: strict` is possible (Landlock {landlock})")?;
            }
            Some(Sandbox { missing, .. }) => {
                writeln!(out, "on this machine `sandbox: strict` is not possible, missing: {}", missing.join("; "))?;
            }
            None => {}
        }
        if self.findings.is_empty() {
            return writeln!(out, "nothing that will give trouble");
        }
        for finding in &self.findings {
            let level = match finding.level {
                Level::Error => "error",
                Level::Warning => "warning",
                Level::Note => "note",
            };
            let message = &finding.message;
            match finding.clients.as_slice() {
                [] => write!(out, "{level}: {message}")?,
                clients => write!(out, "{level}: clients of {} {message}", clients.join(", "))?,
            }
            if finding.subjects.iter().all(|subject| subject == "server") {
                writeln!(out)?;
            } else {
                writeln!(out, "{}", shown(&finding.subjects))?;
            }
        }
        Ok(())
    }
}

/// The first few, on the same line.
fn shown(keys: &[String]) -> String {
    const SHOWN: usize = 6;
    let mut text = keys.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if keys.len() > SHOWN {
        text.push_str(", ...");
    }
    if text.is_empty() { text } else { format!(": {text}") }
}
