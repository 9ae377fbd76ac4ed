//! What a `MeshService` object of a cluster says: the fields of an entry of `services`, and where its sidecars are found.

use outrigger_config::kinds::{self, Checked, HostPort};
use outrigger_config::sections;
use outrigger_config::{Diagnostics, Fields, Settings, doc, load};

use super::is_label;
use super::safety::{self, Safety};

/// Entries that a list of an object may have; the definition says so, too.
pub const MAX_ITEMS: usize = 256;

/// A service of the mesh, as an object describes it. It says nothing of who its sidecars are: that is their certificate's,
/// which the authority gave them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshService {
    /// Its name in the mesh, if that is not the object's.
    pub name: Option<String>,
    /// The Service whose pods have its sidecars, in the namespace of the object.
    pub service: Option<String>,
    /// Where they listen: the name of a port of the Service, or the number of a port of the pods.
    pub port: Option<String>,
    /// Sidecars elsewhere.
    pub addresses: Vec<HostPort>,
    /// Replicas at most.
    pub max_replicas: Option<usize>,
    /// What keeps it safe when things go wrong.
    pub safety: Safety,
}

impl MeshService {
    /// Reads the `spec` of an object (JSON); `what` is how mistakes name it.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(what: &str, spec: &str) -> Result<Self, Diagnostics> {
        // The variables of this process are about this process.
        load(Some((what, spec)), &|_| None, read).map(|loaded| loaded.value)
    }

    /// All fields, for the custom resource definition.
    pub fn describe() -> Settings {
        outrigger_config::describe(read)
    }
}

fn read(f: &mut Fields<'_>) -> Option<MeshService> {
    let text = doc("Its name in the mesh; without it, that of the object.").example("fs");
    let name = f.optional("name", text, sections::service_name());
    let text = doc(
        "The Service of this namespace whose ready pods have its sidecars. Without it, and without `addresses`, sidecars register.",
    );
    let service = f.optional("service", text.example("file-server"), label());
    let text = doc(
        "Where sidecars listen: the name of a port of the Service, or the number of a port of the pods. Without it, as for annotated Services.",
    );
    let port = f.optional("port", text.example("8443"), kinds::text());
    let text = doc("Sidecars that are no pods of a Service, by IP address.").example("[\"10.1.2.3:8443\"]");
    let addresses = f.with_default("addresses", text, kinds::list_of(kinds::host_port()), Vec::new());
    let text = doc("Replicas at most; the ingress may allow fewer (`registration.max_replicas`).");
    let max_replicas = f.optional("max_replicas", text, kinds::count(1..=10_000));
    let safety = safety::read(f);
    let tools = safety.as_ref().map(|safety| safety.tools.as_slice()).unwrap_or_default();
    bounded(f, "addresses", addresses.len());
    bounded(f, "tools", tools.len());
    bounded(f, "tools", tools.iter().map(|tool| tool.names.len()).max().unwrap_or_default());
    if service.is_some() && !addresses.is_empty() {
        f.mistake("addresses", "replicas would come from two places", "give `service` or `addresses`");
    }
    if service.is_none() && port.is_some() {
        f.mistake(
            "port",
            "it is a port of the pods of `service`, which is not there",
            "add `service`, or remove `port`",
        );
    }
    Some(MeshService { name, service, port, addresses, max_replicas, safety: safety? })
}

/// Whoever writes objects fills nobody's memory.
fn bounded(f: &mut Fields<'_>, list: &str, count: usize) {
    if count > MAX_ITEMS {
        f.mistake(list, format!("a list has {count} entries, and {MAX_ITEMS} are the most"), "name fewer");
    }
}

/// The name of a Service (RFC 1035 label, of which every one is an RFC 1123 label).
fn label() -> kinds::Kind<String> {
    kinds::checked(Checked {
        name: "name of a Service",
        pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        accepts: is_label,
        hint: "the name of a Service in the namespace of this object",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_says_what_an_entry_of_the_settings_says() {
        let spec = r#"{"service": "files", "port": 9443, "max_replicas": 3, "concurrency": {"limit": 7}, "breaker": {"failures": 0}}"#;
        let read = MeshService::parse("it", spec).unwrap();
        assert_eq!((read.service.as_deref(), read.port.as_deref()), (Some("files"), Some("9443")));
        assert_eq!(
            (read.max_replicas, read.safety.concurrency.limit, read.safety.breaker.failures),
            (Some(3), Some(7), 0)
        );
        assert_eq!(MeshService::parse("it", "{}").unwrap().safety, Safety::default());
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (spec, why) in [
            (r#"{"service": "files", "addresses": ["10.0.0.1:8443"]}"#, "two places"),
            (r#"{"port": 8443}"#, "which is not there"),
            (r#"{"service": "Files!"}"#, "name of a Service"),
            (r#"{"header_checks": "tolerant"}"#, "header_checks"),
            (r#"{"spiffe_id": "spiffe://demo/other"}"#, "spiffe_id"),
            (r#"{"concurrency": {"limit": 0}}"#, "concurrency.limit"),
            (r#"{"name": "a-name-that-is-too-long-for-one"}"#, "service name"),
        ] {
            let mistakes = MeshService::parse("it", spec).unwrap_err().to_string();
            assert!(mistakes.contains(why), "{spec}: {mistakes}");
        }
    }

    #[test]
    fn there_is_an_end_to_what_an_object_says() {
        let list = |count: usize, item: &str| vec![item; count].join(",");
        for (count, good) in [(MAX_ITEMS, true), (MAX_ITEMS + 1, false)] {
            for spec in [
                format!(r#"{{"addresses": [{}]}}"#, list(count, r#""10.0.0.1:8443""#)),
                format!(r#"{{"tools": [{}]}}"#, list(count, r#"{"names": ["a"], "deadline": "1s"}"#)),
                format!(r#"{{"tools": [{{"names": [{}], "deadline": "1s"}}]}}"#, list(count, r#""a""#)),
            ] {
                let read = MeshService::parse("it", &spec);
                assert_eq!(read.is_ok(), good, "{read:?}");
                assert!(good || read.unwrap_err().to_string().contains("256 are the most"));
            }
        }
    }
}
