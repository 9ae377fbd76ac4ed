//! Calls between two trust domains that gave each other their bundles: an ingress in one, a sidecar in the other.

use std::time::Duration;

use super::agent::{Domain, Identity};
use super::mesh::works;
use super::world::{Part, World};
use crate::support::until;

const HOUR: Duration = Duration::from_secs(3600);
const HOME: &str = "home.example";
const PARTNER: &str = "partner.example";
const EDGE: &str = "spiffe://home.example/ingress";

/// Two authorities that know nothing of each other but files.
struct Two {
    world: World,
    home: Domain,
    partner: Domain,
}

impl Two {
    fn new() -> Self {
        let two = Self { world: World::new(), home: Domain::new(HOME), partner: Domain::new(PARTNER) };
        two.write("home-ca.pem", &[("CERTIFICATE", two.home.root())]);
        two.write("partner-ca.pem", &[("CERTIFICATE", two.partner.root())]);
        two
    }

    fn write(&self, file: &str, parts: &[(&str, &[u8])]) {
        let text: String = parts.iter().map(|(label, der)| pem(label, der)).collect();
        std::fs::write(self.world.path(file), text).unwrap();
    }

    /// The `identity` section of somebody who has this and believes `ca`, and is federated as said.
    fn identity(&self, name: &str, own: &Identity, domain: &str, ca: &str, federation: &[(&str, &str)]) -> String {
        self.write(&format!("{name}.pem"), &[("CERTIFICATE", &own.chain)]);
        self.write(&format!("{name}.key"), &[("PRIVATE KEY", &own.key)]);
        let others: Vec<String> =
            federation.iter().map(|(domain, file)| format!("{{ trust_domain: {domain}, bundle: {file} }}")).collect();
        format!(
            "identity: {{ trust_domain: {domain}, cert: {name}.pem, key: {name}.key, ca: {ca}, federation: [{}] }}\n",
            others.join(", ")
        )
    }

    /// The sidecar of `fs` at the partner, whose policy lets in who is named.
    fn sidecar(&self, name: &str, federation: &[(&str, &str)], lets_in: &str) -> Part {
        let identity = self.identity(name, &self.partner.issue("/fs", HOUR), PARTNER, "partner-ca.pem", federation);
        let policy =
            self.policy(name, &format!("[fs], capabilities: [\"read*\"], requires: [ {{ workload: \"{lets_in}\" }} ]"));
        let text = format!(
            "service: fs\nlisten: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\npolicy: [{policy}]\naudit: {name}.jsonl\n\
             ingresses: [\"{EDGE}\", \"spiffe://{PARTNER}/ingress\"]\ncommand: [{}, example, fs, --root, {}]\n{identity}",
            env!("CARGO_BIN_EXE_outrigger"),
            self.world.dir.path().display(),
        );
        self.world.start(name, &["sidecar"], &text, true)
    }

    /// An ingress that calls that sidecar as one of the partner.
    fn ingress(&self, name: &str, sidecar: &Part, identity: &str) -> Part {
        let policy = self.policy(name, "[\"*\"], capabilities: [\"*\"], requires: [ { anonymous: true } ]");
        let text = format!(
            "listen: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\nanonymous: true\npolicy: [{policy}]\naudit: off\n\
             services: {{ fs: {{ spiffe_id: \"spiffe://{PARTNER}/fs\", addresses: [{}] }} }}\n{identity}",
            sidecar.at["mesh"],
        );
        self.world.start(name, &["ingress"], &text, true)
    }

    /// The one of home.
    fn edge(&self, name: &str, sidecar: &Part, federation: &[(&str, &str)]) -> Part {
        let identity = self.identity(name, &self.home.issue("/ingress", HOUR), HOME, "home-ca.pem", federation);
        self.ingress(name, sidecar, &identity)
    }

    fn policy(&self, name: &str, rule: &str) -> String {
        let file = format!("{name}-policy.yaml");
        let text = format!(
            "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: test }}\nspec: {{ authorization: {{ rules: [ {{ name: some, services: {rule} }} ] }} }}\n"
        );
        std::fs::write(self.world.path(&file), text).unwrap();
        file
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

const WITH_PARTNER: &[(&str, &str)] = &[(PARTNER, "partner-ca.pem")];
const WITH_HOME: &[(&str, &str)] = &[(HOME, "home-ca.pem")];

#[test]
fn a_call_goes_from_one_trust_domain_to_another_where_both_agree() {
    let two = Two::new();
    let sidecar = two.sidecar("fs", WITH_HOME, EDGE);
    let edge = two.edge("edge", &sidecar, WITH_PARTNER);
    until("a call works", || works(&edge));
    let record = || std::fs::read_to_string(two.world.path("fs.jsonl")).unwrap_or_default();
    until("it is recorded under the foreign id", || record().contains(&format!("\"who\":\"{EDGE}\"")));

    // Believed is not yet allowed: this one's policy is about somebody else.
    let strict = two.sidecar("strict", WITH_HOME, "spiffe://partner.example/ingress");
    let edge = two.edge("edge-strict", &strict, WITH_PARTNER);
    let record = || std::fs::read_to_string(two.world.path("strict.jsonl")).unwrap_or_default();
    until("its policy refuses", || !works(&edge) && record().contains("\"decision\":\"deny\""));
    assert!(!works(&edge) && !record().contains("\"outcome\":\"ok\""));
}

#[test]
fn who_is_not_federated_is_a_stranger_in_either_direction() {
    let two = Two::new();
    let alone = two.sidecar("alone", &[], EDGE);
    let edge = two.edge("edge", &alone, WITH_PARTNER);
    until("the sidecar turns it away", || !works(&edge) && alone.log().contains("UnknownIssuer"));

    let open = two.sidecar("open", WITH_HOME, EDGE);
    let closed = two.edge("closed", &open, &[]);
    until("the ingress turns away", || !works(&closed) && closed.log().contains("UnknownIssuer"));
    // The same sidecar serves who did agree.
    let edge = two.edge("edge-open", &open, WITH_PARTNER);
    until("a call works", || works(&edge));
    assert!(!works(&closed));
}

#[test]
fn the_authority_of_one_domain_vouches_for_nobody_of_the_other() {
    let two = Two::new();
    let partner_edge = "spiffe://partner.example/ingress";
    let sidecar = two.sidecar("fs", WITH_HOME, partner_edge);
    // Home's authority makes a certificate that names a member of the partner's mesh, and one that names the sidecar.
    two.write("both.pem", &[("CERTIFICATE", two.home.root()), ("CERTIFICATE", two.partner.root())]);
    let forged = two.home.issue_id(partner_edge, HOUR);
    let impostor = two.ingress("impostor", &sidecar, &two.identity("impostor", &forged, PARTNER, "both.pem", &[]));
    until("it is turned away", || !works(&impostor) && sidecar.log().contains("UnknownIssuer"));
    // The real one gets in with the same name.
    let real = two.partner.issue("/ingress", HOUR);
    let real = two.ingress("real", &sidecar, &two.identity("real", &real, PARTNER, "partner-ca.pem", &[]));
    until("a call works", || works(&real));

    // A sidecar of home's authority that calls itself the partner's: the ingress of home, which trusts both, is not fooled.
    let forged = two.home.issue_id("spiffe://partner.example/fs", HOUR);
    let identity = two.identity("false-fs", &forged, PARTNER, "both.pem", WITH_HOME);
    let policy = two.policy("false-fs", "[fs], capabilities: [\"*\"]");
    let text = format!(
        "service: fs\nlisten: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\npolicy: [{policy}]\naudit: off\n\
         command: [{}, example, fs, --root, {}]\n{identity}",
        env!("CARGO_BIN_EXE_outrigger"),
        two.world.dir.path().display(),
    );
    let false_fs = two.world.start("false-fs", &["sidecar"], &text, true);
    let edge = two.edge("edge", &false_fs, WITH_PARTNER);
    until("the ingress turns away", || !works(&edge) && edge.log().contains("UnknownIssuer"));
}
