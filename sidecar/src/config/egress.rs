//! Settings of the outbound half: what the server may reach, and how it gets there.

mod budget;
mod credentials;
mod dns;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use outrigger_config::kinds::{self, Checked, Kind};
use outrigger_config::sections::{KIB, MIB, MINUTE, Output, SECOND, any_duration, egress_log, how_many};
use outrigger_config::{Fields, Mistake, doc};
use outrigger_policy::egress::{Destination, EgressRule, HostPattern, Range, Rules};
use outrigger_policy::glob::Glob;
use outrigger_policy::limit::BreakerRule;
use serde_json::json;

pub use dns::EgressDns;

pub use credentials::{Credential, Source};

/// Where the outbound half listens when it runs and no address is given.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15001);

/// What becomes of what no rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is refused.
    Enforce,
    /// It is let through and recorded, as long as its address is public.
    Observe,
}

impl Mode {
    /// The word in settings, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        }
    }
}

/// How sure it must be which call is behind a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribution {
    /// A rule for any of the calls that it may belong to is enough.
    Set,
    /// Rules must allow every one of them.
    Exact,
    /// As `Exact`, and calls of tools are one after the other, so that there is only one.
    Serial,
}

/// The `egress` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Where the server finds its proxy.
    pub listen: SocketAddr,
    /// How names are looked up.
    pub dns: EgressDns,
    /// Whether connections that the kernel redirected are taken too.
    pub transparent: bool,
    /// Whether rules are enforced.
    pub mode: Mode,
    /// How sure it must be which call is behind a connection.
    pub attribution: Attribution,
    /// What may be reached.
    pub rules: Rules,
    /// What requests of rules get on their way out.
    pub credentials: Vec<Credential>,
    /// How TLS is read inside, where rules say so.
    pub inspection: Inspection,
    /// Where a line per connection goes.
    pub log: Output,
    /// When destinations that fail are left alone.
    pub breaker: BreakerRule,
    /// What is held at most.
    pub limits: EgressLimits,
    /// How long each step may take.
    pub timeouts: EgressTimeouts,
}

/// How TLS is read inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Where the authorities for clients are written; a directory of its own where absent.
    pub bundle: Option<PathBuf>,
    /// Authorities beside the system's by which destinations are verified.
    pub ca: Vec<PathBuf>,
}

/// What the outbound half holds at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressLimits {
    /// Connections of the server.
    pub connections: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
}

/// How long each step of an outbound connection may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressTimeouts {
    /// A request's head, or a SOCKS greeting.
    pub header: Duration,
    /// The first words of a tunnel (the TLS ClientHello).
    pub hello: Duration,
    /// Looking a name up.
    pub resolve: Duration,
    /// Connecting to one of its addresses.
    pub connect: Duration,
    /// A connection in which nothing moves.
    pub idle: Duration,
    /// A connection as a whole.
    pub total: Duration,
}

/// Reads the `egress` section of a sidecar; nothing when none of it is given: then nothing listens.
pub(super) fn read(f: &mut Fields<'_>) -> Option<Option<Egress>> {
    let (given, egress) = read_section(f);
    Some(given.then_some(egress?))
}

/// Reads the `egress` section of an outbound half that runs by itself.
pub(super) fn read_always(f: &mut Fields<'_>) -> Option<Egress> {
    read_section(f).1
}

/// Reads the section for a service of a mesh, whose sidecar somebody else sets up: [`Egress::log`] and, where it is not given,
/// [`Egress::listen`] mean nothing then.
pub fn read_for_service(f: &mut Fields<'_>) -> Option<Egress> {
    let because = "a port that the system chooses; a service that `up` starts is told by its environment";
    read_with(f, because, |_| Output::Off).1
}

fn read_section(f: &mut Fields<'_>) -> (bool, Option<Egress>) {
    let because = "127.0.0.1:15001 where anything else of this section is given, else nothing listens";
    read_with(f, because, egress_log)
}

fn read_with<'a>(
    f: &mut Fields<'a>,
    no_listen: &'static str,
    log: impl FnOnce(&mut Fields<'a>) -> Output,
) -> (bool, Option<Egress>) {
    let text = doc("Where the server finds its proxy (HTTP and SOCKS5). Loopback, or who can reach it may use it.")
        .because(no_listen)
        .env("OUTRIGGER_EGRESS_LISTEN")
        .example("127.0.0.1:15001");
    let listen = f.optional("listen", text, kinds::listen());
    let text = doc(
        "Also takes connections that `outrigger-sidecar redirect install` sends here, over IPv4 and IPv6, for servers \
         that do not use a proxy.",
    )
    .because("the rules of the kernel are installed by choice")
    .env("OUTRIGGER_EGRESS_TRANSPARENT");
    let transparent = f.optional("transparent", text, kinds::boolean());
    let dns = f.section("dns", "How names are looked up, and a resolver for the server.", dns::read);
    let text = doc("`enforce` refuses what no rule allows; `observe` lets it through, and records it as refused.")
        .because("`enforce`: an allowlist that lets everything through protects nobody")
        .env("OUTRIGGER_EGRESS_MODE");
    let modes = kinds::choice(&[("enforce", Mode::Enforce), ("observe", Mode::Observe)]);
    let mode = f.optional("mode", text, modes);
    let text = doc(
        "Which call a connection must belong to when calls of several tools are at work: `set`, a rule for any of them is \
         enough; `exact`, rules must allow all of them; `serial`, as `exact`, and calls of tools are one after the other.",
    )
    .because("`set`: servers work on several calls at once, and few say which one a connection is for")
    .env("OUTRIGGER_EGRESS_ATTRIBUTION");
    let words = &[("set", Attribution::Set), ("exact", Attribution::Exact), ("serial", Attribution::Serial)];
    let attribution = f.with_default("attribution", text, kinds::choice(words), Attribution::Set);
    let text = doc(
        "What may be reached, in short: `host`, `host:port`, `*.host` (every name below, not itself), addresses and ranges.",
    )
    .because("a tool server has no business elsewhere until somebody says so; a port that is not named is 443")
    .env("OUTRIGGER_EGRESS_ALLOW")
    .example("[api.example.com, \"*.wikipedia.org\", \"db.internal:5432\"]");
    let allow = f.optional("allow", text, kinds::list_of(destination()));
    let (mut names, mut all_credentials) = (Vec::new(), Vec::new());
    let rules = f.list("rules", "What may be reached, in full: for some tools, methods, paths or addresses.", |f| {
        let (rule, credentials) = read_rule(f)?;
        if names.contains(&rule.id) {
            f.mistake(
                "name",
                format!("the name `{}` stands in this list twice", rule.id),
                "give each rule a name of its own",
            );
        }
        names.push(rule.id.clone());
        all_credentials.extend(credentials);
        Some(rule)
    });
    let inspection = f.section("inspection", "How TLS is read inside, where rules say `inspect`.", read_inspection);
    let log = log(f);
    let breaker =
        f.section("breaker", "Destinations that keep failing are left alone for a while.", budget::read_breaker);
    let limits = f.section("limits", "What the outbound half holds at most.", read_limits);
    let timeouts = f.section("timeouts", "How long each step of an outbound connection may take.", read_timeouts);
    let given = listen.is_some() || transparent.is_some() || mode.is_some() || allow.is_some() || f.has("rules");
    let short = allow.unwrap_or_default().into_iter().map(EgressRule::short);
    // Of several rules that admit something the first decides whether it is read inside, and what is added.
    let (inspecting, sealed): (Vec<_>, Vec<_>) = rules
        .into_iter()
        .partition(|rule| rule.inspect || all_credentials.iter().any(|credential| credential.rule == rule.id));
    let rules = Rules::new(inspecting.into_iter().chain(short).chain(sealed).collect());
    warn_about(f, &rules);
    let read = || {
        Some(Egress {
            listen: listen.unwrap_or(DEFAULT_LISTEN),
            dns: dns?,
            transparent: transparent.unwrap_or(false),
            mode: mode.unwrap_or(Mode::Enforce),
            attribution,
            rules,
            credentials: all_credentials,
            inspection: inspection?,
            log,
            breaker: breaker?,
            limits: limits?,
            timeouts: timeouts?,
        })
    };
    (given, read())
}

/// What is allowed by the letter and seldom meant.
fn warn_about(f: &mut Fields<'_>, rules: &Rules) {
    if rules.per_tool() && rules.rules().iter().any(|rule| rule.tools.is_empty()) {
        let hint = "a rule for every tool says `tools: [\"*\"]`";
        f.warn("rules", "some rules name tools, so those that name none are only for what belongs to no call", hint);
    }
    for destination in rules.rules().iter().flat_map(|rule| &rule.hosts) {
        let (HostPattern::Exact(name) | HostPattern::Below(name)) = &destination.host else { continue };
        if name.mixes_scripts() {
            let message = format!("`{name}` mixes letters of scripts that look alike");
            f.warn("", message, "make sure that it is the name you mean");
        }
    }
}

fn read_rule(f: &mut Fields<'_>) -> Option<(EgressRule, Vec<Credential>)> {
    let text = doc("The rule's name, unique here; logs and answers call it `egress/<name>`.").example("weather");
    let name = f.required("name", text, rule_name());
    let text = doc("Where to, as in `allow`.").example("[api.weather.gov]");
    let hosts = f.required("hosts", text, kinds::list_of(destination()));
    let text = doc("Ports of those hosts that name none.").because("443 alone");
    let ports = f.with_default("ports", text, kinds::list_of(kinds::integer(1..=65535)), Vec::new());
    let text = doc("Tools that it is for; `*` stands for any characters.")
        .because("what belongs to no call, and every call while no rule names tools");
    let tools = f.with_default("tools", text, kinds::list_of(pattern()), Vec::new());
    let text = doc("HTTP methods. Only requests that can be read have one: plain HTTP, not a TLS tunnel.");
    let methods = f.with_default("methods", text.because("every one"), kinds::list_of(method()), Vec::new());
    let text = doc(
        "Beginnings of paths: `/v1` is `/v1` and what is below it. As with `methods`, only where they can be read.",
    );
    let paths = f.with_default("paths", text.because("every one"), kinds::list_of(path_start()), Vec::new());
    let text = doc("Ranges of special addresses (private, loopback, ...) that the names of this rule may have.")
        .because("none: a name that leads inside is refused")
        .example("[10.0.0.0/8]");
    let addresses = f.with_default("addresses", text, kinds::list_of(range()), Vec::new());
    let text = doc("Tunnels may carry something else than TLS.")
        .because("a tunnel whose words are not TLS hides what it does and from whom");
    let raw = f.with_default("raw", text, kinds::boolean(), false);
    let text =
        doc("TLS may hide the name that it asks for (ECH).").because("a hidden name cannot be held against the rule");
    let ech = f.with_default("ech", text, kinds::boolean(), false);
    let text = doc(
        "TLS is read inside, so that `methods` and `paths` apply to it: the client gets a certificate that is made for it. Not for \
         clients that pin certificates, for mutual TLS, or for other protocols than HTTP/1.1.",
    )
    .because("what is private stays so until somebody decides otherwise");
    let inspect = f.with_default("inspect", text, kinds::boolean(), false);
    if inspect && raw {
        f.mistake(
            "inspect",
            "what `raw` lets through is not TLS, and cannot be inspected",
            "keep the one that applies",
        );
    }
    let given = credentials::read(f);
    let budget = budget::read(f);
    if hosts.as_ref().is_some_and(Vec::is_empty) {
        f.mistake("hosts", "an empty list allows nothing", "name at least one host, or remove the rule");
    }
    let ports = ports.into_iter().filter_map(|port| u16::try_from(port).ok()).collect();
    let rule = EgressRule {
        ports,
        tools,
        methods,
        paths,
        addresses,
        raw,
        ech,
        inspect,
        budget,
        ..EgressRule::new(&name?, hosts?)
    };
    if !given.is_empty() {
        credentials::check(f, &rule);
    }
    let credentials = given.into_iter().map(|given| given.of(&rule)).collect();
    Some((rule, credentials))
}

fn read_inspection(f: &mut Fields<'_>) -> Option<Inspection> {
    let text = doc(
        "Where the certificates are written that clients must believe: the system's, and that of this sidecar's own authority, \
         whose key never leaves memory and is new at each start. For servers that the sidecar does not start.",
    )
    .because("a directory of its own; a server that the sidecar starts is told by its environment")
    .example("/run/outrigger/ca.pem");
    let bundle = f.optional("bundle", text, kinds::path());
    let text = doc("Certificates of authorities, beside the system's, by which destinations are verified.")
        .because("the system's alone");
    let ca = f.with_default(
        "ca",
        text.example("[/etc/outrigger/company-ca.pem]"),
        kinds::list_of(kinds::path()),
        Vec::new(),
    );
    Some(Inspection { bundle, ca })
}

fn read_limits(f: &mut Fields<'_>) -> Option<EgressLimits> {
    let text = doc("Open connections of the server; further ones are closed at once. Each takes three descriptors: fewer fit where `ulimit -n` is \
         low, which a warning says.")
        .because("a server that needs more at once is leaking them");
    let connections = f.with_default("connections", text, how_many(), 1024);
    let text = doc("Bytes of a request's head.").because("as for requests that come in");
    let header_bytes = f.with_default("header_bytes", text, kinds::bytes(4 * KIB..=MIB), 32 * KIB);
    Some(EgressLimits { connections, header_bytes })
}

fn read_timeouts(f: &mut Fields<'_>) -> Option<EgressTimeouts> {
    let text = doc("A request's head, from its first byte, or a SOCKS greeting.").because("it fits one packet");
    let header = any_duration(f, "header", text, 10 * SECOND);
    let text = doc("The first words of a tunnel (the TLS ClientHello).").because("clients send them at once");
    let hello = any_duration(f, "hello", text, 10 * SECOND);
    let text = doc("Looking a name up.").because("two tries of a resolver that answers after a second");
    let resolve = any_duration(f, "resolve", text, 5 * SECOND);
    let text =
        doc("Connecting, over all addresses of the name.").because("three tries of a lost packet across the world");
    let connect = any_duration(f, "connect", text, 10 * SECOND);
    let text = doc("A connection in which nothing moves.").because("long polls and event streams rest for minutes");
    let idle = any_duration(f, "idle", text, 10 * MINUTE);
    let text = doc("A connection as a whole.").because("a tunnel that never ends never meets a new rule");
    let total = any_duration(f, "total", text, 24 * 60 * MINUTE);
    Some(EgressTimeouts { header, hello, resolve, connect, idle, total })
}

/// The kind of a destination.
pub fn destination() -> Kind<Destination> {
    let parse = |text: &str| {
        Destination::parse(text).map_err(|error| {
            let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
            let hint = "api.example.com, api.example.com:8443, \"*.example.com\", 10.0.0.0/8:5432, [fd00::7]:443";
            Mistake::new(format!("`{shown}` is no destination: {error}"), hint)
        })
    };
    Kind::scalar("destination", json!({"type": "string", "minLength": 1}), parse, ToString::to_string)
}

fn range() -> Kind<Range> {
    let parse = |text: &str| Range::parse(text).map_err(|why| Mistake::new(why, "10.0.0.0/8, fd00::/8, 127.0.0.1"));
    Kind::scalar("address range", json!({"type": "string", "minLength": 1}), parse, ToString::to_string)
}

fn pattern() -> Kind<Glob> {
    let parse = |text: &str| {
        Glob::new(text).map_err(|error| Mistake::new(error.to_string(), "`*` stands for any run of characters"))
    };
    Kind::scalar("pattern", json!({"type": "string", "minLength": 1}), parse, Glob::to_string)
}

fn rule_name() -> Kind<String> {
    kinds::checked(Checked {
        name: "rule name",
        pattern: "^[A-Za-z0-9._-]{1,63}$",
        accepts: |text| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            (1..=63).contains(&text.len()) && text.bytes().all(fits)
        },
        hint: "letters, digits, '.', '_' and '-', at most 63",
    })
}

fn method() -> Kind<String> {
    kinds::checked(Checked {
        name: "HTTP method",
        pattern: "^[A-Z]{1,20}$",
        accepts: |text| (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_uppercase()),
        hint: "in capitals: GET, POST",
    })
}

fn path_start() -> Kind<String> {
    kinds::checked(Checked {
        name: "beginning of a path",
        pattern: "^/[^\\s?#]*$",
        accepts: |text| {
            text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
        },
        hint: "it begins with `/` and has no query: /v1/",
    })
}

#[cfg(test)]
mod tests;
