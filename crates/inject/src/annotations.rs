//! The annotations that are read, in one table from which reading, mistakes and documentation follow.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use outrigger_config::nearest;
use serde_json::Value;

use crate::refusal::Refusal;

/// What all of ours begin with.
pub const PREFIX: &str = "outrigger.dev/";
/// Whether a pod, or all pods of a namespace, get a sidecar. An annotation or a label.
pub const INJECT: &str = "outrigger.dev/inject";
/// Set on a pod that has its sidecar, to the version of the injector; also a label (`true`), for selectors.
pub const INJECTED: &str = "outrigger.dev/injected";
/// What the sidecar reads as its policy. Set by the injector.
pub const POLICY_TEXT: &str = "outrigger.dev/sidecar-policy";
/// The authority's roots for the sidecar. Set by the injector.
pub const ROOTS: &str = "outrigger.dev/mesh-roots";
/// What a manifest was before, so that it can be had again (`inject --uninject`). Set by the injector, in files alone.
pub const BEFORE: &str = "outrigger.dev/before";
/// The service as a label, for selectors.
pub const SERVICE_LABEL: &str = "outrigger.dev/service";
/// The one that is not ours: which capabilities a service offers to the mesh.
pub const CAPABILITIES: &str = "mcpx.io/capabilities";

/// One annotation.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Without the prefix.
    pub name: &'static str,
    /// What its value is.
    pub value: &'static str,
    /// What it does.
    pub text: &'static str,
    /// The variable of the sidecar that gets the value as it is; the sidecar's own settings say what is good.
    pub variable: Option<&'static str>,
}

const fn own(name: &'static str, value: &'static str, text: &'static str) -> Known {
    Known { name, value, text, variable: None }
}

const fn passed(name: &'static str, value: &'static str, text: &'static str, variable: &'static str) -> Known {
    Known { name, value, text, variable: Some(variable) }
}

/// All annotations that people set, in the order of the documentation.
pub const KNOWN: &[Known] = &[
    own("inject", "`true`, `false`", "whether the pod gets a sidecar; also as a label, and on namespaces"),
    own("service", "service name", "the service of the mesh; the name of the service account unless set"),
    own("transport", "`http`, `stdio`", "how the server is reached; `http`, or `stdio` where `command` is set"),
    own("container", "name", "the server's container, of several"),
    own(
        "port",
        "number or name",
        "the server's port; the only one of its container unless set, or the one named `mcp`",
    ),
    own("path", "path", "where the server's endpoint is; `/mcp` unless set"),
    own(
        "upstream",
        "URL",
        "instead of `port` and `path`: the server as the sidecar reaches it, such as `unix:/run/s.sock:/mcp`",
    ),
    own(
        "command",
        "command",
        "a stdio server's program and its arguments in one line, as its image has them, where the pod does not say",
    ),
    own(
        "probes",
        "`rewrite`, `keep`",
        "whether the kubelet's HTTP and TCP probes go through the sidecar, which reaches servers that listen on loopback; `rewrite` unless set",
    ),
    own(
        "egress",
        "`off`, `proxy`, `redirect`",
        "how what the server dials is [held to its allowlist](EGRESS.md); `proxy` where `egress-allow` is set",
    ),
    passed("egress-allow", "destinations", "what the server may reach", "OUTRIGGER_EGRESS_ALLOW"),
    passed(
        "egress-mode",
        "`enforce`, `observe`",
        "whether what is not allowed is refused or noted",
        "OUTRIGGER_EGRESS_MODE",
    ),
    passed(
        "egress-attribution",
        "`set`, `exact`, `serial`",
        "which call a connection must belong to",
        "OUTRIGGER_EGRESS_ATTRIBUTION",
    ),
    passed("sandbox", "`strict`, `best-effort`, `off`", "confines a stdio server", "OUTRIGGER_SANDBOX"),
    own(
        "identity",
        "`authority`, `workload-api`",
        "from whom the sidecar has its certificate: the mesh's authority, or the node's agent of the [SPIFFE Workload API](IDENTITY.md#spire-and-other-agents-of-the-spiffe-workload-api) where the injector has `workload_api`, which is then usual",
    ),
    passed(
        "spiffe-id",
        "SPIFFE id",
        "what the agent's certificate says, where that is not `spiffe://<trust domain>/<service>`",
        "OUTRIGGER_SPIFFE_ID",
    ),
    own("policy", "ConfigMap", "one whose `policy.yaml` is the sidecar's policy, instead of the injector's"),
    own("config", "ConfigMap", "one whose `sidecar.yaml` has further settings of the sidecar"),
    passed("allowed-callers", "SPIFFE ids", "who may connect at all", "OUTRIGGER_ALLOWED_CALLERS"),
    passed("ingresses", "SPIFFE ids", "who may say for whom they call", "OUTRIGGER_INGRESSES"),
    passed("era", "`auto`, `modern`, `legacy`, `http+sse`", "the MCP that the server speaks", "OUTRIGGER_ERA"),
    passed(
        "session",
        "`shared`, `per_principal`, `per_client_session`, `per_request`",
        "what one session of the server is shared by",
        "OUTRIGGER_SESSION",
    ),
    passed("catalog", "`shared`, `per_caller`", "whose lists are offered", "OUTRIGGER_CATALOG"),
    passed(
        "header-checks",
        "`strict`, `tolerant`",
        "what happens to requests whose headers contradict them",
        "OUTRIGGER_HEADER_CHECKS",
    ),
    passed("http-sse", "`true`, `false`", "clients may use the transport of 2024-11-05", "OUTRIGGER_HTTP_SSE"),
    passed("in-flight", "number", "calls at work at once", "OUTRIGGER_LIMIT_IN_FLIGHT"),
    passed("children", "number", "processes of a stdio server at once", "OUTRIGGER_LIMIT_CHILDREN"),
    passed("body-limit", "size", "bytes of a request's body", "OUTRIGGER_LIMIT_BODY"),
    passed("request-timeout", "duration", "a call without any sign of life", "OUTRIGGER_REQUEST_TIMEOUT"),
    passed("access-log", "`off`, `stdout`, `stderr`", "a line for each request", "OUTRIGGER_ACCESS_LOG"),
    passed("audit", "`off`, `stdout`, `stderr`", "a line for each decision", "OUTRIGGER_AUDIT"),
    passed("log-level", "`error` to `trace`", "the sidecar's log", "OUTRIGGER_LOG"),
    passed("log-format", "`text`, `json`", "how it looks", "OUTRIGGER_LOG_FORMAT"),
    own("mesh-port", "port", "where the mesh connects; 8443 unless set"),
    own("admin-port", "port", "health and metrics; 15020 unless set"),
    own("egress-port", "port", "the proxy for what the server dials; 15001 unless set"),
    own("dns-port", "port", "its resolver, with `redirect`; 15053 unless set"),
    own("cpu-request", "quantity", "processor time reserved for the sidecar"),
    own("cpu-limit", "quantity", "its most processor time"),
    own("memory-request", "quantity", "memory reserved for it"),
    own("memory-limit", "quantity", "its most memory"),
    own("image", "image", "another sidecar than the injector's"),
];

/// What the injector itself writes; not a mistake to find.
const WRITTEN: [&str; 4] = [INJECTED, POLICY_TEXT, ROOTS, BEFORE];

/// What Kubernetes takes as an annotation.
const TEXT: &str = "a text; put numbers and true or false into quotes";

/// What a namespace says for its pods.
#[derive(Debug, Clone, Default)]
pub struct Namespace {
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its labels, of which only `outrigger.dev/inject` is read.
    pub labels: BTreeMap<String, String>,
}

impl Namespace {
    /// Of an object of kind Namespace.
    pub fn of(object: &Value) -> Self {
        let part = |name: &str| {
            let members = object["metadata"][name].as_object().into_iter().flatten();
            members.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
        };
        Self { annotations: part("annotations"), labels: part("labels") }
    }
}

/// The annotations of a pod, and of its namespace where the pod is silent.
pub(crate) struct Annotations<'a> {
    of_pod: &'a Value,
    namespace: &'a Namespace,
}

/// Whether a pod asks for a sidecar; none when nobody says.
pub(crate) fn asked(pod: &Value, namespace: &Namespace) -> Result<Option<bool>, Refusal> {
    let metadata = &pod["metadata"];
    let of_pod = [&metadata["annotations"][INJECT], &metadata["labels"][INJECT]];
    let of_namespace = [&namespace.annotations, &namespace.labels].map(|it| it.get(INJECT).map(String::as_str));
    if let Some(other) = of_pod.into_iter().find(|it| !it.is_null() && !it.is_string()) {
        return Err(wrong("inject", &other.to_string(), TEXT));
    }
    let word = of_pod.into_iter().find_map(Value::as_str).or_else(|| of_namespace.into_iter().flatten().next());
    match word {
        None => Ok(None),
        Some("true" | "enabled" | "yes") => Ok(Some(true)),
        Some("false" | "disabled" | "no") => Ok(Some(false)),
        Some(other) => Err(wrong("inject", other, "`true` or `false`")),
    }
}

/// That a pod which says nothing of a sidecar does not mean to: one of ours that nobody reads, or no text.
pub(crate) fn silent(pod: &Value) -> Result<(), Refusal> {
    for (name, value) in pod["metadata"]["annotations"].as_object().into_iter().flatten() {
        is_read(name)?;
        if let Some(short) = name.strip_prefix(PREFIX).filter(|_| !value.is_string()) {
            return Err(wrong(short, &value.to_string(), TEXT));
        }
    }
    Ok(())
}

/// That an annotation is one that somebody reads, or none of ours.
fn is_read(name: &str) -> Result<(), Refusal> {
    let Some(short) = name.strip_prefix(PREFIX) else { return Ok(()) };
    if WRITTEN.contains(&name) || KNOWN.iter().any(|known| known.name == short) {
        return Ok(());
    }
    let suggestion = nearest(short, KNOWN.iter().map(|known| known.name));
    Err(Refusal::UnknownAnnotation { name: short.to_owned(), suggestion })
}

impl<'a> Annotations<'a> {
    /// Of a pod that asks for a sidecar.
    ///
    /// # Errors
    /// One of ours that nobody reads: a spelling mistake must not leave a server without what was meant to hold it.
    pub(crate) fn read(pod: &'a Value, namespace: &'a Namespace) -> Result<Self, Refusal> {
        let of_pod = &pod["metadata"]["annotations"];
        let names = of_pod.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        names.chain(namespace.annotations.keys().map(String::as_str)).try_for_each(is_read)?;
        if let Some((name, _)) = of_pod.as_object().into_iter().flatten().find(|(_, value)| !value.is_string()) {
            return Err(wrong(name.strip_prefix(PREFIX).unwrap_or(name), &of_pod[name].to_string(), TEXT));
        }
        Ok(Self { of_pod, namespace })
    }

    /// The value of one of ours; an empty one counts as none, which takes back what the namespace says.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        let full = format!("{PREFIX}{name}");
        let value = self.of_pod[&full].as_str().or_else(|| self.namespace.annotations.get(&full).map(String::as_str));
        value.map(str::trim).filter(|value| !value.is_empty())
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let found = words.iter().find(|(word, _)| *word == value);
        found.map(|(_, meaning)| Some(*meaning)).ok_or_else(|| {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            wrong(name, value, &words.join(" or "))
        })
    }

    /// A port of the sidecar.
    pub(crate) fn port(&self, name: &'static str, default: u16) -> Result<u16, Refusal> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let port = value.parse().ok().filter(|port| *port > 0);
        port.ok_or_else(|| wrong(name, value, "a port from 1 to 65535"))
    }

    /// What the policy may let through of the service, from `mcpx.io/capabilities`.
    pub(crate) fn capabilities(&self) -> Vec<&'a str> {
        let value = self.of_pod[CAPABILITIES].as_str();
        let value = value.or_else(|| self.namespace.annotations.get(CAPABILITIES).map(String::as_str));
        value.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
    }
}

pub(crate) fn wrong(name: &str, value: &str, expected: &str) -> Refusal {
    let shown: String = value.chars().take(100).collect();
    Refusal::Value { name: name.to_owned(), value: shown, expected: expected.to_owned() }
}

/// The table of docs/KUBERNETES.md.
pub fn table() -> String {
    let mut table = String::from("| annotation | value | what it does |\n|---|---|---|\n");
    for known in KNOWN {
        let setting = known.variable.map(|variable| format!(" (`{variable}`)")).unwrap_or_default();
        let _ = writeln!(table, "| `{PREFIX}{}` | {} | {}{setting} |", known.name, known.value, known.text);
    }
    let text = "the capabilities that the policy lets through, by name or pattern, separated by commas; where neither \
                `policy` nor the injector's own says something else";
    let _ = writeln!(table, "| `{CAPABILITIES}` | names | {text} |");
    table
}
