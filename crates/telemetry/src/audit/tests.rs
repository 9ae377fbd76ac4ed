//! The line is a contract with whoever reads the audit; admission is a contract with the caller.

use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use super::*;
use crate::metrics::{Metrics, Role};

fn record() -> AuditRecord {
    AuditRecord {
        time: UNIX_EPOCH + Duration::from_micros(1_795_230_245_000_120),
        who: "alice".into(),
        via: Some("spiffe://demo.outrigger.local/ingress".into()),
        client: Some(SocketAddr::from(([10, 0, 0, 7], 4242))),
        action: "tools/call",
        service: Some("fs".into()),
        capability: Some("readFileText".into()),
        decision: Decision::Allow,
        rule: Some("readers".into()),
        would_deny: None,
        outcome: Outcome::ToolError,
        duration: Duration::from_micros(1234),
        egress: None,
        trace: TraceContext::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap(),
        argument_digest: Some(ArgumentDigest::of(b"{}")),
        arguments: None,
        approval: None,
    }
}

fn dropped() -> DropCounter {
    Metrics::new(Role::Ingress).unwrap().audit_dropped()
}

fn full() -> Sink {
    Sink::File(PathBuf::from("/dev/full"))
}

#[test]
fn the_line_has_every_field_and_no_arguments() {
    assert_eq!(
        serde_json::to_string(&record()).unwrap(),
        concat!(
            r#"{"time":"2026-11-21T03:04:05.000120Z","who":"alice","via":"spiffe://demo.outrigger.local/ingress","#,
            r#""client":"10.0.0.7:4242","action":"tools/call","service":"fs","capability":"readFileText","#,
            r#""decision":"allow","rule":"readers","outcome":"tool_error","duration_us":1234,"#,
            r#""trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","#,
            r#""argument_digest":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}"#,
        )
    );
}

#[test]
fn a_refusal_that_was_only_watched_is_told() {
    let would_deny = WouldDeny { reason: "forbidden", rule: Some("trial/no-writes".into()) };
    let line = serde_json::to_string(&AuditRecord { would_deny: Some(Box::new(would_deny)), ..record() }).unwrap();
    let told = r#""rule":"readers","would_deny":{"reason":"forbidden","rule":"trial/no-writes"},"outcome""#;
    assert!(line.contains(told), "{line}");
}

#[test]
fn long_text_from_a_caller_is_cut() {
    let long = AuditRecord { capability: Some("ä".repeat(10_000).into()), ..record() };
    assert!(serde_json::to_string(&long).unwrap().len() < 1000);
}

#[test]
fn records_reach_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let audit = AuditLog::start(&Sink::File(path.clone()), true, None, dropped()).unwrap();
    assert!(audit.enabled());
    audit.admit().unwrap();
    audit.record(record()).unwrap();
    audit.close();
    let written = std::fs::read_to_string(path).unwrap();
    assert_eq!(written, serde_json::to_string(&record()).unwrap() + "\n");
}

#[test]
fn a_required_audit_that_falls_behind_admits_nothing() {
    let audit = AuditLog::with_capacity(&full(), true, None, dropped(), 8).unwrap();
    let refused = (0..100).find_map(|_| audit.record(record()).err());
    assert_eq!(refused, Some(AuditUnavailable::Behind));
    assert_eq!(audit.admit(), Err(AuditUnavailable::Behind));
}

#[test]
fn a_required_audit_that_cannot_be_written_admits_nothing() {
    let audit = AuditLog::with_capacity(&full(), true, None, dropped(), 64).unwrap();
    audit.record(record()).unwrap();
    while audit.admit().is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(audit.admit(), Err(AuditUnavailable::Failing));
}

#[test]
fn without_require_nothing_is_refused() {
    let audit = AuditLog::with_capacity(&full(), false, None, dropped(), 2).unwrap();
    for _ in 0..50 {
        audit.record(record()).unwrap();
    }
    audit.admit().unwrap();
    let off = AuditLog::start(&Sink::Off, false, None, dropped()).unwrap();
    assert!(!off.enabled());
    off.record(record()).unwrap();
}

#[test]
fn required_but_off_is_a_mistake() {
    let error = AuditLog::start(&Sink::Off, true, None, dropped()).unwrap_err();
    assert!(error.to_string().contains("name a file"), "{error}");
}
