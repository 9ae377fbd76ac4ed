//! `/catalog` on the admin port: the services, how they are, and what they offer under which names; and `/definitions`.

use std::sync::Arc;

use outrigger_integrity::Deviation;
use outrigger_mcp::catalog_kind::Kind;
use outrigger_mcp::json::write_string;
use outrigger_runtime::AdminPage;
use outrigger_runtime::admin::JSON;
use serde_json::{Map, Value, json};

use crate::gateway::Gateway;
use crate::services::Service;

/// The page. It shows names of everything, whoever may use it, so the port is not for clients.
pub(crate) fn catalog(gateway: &Gateway) -> AdminPage {
    let snapshot = gateway.snapshot.load();
    let mut services = Map::new();
    for (at, (service, view)) in snapshot.services.iter().zip(snapshot.merged.services()).enumerate() {
        let condition = snapshot.conditions.get(at).map(|condition| condition.text());
        let counts: Map<String, Value> = Kind::ALL
            .map(|kind| (kind.list_member().to_owned(), view.catalog.list(kind).items().len().into()))
            .into_iter()
            .collect();
        let about = json!({
            "status": condition,
            "catalog": view.state.as_str(),
            "fingerprint": view.catalog.fingerprint(),
            "counts": counts,
            "in_flight": service.places.taken(),
            "limit": service.places.limit(),
            "listens": { "open": service.metrics.listens_open(), "failing": service.metrics.listens_failing() },
            "replicas": replicas(service),
        });
        let mut about = about;
        if let Some(checked) = snapshot.checked(at) {
            about["deviations"] = checked.deviations.iter().map(deviation).collect();
        }
        services.insert(view.name.to_string(), about);
    }
    let mut names = Map::new();
    for kind in Kind::ALL {
        let exposed = snapshot.merged.exposed(kind).map(|exposed| Value::from(exposed.name));
        names.insert(kind.list_member().to_owned(), exposed.collect::<Vec<_>>().into());
    }
    let page = json!({
        "services": services,
        "exposed": names,
        "warnings": snapshot.merged.warnings(),
        "locked": gateway.integrity.in_force(),
        "findings": gateway.integrity.findings(),
    });
    AdminPage::ok(JSON, page.to_string())
}

fn deviation(deviation: &Deviation) -> Value {
    let Deviation { subject, verdict, changes } = deviation;
    json!({ "kind": subject.kind(), "name": subject.name(), "verdict": verdict, "changes": changes })
}

/// `/definitions`: everything that the services offer, as their servers define it, for `outrigger lock` and `scan`.
pub(crate) fn definitions(gateway: &Gateway) -> AdminPage {
    let snapshot = gateway.snapshot.load();
    let mut out = b"{\"services\":{".to_vec();
    for (index, (view, offered)) in snapshot.merged.services().iter().zip(&snapshot.offered).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(&mut out, &view.name);
        out.extend_from_slice(format!(":{{\"state\":\"{}\",\"catalog\":", view.state.as_str()).as_bytes());
        out.extend_from_slice(&offered.to_health_json());
        out.push(b'}');
    }
    out.extend_from_slice(b"}}");
    AdminPage::ok(JSON, out)
}

fn replicas(service: &Service) -> Vec<Value> {
    let now = tokio::time::Instant::now();
    let replica = |replica: &Arc<crate::services::Replica>| {
        let health = replica.health();
        let document = health.document.as_ref();
        json!({
            "address": replica.address,
            "status": document.map(|document| format!("{:?}", document.status).to_lowercase()),
            "reason": document.and_then(|document| document.reason.clone()),
            "unreachable": health.unreachable,
            "in_flight": replica.in_flight(),
            "breaker": replica.breaker.word(now),
        })
    };
    service.replicas().iter().map(replica).collect()
}
