//! What one class of callers sees on one endpoint: prepared lists, and what is told along with them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use outrigger_mcp::catalog::merge::{Merged, ServiceState, ServiceView};
use outrigger_mcp::catalog::page::PreparedList;
use outrigger_mcp::catalog_kind::Kind;
use outrigger_mcp::json::write_string;
use outrigger_policy::{Capability, CapabilityKind, Principal};
use outrigger_proxy::circumstances::{Asked, hints};
use outrigger_proxy::legacy::seam::OWN_INFO;

use crate::authorize::found;
use crate::core::{Caller, Era, ListKind};
use crate::services::Condition;

/// What a class of callers sees on an endpoint.
#[derive(Debug)]
pub(crate) struct View {
    lists: [PreparedList; 4],
    /// The `_meta` of lists and of the description.
    pub(crate) meta: Bytes,
    /// Nobody else may be served these lists from a cache.
    pub(crate) private: bool,
    /// The services that the caller may use, as indices, and whether each is missing.
    pub(crate) services: Arc<[usize]>,
    /// Those of which this tells.
    conditions: Arc<Vec<Condition>>,
    /// Why nothing can be listed at all.
    pub(crate) unavailable: Option<(String, String)>,
    /// Capabilities and instructions, made when first asked for.
    pub(crate) description: OnceLock<Bytes>,
}

/// The kind as policy names it.
pub(crate) fn policy_kind(kind: Kind) -> CapabilityKind {
    match kind {
        Kind::Tool => CapabilityKind::Tool,
        Kind::Prompt => CapabilityKind::Prompt,
        Kind::Resource => CapabilityKind::Resource,
        Kind::Template => CapabilityKind::Template,
    }
}

impl View {
    /// Joins the lists, in pages of so many bytes. `at` is the one service of the endpoint, as an index of `conditions`;
    /// `varies` says that servers list something else to others. `before` is what the same class of callers saw on the same
    /// endpoint: what of it has not changed is not made again.
    pub(crate) fn build(
        catalog: &Merged,
        conditions: &Arc<Vec<Condition>>,
        at: Option<usize>,
        caller: &Caller,
        page_bytes: usize,
        varies: bool,
        before: Option<&View>,
    ) -> Self {
        let rules = &caller.policy.rules;
        let visible = |service: &str, kind: Kind, name: &str| {
            let what = Capability { kind: policy_kind(kind), service, name };
            let asked = Asked { call: None, hints: || hints(found(catalog, service, kind, name)) };
            rules.allows_in(&caller.principal, &what, &asked)
        };
        let modern = caller.era == Era::Modern;
        let lists = Kind::ALL.map(|kind| match before {
            Some(before) => before.list(kind).renewed(catalog, modern, visible, page_bytes),
            None => PreparedList::build(catalog, kind, modern, visible, page_bytes),
        });
        for hidden in lists.iter().flat_map(PreparedList::hidden) {
            tracing::warn!(tool = hidden, "not listed for modern clients: its x-mcp-header annotations are invalid");
        }
        let private = varies || caller.class() != rules.visibility_class(&Principal::anonymous());
        // Conditions of as many services: they are those of the same names, or others would be told of.
        if let Some(before) = before.filter(|before| Arc::ptr_eq(&before.conditions, conditions)) {
            let View { meta, services, unavailable, .. } = before;
            let (meta, services, unavailable) = (meta.clone(), Arc::clone(services), unavailable.clone());
            let conditions = Arc::clone(conditions);
            return Self { lists, meta, private, services, conditions, unavailable, description: OnceLock::new() };
        }
        let used = catalog.services().iter().enumerate();
        let services: Arc<[usize]> = used
            .filter(|(_, service)| rules.may_use_service(&caller.principal, &service.name))
            .map(|(at, _)| at)
            .collect();
        let condition = |index: usize| conditions.get(at.unwrap_or(index));
        let told: Vec<_> =
            services.iter().filter_map(|index| Some((catalog.services().get(*index)?, condition(*index)?))).collect();
        Self {
            lists,
            meta: meta(&told),
            private,
            unavailable: all_missing(&told),
            services,
            conditions: Arc::clone(conditions),
            description: OnceLock::new(),
        }
    }

    /// A list.
    pub(crate) fn list(&self, kind: Kind) -> &PreparedList {
        let [tools, prompts, resources, templates] = &self.lists;
        match kind {
            Kind::Tool => tools,
            Kind::Prompt => prompts,
            Kind::Resource => resources,
            Kind::Template => templates,
        }
    }

    /// Changes when, and only when, the caller would see something else.
    pub(crate) fn fingerprint(&self, kind: ListKind) -> [[u8; 16]; 2] {
        match kind {
            ListKind::Tools => [self.list(Kind::Tool).fingerprint(); 2],
            ListKind::Prompts => [self.list(Kind::Prompt).fingerprint(); 2],
            ListKind::Resources => [self.list(Kind::Resource).fingerprint(), self.list(Kind::Template).fingerprint()],
        }
    }
}

fn meta(services: &[(&ServiceView, &Condition)]) -> Bytes {
    let mut out =
        format!("{{\"io.modelcontextprotocol/serverInfo\":{OWN_INFO},\"outrigger.dev/services\":{{").into_bytes();
    for (index, (service, condition)) in services.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(&mut out, &service.name);
        out.push(b':');
        write_string(&mut out, &condition.text());
    }
    out.extend_from_slice(b"}}");
    Bytes::from(out)
}

/// Names and reason when there are services and none of them can be listed.
fn all_missing(services: &[(&ServiceView, &Condition)]) -> Option<(String, String)> {
    if services.is_empty() || services.iter().any(|(service, _)| service.state != ServiceState::Missing) {
        return None;
    }
    let names: Vec<&str> = services.iter().map(|(service, _)| &*service.name).collect();
    let reason = services.iter().find_map(|(_, condition)| match condition {
        Condition::Down(reason) => Some(reason.clone()),
        Condition::Ok | Condition::Stale => None,
    });
    Some((names.join(", "), reason.unwrap_or_default()))
}
