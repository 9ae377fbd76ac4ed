//! Deciding and limiting are on the path of every request: neither may allocate.

use outrigger_policy::egress::{Ask, Destination, EgressRule, Host, Request, Rules, Tools};
use outrigger_policy::{Capability, CapabilityKind, Limits, Nanos, PolicySet, Principal};

const POLICY: &str = r#"
apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: p }
spec:
  authorization:
    rules:
      - { name: write, services: [fs], capabilities: ["write*"], requires: [ { scope: write } ] }
      - { name: read, services: ["f*"], capabilities: ["*read*File*", "list*"], requires: [ { subject: "a*a" }, { role: dev } ] }
      - { name: inside, services: ["*"], capabilities: ["*"], requires: [ { workload: "ingress" } ] }
  limits:
    - { name: client, per: client, rate: 1/s, burst: 2 }
    - { name: service, per: service, rate: 1000/s }
"#;

fn allocations(run: impl FnOnce()) -> u64 {
    allocation_counter::measure(run).count_total
}

#[test]
fn decisions_do_not_allocate() {
    let policy = PolicySet::compile(&[("p", POLICY)]).unwrap();
    let callers = [
        Principal::user("ada").unwrap().with_grants(["dev"], ["read"]).unwrap(),
        Principal::workload("spiffe://demo/ingress").unwrap(),
        Principal::anonymous(),
    ];
    let mut allowed = 0;
    let count = allocations(|| {
        for who in &callers {
            for (service, name) in
                [("fs", "readAllFiles"), ("fs", "write"), ("fx", "readFile"), ("zz", "file:///a/../b")]
            {
                let what = Capability { kind: CapabilityKind::Resource, service, name };
                allowed += u32::from(policy.decide(who, &what).is_allowed());
                allowed += u32::from(policy.may_use_service(who, service));
                std::hint::black_box(policy.visibility_class(who));
            }
        }
    });
    assert_eq!(count, 0);
    assert!(allowed > 4, "the loop decided nothing");
}

#[test]
fn an_admitted_call_does_not_allocate() {
    let policy = PolicySet::compile(&[("p", POLICY)]).unwrap();
    let limits = Limits::new(policy.limits(), 64);
    let client = limits.for_client(&Principal::user("ada").unwrap(), Nanos(0));
    let what = Capability { kind: CapabilityKind::Tool, service: "fs", name: "read" };
    let capability = limits.for_capability(&what, Nanos(0));
    let mut outcomes = Vec::with_capacity(3);
    let count = allocations(|| outcomes.extend((0..3).map(|_| Limits::check(&client, &capability, Nanos(0)).is_ok())));
    assert_eq!((count, outcomes), (0, vec![true, true, false]));
}

#[test]
fn decisions_about_destinations_do_not_allocate() {
    let rule = |text: String| EgressRule::short(Destination::parse(&text).unwrap());
    let names = (0..10_000).map(|n| rule(format!("api{n}.example{}.test", n % 7)));
    let rules = Rules::new(names.chain(["*.wild.test", "10.0.0.0/8:5432"].map(|text| rule(text.into()))).collect());
    let hosts = ["api9999.example3.test", "a.b.wild.test", "10.1.2.3", "unknown.test", "wild.test", "127.0.0.1"];
    let hosts = hosts.map(|text| Host::parse(text).unwrap());
    let addresses = ["1.2.3.4".parse().unwrap(), "2600::1".parse().unwrap()];
    let mut allowed = 0;
    let count = allocations(|| {
        for host in &hosts {
            for (tools, port) in [(Tools::Outside, 443), (Tools::Among(&["a", "b"]), 5432)] {
                let ask = Ask { host, port, tools, request: Request::Sealed, addresses: &addresses };
                allowed += u32::from(rules.decide(&ask).is_ok());
                if let Host::Name(name) = host {
                    let _covered = std::hint::black_box(rules.names(name, tools));
                }
            }
        }
    });
    assert_eq!(count, 0);
    assert_eq!(allowed, 3);
}
