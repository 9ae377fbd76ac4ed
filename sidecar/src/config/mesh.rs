//! Settings of the mesh: where the sidecars of other services are.

use std::path::PathBuf;

use outrigger_config::kinds::{self, HostPort};
use outrigger_config::{Fields, doc, sections};

/// Where the sidecars of other services are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mesh {
    /// Under the names of their services.
    pub services: Vec<(String, HostPort)>,
    /// A file with more of them.
    pub file: Option<PathBuf>,
}

pub(super) fn read(f: &mut Fields<'_>) -> Option<Mesh> {
    let text = doc(
        "The sidecars of other services: what the server calls `http://<service>.mesh/mcp`, where a rule of `egress` allows \
         it, goes there over mTLS.",
    )
    .because("no other service")
    .env("OUTRIGGER_MESH_SERVICES")
    .example("{ notes: \"notes.internal:8443\" }");
    let addresses = kinds::map_of(sections::service_name(), kinds::host_port());
    let services = f.with_default("services", text, addresses, Vec::new());
    let text = doc(
        "A JSON file with more of them, such as `{\"notes\": \"10.0.0.7:8443\"}`, read anew at each connection; `outrigger up` writes one.",
    )
    .because("`services` alone");
    let file = f.optional("file", text, kinds::path());
    Some(Mesh { services, file })
}
