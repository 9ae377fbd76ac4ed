//! How the sidecar makes itself known.

use outrigger_config::kinds::{self, HostPort};
use outrigger_config::{Fields, doc, sections};

/// Where the sidecar registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// The ingresses; every address of each name.
    pub ingress: Vec<HostPort>,
    /// Where they reach this sidecar; without it, where it comes from.
    pub advertise: Option<HostPort>,
    /// What their certificates must say; none: `ingress` of the own trust domain.
    pub spiffe_id: Option<String>,
}

pub(super) fn read(f: &mut Fields<'_>) -> Option<Register> {
    let text = doc(
        "Ingresses where this sidecar registers itself (their `registration.listen`). A name is looked up again and again, and \
         the sidecar registers at each of its addresses.",
    );
    let text =
        text.because("the ingress names it in its `services`").env("OUTRIGGER_INGRESS").example("[ingress:8444]");
    let ingress = f.with_default("ingress", text, kinds::list_of(kinds::host_port()), Vec::new());
    let text =
        doc("Where ingresses reach this sidecar; another host than its own takes `registration.any_address` there.");
    let text = text.because("the host from which it registers, with the port of `listen`").env("OUTRIGGER_ADVERTISE");
    let advertise = f.optional("advertise", text.example("fs.internal:8443"), kinds::host_port());
    let text = doc("What the certificate of the ingress must say.").because("`spiffe://<trust domain>/ingress`");
    let spiffe_id = f.optional("spiffe_id", text, sections::spiffe_id(false));
    Some(Register { ingress, advertise, spiffe_id })
}
