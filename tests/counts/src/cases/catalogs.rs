//! Names that find their service, and lists made of many.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_mcp::catalog::merge::{Merged, ServiceState, ServiceView};
use outrigger_mcp::catalog::page::{PAGE_BYTES, PreparedList, suffix};
use outrigger_mcp::catalog::{About, Catalog, Collector, Limits, List, ListPage};
use outrigger_mcp::catalog_kind::Kind;
use outrigger_mcp::names::Naming;
use outrigger_mcp::revision::Revision;

use crate::{Broken, Run};

/// Tools of each service.
const TOOLS: usize = 50;

fn list(kind: Kind, items: &[String]) -> Result<List, Broken> {
    let text = format!("{{\"{}\":[{}]}}", kind.list_member(), items.join(","));
    let mut collector = Collector::new(kind, Limits::default());
    collector.add(ListPage::parse(kind, &Bytes::from(text)).map_err(|error| format!("{error:?}"))?);
    Ok(collector.finish())
}

fn services(count: usize) -> Result<Vec<ServiceView>, Broken> {
    let tool = |n| {
        format!(
            r#"{{"name":"tool{n}","description":"Reads one of the files below the root, whole or in part.","inputSchema":{{"type":"object","properties":{{"path":{{"type":"string"}},"lines":{{"type":"array","items":{{"type":"integer"}}}}}},"required":["path"]}}}}"#
        )
    };
    let tools: Vec<String> = (0..TOOLS).map(tool).collect();
    let catalog = Arc::new(Catalog::new(
        list(Kind::Tool, &tools)?,
        list(Kind::Prompt, &[])?,
        list(Kind::Resource, &[])?,
        list(Kind::Template, &[])?,
        About::default(),
        0,
    ));
    let view =
        |n| ServiceView { name: format!("svc{n}").into(), catalog: Arc::clone(&catalog), state: ServiceState::Fresh };
    Ok((0..count).map(view).collect())
}

pub(super) fn resolve(count: usize) -> Result<Run, Broken> {
    let merged = Merged::new(services(count)?, Naming::default());
    let name = format!("svc{}__tool33", count / 2);
    merged.resolve_name(Kind::Tool, &name)?;
    Ok(Box::new(move || {
        let _target = black_box(merged.resolve_name(Kind::Tool, black_box(&name)));
    }))
}

pub(super) fn merge() -> Result<Run, Broken> {
    let services = services(10)?;
    Ok(Box::new(move || {
        black_box(Merged::new(services.clone(), Naming::default()));
    }))
}

pub(super) fn written() -> Result<Run, Broken> {
    let merged = Merged::new(services(10)?, Naming::default());
    let mut out = Vec::with_capacity(1 << 20);
    Ok(Box::new(move || {
        out.clear();
        for exposed in merged.exposed(Kind::Tool) {
            exposed.item.write_as(&exposed.name, |_| None, &mut out);
        }
        black_box(&out);
    }))
}

pub(super) fn listed() -> Result<Run, Broken> {
    let merged = Merged::new(services(10)?, Naming::default());
    let list = PreparedList::build(&merged, Kind::Tool, false, |_, _, _| true, PAGE_BYTES);
    list.page(0).ok_or("no page")?;
    let meta = suffix(None, Some(b"{}"));
    Ok(Box::new(move || {
        let page = black_box(&list).page_for(0, Revision::V2025_11_25);
        black_box(page.map(|page| list.result(&page, None, &meta)));
    }))
}
