//! `server/discover`: what an endpoint can do, merged from its services or as its one service says it.

use bytes::Bytes;
use outrigger_mcp::apps;
use outrigger_mcp::bridge::tasks;
use outrigger_mcp::catalog::Catalog;
use outrigger_mcp::catalog::merge::{Merged, ServiceState};
use outrigger_mcp::catalog_kind::Kind;
use outrigger_mcp::json::{quote, write_string};
use outrigger_mcp::revision::Revision;
use serde_json::Value;

use outrigger_proxy::legacy::seam::OWN_INFO;

use crate::core::Route;
use crate::view::View;

/// The `result` of `server/discover`.
pub(crate) fn describe(catalog: &Merged, view: &View, route: &Route, instructions_bytes: usize) -> Bytes {
    let own = match route {
        Route::Service(_) => catalog.services().first().map(|service| service.catalog.about()),
        Route::Merged => None,
    };
    let (capabilities, instructions, info) = match own {
        Some(about) => (
            about.capabilities.clone().unwrap_or_else(|| Bytes::from_static(b"{}")),
            about.instructions.clone(),
            about.server_info.clone().unwrap_or_else(|| Bytes::from_static(OWN_INFO.as_bytes())),
        ),
        None => {
            let offered = || view.services.iter().filter_map(|at| catalog.services().get(*at));
            let listed = || offered().filter(|service| service.state != ServiceState::Missing);
            let texts =
                listed().filter_map(|service| Some((&*service.name, service.catalog.about().instructions.as_deref()?)));
            (
                union(listed().map(|service| &*service.catalog)),
                join(&texts.collect::<Vec<_>>(), instructions_bytes),
                Bytes::from_static(OWN_INFO.as_bytes()),
            )
        }
    };
    let versions: Vec<String> = Revision::ALL.iter().rev().map(|revision| quote(revision.as_str())).collect();
    let mut out =
        format!("{{\"resultType\":\"complete\",\"supportedVersions\":[{}],\"capabilities\":", versions.join(","))
            .into_bytes();
    out.extend_from_slice(&capabilities);
    if let Some(text) = instructions {
        out.extend_from_slice(b",\"instructions\":");
        write_string(&mut out, &text);
    }
    let scope = if view.private { "private" } else { "public" };
    // What is told here follows the catalog, whose changes nobody is notified of: no caching.
    out.extend_from_slice(format!(",\"ttlMs\":0,\"cacheScope\":\"{scope}\",\"serverInfo\":").as_bytes());
    out.extend_from_slice(&info);
    out.extend_from_slice(b",\"_meta\":");
    out.extend_from_slice(&meta_with(&view.meta, &info));
    out.push(b'}');
    Bytes::from(out)
}

/// The view's `_meta`, naming another server.
fn meta_with(meta: &[u8], info: &[u8]) -> Vec<u8> {
    let span = outrigger_mcp::json::Span { start: 0, end: u32::try_from(meta.len()).unwrap_or(u32::MAX) };
    outrigger_mcp::edit::rebuild_object(meta, span, |_| false, &[(outrigger_mcp::bridge::meta_keys::SERVER_INFO, info)])
}

/// The extensions that pass through the merge: the ids of tasks say whose they are, and pages of apps are resources.
const EXTENSIONS: [&str; 2] = [tasks::EXTENSION, apps::EXTENSION];

/// What any of the services can do. Changes of lists are always announced, because we notice them ourselves.
fn union<'a>(catalogs: impl Iterator<Item = &'a Catalog>) -> Bytes {
    let (mut kinds, mut subscribe, mut others) = ([false; 4], false, Vec::new());
    let mut extensions = EXTENSIONS.map(|name| (name, false));
    for catalog in catalogs {
        for (seen, kind) in kinds.iter_mut().zip(Kind::ALL) {
            *seen |= catalog.offers(kind);
        }
        let declared = catalog.about().capabilities.as_ref().and_then(|raw| serde_json::from_slice::<Value>(raw).ok());
        let declared = declared.unwrap_or_default();
        subscribe |= declared["resources"]["subscribe"] == true;
        for (name, offered) in &mut extensions {
            *offered |= declared["extensions"][*name].is_object();
        }
        others.extend(["completions", "logging"].into_iter().filter(|name| declared[name].is_object()));
    }
    let [tools, prompts, resources, templates] = kinds;
    let mut members = Vec::new();
    for (name, offered) in [("tools", tools), ("prompts", prompts)] {
        if offered {
            members.push(format!("\"{name}\":{{\"listChanged\":true}}"));
        }
    }
    if resources || templates {
        members.push(format!("\"resources\":{{\"listChanged\":true,\"subscribe\":{subscribe}}}"));
    }
    others.sort_unstable();
    others.dedup();
    members.extend(others.into_iter().map(|name| format!("\"{name}\":{{}}")));
    let offered = extensions.iter().filter(|(_, offered)| *offered);
    let offered: Vec<_> = offered.map(|(name, _)| format!("\"{name}\":{{}}")).collect();
    if !offered.is_empty() {
        members.push(format!("\"extensions\":{{{}}}", offered.join(",")));
    }
    Bytes::from(format!("{{{}}}", members.join(",")))
}

/// Instructions under a heading per service, each with a fair share of the limit.
fn join(texts: &[(&str, &str)], limit: usize) -> Option<String> {
    let mut out = String::new();
    for (at, (service, text)) in texts.iter().enumerate() {
        let head = format!("{}# {service}\n\n", if out.is_empty() { "" } else { "\n\n" });
        // What earlier services did not use is shared by the rest.
        let share = limit.saturating_sub(out.len()) / (texts.len() - at);
        let Some(room) = share.checked_sub(head.len()).filter(|room| *room > 0) else { continue };
        let text = text.trim();
        out.push_str(&head);
        if text.len() <= room {
            out.push_str(text);
        } else {
            const MARK: &str = " [...]";
            out.push_str(text.get(..text.floor_char_boundary(room.saturating_sub(MARK.len()))).unwrap_or_default());
            out.push_str(MARK);
        }
    }
    (!out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_have_headings_and_fair_shares() {
        let long = "x".repeat(1000);
        assert_eq!(join(&[("a", " one "), ("b", "two")], 100).unwrap(), "# a\n\none\n\n# b\n\ntwo");
        let cut = join(&[("a", "short"), ("b", &long), ("c", &long)], 200).unwrap();
        assert!(cut.len() <= 200 + 12, "{}", cut.len());
        assert!(cut.contains("# a\n\nshort") && cut.matches("[...]").count() == 2, "{cut}");
        assert_eq!(join(&[("a", "text")], 0), None);
        assert_eq!(join(&[], 100), None);
        let wide = join(&[("a", &"ü".repeat(100))], 40).unwrap();
        assert!(wide.ends_with("[...]"));
    }

    #[test]
    fn capabilities_are_joined() {
        let about = |capabilities: &'static str| outrigger_mcp::catalog::About {
            capabilities: Some(Bytes::from_static(capabilities.as_bytes())),
            ..Default::default()
        };
        let list = outrigger_mcp::catalog::List::default;
        let catalog = |text| Catalog::new(list(), list(), list(), list(), about(text), 0);
        let (a, b) = (
            catalog(r#"{"tools":{},"logging":{}}"#),
            catalog(
                r#"{"resources":{"subscribe":true},"x":{},"extensions":{"io.modelcontextprotocol/tasks":{},"y":{},"io.modelcontextprotocol/ui":{}}}"#,
            ),
        );
        assert_eq!(
            union([&a, &b].into_iter()),
            r#"{"tools":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"logging":{},"extensions":{"io.modelcontextprotocol/tasks":{},"io.modelcontextprotocol/ui":{}}}"#
        );
    }
}
