//! `outrigger egress test` and `outrigger egress suggest`: what may be reached and why, and rules made of what was observed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, bail};
use outrigger_egress::request::authority;
use outrigger_policy::RuleId;
use outrigger_policy::egress::{Ask, Budget, Destination, Host, HostPattern, Reason, Request, Tools};
use outrigger_policy::glob::Glob;
use outrigger_runtime::Exit;
use outrigger_sidecar::config::{Attribution, Config, Egress, EgressOnly, Mode};
use outrigger_sidecar::outbound::refusal::Why;
use serde::Deserialize;
use serde_json::json;

use crate::args::{EgressCommand, EgressTestArgs};
use crate::manifest::Manifest;
use crate::{files, output};

/// Runs one of the commands.
pub(crate) fn main(command: EgressCommand) -> anyhow::Result<Exit> {
    match command {
        EgressCommand::Test(args) => test(&args),
        EgressCommand::Suggest { logs } => suggest(&logs),
    }
}

fn test(args: &EgressTestArgs) -> anyhow::Result<Exit> {
    let egress = settings(args)?;
    let (rules, mode) = (&egress.rules, egress.mode);
    let wanted = Wanted::read(&args.url)?;
    let tools: Vec<&str> = args.tools.iter().map(String::as_str).collect();
    let request = match &wanted.path {
        Some(path) => Request::Read { method: &args.method, path },
        None => Request::Sealed,
    };
    let own = match &wanted.host {
        Host::Address(address) => vec![*address],
        Host::Name(_) => args.addresses.clone(),
    };
    let ask = Ask {
        host: &wanted.host,
        port: wanted.port,
        tools: match (tools.as_slice(), egress.attribution) {
            ([], _) => Tools::Outside,
            (tools, Attribution::Set) => Tools::Among(tools),
            (tools, Attribution::Exact | Attribution::Serial) => Tools::EachOf(tools),
        },
        request,
        addresses: &own,
    };
    let decision = rules.decide(&ask);
    let (allowed, rule) = match &decision {
        Ok(allowed) => (true, Some(allowed.rule.id.as_str())),
        Err(denied) => (false, denied.nearest.map(RuleId::as_str)),
    };
    let budget = decision.as_ref().is_ok_and(|allowed| allowed.rule.budget != Budget::default());
    let refused = decision.err().map(|denied| match denied.reason {
        Reason::Tool if tools.len() > 1 && egress.attribution != Attribution::Set => Why::Uncertain,
        reason => Why::Rules(reason, denied.apex),
    });
    let (reason, hint) = (refused.as_ref().map(|why| why.told().reason), refused.as_ref().map(Why::hint));
    let host = wanted.host.to_string();
    let open = if allowed { not_judged(&egress, &own, budget) } else { Vec::new() };
    if args.json {
        let port = wanted.port;
        output::json(
            &json!({"allowed": allowed, "host": host, "port": port, "rule": rule, "reason": reason, "hint": hint, "not_judged": open}),
        )?;
    } else {
        let rule = rule.map(|rule| format!(" ({rule})")).unwrap_or_default();
        let why = hint.map(|hint| format!(": {hint}")).unwrap_or_default();
        output::result(&format!("{host}:{} {}{rule}{why}", wanted.port, if allowed { "allowed" } else { "denied" }));
    }
    if mode == Mode::Observe && !allowed {
        output::say("the mode is `observe`: it would be let through if its addresses are public, and recorded");
    }
    if !args.json {
        open.iter().for_each(|what| output::say(&format!("not judged here: {what}")));
    }
    Ok(if allowed { Exit::Clean } else { Exit::Failed })
}

/// What decides too when it comes to it, and cannot be known from settings.
fn not_judged(egress: &Egress, addresses: &[IpAddr], budget: bool) -> Vec<&'static str> {
    let per_tool = egress.rules.per_tool();
    let all = [
        (addresses.is_empty(), "its addresses, which are checked when it is looked up; --address judges one"),
        (
            per_tool && egress.attribution == Attribution::Exact,
            "calls of other tools at work at the same time, which the rule must allow too (`attribution: exact`); give several --tool to judge those together",
        ),
        (
            per_tool && egress.attribution == Attribution::Set,
            "calls of other tools at work at the same time: a rule for any of them would be enough (`attribution: set`)",
        ),
        (budget, "the limits of the rule (`rate`, `connections`, `bytes_out`), which depend on what went before"),
        (true, "what is said inside a tunnel, whether the destination answers, and `egress.breaker`"),
    ];
    all.into_iter().filter_map(|(applies, what)| applies.then_some(what)).collect()
}

/// The settings of a service in `mesh.yaml`, or of a settings file.
fn settings(args: &EgressTestArgs) -> anyhow::Result<Egress> {
    if let Some(path) = &args.config {
        return settings_of_sidecar(path);
    }
    let name = args.mesh.display().to_string();
    let text = files::read(&args.mesh)?;
    let manifest = Manifest::from_sources(Some((&name, &text)), &|_| None)?;
    let services = manifest.services;
    let service = match (&args.service, services.len()) {
        (Some(wanted), _) => services.into_iter().find(|service| service.name == *wanted),
        (None, 1) => services.into_iter().next(),
        (None, _) => bail!("{name} has several services: name one with --service"),
    };
    let service = service.with_context(|| format!("{name} has no such service"))?;
    let Some(egress) = service.egress else {
        bail!("the service `{}` has no `egress`: it has no proxy, and dials what its machine lets it", service.name);
    };
    Ok(egress.settings)
}

fn settings_of_sidecar(path: &Path) -> anyhow::Result<Egress> {
    let (name, text) = (path.display().to_string(), files::read(path)?);
    let file = Some((name.as_str(), text.as_str()));
    let egress = match Config::from_sources(file, &|_| None) {
        Ok(config) => config.egress,
        // A file of an outbound half by itself is no whole one; where it is neither, the whole one's mistakes tell more.
        Err(wrong) => Some(EgressOnly::from_sources(file, &|_| None).map_err(|_| wrong)?.egress),
    };
    egress.with_context(|| format!("{name} has no `egress`: nothing listens for what the server dials"))
}

/// Where somebody wants to go. The path is known where the request can be read.
struct Wanted {
    host: Host,
    port: u16,
    path: Option<String>,
}

impl Wanted {
    /// `https://host/path`, `http://host/path` or `host:port`.
    fn read(url: &str) -> anyhow::Result<Wanted> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
        let plain = match scheme {
            "http" => true,
            "https" => false,
            other => bail!("{url}: the scheme {other} is unknown here; write http://, https:// or host:port"),
        };
        let (whose, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let whose = authority(whose).with_context(|| url.to_owned())?;
        let host = Host::parse(whose.host).with_context(|| url.to_owned())?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let port = whose.port.unwrap_or(if plain { 80 } else { 443 });
        Ok(Wanted { host, port, path: plain.then_some(path) })
    }
}

/// What a line of the egress log says that is of use here.
#[derive(Deserialize)]
struct Line {
    event: String,
    host: String,
    port: u16,
    #[serde(default)]
    tools: Vec<String>,
    verdict: String,
    reason: Option<String>,
    #[serde(default)]
    bytes_down: u64,
}

/// What a destination needs of its rule, besides being named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Nothing,
    /// Its TLS hides a name.
    Ech,
    /// It speaks something else than TLS; then nothing inside is looked at.
    Raw,
}

impl Need {
    /// What is said of it in a rule.
    fn setting(self) -> &'static str {
        match self {
            Need::Nothing => "",
            Need::Ech => "      ech: true    # its TLS hid a name\n",
            Need::Raw => "      raw: true    # something else than TLS was spoken there\n",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Need::Nothing => "",
            Need::Ech => "-ech",
            Need::Raw => "-raw",
        }
    }
}

/// Destinations, and what each needs.
type Hosts = BTreeMap<String, Need>;

fn suggest(logs: &[std::path::PathBuf]) -> anyhow::Result<Exit> {
    let mut seen = Seen::default();
    for path in logs {
        // The log may share a file with others: what is no line of it is passed over.
        for line in files::read(path)?.lines() {
            if let Ok(line) = serde_json::from_str::<Line>(line) {
                seen.note(line);
            }
        }
    }
    if seen.certain.is_empty() && seen.shared.is_empty() {
        bail!("nothing was let through in these logs; run the service with `mode: observe` first");
    }
    output::result(seen.rules().trim_end());
    Ok(Exit::Clean)
}

/// What went through, by the tools behind it.
#[derive(Default)]
struct Seen {
    /// By the one tool, or none.
    certain: BTreeMap<Option<String>, Hosts>,
    /// By several, any of which it may have been.
    shared: BTreeMap<BTreeSet<String>, Hosts>,
    /// Where tunnels led whose TLS was for another name, or for none.
    fronted: BTreeSet<String>,
    /// Refused by address: nobody should allow it without a look.
    inside: BTreeSet<String>,
    /// Names that look like others.
    odd: BTreeSet<String>,
}

impl Seen {
    fn note(&mut self, line: Line) {
        if line.event != "egress" {
            return;
        }
        // What stands in a log somebody else chose: only what is a destination becomes part of a rule, or of a comment.
        let to = if line.port == 443 { line.host.clone() } else { format!("{}:{}", line.host, line.port) };
        let Ok(to) = Destination::parse(&to) else { return };
        if let HostPattern::Below(_) = &to.host {
            return;
        }
        if let HostPattern::Exact(name) = &to.host
            && name.mixes_scripts()
        {
            self.odd.insert(to.to_string());
        }
        let to = to.to_string();
        if line.verdict == "denied" && line.reason.as_deref() == Some("address") {
            self.inside.insert(to);
            return;
        }
        if !matches!(line.verdict.as_str(), "allowed" | "observed") {
            return;
        }
        let need = match line.reason.as_deref() {
            Some("not_tls") => Need::Raw,
            // It was the destination that spoke first.
            Some("silent") if line.bytes_down > 0 => Need::Raw,
            Some("hidden_sni") => Need::Ech,
            Some("no_sni" | "sni_mismatch") => {
                self.fronted.insert(to.clone());
                Need::Nothing
            }
            _ => Need::Nothing,
        };
        let hosts = match line.tools.as_slice() {
            [] => self.certain.entry(None).or_default(),
            [tool] => self.certain.entry(Some(tool.clone())).or_default(),
            tools => self.shared.entry(tools.iter().cloned().collect()).or_default(),
        };
        let known = hosts.entry(to).or_insert(need);
        *known = need.max(*known);
    }

    /// The `egress` section. What was seen of several tools is left out where one of them is known to go there.
    fn rules(&self) -> String {
        let mut out = String::new();
        let mut unsaid = false;
        for (number, (tool, hosts)) in self.certain.iter().enumerate() {
            if tool.as_deref().is_some_and(|tool| !is_literal(tool)) {
                unsaid = true;
                continue;
            }
            let tools = tool.iter().cloned().collect();
            rules(&mut out, &tool.as_deref().map_or("outside".to_owned(), |tool| named(number, tool)), &tools, hosts);
        }
        let known = |tools: &BTreeSet<String>, to: &String| {
            tools.iter().any(|tool| self.certain.get(&Some(tool.clone())).is_some_and(|hosts| hosts.contains_key(to)))
        };
        for (number, (tools, hosts)) in self.shared.iter().enumerate() {
            if !tools.iter().all(|tool| is_literal(tool)) {
                unsaid = true;
                continue;
            }
            let left: Hosts =
                hosts.iter().filter(|(to, _)| !known(tools, to)).map(|(to, need)| (to.clone(), *need)).collect();
            if !left.is_empty() {
                out.push_str("    # one of these tools, which were at work at once; keep the right one\n");
                rules(&mut out, &format!("shared-{number}"), tools, &left);
            }
        }
        let head = if out.is_empty() { "egress:\n  rules: []\n" } else { "egress:\n  rules:\n" };
        out.insert_str(0, head);
        if unsaid {
            out.push_str("  # left out: what tools reached whose names have a `*`, which a rule cannot say\n");
        }
        for to in &self.fronted {
            out.push_str(&format!(
                "  # {to}: tunnels there carried TLS for another name, or for none, and will be cut; `raw: true` would let anything through\n"
            ));
        }
        for to in &self.odd {
            out.push_str(&format!(
                "  # {to} mixes letters of scripts that look alike; make sure that it is the one you mean\n"
            ));
        }
        for to in &self.inside {
            out.push_str(&format!(
                "  # refused: {to} has an address inside; a rule has to name its range under `addresses`\n"
            ));
        }
        out
    }
}

/// Whether a tool's name stands for itself as a pattern. One with a star would stand for others too, and no rule can say it.
fn is_literal(tool: &str) -> bool {
    Glob::new(tool).is_ok_and(|glob| glob.exact().is_some())
}

/// A rule's name made of a tool's; the number keeps apart what becomes the same.
fn named(number: usize, tool: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    format!("{}-{number}", tool.chars().take(50).map(fits).collect::<String>())
}

/// A rule for each need. JSON is YAML, and quotes what needs it.
fn rules(out: &mut String, name: &str, tools: &BTreeSet<String>, hosts: &Hosts) {
    for need in [Need::Nothing, Need::Ech, Need::Raw] {
        let hosts: Vec<&String> = hosts.iter().filter(|(_, own)| **own == need).map(|(to, _)| to).collect();
        if hosts.is_empty() {
            continue;
        }
        out.push_str(&format!("    - name: {}\n", json!(format!("{name}{}", need.suffix()))));
        if !tools.is_empty() {
            out.push_str(&format!("      tools: {}\n", json!(tools)));
        }
        out.push_str(&format!("      hosts: {}\n{}", json!(hosts), need.setting()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(host: &str, port: u16, tools: &[&str], verdict: &str) -> Line {
        let tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
        let reason = (verdict == "denied").then(|| "address".to_owned());
        Line { event: "egress".into(), host: host.into(), port, tools, verdict: verdict.into(), reason, bytes_down: 7 }
    }

    fn because(line: Line, reason: &str) -> Line {
        Line { reason: Some(reason.into()), ..line }
    }

    #[test]
    fn urls_say_what_can_be_read() {
        let wanted = Wanted::read("http://API.test:8080/v1?x").unwrap();
        assert_eq!((wanted.host.to_string().as_str(), wanted.port), ("api.test", 8080));
        assert_eq!(wanted.path.as_deref(), Some("/v1?x"));
        let wanted = Wanted::read("https://api.test/v1").unwrap();
        assert_eq!((wanted.port, wanted.path), (443, None));
        assert_eq!(Wanted::read("[::1]:8443").unwrap().port, 8443);
        assert!(Wanted::read("ftp://a").is_err() && Wanted::read("https://a@b").is_err());
    }

    #[test]
    fn what_cannot_be_judged_is_said() {
        let judged = |attribution: &str, rule: &str| {
            let text = format!("egress: {{ {attribution} rules: [ {{ name: a, hosts: [a.test], {rule} }} ] }}");
            let egress = EgressOnly::from_sources(Some(("x", &text)), &|_| None).unwrap().egress;
            let budget = egress.rules.rules().iter().any(|rule| rule.budget != Budget::default());
            not_judged(&egress, &[], budget).join("; ")
        };
        assert!(judged("attribution: exact,", "tools: [t]").contains("`attribution: exact`"));
        assert!(judged("", "tools: [t]").contains("`attribution: set`"));
        let serial = judged("attribution: serial,", "tools: [t], rate: 1/s");
        assert!(!serial.contains("attribution") && serial.contains("`rate`"), "{serial}");
        let plain = judged("attribution: exact,", "");
        assert!(!plain.contains("attribution") && !plain.contains("`rate`") && plain.contains("--address"), "{plain}");
    }

    #[test]
    fn what_was_observed_becomes_rules_that_are_read() {
        let mut seen = Seen::default();
        for each in [
            line("b.test", 443, &["get/it"], "observed"),
            line("a.test", 80, &["get/it"], "allowed"),
            line("b.test", 443, &["get/it", "other"], "observed"),
            line("c.test", 443, &["get/it", "other"], "observed"),
            line("start.test", 443, &[], "observed"),
            line("10.0.0.1", 443, &[], "denied"),
            line("", 0, &[], "observed"),
            line("x\n    - name: all\n      hosts: [evil.test", 443, &[], "denied"),
            line("*.test", 443, &[], "observed"),
            line("star.test", 443, &["*"], "observed"),
            line("star.test", 443, &["get_*", "*"], "observed"),
        ] {
            seen.note(each);
        }
        let text = seen.rules();
        let expected = "egress:\n  rules:\n    - name: \"outside\"\n      hosts: [\"start.test\"]\n    - name: \"get-it-2\"\n      \
                        tools: [\"get/it\"]\n      hosts: [\"a.test:80\",\"b.test\"]\n    # one of these tools, which were at \
                        work at once; keep the right one\n    - name: \"shared-1\"\n      tools: [\"get/it\",\"other\"]\n      \
                        hosts: [\"c.test\"]\n  # refused: 10.0.0.1 has an address inside; a rule has to name its range under \
                        `addresses`\n";
        let expected = expected.replace(
            "  # refused",
            "  # left out: what tools reached whose names have a `*`, which a rule cannot say\n  # refused",
        );
        assert_eq!(text, expected);
        assert_eq!(EgressOnly::from_sources(Some(("x", &text)), &|_| None).unwrap().egress.rules.rules().len(), 3);
    }

    #[test]
    fn what_is_no_usual_tls_is_said_in_the_rules() {
        let mut seen = Seen::default();
        let to = |host: &str, reason: &str| because(line(host, 5432, &["query"], "observed"), reason);
        for each in [
            to("db.test", "host"),
            to("db.test", "not_tls"),
            to("db.test", "host"),
            to("mail.test", "silent"),
            Line { bytes_down: 0, ..to("preconnected.test", "silent") },
            to("hidden.test", "hidden_sni"),
            to("fronted.test", "sni_mismatch"),
            because(line("web.test", 80, &["query"], "observed"), "not_tls"),
        ] {
            seen.note(each);
        }
        let text = seen.rules();
        assert!(text.contains("# fronted.test:5432: tunnels there carried TLS for another name"), "{text}");
        let egress = EgressOnly::from_sources(Some(("x", &text)), &|_| None).unwrap().egress;
        let of = |name: &str| {
            let rule =
                egress.rules.rules().iter().find(|rule| rule.id.as_str() == format!("egress/query-0{name}")).unwrap();
            (rule.raw, rule.ech, rule.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(of(""), (false, false, "fronted.test:5432 preconnected.test:5432".to_owned()));
        assert_eq!(of("-raw"), (true, false, "db.test:5432 mail.test:5432 web.test:80".to_owned()));
        assert_eq!(of("-ech"), (false, true, "hidden.test:5432".to_owned()));
    }
}
