//! The files that `up` writes are read by the programs that they are for.

use std::net::SocketAddr;
use std::path::Path;

use outrigger_ingress::config::{Config as Ingress, Safety};
use outrigger_policy::{Capability, CapabilityKind, PolicySet, Principal};
use outrigger_sidecar::config::{CatalogMode, Config as Sidecar, Upstream};

use super::Plan;
use crate::manifest::Manifest;
use crate::up::state::StateDir;

const MESH: &str = r#"
mesh: demo
ingress:
  listen: 127.0.0.1:0
  token: { subject: me, roles: [a], scopes: [] }
  tls: { cert: c.pem, key: k.pem, client_ca: ca.pem }
  allowed_hosts: [mesh.example.com]
  names: { joiner: ".", max_length: 100 }
services:
  fs: { example: fs, args: ["--root", "a \"b\""] }
  other:
    command: [server, ""]
    env: { KEY: "hun: ter2 #" }
    cwd: relative
    era: legacy
    session: shared
    catalog: per_caller
  notes: { url: "http://127.0.0.1:9001/mcp" }
"#;

fn with_plan(text: &str, look: impl FnOnce(&Plan<'_>)) {
    let dir = tempfile::tempdir().unwrap();
    let manifest = Manifest::from_sources(Some(("mesh.yaml", text)), &|_| None).unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    let file = Some(Path::new("/srv/mesh.yaml"));
    look(&Plan { manifest: &manifest, file, state: &state, program: Path::new("/bin/out rigger") });
}

#[test]
fn sidecars_read_what_is_written_for_them() {
    with_plan(MESH, |plan| {
        let read = |index: usize| {
            let text = plan.sidecar(&plan.manifest.services[index]).unwrap();
            Sidecar::from_sources(Some(("sidecar.yaml", &text)), &|_| None).unwrap_or_else(|wrong| panic!("{wrong}"))
        };
        let fs = read(0);
        let Upstream::Command(command) = &fs.upstream else { panic!("a command") };
        assert_eq!(command.words, ["/bin/out rigger", "example", "fs", "--root", "a \"b\""]);
        assert_eq!(fs.allowed_callers, ["spiffe://demo.outrigger.local/ingress"]);
        assert!(fs.warnings.is_empty(), "{:?}", fs.warnings);
        assert!(fs.identity.files().contains(&plan.state.ca().join("crl.pem")));
        let other = read(1);
        let Upstream::Command(command) = &other.upstream else { panic!("a command") };
        assert_eq!(command.words, ["server", ""]);
        assert_eq!((command.env[0].0.as_str(), command.env[0].1.reveal()), ("KEY", "hun: ter2 #"));
        assert!(command.cwd.as_ref().is_some_and(|cwd| cwd.is_absolute() && cwd.ends_with("relative")));
        assert_eq!((other.era, other.session), (plan.manifest.services[1].era, plan.manifest.services[1].session));
        assert_eq!((fs.catalog.mode, other.catalog.mode), (CatalogMode::Shared, CatalogMode::PerCaller));
        assert!(matches!(read(2).upstream, Upstream::Url(url) if url.to_string() == "http://127.0.0.1:9001/mcp"));
    });
}

#[test]
fn the_ingress_reads_what_is_written_for_it() {
    with_plan(MESH, |plan| {
        let address: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        let text = plan.ingress(&[("fs".to_owned(), address)], Some(&"ab".repeat(32))).unwrap();
        let config = outrigger_ingress::config::Config::from_sources(Some(("ingress.yaml", &text)), &|_| None)
            .unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!(config.services[0].addresses[0].to_string(), "127.0.0.1:4711");
        assert_eq!(config.services[0].spiffe_id, "spiffe://demo.outrigger.local/fs");
        let principal = config.clients.tokens.lookup(&[0xab; 32]).unwrap();
        assert!(principal.id() == "user:me" && principal.has_role("a") && !principal.has_scope("read"));
        assert_eq!(config.naming, plan.manifest.ingress.naming);
        assert_eq!(config.clients.allowed_hosts, ["mesh.example.com"]);
        assert!(config.tls.is_some_and(|tls| tls.cert.is_absolute() && tls.client_ca.is_some()));
        assert_eq!(config.policy, [plan.state.policy()]);
    });
}

#[test]
fn anonymous_access_and_own_policies_are_passed_on() {
    let text = "ingress: { anonymous: true }\npolicy: [p.yaml]\nservices: { fs: { example: fs } }\n";
    with_plan(text, |plan| {
        let text = plan.ingress(&[], None).unwrap();
        let config = outrigger_ingress::config::Config::from_sources(Some(("ingress.yaml", &text)), &|_| None).unwrap();
        assert!(config.clients.anonymous && config.clients.tokens.is_empty());
        assert!(config.policy[0].is_absolute() && config.policy[0].ends_with("p.yaml"));
        let policy = plan.default_policy();
        assert!(allowed(&policy, &Principal::anonymous()));
    });
}

#[test]
fn clients_may_do_everything_and_only_the_ingress_may_call_sidecars() {
    with_plan(MESH, |plan| {
        let [user, ingress, other] = [
            Principal::user("local").unwrap(),
            Principal::workload("spiffe://demo.outrigger.local/ingress").unwrap(),
            Principal::workload("spiffe://demo.outrigger.local/fs").unwrap(),
        ];
        let edge = plan.default_policy();
        assert!(allowed(&edge, &user) && !allowed(&edge, &Principal::anonymous()));
        let inside = plan.inside_policy();
        assert!(allowed(&inside, &ingress) && !allowed(&inside, &other) && !allowed(&inside, &user));
    });
}

#[test]
fn a_service_that_may_reach_another_is_let_in_there_and_nowhere_else() {
    let text =
        "services:\n  a: { example: fs, egress: { allow: [b.mesh] } }\n  b: { example: fs }\n  c: { example: fs }\n";
    with_plan(text, |plan| {
        let read = |index: usize| {
            let text = plan.sidecar(&plan.manifest.services[index]).unwrap();
            Sidecar::from_sources(Some(("sidecar.yaml", &text)), &|_| None).unwrap_or_else(|wrong| panic!("{wrong}"))
        };
        assert_eq!(read(0).mesh.file, Some(plan.state.services()));
        let domain = plan.manifest.trust_domain();
        let [ingress, a] = ["ingress", "a"].map(|name| format!("spiffe://{domain}/{name}"));
        assert_eq!(
            (read(1).allowed_callers, read(2).allowed_callers),
            (vec![ingress.clone(), a.clone()], vec![ingress])
        );
        let set = PolicySet::compile(&[("policy.yaml", &plan.inside_policy())]).unwrap();
        let may = |service| {
            let tool = Capability { kind: CapabilityKind::Tool, service, name: "x" };
            set.decide(&Principal::workload(&a).unwrap(), &tool).is_allowed()
        };
        assert!(may("b") && !may("c") && !may("a"));
    });
}

#[test]
fn egress_reaches_the_sidecar_as_it_is_written() {
    let text = "services:\n  a:\n    example: fs\n    egress:\n      mode: observe\n      limits: { connections: 7 }\n      \
                allow: [\"12.example.com\", 10.0.0.0/8]\n      rules: [ { name: w, hosts: [\"*.example.com\"], \
                tools: [\"get_*\"], ports: [8443], raw: true, paths: [\"/true\"] } ]\n";
    with_plan(text, |plan| {
        let service = &plan.manifest.services[0];
        let text = plan.sidecar(service).unwrap();
        let sidecar =
            Sidecar::from_sources(Some(("sidecar.yaml", &text)), &|_| None).unwrap_or_else(|wrong| panic!("{wrong}"));
        let (written, read) = (&service.egress.as_ref().unwrap().settings, sidecar.egress.unwrap());
        assert_eq!((&read.rules, read.mode, &read.limits), (&written.rules, written.mode, &written.limits));
        assert_eq!((read.rules.rules().len(), read.limits.connections, read.listen.port()), (3, 7, 0));
    });
}

#[test]
fn safety_controls_reach_the_ingress_as_they_are_written() {
    let text =
        "services:\n  a:\n    example: fs\n    breaker: { failures: 7, share: 20%, rest: 30s }\n  b: { example: fs }\n";
    with_plan(text, |plan| {
        let addresses = ["a", "b"].map(|name| (name.to_owned(), "127.0.0.1:1".parse().unwrap()));
        let text = plan.ingress(&addresses, None).unwrap();
        let ingress =
            Ingress::from_sources(Some(("ingress.yaml", &text)), &|_| None).unwrap_or_else(|wrong| panic!("{wrong}"));
        let breaker = &ingress.services[0].safety.breaker;
        assert_eq!((breaker.failures, breaker.share, breaker.rest.as_secs()), (7, 20, 30));
        assert_eq!(ingress.services[1].safety, Safety::default());
    });
}

#[test]
fn a_confined_service_may_not_read_what_the_mesh_is_made_of() {
    let text = "ingress: { tls: { cert: c.pem, key: /srv/k.pem } }\nservices:\n  a: { example: fs, sandbox: strict }\n";
    with_plan(text, |plan| {
        let text = plan.sidecar(&plan.manifest.services[0]).unwrap();
        let sidecar = Sidecar::from_sources(Some(("sidecar.yaml", &text)), &|_| None).unwrap();
        let (state, file, key) = (plan.state.root(), Path::new("/srv/mesh.yaml"), Path::new("/srv/k.pem"));
        assert_eq!(sidecar.sandbox.closed, [state, file, key]);
    });
}

fn allowed(policy: &str, who: &Principal) -> bool {
    let set = PolicySet::compile(&[("policy.yaml", policy)]).unwrap_or_else(|wrong| panic!("{wrong}"));
    set.decide(who, &Capability { kind: CapabilityKind::Tool, service: "fs", name: "x" }).is_allowed()
}

#[test]
fn identity_providers_reach_the_ingress_with_their_files_and_no_service_reads_those() {
    let oauth = r#"
mesh: demo
ingress:
  public_url: https://mcp.example.com
  oauth:
    scopes: [read]
    step_up: [write]
    issuers:
      - issuer: https://id.example.com
        ca: id.pem
        claims: { department: org.department }
        introspection: { client_id: mesh, client_secret_file: s.txt }
services:
  fs: { command: [server], sandbox: strict }
"#;
    with_plan(oauth, |plan| {
        let text = plan.ingress(&[], Some(&"0".repeat(64))).unwrap();
        let read = Ingress::from_sources(Some(("ingress.yaml", &text)), &|_| None).unwrap();
        let oauth = read.oauth.unwrap();
        let issuer = &oauth.issuers[0];
        let secret = &issuer.introspection.as_ref().unwrap().client_secret_file;
        assert!(secret.is_absolute() && issuer.ca.as_ref().unwrap().is_absolute());
        assert_eq!((oauth.step_up.as_slice(), issuer.claims[0].1.as_str()), (&["write".into()][..], "org.department"));
        assert!(plan.sidecar(&plan.manifest.services[0]).unwrap().contains(&secret.display().to_string()));
    });
    let without = oauth.replace("  public_url: https://mcp.example.com\n", "");
    let wrong = Manifest::from_sources(Some(("mesh.yaml", &without)), &|_| None).unwrap_err().to_string();
    assert!(wrong.contains("public_url"), "{wrong}");
}
