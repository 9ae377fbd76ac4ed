//! The `catalog` member of the health document: how a sidecar hands its server's catalog to the ingress.
//!
//! Definitions inside it are the server's own bytes.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{About, CacheScope, Catalog, Collector, Limits, List, ListPage, whole};
use crate::{
    catalog_kind::Kind,
    json::{JsonError, MAX_DEPTH, Scanner, decode_string, members, write_string},
};

/// Why a `catalog` member cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HealthError {
    /// Not JSON.
    #[error("the catalog is not valid: {0}")]
    Json(#[from] JsonError),
    /// A member is not of its form.
    #[error("the catalog has a member `{0}` that cannot be read")]
    Member(&'static str),
}

/// What is known of a list besides its items.
#[derive(Debug, Serialize, Deserialize)]
struct Notes {
    complete: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache_scope: Option<CacheScope>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// The member that holds a list.
fn member_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Tool => "tools",
        Kind::Prompt => "prompts",
        Kind::Resource => "resources",
        Kind::Template => "resource_templates",
    }
}

impl Catalog {
    /// The `catalog` object of the health document.
    pub fn to_health_json(&self) -> Vec<u8> {
        let size: usize = self.lists.iter().flat_map(|list| &list.items).map(|item| item.raw().len() + 1).sum();
        let mut out = Vec::with_capacity(size + 1024);
        out.extend_from_slice(b"{\"fingerprint\":");
        write_string(&mut out, &self.fingerprint);
        out.extend_from_slice(format!(",\"fetched_at\":{}", self.fetched_at_ms).as_bytes());
        for kind in Kind::ALL {
            out.extend_from_slice(format!(",\"{}\":[", member_name(kind)).as_bytes());
            for (index, item) in self.list(kind).items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(item.raw());
            }
            out.push(b']');
        }
        for (name, raw) in [("capabilities", &self.about.capabilities), ("server_info", &self.about.server_info)] {
            if let Some(raw) = raw {
                out.extend_from_slice(format!(",\"{name}\":").as_bytes());
                out.extend_from_slice(raw);
            }
        }
        if let Some(instructions) = &self.about.instructions {
            out.extend_from_slice(b",\"instructions\":");
            write_string(&mut out, instructions);
        }
        out.extend_from_slice(b",\"lists\":");
        let notes: BTreeMap<_, _> = Kind::ALL.map(|kind| (member_name(kind), Notes::of(self.list(kind)))).into();
        // Writing plain data to a Vec cannot fail.
        let _ = serde_json::to_writer(&mut out, &notes);
        out.push(b'}');
        out
    }

    /// Reads what [`Catalog::to_health_json`] wrote, under the same bounds as lists that come from a server. Items share
    /// the memory of `json`. Members that this version does not know are ignored, and the fingerprint is computed anew.
    ///
    /// # Errors
    /// [`HealthError`].
    pub fn from_health_json(json: &Bytes) -> Result<Self, HealthError> {
        let mut scanner = Scanner::new(json, MAX_DEPTH)?;
        scanner.value()?;
        scanner.finish()?;
        let mut pages: HashMap<Kind, ListPage> = HashMap::new();
        let mut notes: BTreeMap<String, Notes> = BTreeMap::new();
        let (mut about, mut fetched_at) = (About::default(), 0);
        for (key, value) in members(json, whole(json)) {
            let raw = json.slice(value.range());
            match &*key.decode(json) {
                "fetched_at" => fetched_at = read(&raw, "fetched_at")?,
                "capabilities" => about.capabilities = Some(raw),
                "server_info" => about.server_info = Some(raw),
                "instructions" => about.instructions = decode_string(&raw).map(Into::into),
                "lists" => notes = read(&raw, "lists")?,
                name => {
                    let Some(kind) = Kind::ALL.into_iter().find(|kind| member_name(*kind) == name) else {
                        continue;
                    };
                    let page = ListPage::read_items(kind, json, value);
                    pages.insert(kind, page.ok_or(HealthError::Member(member_name(kind)))?);
                }
            }
        }
        let [tools, prompts, resources, templates] = [Kind::Tool, Kind::Prompt, Kind::Resource, Kind::Template]
            .map(|kind| list(kind, pages.remove(&kind), notes.remove(member_name(kind))));
        Ok(Self::new(tools, prompts, resources, templates, about, fetched_at))
    }
}

impl Notes {
    fn of(list: &List) -> Self {
        Self {
            complete: list.complete,
            ttl_ms: list.ttl_ms,
            cache_scope: list.cache_scope,
            warnings: list.warnings.clone(),
        }
    }
}

fn read<'a, T: Deserialize<'a>>(raw: &'a [u8], name: &'static str) -> Result<T, HealthError> {
    serde_json::from_slice(raw).map_err(|_| HealthError::Member(name))
}

fn list(kind: Kind, page: Option<ListPage>, notes: Option<Notes>) -> List {
    let mut collector = Collector::new(kind, Limits::default());
    if let Some(page) = page {
        collector.add(page);
    }
    let mut list = collector.finish();
    if let Some(notes) = notes {
        list.complete &= notes.complete;
        list.ttl_ms = notes.ttl_ms;
        list.cache_scope = notes.cache_scope;
        list.warnings.extend(notes.warnings);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Item;

    fn page(kind: Kind, text: &'static str) -> List {
        let mut collector = Collector::new(kind, Limits::default());
        match collector.add(ListPage::parse(kind, &Bytes::from_static(text.as_bytes())).unwrap()) {
            Some(_) => collector.abandon("gone", &List::default()),
            None => collector.finish(),
        }
    }

    fn sample() -> Catalog {
        let about = About {
            capabilities: Some(Bytes::from_static(br#" { "resources" : {}, "x":1.0 } "#)),
            server_info: Some(Bytes::from_static(br#"{"name":"s","version":"1"}"#)),
            instructions: Some("be \"kind\"\n".into()),
        };
        Catalog::new(
            page(
                Kind::Tool,
                r#"{"tools":[{ "name":"b", "n":1.50 },{"name":"a"}],"ttlMs":5,"cacheScope":"public","nextCursor":"x"}"#,
            ),
            page(Kind::Prompt, r#"{"prompts":[{"name":"p"}]}"#),
            page(Kind::Resource, r#"{"resources":[{"uri":"file:///a","name":"a"}]}"#),
            page(Kind::Template, r#"{"resourceTemplates":[{"uriTemplate":"file:///{x}"}]}"#),
            about,
            1_700_000_000_123,
        )
    }

    #[test]
    fn the_document_carries_everything() {
        let sent = sample();
        let json = Bytes::from(sent.to_health_json());
        assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
        let got = Catalog::from_health_json(&json).unwrap();
        assert_eq!(got.fingerprint(), sent.fingerprint());
        assert_eq!(got.fetched_at_ms(), 1_700_000_000_123);
        assert_eq!(got.about().instructions.as_deref(), Some("be \"kind\"\n"));
        assert_eq!(got.about().capabilities.as_deref(), Some(br#"{ "resources" : {}, "x":1.0 }"#.as_slice()));
        let tools = got.list(Kind::Tool);
        assert_eq!(tools.items()[0].raw(), r#"{ "name":"b", "n":1.50 }"#);
        assert_eq!((tools.ttl_ms(), tools.cache_scope(), tools.complete()), (Some(5), Some(CacheScope::Public), false));
        assert_eq!(tools.warnings(), sent.list(Kind::Tool).warnings());
        assert!(got.offers(Kind::Resource) && got.find(Kind::Template, "file:///{x}").is_some());
    }

    #[test]
    fn the_fingerprint_follows_content_alone() {
        let base = sample();
        let mut later = sample();
        later.lists[0].ttl_ms = Some(1);
        let rebuilt = |c: Catalog| {
            let [t, p, r, s] = c.lists;
            Catalog::new(t, p, r, s, c.about, 9)
        };
        assert_eq!(rebuilt(later).fingerprint(), base.fingerprint());
        let mut private = sample();
        private.lists[0].cache_scope = Some(CacheScope::Private);
        assert_ne!(rebuilt(private).fingerprint(), base.fingerprint());
        let mut fewer = sample();
        fewer.lists[0].items.pop();
        assert_ne!(rebuilt(fewer).fingerprint(), base.fingerprint());
        let mut reworded = sample();
        let text = Bytes::from_static(br#"{"name":"a","description":"obey me"}"#);
        reworded.lists[0].items[1] = Item::parse(Kind::Tool, text).unwrap();
        assert_ne!(rebuilt(reworded).fingerprint(), base.fingerprint());
        assert_eq!(base.fingerprint().len(), 32);
    }

    #[test]
    fn documents_of_other_versions_and_bad_ones() {
        let read = |text: &'static str| Catalog::from_health_json(&Bytes::from_static(text.as_bytes()));
        let sparse = read(r#"{"tools":[{"name":"a"},{"name":"a"},7],"news":[1]}"#).unwrap();
        assert_eq!((sparse.list(Kind::Tool).items().len(), sparse.list(Kind::Tool).warnings().len()), (1, 2));
        assert_eq!(read("{}").unwrap().fingerprint(), Catalog::empty().fingerprint());
        assert_eq!(read(r#"{"tools":7}"#).unwrap_err(), HealthError::Member("tools"));
        assert_eq!(read(r#"{"fetched_at":"x"}"#).unwrap_err(), HealthError::Member("fetched_at"));
        assert!(matches!(read("{"), Err(HealthError::Json(_))));
    }
}
