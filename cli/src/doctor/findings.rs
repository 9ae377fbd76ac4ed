//! What will give trouble, judged from everything that was seen.

use outrigger_integrity::scan::{Finding, scan};
use outrigger_mcp::catalog::ToolHeaders;
use outrigger_mcp::revision::Revision;
use serde_json::Value;

use super::report::{Level, Report};
use super::wire::Transport;
use super::{names, schemas};

/// Completes the report; the worst comes first.
pub(super) fn judge(report: &mut Report, service: &str) {
    reached(report);
    behaviour(report);
    tools(report, service);
    losses(report);
    deceptions(report, service);
    report.findings.sort_by_key(|finding| finding.level);
}

/// What in the definitions is meant for somebody else than who reads them.
fn deceptions(report: &mut Report, service: &str) {
    let catalog = report.catalog();
    for Finding { kind, name, at, class, what, .. } in scan(&[(service, &catalog)]) {
        let subject = if name.is_empty() { kind } else { &name };
        let place = if at.is_empty() { String::new() } else { format!(" ({at})") };
        report.find(Level::Warning, class.as_str(), subject, format!("{what}{place}; read it before you trust it"));
    }
}

fn reached(report: &mut Report) {
    if report.tried.iter().any(|tried| tried.spoken) {
        if report.tried.iter().all(|tried| !tried.spoken || tried.transport == Transport::Sse) {
            report.find(Level::Note, "old-transport", "server", "only HTTP+SSE is offered, which clients give up");
        }
        return;
    }
    let trouble = report.tried.iter().find_map(|tried| tried.trouble.clone()).unwrap_or_default();
    let what = match trouble.as_str() {
        "HTTP status 401" => "a token is wanted: --token-file, or --header".to_owned(),
        _ if report.tried.iter().any(|tried| tried.silent) => format!(
            "it says nothing: {trouble}, and none to initialize either. Is it an MCP server? One that starts slowly needs a \
             longer --timeout"
        ),
        _ if report.tried.iter().all(|tried| tried.hopeless) => trouble,
        _ => format!("no revision of MCP that we know is spoken: {trouble}"),
    };
    report.find(Level::Error, "unusable", "server", what);
}

fn behaviour(report: &mut Report) {
    let manners = report.all_manners();
    let (noise, stays) = (manners.noise, manners.stays);
    let first = manners.first_noise.clone().unwrap_or_default();
    if noise > 0 {
        let what = format!("it writes what is no message ({noise} lines, the first: {first:?}); log to stderr instead");
        report.find(Level::Warning, "noise", "stdout", what);
    }
    if stays {
        report.find(
            Level::Warning,
            "stays",
            "server",
            "it does not end when its stdin is closed, and has to be killed",
        );
    }
    let died: Vec<_> = report.tried.iter().filter(|tried| tried.died).map(|tried| tried.revision).collect();
    if !died.is_empty() && report.tried.iter().any(|tried| tried.spoken) {
        let what = format!("it ends when it is greeted in {}; a sidecar starts it again", died.join(", "));
        report.find(Level::Note, "dies", "server", what);
    }
}

fn tools(report: &mut Report, service: &str) {
    let [list, ..] = report.catalog.definitions.clone();
    for item in list.items() {
        let Ok(tool) = serde_json::from_slice::<Value>(item.raw()) else { continue };
        let name = item.key();
        names::tool(name, tool.get("inputSchema").unwrap_or(&Value::Null), service, report);
        schemas::input(name, tool.get("inputSchema"), report);
        schemas::output(name, tool.get("outputSchema"), report);
        if let ToolHeaders::Invalid(why) = item.headers() {
            report.find(Level::Error, "header-annotation", name, format!("modern clients leave it out: {why}"));
        }
        if tool.get("description").and_then(Value::as_str).is_none_or(|text| text.trim().is_empty()) {
            report.find(Level::Warning, "description", name, "there is no description, by which models choose");
        }
        output_losses(name, &tool, report);
    }
    names::look_alikes(list.items().iter().map(|item| item.key()), report);
}

fn output_losses(name: &str, tool: &Value, report: &mut Report) {
    let Some(output) = tool.get("outputSchema") else { return };
    if output.get("type").and_then(Value::as_str) == Some("object") {
        report.lossy(before(Revision::V2025_06_18), name, "get text only: there was no structured content");
    } else {
        report.lossy(before(Revision::MODERN), name, "get text only: structured content had to be an object");
    }
    let execution = tool.get("execution").and_then(|execution| execution.get("taskSupport"));
    if execution.and_then(Value::as_str) == Some("required") {
        report.lossy(before(Revision::V2025_11_25), name, "wait for the end, because it runs only as a task");
    }
}

/// What crosses eras with a loss, whatever the mesh does.
fn losses(report: &mut Report) {
    let Some(server) = &report.server else { return };
    let has = |name: &str| server.capabilities.get(name).is_some();
    let (logging, extensions) = (has("logging"), has("extensions"));
    let modern = report.tried.iter().any(|tried| tried.spoken && tried.revision == Revision::MODERN.as_str());
    let legacy = report.tried.iter().any(|tried| tried.spoken && tried.revision != Revision::MODERN.as_str());
    let modern_clients = vec![Revision::MODERN.as_str()];
    if !modern && legacy {
        if logging {
            let what = "miss log lines that belong to no call";
            report.lossy(modern_clients.clone(), "server", what);
        }
        let what = "share what the server remembers with other calls of the same caller, as they have no session";
        report.lossy(modern_clients, "server", what);
    }
    if modern && !legacy {
        let what = "cannot be asked anything by a tool: there was no elicitation";
        report.lossy(before(Revision::V2025_06_18), "server", what);
        if extensions {
            report.lossy(before(Revision::MODERN), "server", "do without its extensions, save tasks");
        }
    }
}

fn before(revision: Revision) -> Vec<&'static str> {
    Revision::ALL.into_iter().filter(|other| *other < revision).map(Revision::as_str).collect()
}
