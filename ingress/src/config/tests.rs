//! Ingress settings: a good file, the rules between settings, and every mistake at once.

use outrigger_config::Diagnostics;

use super::{Config, tokens_from_file};

const IDENTITY: &str = "identity: { trust_domain: demo.outrigger.local, cert: c.pem, key: k.pem, ca: ca.pem }\n";
const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn read(text: &str) -> Result<Config, Diagnostics> {
    Config::from_sources(Some(("ingress.yaml", text)), &|_| None)
}

fn mistakes(text: &str) -> String {
    read(text).expect_err("must be refused").to_string()
}

#[test]
fn a_small_file_is_enough() {
    let text = format!(
        "{IDENTITY}tokens: [{{ subject: alice, sha256: {HASH}, scopes: [read] }}]\nservices:\n  fs: {{ addresses: [\"127.0.0.1:8443\", fs.mesh:1] }}\n"
    );
    let config = read(&text).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.to_string(), "127.0.0.1:9090");
    assert_eq!(config.services[0].spiffe_id, "spiffe://demo.outrigger.local/fs");
    assert_eq!(config.services[0].addresses[1].to_string(), "fs.mesh:1");
    assert_eq!((config.clients.tokens.len(), config.clients.anonymous), (1, false));
    assert_eq!((config.limits.sessions, config.limits.page_bytes), (10_000, 1 << 20));
    assert_eq!(config.threads, None);
    assert_eq!(config.naming.expose("fs", "read"), "fs__read");
}

#[test]
fn anonymous_access_stays_on_this_machine() {
    assert!(read(&format!("{IDENTITY}anonymous: true\nlisten: 127.0.0.1:0\n")).unwrap().clients.anonymous);
    assert!(read(&format!("{IDENTITY}anonymous: true\nlisten: '[::1]:0'\n")).is_ok());
    let wrong = mistakes(&format!("{IDENTITY}listen: 0.0.0.0:8080\nanonymous: true\n"));
    assert!(wrong.starts_with("ingress.yaml:3:1: anonymous: anonymous access on 0.0.0.0:8080"), "{wrong}");
    // The environment cannot open it either.
    let text = format!("{IDENTITY}anonymous: true\n");
    let env = |name: &str| (name == "OUTRIGGER_LISTEN").then(|| "0.0.0.0:80".to_owned());
    assert!(Config::from_sources(Some(("i", &text)), &env).is_err());
}

#[test]
fn somebody_must_be_able_to_authenticate() {
    let wrong = mistakes(IDENTITY);
    assert!(wrong.contains("no client could authenticate"), "{wrong}");
    assert!(read(&format!("{IDENTITY}tokens_file: t.yaml\n")).is_ok());
    assert!(read(&format!("{IDENTITY}tls: {{ cert: a, key: b, client_ca: c }}\n")).is_ok());
    assert!(mistakes(&format!("{IDENTITY}tls: {{ cert: a, key: b }}\n")).contains("no client could authenticate"));
    let both = mistakes(&format!("{IDENTITY}tokens_file: t.yaml\ntokens: [{{ subject: a, sha256: {HASH} }}]\n"));
    assert!(both.contains("keep all tokens in one place"), "{both}");
}

#[test]
fn unencrypted_tokens_are_worth_a_warning() {
    let config = read(&format!("{IDENTITY}listen: 0.0.0.0:8080\ntokens_file: t.yaml\n")).unwrap();
    assert!(config.warnings.iter().any(|warning| warning.message.contains("unencrypted")));
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let text = format!(
        "{IDENTITY}anonymous: yes\nservices:\n  Fs:\n    addresses: [fs, '1.2.3.4:0']\n  b:\n    adresses: [b:1]\n  c: x\n\
         names: {{ joiner: '-', max_length: 8 }}\nallowed_origins: [https://a/b]\nlimits: {{ sessions: none }}\n\
         tls: {{ cert: x }}\npublic_url: unix:/x\n"
    );
    let shown = mistakes(&text);
    for expected in [
        "ingress.yaml:2:12: anonymous: `yes` is not a boolean (write true or false)",
        "ingress.yaml:4:3: services.Fs: `Fs` is not a valid service name",
        "ingress.yaml:5:17: services.Fs.addresses: `fs` is not host:port",
        "ingress.yaml:5:21: services.Fs.addresses: `1.2.3.4:0` is not host:port",
        "ingress.yaml:7:5: services.b.adresses: unknown setting (did you mean `addresses`?)",
        "services.b.addresses: the service has no sidecar",
        "ingress.yaml:8:6: services.c: expected a section",
        "ingress.yaml:9:18: names.joiner: `-` is not known here",
        "ingress.yaml:9:35: names.max_length: `8` is out of range",
        "ingress.yaml:10:19: allowed_origins: `https://a/b` is not a valid origin",
        "ingress.yaml:11:21: limits.sessions: `none` is not a whole number",
        "tls.key: this setting is missing",
        "ingress.yaml:13:1: public_url: clients cannot use a socket file",
    ] {
        assert!(shown.contains(expected), "missing: {expected}\nin:\n{shown}");
    }
}

#[test]
fn the_token_of_an_account_is_not_sent_in_clear() {
    let wrong = "discovery.kubernetes.url: the account's token would be sent in clear";
    for (url, clear) in [
        ("http://10.0.0.1:80", true),
        ("http://kubernetes.default.svc:80", true),
        ("http://127.0.0.1:8001", false),
        ("http://localhost:8001", false),
        ("https://10.0.0.1:443", false),
    ] {
        // The key that nobody knows is a mistake of its own.
        let shown = mistakes(&format!("{IDENTITY}discovery:\n  kubernetes: {{ url: '{url}', nobody: 1 }}\n"));
        assert_eq!(shown.contains(wrong), clear, "{url}: {shown}");
    }
}

#[test]
fn the_token_of_consul_is_not_sent_in_clear() {
    for (address, clear) in [
        ("consul://consul.internal:8500", true),
        ("consul://127.0.0.1:8500", false),
        ("consul+tls://consul.internal:8501", false),
    ] {
        let shown = mistakes(&format!(
            "{IDENTITY}discovery:\n  consul: {{ address: '{address}', token_file: /t, nobody: 1 }}\n"
        ));
        let wrong = "discovery.consul.token_file: the token would be sent in clear";
        assert_eq!(shown.contains(wrong), clear, "{address}: {shown}");
    }
}

#[test]
fn mistakes_about_identity_providers_are_told() {
    let shown = mistakes(&format!(
        "{IDENTITY}oauth:\n  issuers:\n    - {{ issuer: 'http://id.example.com' }}\n    - {{ issuer: 'https://a.test' }}\n    \
         - {{ issuer: 'https://b.test', algorithms: [HS256] }}\n"
    ));
    for expected in [
        "oauth: tokens are for an endpoint with a name",
        "oauth.issuers[0].issuer: `http://id.example.com` is not a valid URL",
        "oauth.issuers[2].algorithms: `HS256` is not known here",
    ] {
        assert!(shown.contains(expected), "missing: {expected}\nin:\n{shown}");
    }
    let twice = "oauth:\n  issuers:\n    - { issuer: 'https://a.test' }\n    - { issuer: 'https://b.test' }\n";
    let shown = mistakes(&format!("{IDENTITY}public_url: https://mcp.test\n{twice}"));
    assert!(shown.contains("https://b.test has the same subjects as https://a.test"), "{shown}");
    assert!(
        mistakes(&format!("{IDENTITY}public_url: https://mcp.test\noauth: {{}}\n")).contains("no identity provider")
    );
}

#[test]
fn a_token_in_place_of_its_hash_is_not_shown() {
    let wrong = mistakes(&format!("{IDENTITY}tokens: [{{ subject: a, sha256: my-real-token }}]\n"));
    assert!(!wrong.contains("my-real-token"), "{wrong}");
}

#[test]
fn token_files_have_the_same_form() {
    let table =
        tokens_from_file("t.yaml", &format!("tokens:\n  - {{ subject: a, sha256: {} }}\n", HASH.to_uppercase()))
            .unwrap();
    assert_eq!(table.len(), 1);
    let twice = format!("tokens:\n  - {{ subject: a, sha256: {HASH} }}\n  - {{ subject: b, sha256: {HASH} }}\n");
    let wrong = tokens_from_file("t.yaml", &twice).unwrap_err().to_string();
    assert!(wrong.starts_with("t.yaml:3:7: tokens[1].subject: the same token is given"), "{wrong}");
}

#[test]
fn the_schema_describes_services_and_tokens() {
    let schema = Config::describe().to_json_schema("ingress.yaml");
    let service = &schema["properties"]["services"]["additionalProperties"];
    assert!(service["properties"]["addresses"].is_object());
    assert_eq!(schema["properties"]["tokens"]["items"]["properties"]["roles"]["type"], "array");
}
