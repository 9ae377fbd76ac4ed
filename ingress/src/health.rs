//! The health document of a sidecar (`GET /mesh/v1/health`): status, revision of its server, and the catalog.

use std::sync::Arc;

use bytes::Bytes;
use outrigger_mcp::bridge::owner::is_replica;
use outrigger_mcp::catalog::{Catalog, HealthError};
use outrigger_mcp::revision::looks_modern;
use serde::Deserialize;
use serde_json::value::RawValue;

/// How a sidecar is, in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// All is well.
    Serving,
    /// It works, but something is not as it should be.
    Degraded,
    /// It finishes what it has and wants nothing new.
    Draining,
    /// Its server does not answer.
    Down,
}

/// What a sidecar said of itself.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// How it is.
    pub(crate) status: Status,
    /// Why it is not serving.
    pub(crate) reason: Option<String>,
    /// The id of this process, which its handles name ([`outrigger_mcp::bridge::owner`]).
    pub(crate) replica: Option<String>,
    /// Its server has sessions, which live in that sidecar.
    pub(crate) stateful: bool,
    /// Its lists depend on who asks: the catalog is not what everybody has.
    pub(crate) per_caller: bool,
    /// What the server offers; absent until it has answered once.
    pub(crate) catalog: Option<Arc<Catalog>>,
}

/// A health document that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    /// Not of its form.
    #[error("the health document is not valid: {0}")]
    Form(#[from] serde_json::Error),
    /// Its catalog is not.
    #[error(transparent)]
    Catalog(#[from] HealthError),
}

#[derive(Deserialize)]
struct Raw<'a> {
    status: Status,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    replica: Option<String>,
    #[serde(default)]
    server: Option<Server>,
    #[serde(default)]
    lists: Option<String>,
    #[serde(borrow, default)]
    catalog: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Server {
    #[serde(default)]
    revision: Option<String>,
}

impl Document {
    /// Reads a document. Items of the catalog share its memory. Members that this version does not know are ignored.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub(crate) fn parse(body: &Bytes) -> Result<Self, DocumentError> {
        let raw: Raw<'_> = serde_json::from_slice(body)?;
        let catalog = raw.catalog.map(|raw| Catalog::from_health_json(&body.slice_ref(raw.get().as_bytes())));
        Ok(Self {
            status: raw.status,
            reason: raw.reason.filter(|reason| !reason.is_empty()),
            replica: raw.replica.filter(|id| is_replica(id)),
            stateful: raw.server.and_then(|server| server.revision).is_some_and(|revision| !looks_modern(&revision)),
            per_caller: raw.lists.is_some_and(|lists| lists == "per_caller"),
            // A sidecar that has not asked its server yet shows an empty catalog.
            catalog: catalog.transpose()?.filter(|catalog| catalog.fetched_at_ms() > 0).map(Arc::new),
        })
    }

    /// With the catalog that is known already, if that is the same: whoever has it need not look at another one.
    pub(crate) fn with_known(mut self, known: Option<&Arc<Catalog>>) -> Self {
        let same = |old: &Catalog, new: &Catalog| {
            old.fingerprint() == new.fingerprint() && old.fetched_at_ms() == new.fetched_at_ms()
        };
        if let (Some(new), Some(old)) = (&mut self.catalog, known)
            && same(old, new)
        {
            *new = Arc::clone(old);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Document, DocumentError> {
        Document::parse(&Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_document_is_read_and_unknown_members_are_ignored() {
        let document = parse(
            r#"{"service":"fs","replica":"00c0ffee00c0ffee","status":"degraded","reason":"slow","load":{"in_flight":1,"limit":2},"new":1,
                "server":{"name":"x","version":"1","revision":"2025-06-18"},
                "catalog":{"fetched_at":1,"tools":[{"name":"read"}],"lists":{}}}"#,
        )
        .unwrap();
        assert_eq!((document.status, document.reason.as_deref()), (Status::Degraded, Some("slow")));
        assert!(document.stateful);
        assert_eq!(document.replica.as_deref(), Some("00c0ffee00c0ffee"));
        assert!(document.catalog.unwrap().find(outrigger_mcp::catalog_kind::Kind::Tool, "read").is_some());
    }

    #[test]
    fn a_young_sidecar_has_no_catalog_yet() {
        for catalog in ["null", r#"{"fetched_at":0,"tools":[]}"#] {
            let text = format!(r#"{{"status":"down","reason":"","server":null,"catalog":{catalog}}}"#);
            let document = parse(&text).unwrap();
            assert!(document.catalog.is_none() && !document.stateful && document.reason.is_none());
        }
    }

    #[test]
    fn a_replica_that_could_not_be_named_in_a_handle_has_no_id() {
        for id in ["", "x", "../../../../etc/", "00C0FFEE00C0FFEE"] {
            let document = parse(&format!(r#"{{"status":"serving","replica":"{id}"}}"#)).unwrap();
            assert_eq!(document.replica, None, "{id}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "[]", "{}", r#"{"status":"fine"}"#, r#"{"status":"serving","catalog":{"tools":7}}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
