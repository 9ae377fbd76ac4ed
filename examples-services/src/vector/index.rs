//! Documents as word counts, and cosine similarity between them. Pure and bounded.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use rmcp::model::JsonObject;
use rmcp::schemars;
use serde::Serialize;

const MAX_ID_CHARS: usize = 200;
const MAX_TEXT_BYTES: usize = 64 * 1024;
const MAX_METADATA_BYTES: usize = 4 * 1024;
/// What a hit quotes of its document, in characters; the whole text is a resource.
const EXCERPT_CHARS: usize = 400;

/// How much the index may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    /// Documents.
    pub(crate) documents: usize,
    /// Bytes of id, text and metadata over all documents.
    pub(crate) total_bytes: usize,
}

/// One search hit.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(crate) struct Hit {
    /// The document's name.
    pub(crate) id: String,
    /// Cosine similarity, above 0 and at most 1.
    pub(crate) score: f64,
    /// The beginning of the text.
    pub(crate) excerpt: String,
    /// What was stored with the document.
    pub(crate) metadata: JsonObject,
}

/// Why a document was not added.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddError {
    #[error("id has {0} characters; give 1 to {MAX_ID_CHARS}")]
    BadId(usize),
    #[error("text has {0} bytes; the limit is {MAX_TEXT_BYTES}")]
    TextTooLong(usize),
    #[error("text has no word to index")]
    NoWords,
    #[error("metadata has {0} bytes as JSON; the limit is {MAX_METADATA_BYTES}")]
    MetadataTooLong(usize),
    #[error("the index is full ({documents} documents, {bytes} bytes); replace a document or raise its limits")]
    Full { documents: usize, bytes: usize },
}

#[derive(Debug)]
struct Document {
    text: String,
    metadata: JsonObject,
    words: Words,
    bytes: usize,
}

/// Word counts with their Euclidean length.
#[derive(Debug)]
struct Words {
    counts: HashMap<Box<str>, f64>,
    length: f64,
}

/// The documents, ordered by id so that listing is stable.
#[derive(Debug)]
pub(crate) struct Index {
    documents: BTreeMap<String, Document>,
    bytes: usize,
    caps: Caps,
}

impl Index {
    /// An empty index.
    pub(crate) fn new(caps: Caps) -> Self {
        Self { documents: BTreeMap::new(), bytes: 0, caps }
    }

    /// How many documents there are.
    pub(crate) fn len(&self) -> usize {
        self.documents.len()
    }

    /// Adds or replaces a document; true if it replaced one.
    ///
    /// # Errors
    /// [`AddError`]; the index is then unchanged.
    pub(crate) fn add(&mut self, id: &str, text: String, metadata: JsonObject) -> Result<bool, AddError> {
        let id_chars = id.chars().count();
        if !(1..=MAX_ID_CHARS).contains(&id_chars) {
            return Err(AddError::BadId(id_chars));
        }
        if text.len() > MAX_TEXT_BYTES {
            return Err(AddError::TextTooLong(text.len()));
        }
        let metadata_bytes = serde_json::to_string(&metadata).map_or(0, |json| json.len());
        if metadata_bytes > MAX_METADATA_BYTES {
            return Err(AddError::MetadataTooLong(metadata_bytes));
        }
        let words = Words::of(&text);
        if words.counts.is_empty() {
            return Err(AddError::NoWords);
        }
        let old_bytes = self.documents.get(id).map(|document| document.bytes);
        let bytes = id.len() + text.len() + metadata_bytes;
        let total = self.bytes - old_bytes.unwrap_or(0) + bytes;
        if total > self.caps.total_bytes || (old_bytes.is_none() && self.len() >= self.caps.documents) {
            return Err(AddError::Full { documents: self.len(), bytes: self.bytes });
        }
        self.bytes = total;
        self.documents.insert(id.to_owned(), Document { text, metadata, words, bytes });
        Ok(old_bytes.is_some())
    }

    /// The `k` closest documents, best first, equal scores by id.
    pub(crate) fn search(&self, query: &str, k: usize) -> Vec<Hit> {
        let query = Words::of(query);
        let mut scored: Vec<(f64, &String, &Document)> = self
            .documents
            .iter()
            .map(|(id, document)| (query.cosine(&document.words), id, document))
            .filter(|(score, ..)| *score > 0.0)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        scored.truncate(k);
        scored
            .into_iter()
            .map(|(score, id, document)| Hit {
                id: id.clone(),
                score,
                excerpt: document.text.chars().take(EXCERPT_CHARS).collect(),
                metadata: document.metadata.clone(),
            })
            .collect()
    }

    /// The text of one document.
    pub(crate) fn text(&self, id: &str) -> Option<String> {
        self.documents.get(id).map(|document| document.text.clone())
    }

    /// Up to `size` ids after `cursor`, and the cursor of the next page if there is one.
    ///
    /// A cursor is the last id of the page before, so it stays valid while documents come and go.
    pub(crate) fn page(&self, cursor: Option<&str>, size: usize) -> (Vec<String>, Option<String>) {
        let start = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let mut ids = self.documents.range::<str, _>((start, Bound::Unbounded)).map(|(id, _)| id.clone());
        let page: Vec<String> = ids.by_ref().take(size).collect();
        let next = ids.next().and_then(|_| page.last().cloned());
        (page, next)
    }
}

impl Words {
    /// Lower-cased runs of letters and digits, counted.
    fn of(text: &str) -> Self {
        let mut counts: HashMap<Box<str>, f64> = HashMap::new();
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        for word in words {
            *counts.entry(word.to_lowercase().into_boxed_str()).or_default() += 1.0;
        }
        let length = counts.values().map(|count| count * count).sum::<f64>().sqrt();
        Self { counts, length }
    }

    /// The cosine of the angle between two count vectors; 0 if either has no word.
    fn cosine(&self, other: &Self) -> f64 {
        let dot: f64 =
            self.counts.iter().filter_map(|(word, count)| other.counts.get(word).map(|theirs| count * theirs)).sum();
        // Rounding may lift equal vectors a hair above 1.
        if dot > 0.0 { (dot / (self.length * other.length)).min(1.0) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests;
