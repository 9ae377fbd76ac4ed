//! Objects as people write them, and what their status says.

use outrigger_config::kinds::HostPort;
use serde_json::json;

use super::*;

fn object(created: &str, spec: Value) -> ServiceObject {
    let meta = json!({"name": "any", "namespace": "tools", "generation": 3, "creationTimestamp": created});
    ServiceObject::read(serde_json::from_value(meta).unwrap(), &mut json!({"spec": spec, "status": {"replicas": 9}}))
}

fn key(name: &str) -> Key {
    ("tools".to_owned(), name.to_owned())
}

/// The conditions of an object as `reason: message`, and its further fields.
fn told(read: &Read, name: &str, seen: &Seen) -> (String, String, Value) {
    let wanted = read.statuses(|_| seen.clone()).remove(&key(name)).unwrap();
    let text = |one: &Condition| format!("{} {}: {}", one.holds, one.reason, one.message);
    assert_eq!(wanted.generation, 3);
    (text(&wanted.said[0]), text(&wanted.said[1]), Value::Object(wanted.more))
}

#[test]
fn an_object_selects_pods_and_addresses() {
    let objects = BTreeMap::from([
        (key("fs"), object("1", json!({"service": "files", "port": 9443}))),
        (key("far"), object("1", json!({"name": "remote", "addresses": ["10.0.0.7:8443", "127.0.0.1:1", "host:1"]}))),
    ]);
    let mut read = read(objects.iter(), false, &BTreeMap::new());
    let annotation = |name: &str| Selected { name: name.to_owned(), port: None };
    let mut selected = BTreeMap::from([(key("files"), vec![annotation("fs"), annotation("other")])]);
    read.select(&mut selected);
    let expected = vec![annotation("other"), Selected { name: "fs".to_owned(), port: Some("9443".to_owned()) }];
    assert_eq!(selected, BTreeMap::from([(key("files"), expected)]), "the object says it, not the annotation");
    let at = |text: &str| HostPort::parse(text).unwrap();
    assert_eq!(read.replicas, BTreeSet::from([("remote".to_owned(), at("10.0.0.7:8443"))]));
    let wrong = Mistake { at: key("files"), what: "no port".to_owned() };
    let told_of = read.blame(&BTreeSet::from([wrong]));
    assert!(told_of.len() == 2 && told_of.iter().all(|one| one.contains("any_address")), "{told_of:?}");
    let (_, ready, more) = told(&read, "fs", &Seen::default());
    assert_eq!(
        ready,
        "false NoReplicas: No ready endpoint belongs to a Service `files` in this namespace. (Service files: no port)"
    );
    assert_eq!(more, json!({"service": "fs", "replicas": 0, "ready": 0}));
}

#[test]
fn the_status_says_how_the_service_is() {
    let objects = BTreeMap::from([(key("fs"), object("1", json!({})))]);
    let read = read(objects.iter(), false, &BTreeMap::new());
    let seen = |replicas, ready, why: Option<&'static str>, configured| Seen {
        replicas,
        ready,
        why,
        configured,
        asked: true,
        full: None,
    };
    for (seen, accepted, ready) in [
        (seen(2, 1, Some("refused"), false), "true Valid", "true Serving: 1 of 2 replicas answer."),
        (
            seen(2, 0, Some("refused"), true),
            "true InSettings",
            "false Unreachable: None of 2 replicas answers: refused.",
        ),
        (seen(0, 0, None, false), "true Valid", "false NoReplicas: No sidecar has registered as `fs`."),
    ] {
        let (one, other, _) = told(&read, "fs", &seen);
        assert!(one.starts_with(accepted) && other == ready, "{one}\n{other}");
    }
}

#[test]
fn what_is_wrong_counts_for_nothing_and_the_older_of_two_keeps_its_name() {
    let objects = BTreeMap::from([
        (key("fs"), object("2", json!({"service": "files"}))),
        (key("older"), object("1", json!({"name": "fs", "concurrency": {"limit": 7}}))),
        (key("wrong"), object("1", json!({"retries": {"attempts": 99}}))),
        (key("a-name-that-is-too-long-for-one"), object("1", json!({}))),
    ]);
    let mut read = read(objects.iter(), false, &BTreeMap::new());
    assert_eq!(read.services.len(), 1);
    assert_eq!(read.services["fs"].safety.concurrency.limit, Some(7));
    for (name, accepted) in [
        ("fs", "false NameTaken: `fs` is the service of MeshService tools/older"),
        ("wrong", "false Invalid: spec.retries.attempts"),
        ("a-name-that-is-too-long-for-one", "false Invalid: `a-name-that-is-too-long-for-one` is no name"),
    ] {
        let (one, ready, more) = told(&read, name, &Seen::default());
        assert!(one.starts_with(accepted), "{one}");
        assert!(ready.starts_with("false NotAccepted"), "{ready}");
        assert_eq!(more, json!({"replicas": null}), "what was there goes");
    }
    assert_eq!(read.blame(&BTreeSet::new()).len(), 3);
}

#[test]
fn an_old_object_that_takes_a_name_later_takes_it_from_nobody() {
    let at = |name: &str| json!({"name": name});
    let mut objects =
        BTreeMap::from([(key("old"), object("1", at("mine"))), (key("pay"), object("2", at("payments")))]);
    let before = read(objects.iter(), false, &BTreeMap::new()).holders();
    objects.insert(key("old"), object("1", at("payments")));
    let after = read(objects.iter(), false, &before);
    assert_eq!(after.holders(), BTreeMap::from([("payments".to_owned(), key("pay"))]));
    let (one, ..) = told(&after, "old", &Seen::default());
    assert!(one.starts_with("false NameTaken: `payments` is the service of MeshService tools/pay"), "{one}");
    // Once the name is free, it may have it.
    objects.remove(&key("pay"));
    let holders = read(objects.iter(), false, &after.holders()).holders();
    assert_eq!(holders, BTreeMap::from([("payments".to_owned(), key("old"))]));
}

#[test]
fn a_spec_that_is_too_large_is_told_so() {
    let tools = json!([{"names": ["a".repeat(MAX_SPEC)], "deadline": "1s"}]);
    let objects = BTreeMap::from([(key("fs"), object("1", json!({"tools": tools})))]);
    let read = read(objects.iter(), false, &BTreeMap::new());
    let (one, ..) = told(&read, "fs", &Seen::default());
    assert!(one.starts_with("false Invalid: spec: it has ") && one.contains("65536 are the most"), "{one}");
}

#[test]
fn nothing_is_said_of_replicas_before_they_were_asked_and_no_room_is_told_so() {
    let objects = BTreeMap::from([(key("fs"), object("1", json!({})))]);
    let read = read(objects.iter(), false, &BTreeMap::new());
    let unasked = Seen { replicas: 2, ..Seen::default() };
    assert!(read.statuses(|_| unasked.clone()).is_empty());
    let failed = Seen { asked: true, ..unasked };
    assert!(told(&read, "fs", &failed).1.starts_with("false Unreachable"));
    let full = Seen { full: Some("7 services came".to_owned()), ..Seen::default() };
    assert_eq!(told(&read, "fs", &full).1, "false NoRoom: There is no room: 7 services came.");
}
