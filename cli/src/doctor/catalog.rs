//! Everything that a server lists, all pages.

use bytes::Bytes;
use outrigger_mcp::catalog::{Collector, Limits, List, ListPage};
use outrigger_mcp::catalog_kind::Kind;
use outrigger_mcp::revision::Revision;
use tokio::time::Instant;

use crate::output;

use super::greeting::{Greeted, greet, params, result};
use super::report::{Level, Report};
use super::revisions::milliseconds;
use super::subject::Subject;
use super::wire::{Transport, Trouble, Wire};

/// Reads the catalog into the report.
pub(super) async fn read(subject: &Subject, transport: Transport, revision: Revision, report: &mut Report) {
    output::say("reading the catalog");
    let mut wire = match subject.open(transport).await {
        Ok(wire) => wire,
        Err(trouble) => return report.find(Level::Error, "unreachable", "server", trouble.what),
    };
    match greet(&mut wire, revision).await {
        Ok(greeted) => lists(&mut wire, revision, greeted, report).await,
        Err(trouble) => {
            report.find(Level::Error, "flaky", "server", format!("greeted again, it failed: {}", trouble.what))
        }
    }
    report.manners(wire.close(true).await);
}

async fn lists(wire: &mut Wire, revision: Revision, greeted: Greeted, report: &mut Report) {
    let begun = Instant::now();
    for kind in Kind::ALL {
        let capability = match kind {
            Kind::Tool => "tools",
            Kind::Prompt => "prompts",
            Kind::Resource | Kind::Template => "resources",
        };
        if greeted.capabilities.get(capability).is_none() {
            continue;
        }
        match list(wire, kind, revision).await {
            Ok(list) => {
                for warning in list.warnings() {
                    report.find(Level::Warning, "list", kind.list_method(), warning.clone());
                }
                report.catalog.set(kind, list);
            }
            // Many servers with resources have no templates and say so with an error.
            Err(_) if kind == Kind::Template => {}
            Err(trouble) => {
                let what = format!("declared, but the list cannot be read: {}", trouble.what);
                report.find(Level::Error, "list", kind.list_method(), what);
            }
        }
    }
    report.lists_ms = Some(milliseconds(begun.elapsed()));
    report.server = Some(greeted.into());
}

async fn list(wire: &mut Wire, kind: Kind, revision: Revision) -> Result<List, Trouble> {
    let mut collector = Collector::new(kind, Limits::default());
    let mut cursor = None;
    loop {
        let asked = wire.ask(kind.list_method(), params(revision, cursor.as_deref())).await.and_then(result);
        let page = asked.and_then(|result| {
            ListPage::parse(kind, &Bytes::from(result.to_string())).map_err(|e| Trouble::unanswered(e.to_string()))
        });
        match page {
            Ok(page) => cursor = collector.add(page),
            Err(trouble) if cursor.is_none() => return Err(trouble),
            Err(trouble) => return Ok(collector.abandon(&trouble.what, &List::default())),
        }
        if cursor.is_none() {
            return Ok(collector.finish());
        }
    }
}
