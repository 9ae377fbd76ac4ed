//! `outrigger.lock`: the definitions that somebody approved, in a form for git. What is read there is what is approved: a
//! definition whose digest is another one, and any text that is not exactly as it is written here, is refused.

use std::collections::BTreeMap;

use outrigger_mcp::catalog::Catalog;
use outrigger_mcp::catalog_kind::Kind;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::definition::{Digest, lines, quoted, write_pretty};

/// Largest file, bytes: the largest catalogs of a large mesh, written out.
pub const MAX_BYTES: usize = 64 << 20;
/// Of this form.
const VERSION: u32 = 1;

/// What was approved, by service.
#[derive(Debug, Clone, Default)]
pub struct Lock {
    services: BTreeMap<String, ServiceLock>,
}

/// What was approved of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceLock {
    instructions: Option<String>,
    /// By kind, as [`Kind::ALL`]; none where definitions of a kind are not held to anything.
    kinds: [Option<BTreeMap<String, Entry>>; 4],
}

/// One approved definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) digest: Digest,
    /// As it is written in the file.
    pub(crate) definition: Box<str>,
}

/// A lock that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Larger than [`MAX_BYTES`].
    #[error("the lock is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// Not of its form.
    #[error("the lock cannot be read: {0}; write it anew with `outrigger lock`")]
    Form(#[from] serde_json::Error),
    /// Of a form that this program does not know.
    #[error("the lock has version {0}, and this program knows version {VERSION}")]
    Version(u32),
    /// A definition is not the one that its digest is of.
    #[error(
        "{service}: the {kind} `{name}` does not have its digest: approve it with `outrigger lock --update {service}`"
    )]
    Digest {
        /// Whose.
        service: String,
        /// Kind.
        kind: &'static str,
        /// Name.
        name: String,
    },
    /// A person could read something else than a program.
    #[error(
        "line {0} is not as `outrigger lock` writes it, so a person may read something else there than a program; write the \
         lock anew with `outrigger lock`"
    )]
    Spelling(usize),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLock {
    version: u32,
    services: BTreeMap<String, RawService>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    #[serde(default)]
    instructions: Option<String>,
    #[serde(default)]
    tools: Option<BTreeMap<String, RawEntry>>,
    #[serde(default)]
    prompts: Option<BTreeMap<String, RawEntry>>,
    #[serde(default)]
    resources: Option<BTreeMap<String, RawEntry>>,
    #[serde(default)]
    templates: Option<BTreeMap<String, RawEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    digest: String,
    definition: Box<RawValue>,
}

/// The member of a service that holds a kind.
fn member(kind: Kind) -> &'static str {
    match kind {
        Kind::Tool => "tools",
        Kind::Prompt => "prompts",
        Kind::Resource => "resources",
        Kind::Template => "templates",
    }
}

impl ServiceLock {
    /// Approves what a service offers now, of these kinds.
    pub fn of(catalog: &Catalog, kinds: &[Kind]) -> Self {
        let entries = |kind: Kind| {
            let entry = |item: &outrigger_mcp::catalog::Item| {
                let mut text = Vec::new();
                // What is in a catalog is JSON.
                let _ = write_pretty(item.raw(), 10, &mut text);
                let definition = String::from_utf8(text).unwrap_or_default().into();
                (item.key().to_owned(), Entry { digest: Digest::of(item.raw()), definition })
            };
            kinds.contains(&kind).then(|| catalog.list(kind).items().iter().map(entry).collect())
        };
        Self { instructions: catalog.about().instructions.clone(), kinds: Kind::ALL.map(entries) }
    }

    /// What its server may say to models as a whole.
    pub fn instructions(&self) -> Option<&str> {
        self.instructions.as_deref()
    }

    /// The kinds that are held to what was approved.
    pub fn kinds(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|kind| self.of_kind(*kind).is_some()).collect()
    }

    pub(crate) fn of_kind(&self, kind: Kind) -> Option<&BTreeMap<String, Entry>> {
        self.kinds.get(kind as usize).and_then(Option::as_ref)
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut members = Vec::new();
        let text = self.instructions.as_deref().map_or_else(|| "null".to_owned(), quoted);
        members.push(format!("\"instructions\": {text}").into_bytes());
        for kind in [Kind::Prompt, Kind::Resource, Kind::Template, Kind::Tool] {
            let Some(entries) = self.of_kind(kind) else { continue };
            let mut written = format!("\"{}\": ", member(kind)).into_bytes();
            lines(b"{}", entries.iter().map(|(name, entry)| entry.line(name)), 6, &mut written);
            members.push(written);
        }
        lines(b"{}", members.into_iter(), 4, out);
    }
}

impl Entry {
    fn line(&self, name: &str) -> Vec<u8> {
        let (name, digest) = (quoted(name), self.digest);
        format!(
            "{name}: {{\n          \"digest\": \"{digest}\",\n          \"definition\": {}\n        }}",
            self.definition
        )
        .into_bytes()
    }
}

impl Lock {
    /// What was approved of a service.
    pub fn service(&self, name: &str) -> Option<&ServiceLock> {
        self.services.get(name)
    }

    /// The services that are locked.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    /// Approves what a service offers.
    pub fn set(&mut self, name: &str, service: ServiceLock) {
        self.services.insert(name.to_owned(), service);
    }

    /// Forgets a service.
    pub fn remove(&mut self, name: &str) {
        self.services.remove(name);
    }

    /// The file.
    pub fn text(&self) -> String {
        let mut out = format!("{{\n  \"version\": {VERSION},\n  \"services\": ").into_bytes();
        let service = |(name, service): (&String, &ServiceLock)| {
            let mut line = format!("{}: ", quoted(name)).into_bytes();
            service.write(&mut line);
            line
        };
        lines(b"{}", self.services.iter().map(service), 2, &mut out);
        out.extend_from_slice(b"\n}\n");
        String::from_utf8(out).unwrap_or_default()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It is not exactly what [`Lock::text`] would write, or a digest is not that of its definition.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        if text.len() > MAX_BYTES {
            return Err(LockError::TooLarge);
        }
        let raw: RawLock = serde_json::from_str(text)?;
        if raw.version != VERSION {
            return Err(LockError::Version(raw.version));
        }
        let mut lock = Self::default();
        for (name, raw) in raw.services {
            let service = service(&name, raw)?;
            lock.services.insert(name, service);
        }
        lock.check_spelling(text)?;
        Ok(lock)
    }

    /// Git may have put carriage returns at the ends of lines; nothing else is let through.
    fn check_spelling(&self, text: &str) -> Result<(), LockError> {
        let written = self.text();
        let wrong = written.lines().zip(text.lines()).position(|(ours, theirs)| ours != theirs);
        let (ours, theirs) = (written.lines().count(), text.lines().count());
        match wrong {
            Some(line) => Err(LockError::Spelling(line + 1)),
            None if ours != theirs => Err(LockError::Spelling(ours.min(theirs) + 1)),
            None => Ok(()),
        }
    }
}

fn service(name: &str, raw: RawService) -> Result<ServiceLock, LockError> {
    let lists = [(Kind::Tool, raw.tools), (Kind::Prompt, raw.prompts), (Kind::Resource, raw.resources)];
    let lists = lists.into_iter().chain([(Kind::Template, raw.templates)]);
    let mut service = ServiceLock { instructions: raw.instructions, kinds: Default::default() };
    for (kind, entries) in lists {
        let Some(entries) = entries else { continue };
        let mut read = BTreeMap::new();
        for (key, raw) in entries {
            let digest = Digest::of(raw.definition.get().as_bytes());
            if digest.to_string() != raw.digest {
                return Err(LockError::Digest { service: name.to_owned(), kind: kind.as_str(), name: key });
            }
            let mut definition = Vec::new();
            // It has just been read as JSON, of which our reader takes no less than serde_json.
            let _ = write_pretty(raw.definition.get().as_bytes(), 10, &mut definition);
            read.insert(key, Entry { digest, definition: String::from_utf8(definition).unwrap_or_default().into() });
        }
        if let Some(slot) = service.kinds.get_mut(kind as usize) {
            *slot = Some(read);
        }
    }
    Ok(service)
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;

    use super::*;

    pub(crate) fn catalog(json: &str) -> Catalog {
        Catalog::from_health_json(&Bytes::copy_from_slice(json.as_bytes())).unwrap()
    }

    fn lock() -> Lock {
        let offered = catalog(
            r#"{"instructions":"Be\u200bkind","tools":[{"name":"b","description":"two"},{"name":"a\u202e","x":1.50}],
                "prompts":[],"resources":[{"uri":"file:///a","name":"a"}]}"#,
        );
        let mut lock = Lock::default();
        lock.set("fs", ServiceLock::of(&offered, &[Kind::Tool, Kind::Prompt, Kind::Template]));
        lock.set("a", ServiceLock::of(&catalog("{}"), &[]));
        lock
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = lock().text();
        assert!(text.is_ascii(), "{text}");
        assert!(text.contains("\"instructions\": \"Be\\u200bkind\"") && text.contains("\"templates\": {}"), "{text}");
        assert!(!text.contains("resources"), "a kind that was not asked for is not held to anything");
        let again = Lock::parse(&text).unwrap();
        assert_eq!(again.text(), text);
        assert_eq!(again.service("fs"), lock().service("fs"));
        assert_eq!(again.services().collect::<Vec<_>>(), ["a", "fs"]);
        assert!(Lock::parse(&text.replace('\n', "\r\n")).is_ok());
        assert!(Lock::parse(&Lock::default().text()).is_ok());
    }

    #[test]
    fn what_a_person_reads_is_what_is_approved() {
        let text = lock().text();
        let error = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            Lock::parse(&text.replacen(from, to, 1)).unwrap_err().to_string()
        };
        assert!(error("two", "2").contains("outrigger lock --update fs"), "a definition that was edited");
        assert!(error("sha256:", "sha256:0").contains("does not have its digest"));
        assert!(error("\"version\": 1", "\"version\": 2").contains("version 2"));
        assert!(error("  \"version\": 1", " \"version\": 1").contains("line 2"));
        assert!(error("\"instructions\": null", "\"instructions\": null, \"x\": 1").contains("unknown field"));
        let twice = error("    \"fs\": {", "    \"fs\": { \"instructions\": null },\n    \"fs\": {");
        assert!(twice.contains("line"), "a member that stands twice: {twice}");
        assert!(error("\\u202e", "\u{202e}").contains("line"), "what hides in the file");
        for cut in 0..text.len() - 1 {
            assert!(Lock::parse(&text[..cut]).is_err(), "{cut}");
        }
    }
}
