//! The services behind the ingress, and how their capabilities are named.

use outrigger_config::kinds::{self, HostPort};
use outrigger_config::{Fields, doc, sections};
use outrigger_mcp::names::{DEFAULT_MAX_NAME, Joiner, MIN_MAX_NAME, Naming};
use outrigger_proxy::peek::HeaderChecks;

use super::safety::{self, Safety};

/// One service: a name, and the sidecars that stand for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name, the prefix of its capabilities.
    pub name: String,
    /// Its sidecars; empty only where they register or are looked up.
    pub addresses: Vec<HostPort>,
    /// What each sidecar's certificate must say.
    pub spiffe_id: String,
    /// What becomes of mirrored headers on `/s/<service>/mcp`.
    pub header_checks: HeaderChecks,
    /// What keeps it safe when things go wrong.
    pub safety: Safety,
}

/// Reads `services`. The default SPIFFE id needs the trust domain. `others`: more may come.
pub(super) fn read(f: &mut Fields<'_>, trust_domain: Option<&str>, checks: HeaderChecks, others: bool) -> Vec<Service> {
    let key = sections::service_name();
    let read = |name: &str, f: &mut Fields<'_>| {
        let text = doc(
            "Its sidecars; may be left out where sidecars register or are looked up. A name is resolved again at each connection.",
        );
        let addresses = f.optional("addresses", text.example("[fs.internal:8443]"), kinds::list_of(kinds::host_port()));
        let none = addresses.as_ref().map_or(!f.has("addresses"), Vec::is_empty);
        if none && !others {
            let hint = "name at least one sidecar, remove the service, or let sidecars register: `registration: { listen: ... }`";
            f.mistake("addresses", "the service has no sidecar", hint);
        }
        let text = doc("What the sidecars' certificates must say; without it, `spiffe://<trust domain>/<name>`.");
        let spiffe_id = f.optional("spiffe_id", text, sections::spiffe_id(false));
        let spiffe_id = spiffe_id.or_else(|| Some(format!("spiffe://{}/{name}", trust_domain?)));
        let text = doc("As `header_checks`, for clients of `/s/<service>/mcp`; without it, the same.");
        let header_checks = f.optional("header_checks", text, sections::tolerance()).map_or(checks, HeaderChecks::of);
        let safety = safety::read(f);
        let (name, addresses) = (name.to_owned(), addresses.unwrap_or_default());
        Some(Service { name, addresses, spiffe_id: spiffe_id?, header_checks, safety: safety? })
    };
    let services = f.map("services", "The services, under their names.", &key, read);
    if services.is_empty() && !f.has("services") && !others {
        let hint = "add `services: { fs: { addresses: [...] } }`, or let sidecars register: `registration: { listen: 0.0.0.0:8444 }`";
        f.warn("", "no services: clients will see an empty catalog", hint);
    }
    services.into_iter().map(|(_, service)| service).collect()
}

/// Reads a `names` section.
pub fn naming(f: &mut Fields<'_>) -> Option<Naming> {
    let joiners = kinds::choice(&[("__", Joiner::Underscores), (".", Joiner::Dot)]);
    let text = doc("What stands between the service and the capability in lists; calls may use either.");
    let joiner =
        f.with_default("joiner", text.because("legal in tool names of every LLM API"), joiners, Joiner::Underscores);
    let text = doc("The longest name in lists; longer ones are shortened with a hash.")
        .because("the limit of the large LLM APIs");
    let longest = f.with_default("max_length", text, kinds::count(MIN_MAX_NAME as u64..=256), DEFAULT_MAX_NAME);
    Naming::new(joiner, longest).map_err(|wrong| f.mistake("max_length", wrong.to_string(), "use the default")).ok()
}
