//! Series appear when something is counted, and go with their capability or service.

use super::*;
use crate::metrics::{Metrics, Role};

const ELAPSED: Duration = Duration::from_millis(3);

fn metrics() -> Arc<Metrics> {
    Metrics::new(Role::Ingress).unwrap()
}

/// The lines of a scrape that name the service.
fn lines(metrics: &Metrics, service: &str) -> Vec<String> {
    let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
    let label = format!("service=\"{service}\"");
    text.lines().filter(|line| line.contains(&label)).map(str::to_owned).collect()
}

fn requests(metrics: &Metrics, service: &str) -> Vec<String> {
    let all = lines(metrics, service).into_iter();
    all.filter(|line| line.starts_with("outrigger_requests_total")).collect()
}

#[test]
fn a_request_is_counted_by_method_capability_and_outcome() {
    let metrics = metrics();
    let fs = metrics.service("fs");
    fs.set_capabilities(["readFileText"]);
    for _ in 0..2 {
        fs.record(Method::ToolsCall, Some("readFileText"), Outcome::Ok, ELAPSED);
    }
    fs.record(Method::ToolsList, None, Outcome::Denied, ELAPSED);
    assert_eq!(
        requests(&metrics, "fs"),
        [
            r#"outrigger_requests_total{capability="",method="tools/list",outcome="denied",service="fs"} 1"#,
            r#"outrigger_requests_total{capability="readFileText",method="tools/call",outcome="ok",service="fs"} 2"#,
        ]
    );
    let durations = lines(&metrics, "fs");
    let bucket =
        r#"outrigger_request_duration_seconds_bucket{method="tools/call",outcome="ok",service="fs",le="0.005"} 2"#;
    assert!(durations.iter().any(|line| line == bucket), "{durations:#?}");
}

#[test]
fn names_and_methods_from_the_wire_never_become_labels() {
    let metrics = metrics();
    let fs = metrics.service("fs");
    fs.set_capabilities(["known"]);
    for name in ["evil-1", "evil-2", "", "other"] {
        fs.record(Method::parse(b"no/such"), Some(name), Outcome::RpcError, ELAPSED);
    }
    assert_eq!(
        requests(&metrics, "fs"),
        [r#"outrigger_requests_total{capability="other",method="other",outcome="rpc_error",service="fs"} 4"#]
    );
}

#[test]
fn capabilities_are_bounded_and_old_names_have_precedence() {
    let metrics = metrics();
    let fs = metrics.service("fs");
    fs.set_capabilities(["old"]);
    let many: Vec<_> = (0..MAX_CAPABILITIES * 2).map(|i| format!("t{i}")).collect();
    fs.set_capabilities(many.iter().map(String::as_str).chain(["old"]));
    for name in many.iter().map(String::as_str).chain(["old"]) {
        fs.record(Method::ToolsCall, Some(name), Outcome::Ok, ELAPSED);
    }
    let series = requests(&metrics, "fs");
    assert_eq!(series.len(), MAX_CAPABILITIES + 1);
    assert!(series.iter().any(|line| line.contains(r#"capability="old""#)));
    assert!(series.iter().any(|line| line.contains(r#"capability="other""#) && line.ends_with(" 501")));
}

#[test]
fn a_capability_that_leaves_takes_its_series_and_the_rest_stay() {
    let metrics = metrics();
    let fs = metrics.service("fs");
    fs.set_capabilities(["stays", "leaves"]);
    for name in ["stays", "leaves"] {
        fs.record(Method::ToolsCall, Some(name), Outcome::Ok, ELAPSED);
    }
    fs.set_capabilities(["stays"]);
    fs.record(Method::ToolsCall, Some("stays"), Outcome::Ok, ELAPSED);
    let series = requests(&metrics, "fs");
    assert_eq!(series.len(), 1);
    assert!(series[0].contains(r#"capability="stays""#) && series[0].ends_with(" 2"), "{series:?}");
}

#[test]
fn a_request_that_read_the_old_table_does_not_bring_a_series_back() {
    let metrics = metrics();
    let fs = metrics.service("fs");
    fs.set_capabilities(["leaves"]);
    let row = Arc::clone(&fs.rows.load()["leaves"]);
    fs.set_capabilities([]);
    fs.count_request(&row, Method::ToolsCall, Outcome::Ok);
    assert_eq!(requests(&metrics, "fs"), Vec::<String>::new());
}

#[test]
fn a_removed_service_leaves_nothing_and_may_come_back() {
    let metrics = metrics();
    let (fs, kept) = (metrics.service("fs"), metrics.service("kept"));
    let touch = |service: &ServiceMetrics| {
        service.set_capabilities(["a"]);
        service.record(Method::ToolsCall, Some("a"), Outcome::Ok, ELAPSED);
        service.record(Method::ToolsCall, Some("b"), Outcome::Timeout, ELAPSED);
        service.record(Method::Ping, None, Outcome::Ok, ELAPSED);
        LimitKind::ALL.iter().for_each(|limit| service.limited(*limit));
        DenyReason::ALL.iter().for_each(|reason| service.denied(*reason));
        DenyReason::ALL.iter().for_each(|reason| service.would_deny(*reason));
        UpstreamErrorKind::ALL.iter().for_each(|kind| service.upstream_error(*kind));
        Retry::ALL.iter().for_each(|why| service.retried(*why));
        service.set_concurrency_limit(1);
        Ejection::ALL.iter().for_each(|why| service.ejected(*why));
        service.set_replicas_out(1);
        ListenFailure::ALL.iter().for_each(|why| service.listen_failed(*why));
        drop((service.listen_opened(), service.listen_failing()));
        Kind::ALL.iter().for_each(|kind| service.set_catalog_items(*kind, 7));
        service.set_catalog_state(CatalogState::Stale);
        service.set_child_up(true);
        service.child_restarted();
    };
    touch(&fs);
    touch(&kept);
    let before = lines(&metrics, "kept");
    let busy = fs.enter();
    metrics.remove_service("fs");
    touch(&fs);
    drop(busy);
    assert_eq!(lines(&metrics, "fs"), Vec::<String>::new(), "late requests bring nothing back");
    assert_eq!(lines(&metrics, "kept"), before);

    let again = metrics.service("fs");
    again.record(Method::Ping, None, Outcome::Ok, ELAPSED);
    fs.record(Method::Ping, None, Outcome::Ok, ELAPSED);
    assert!(requests(&metrics, "fs")[0].ends_with(" 1"), "the old handle counts nowhere");
}

#[test]
fn exactly_one_catalog_state_is_1() {
    let metrics = metrics();
    let fs = metrics.service("fs");
    fs.set_catalog_state(CatalogState::Fresh);
    fs.set_catalog_state(CatalogState::Dropped);
    let states = lines(&metrics, "fs").into_iter().filter(|line| line.contains("catalog_state"));
    let set: Vec<_> = states.filter(|line| line.ends_with(" 1")).collect();
    assert_eq!(set, [r#"outrigger_catalog_state{service="fs",state="dropped"} 1"#]);
}

#[test]
fn in_flight_goes_down_with_the_guard() {
    let metrics = metrics();
    let fs = metrics.service("fs");
    let guards = [fs.enter(), fs.enter()];
    assert_eq!(fs.in_flight(), 2);
    drop(guards);
    assert_eq!(fs.in_flight(), 0);
}

#[test]
fn threads_that_count_and_change_the_catalog_at_once_lose_nothing() {
    let metrics = metrics();
    let fs = metrics.service("fs");
    fs.set_capabilities(["stays"]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    fs.record(Method::ToolsCall, Some("stays"), Outcome::Ok, ELAPSED);
                    fs.record(Method::ToolsCall, Some("flaps"), Outcome::Ok, ELAPSED);
                }
            });
        }
        for _ in 0..200 {
            fs.set_capabilities(["stays", "flaps"]);
            fs.set_capabilities(["stays"]);
        }
    });
    let series = requests(&metrics, "fs");
    assert!(!series.iter().any(|line| line.contains("flaps")), "{series:?}");
    assert!(series.iter().any(|line| line.contains("stays") && line.ends_with(" 4000")), "{series:?}");
}
