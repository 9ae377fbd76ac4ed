//! The settings of `outrigger ca serve`, from a file, the environment, or both.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger_config::kinds::{self, Checked, Rate, Scheme, Url};
use outrigger_config::sections::{self, KIB, Log, MIB, MINUTE, SECOND, any_duration, how_many};
use outrigger_config::{Diagnostic, Diagnostics, Env, Fields, Kind, Settings, doc, load};

use crate::kubernetes::ApiServer;

/// The shortest life: shorter ones are renewed all the time.
const SHORTEST: Duration = Duration::from_secs(2);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// All settings of one authority.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The authority's directory.
    pub(crate) dir: PathBuf,
    /// For which mesh one is made there when there is none.
    pub(crate) trust_domain: Option<String>,
    /// Where join tokens are kept for services.
    pub(crate) join: Option<Join>,
    /// Where workloads ask.
    pub(crate) listen: SocketAddr,
    /// Where health and metrics are shown.
    pub(crate) admin: SocketAddr,
    /// How long a certificate lives unless its workload asks for another time.
    pub(crate) life: Duration,
    /// How long one may live.
    pub(crate) max_life: Duration,
    /// Where the audit goes; in the directory unless set.
    pub(crate) audit: PathBuf,
    pub(crate) connections: usize,
    pub(crate) body_bytes: usize,
    pub(crate) requests: Rate,
    pub(crate) handshake: Duration,
    /// For the body of a request.
    pub(crate) body: Duration,
    pub(crate) drain: Duration,
    pub(crate) kubernetes: Option<Kubernetes>,
    /// Services, and a host name in their certificates. A service may be there more than once.
    pub(crate) hosts: Vec<(String, String)>,
    pub(crate) log: Log,
    /// Things to tell the operator that stop nothing.
    pub(crate) warnings: Vec<Diagnostic>,
}

/// Join tokens that the authority keeps where services find them.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// A directory for each service is in here.
    pub(crate) dir: PathBuf,
    /// Those whose directory is made; without any, all that have one.
    pub(crate) services: Vec<String>,
    /// How many keys may use a token.
    pub(crate) uses: u32,
    pub(crate) ttl: Duration,
}

/// How service-account tokens are reviewed.
#[derive(Debug, Clone)]
pub(crate) struct Kubernetes {
    pub(crate) server: ApiServer,
    pub(crate) audience: String,
    pub(crate) rules: Vec<Rule>,
}

/// Which service a service account is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) namespace: String,
    /// `*` for any.
    pub(crate) service_account: String,
    /// The service account's own name unless set.
    pub(crate) service: Option<String>,
}

impl Config {
    /// Reads the settings from an optional `(file name, text)` and the environment, which wins.
    pub(crate) fn from_sources(file: Option<(&str, &str)>, env: Env<'_>) -> Result<Self, Diagnostics> {
        let loaded = load(file, env, read)?;
        Ok(Self { warnings: loaded.warnings, ..loaded.value })
    }

    /// The same from a file, if there is one, and the variables of this process.
    pub(crate) fn from_file(path: Option<&Path>) -> anyhow::Result<Self> {
        crate::daemon::settings(path, Self::from_sources)
    }

    /// All settings, for documentation and JSON Schema.
    pub(crate) fn describe() -> Settings {
        outrigger_config::describe(read)
    }
}

fn read(f: &mut Fields<'_>) -> Option<Config> {
    let text = doc("The authority's directory, made with `outrigger ca init` or `ca intermediate`.");
    let text = text.because("where `outrigger up` and the other `ca` commands have it").env("OUTRIGGER_CA_DIR");
    let dir = f.with_default("dir", text, kinds::path(), ".outrigger/ca".into());
    let text =
        doc("Makes an authority for this mesh in `dir` when there is none. One that is there must be of this mesh.");
    let text = text.because("`outrigger ca init` makes it").env("OUTRIGGER_TRUST_DOMAIN");
    let trust_domain = f.optional("trust_domain", text.example("demo.outrigger.local"), sections::trust_domain());
    let join = f.section("join", "Join tokens that are kept where services find them, as in compose files.", read_join);
    let text = doc("Where workloads ask for certificates, over TLS. Port 0 lets the system choose.");
    let text = text.because("workloads are on other machines; who cannot prove itself gets nothing");
    let listen =
        f.with_default("listen", text.env("OUTRIGGER_LISTEN"), kinds::listen(), (Ipv4Addr::UNSPECIFIED, 8440).into());
    let admin = f.section("admin", "Health and metrics, in plain text.", |f| {
        let text = doc("Where `/healthz`, `/readyz` and `/metrics` are served.").env("OUTRIGGER_ADMIN_LISTEN");
        let text = text.because("it is not encrypted and asks for no login");
        Some(f.with_default("listen", text, kinds::listen(), (Ipv4Addr::LOCALHOST, 9440).into()))
    });
    let text = doc("How long a certificate lives unless its workload asks for another time.");
    let text = text.because("a stolen one is soon worthless, and a third of it is left to repair a failing renewal");
    let life = f.with_default("life", text.env("OUTRIGGER_CA_LIFE"), kinds::duration(SHORTEST..=365 * DAY), HOUR);
    let text = doc("How long a certificate may live at most.").because("a day without the authority harms nobody");
    let max_life = f.with_default("max_life", text, kinds::duration(SHORTEST..=365 * DAY), DAY);
    if life > max_life {
        f.mistake("life", "longer than `max_life`", "raise `max_life`, or lower `life`");
    }
    let text = doc("The file for a JSON line per certificate, issued or refused; `audit.jsonl` in `dir` unless set.");
    let audit = f.optional("audit", text.env("OUTRIGGER_AUDIT"), kinds::path());
    let limits = f.section("limits", "What the authority holds at most.", read_limits);
    let timeouts = f.section("timeouts", "How long each step may take.", read_timeouts);
    let text = "Workloads in Kubernetes prove themselves with their service-account token.";
    let kubernetes = f.optional_section("kubernetes", text, read_kubernetes);
    let text = doc(
        "Host names that the certificates of a service also have, for clients that are no members and look at those, such as an API server that asks an injector.",
    );
    let text = text.because("members know each other by their SPIFFE ids").env("OUTRIGGER_CA_HOSTS");
    let text = text.example("{ injector: \"outrigger-injector.outrigger-system.svc\" }");
    let kind = kinds::map_of(sections::service_name(), host());
    let hosts = f.with_default("hosts", text, kind, Vec::new());
    let log = f.section("log", "The log, on standard error.", sections::log);
    let (connections, body_bytes, requests) = limits?;
    let (handshake, body, drain) = timeouts?;
    Some(Config {
        audit: audit.unwrap_or_else(|| dir.join("audit.jsonl")),
        dir,
        trust_domain,
        join: join?,
        listen,
        admin: admin?,
        life,
        max_life,
        connections,
        body_bytes,
        requests,
        handshake,
        body,
        drain,
        kubernetes,
        hosts,
        log: log?,
        warnings: Vec::new(),
    })
}

/// Nothing unless something of it is set.
#[expect(clippy::option_option, reason = "a section that cannot be read, and one that says nothing")]
fn read_join(f: &mut Fields<'_>) -> Option<Option<Join>> {
    let text = doc("Where a directory for each service is; `join-token` and `ca.pem` are kept in it.");
    let text = text.because("tokens are made by hand").env("OUTRIGGER_CA_JOIN_DIR").example("/join");
    let dir = f.optional("dir", text, kinds::path());
    let text =
        doc("Services that have a token there, in directories that are made. Whoever can read one can be its service.");
    let text = text.because("each directory that is there, as volumes are").env("OUTRIGGER_CA_JOIN_SERVICES");
    let services =
        f.with_default("services", text.example("[ingress, fs]"), kinds::list_of(sections::service_name()), Vec::new());
    let text = doc("How many workloads may use one token. When half of them have, another takes its place.");
    let most = u64::from(super::tokens::MAX_USES);
    let uses =
        f.with_default("uses", text.because("replicas that start, many times over"), kinds::integer(1..=most), 100);
    let text = doc("How long a token can be used. When half of it is over, another takes its place.");
    let ttl = f.with_default(
        "ttl",
        text.because("a copy is of no use two days later"),
        kinds::duration(MINUTE..=365 * DAY),
        DAY,
    );
    let Some(dir) = dir else {
        if !services.is_empty() {
            f.mistake("services", "there is no `join.dir`", "say where their tokens are to be kept");
        }
        return Some(None);
    };
    Some(Some(Join { dir, services, uses: u32::try_from(uses).unwrap_or(super::tokens::MAX_USES), ttl }))
}

/// A DNS name (RFC 1123 section 2.1).
fn host() -> Kind<String> {
    kinds::checked(Checked {
        name: "host name",
        pattern: r"^(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$",
        accepts: |name| {
            let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            let is_label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(good)
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            };
            name.len() <= 253 && name.split('.').all(is_label)
        },
        hint: "a DNS name in lower case: outrigger-injector.outrigger-system.svc",
    })
}

fn read_limits(f: &mut Fields<'_>) -> Option<(usize, usize, Rate)> {
    let text = doc("Open connections.").because("each member of a mesh keeps one, to hear of revocations at once");
    let connections = f.with_default("connections", text, how_many(), 4096);
    let text = doc("Bytes of a request.").because("a request for a P-256 key has 500, a token of Kubernetes 1,500");
    let body_bytes = f.with_default("body_bytes", text, kinds::bytes(KIB..=MIB), 16 * KIB);
    let text = doc("Requests for certificates from one address.");
    let text = text.because("a node that starts a hundred pods at once gets by; guessing tokens does not");
    let rate = Rate { count: 120, per: Duration::from_secs(60) };
    let requests = f.with_default("requests", text, kinds::rate(), rate);
    Some((connections, body_bytes, requests))
}

fn read_timeouts(f: &mut Fields<'_>) -> Option<(Duration, Duration, Duration)> {
    let text = doc("A TLS handshake.").because("ten times what it takes over a bad link");
    let handshake = any_duration(f, "handshake", text, 10 * SECOND);
    let text = doc("The body of a request.").because("it has a few hundred bytes");
    let body = any_duration(f, "body", text, 10 * SECOND);
    let text = doc("The end waiting for requests that have begun.").because("a certificate is made in milliseconds");
    let drain = f.with_default("drain", text, kinds::duration(Duration::ZERO..=10 * MINUTE), 5 * SECOND);
    Some((handshake, body, drain))
}

fn read_kubernetes(f: &mut Fields<'_>) -> Option<Kubernetes> {
    let text = doc("The API server.").because("its name inside every cluster");
    let inside = Url {
        scheme: Scheme::Https,
        authority: kinds::HostPort { host: "kubernetes.default.svc".into(), port: 443 },
        path: "/".into(),
    };
    let url = f.with_default("url", text, kinds::url(), inside);
    if url.scheme != Scheme::Https {
        f.mistake("url", "tokens do not go over plain text", "write https://host");
    }
    let mounted = |name: &str| PathBuf::from(format!("/var/run/secrets/kubernetes.io/serviceaccount/{name}"));
    let text = doc("Certificates (PEM) of its authority.").because("where every pod has it");
    let ca = f.with_default("ca", text, kinds::path(), mounted("ca.crt"));
    let text = doc("The token with which this authority asks; its account needs `system:auth-delegator`.");
    let token_file =
        f.with_default("token_file", text.because("where every pod has it"), kinds::path(), mounted("token"));
    let text = doc("For whom the tokens of workloads must be made: the `audience` of their projected volume.");
    let text = text.because("a token for the API server itself must not be given away");
    let audience = f.with_default("audience", text, kinds::text(), "outrigger".to_owned());
    let rules = f.list("rules", "Which service a service account is; the first that fits counts.", |f| {
        let text = doc("The namespace.");
        let namespace = f.required("namespace", text.example("tools"), kinds::text());
        let text = doc("The service account; `*` for any.");
        let service_account = f.required("service_account", text.example("fs"), kinds::text());
        let text = doc("The service that it is; named as the service account unless set.");
        let service = f.optional("service", text.example("fs"), sections::service_name());
        Some(Rule { namespace: namespace?, service_account: service_account?, service })
    });
    if rules.iter().any(|rule| rule.service_account == "*" && rule.service.is_some()) {
        f.mistake(
            "rules",
            "every service account would be the same service",
            "name the service account, or leave `service` out",
        );
    }
    Some(Kubernetes { server: ApiServer { url, ca, token_file }, audience, rules })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Diagnostics> {
        Config::from_sources(Some(("ca.yaml", text)), &|_| None)
    }

    #[test]
    fn nothing_need_be_set() {
        let config = parse("").unwrap();
        assert_eq!((config.life, config.max_life), (HOUR, DAY));
        assert_eq!(config.audit, Path::new(".outrigger/ca/audit.jsonl"));
        assert!(config.kubernetes.is_none());
    }

    #[test]
    fn mistakes_between_settings_are_found() {
        let found = |text| parse(text).unwrap_err().to_string();
        assert!(found("life: 48h\n").contains("max_life"));
        assert!(found("kubernetes: { url: \"http://x\" }\n").contains("plain text"));
        let all = "kubernetes: { rules: [ { namespace: a, service_account: \"*\", service: fs } ] }\n";
        assert!(found(all).contains("same service"));
        assert!(found("join: { services: [fs] }\n").contains("join.dir"));
    }

    #[test]
    fn host_names_are_those_of_dns() {
        let hosts = |name: &str| parse(&format!("hosts: {{ fs: \"{name}\" }}\n")).map(|config| config.hosts);
        for good in ["a", "fs.mesh.svc", "1a.b-c", &"a".repeat(63)] {
            assert_eq!(hosts(good).unwrap(), [("fs".to_owned(), good.to_owned())]);
        }
        let long = [&*"a".repeat(64), &"a.".repeat(127)].map(str::to_owned);
        for bad in ["", "a..b", ".a", "a.", "-a", "a-", "a.-b", "a-.b", "A", "a_b", "*.a", &long[0], &long[1]] {
            assert!(hosts(bad).unwrap_err().to_string().contains("host name"), "{bad:?}");
        }
    }
}
