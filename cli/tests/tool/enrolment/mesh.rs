//! Members that enrol themselves: renewal under load, an authority that is away, replaced, or takes a certificate back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use super::world::{Part, World, get};
use crate::support::{call, run, until};

pub(super) const RENEWED: &str = "outrigger_certificate_renewals_total{outcome=\"renewed\"}";

pub(super) fn works(ingress: &Part) -> bool {
    let address = ingress.at["mcp"].as_str().unwrap();
    let (status, answer) = call(address, None, "fs__readFileText", json!({"path": "hello.txt"}));
    status == 200 && answer["result"]["isError"] != true && answer["error"].is_null()
}

/// Calls all the time until `work` is done: how many calls there were. None may fail.
pub(super) fn under_load(ingress: &Part, work: impl FnOnce()) -> u64 {
    let (done, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(works(ingress), "a call failed: {}", ingress.log());
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        work();
        done.store(true, Ordering::Relaxed);
    });
    calls.into_inner()
}

#[test]
fn members_enrol_and_renew_under_load_and_their_keys_are_nowhere() {
    let world = World::new();
    let authority = world.authority("life: 4s\n");
    let sidecar = world.sidecar("fs", &world.enroll(&authority, &world.token("fs", "1")), true);
    // Known by the digest of its root instead of the file, with the token in a file.
    let token = world.token("ingress", "1");
    std::fs::write(world.path("join-token"), format!("{token}\n")).unwrap();
    let shown: serde_json::Value = serde_json::from_str(&world.ca(&["show", "--json"])).unwrap();
    let enroll = format!(
        "{{ url: \"{}\", token_file: join-token, ca_sha256: {} }}",
        authority.url(),
        shown["ca_sha256"][0].as_str().unwrap()
    );
    let ingress = world.ingress(&sidecar, &enroll);
    until("a call works", || works(&ingress));
    let calls = under_load(&ingress, || {
        until("both have renewed four times", || sidecar.metric(RENEWED) >= 5.0 && ingress.metric(RENEWED) >= 5.0);
    });
    assert!(calls > 0);
    assert!(sidecar.metric("outrigger_certificate_expiry_timestamp_seconds{name=\"workload\"}") > 1e9);
    for (path, content) in world.files() {
        let text = String::from_utf8_lossy(&content);
        let own = path.ends_with("ca/ca.key") || path.ends_with("ca/audit.key");
        assert!(own || !text.contains("PRIVATE KEY"), "{} has a key", path.display());
        let log = path.extension().is_some_and(|extension| extension == "log" || extension == "jsonl");
        assert!(!log || !text.contains(&token), "{} has a token", path.display());
    }
    let audit = world.audit();
    assert!(audit.iter().any(|line| line["proof"] == "certificate" && line["decision"] == "issued"));
    assert!(audit.iter().all(|line| line["decision"] == "issued"), "{audit:?}");
    let verify = || run(world.dir.path(), &["audit", "verify", "ca/audit.jsonl", "--key", "ca/audit.key.pub"]);
    let verified = verify();
    assert!(verified.status.success(), "{verified:?}");
    let file = world.path("ca/audit.jsonl");
    let changed = std::fs::read_to_string(&file).unwrap().replacen("/fs\"", "/eve\"", 1);
    std::fs::write(&file, changed).unwrap();
    assert!(!verify().status.success(), "a changed line is found");
}

#[test]
fn an_authority_that_is_away_is_waited_for_and_survived() {
    let world = World::new();
    let authority = world.authority("life: 8s\n");
    let listen = format!("listen: {}\nlife: 8s\n", authority.at["ca"].as_str().unwrap());
    let (fs, edge) = (world.token("fs", "9"), world.token("ingress", "9"));
    let (enroll, of_ingress) = (world.enroll(&authority, &fs), world.enroll(&authority, &edge));
    authority.kill();

    // Nobody answers at the start.
    let mut waiting = world.sidecar("fs", &enroll, false);
    until("it says what it waits for", || waiting.log().contains("waiting for the authority at https://127.0.0.1:"));
    let admin = waiting.log();
    let admin = admin.split("admin=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap().to_owned();
    let page = get(&admin, "/readyz");
    assert!(
        page.contains("identity: waiting for the authority") && page.contains("because it cannot be reached"),
        "{page}"
    );
    waiting.signal("TERM");
    assert_eq!(waiting.wait(), Some(0), "it ends when asked to, also while it waits");

    let authority = world.authority(&listen);
    let sidecar = world.sidecar("fs", &enroll, true);
    let ingress = world.ingress(&sidecar, &of_ingress);
    until("a call works", || works(&ingress));
    // Away over a renewal: nobody notices.
    authority.kill();
    let failed = "outrigger_certificate_renewals_total{outcome=\"failed\"}";
    under_load(&ingress, || until("a renewal failed", || sidecar.metric(failed) >= 1.0));
    // Away past the end: said clearly, and cured without a restart.
    until("the end is said", || {
        sidecar.admin("/readyz").contains("identity: the certificate has ended; waiting for the authority")
    });
    assert!(!works(&ingress));
    let _authority = world.authority(&listen);
    until("it works again", || works(&ingress));
    until("and says so", || !sidecar.admin("/readyz").contains("identity"));
}

#[test]
fn the_authority_is_replaced_under_load() {
    let world = World::new();
    let authority = world.authority("life: 6s\n");
    let sidecar = world.sidecar("fs", &world.enroll(&authority, &world.token("fs", "1")), true);
    let ingress = world.ingress(&sidecar, &world.enroll(&authority, &world.token("ingress", "1")));
    until("a call works", || works(&ingress));
    let told = |part: &Part, times: usize| part.log().matches("took up what the authority believes").count() >= times;
    under_load(&ingress, || {
        world.ca(&["rotate", "begin"]);
        until("both have heard of the next one", || told(&sidecar, 1) && told(&ingress, 1));
        world.ca(&["rotate", "switch"]);
        let now = (sidecar.metric(RENEWED), ingress.metric(RENEWED));
        until("both have renewed", || sidecar.metric(RENEWED) > now.0 + 1.0 && ingress.metric(RENEWED) > now.1 + 1.0);
        std::thread::sleep(Duration::from_secs(1)); // the shortest life that there is
        world.ca(&["rotate", "finish", "--after", "1s"]);
        until("both have heard that the old one is gone", || told(&sidecar, 2) && told(&ingress, 2));
        let now = (sidecar.metric(RENEWED), ingress.metric(RENEWED));
        until("both have renewed", || sidecar.metric(RENEWED) > now.0 && ingress.metric(RENEWED) > now.1);
    });
}

#[test]
fn a_revocation_reaches_members_in_seconds() {
    let world = World::new();
    let authority = world.authority("");
    let sidecar = world.sidecar("fs", &world.enroll(&authority, &world.token("fs", "1")), true);
    let ingress = world.ingress(&sidecar, &world.enroll(&authority, &world.token("ingress", "1")));
    until("a call works", || works(&ingress));
    let serial = world.audit().into_iter().find(|line| line["id"] == "spiffe://demo.outrigger.local/fs").unwrap();
    world.ca(&["revoke", serial["serial"].as_str().unwrap()]);
    until("the sidecar is believed no more", || !works(&ingress));
}

#[test]
fn what_is_kept_survives_a_restart_without_a_token() {
    let world = World::new();
    let authority = world.authority("");
    let enroll =
        format!("{{ url: \"{}\", token: {}, ca: ca/ca.pem, dir: kept }}", authority.url(), world.token("fs", "1"));
    let mut sidecar = world.sidecar("fs", &enroll, true);
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait(), Some(0));
    let _again = world.sidecar("fs", &enroll, true);
    assert_eq!(world.audit().len(), 1, "it did not ask again");
}
