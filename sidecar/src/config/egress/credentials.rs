//! Settings of credentials that requests of a rule get on their way out.

use std::path::PathBuf;

use outrigger_config::kinds::{self, Checked, Kind};
use outrigger_config::{Fields, Secret, doc};
use outrigger_policy::RuleId;
use outrigger_policy::egress::{DEFAULT_PORT, EgressRule, HostPattern};

/// Fields that say how a message is read, and are not for anybody to add.
const NOT_ADDED: [&str; 9] =
    ["host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "keep-alive", "expect"];
/// Shorter ones would be found in innocent requests.
const SHORTEST_PLACEHOLDER: usize = 8;

/// A header that requests of one rule get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The rule; it is added to nothing else.
    pub rule: RuleId,
    /// Whether it is for requests inside inspected TLS, or for plain ones.
    pub inside: bool,
    /// The header's name.
    pub header: String,
    /// What stands before the secret in the header, such as `Bearer `.
    pub prefix: String,
    /// Where the secret is.
    pub source: Source,
    /// What the server holds instead.
    pub placeholder: Option<Secret>,
}

/// Where a secret is. Read anew for each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// In a variable of the sidecar, which its server does not get.
    Variable(String),
}

/// A credential as it stands in a rule.
pub(super) struct Given {
    header: String,
    prefix: String,
    source: Source,
    placeholder: Option<Secret>,
}

impl Given {
    pub(super) fn of(self, rule: &EgressRule) -> Credential {
        let Self { header, prefix, source, placeholder } = self;
        Credential { rule: rule.id.clone(), inside: rule.inspect, header, prefix, source, placeholder }
    }
}

/// Reads the `credentials` of a rule.
pub(super) fn read(f: &mut Fields<'_>) -> Vec<Given> {
    f.list("credentials", "Headers that requests of this rule get, so that the server need not hold secrets.", read_one)
}

fn read_one(f: &mut Fields<'_>) -> Option<Given> {
    let text = doc("The header's name; one of that name from the server is replaced.").example("Authorization");
    let header = f.required("header", text, header());
    let text = doc("What stands in it before the secret.").because("nothing").example("\"Bearer \"");
    let prefix = f.with_default("prefix", text, prefix_text(), String::new());
    let text = doc("A file with the secret, such as a mounted one; read anew for each request.");
    let file = f.optional("file", text.example("/run/secrets/api-key"), kinds::path());
    let text = doc("A variable of the sidecar with the secret. A server that the sidecar starts does not inherit it.");
    let variable = f.optional("env", text.example("API_KEY"), kinds::text());
    let text =
        doc("What the server holds instead, at least 8 characters: a request to anywhere else that has it is refused.")
            .example("\"placeholder-for-the-key\"");
    let placeholder = f.optional("placeholder", text, kinds::secret());
    if placeholder.as_ref().is_some_and(|text| text.reveal().len() < SHORTEST_PLACEHOLDER) {
        f.mistake("placeholder", "it is shorter than 8 characters", "choose one that stands in no other request");
    }
    let source = match (file, variable) {
        (Some(file), None) => Some(Source::File(file)),
        (None, Some(name)) => Some(Source::Variable(name)),
        (Some(_), Some(_)) => {
            f.mistake("env", "both `file` and `env` are given", "keep the one that applies");
            None
        }
        (None, None) => {
            // A wrong value has a mistake of its own already.
            if !f.has("file") && !f.has("env") {
                f.mistake("", "it is not said where the secret is", "add `file` or `env`");
            }
            None
        }
    };
    Some(Given { header: header?, prefix, source: source?, placeholder })
}

/// A credential needs requests that can be read.
pub(super) fn check(f: &mut Fields<'_>, rule: &EgressRule) {
    let plain = rule.hosts.iter().any(|host| match host.port {
        Some(port) => port != DEFAULT_PORT,
        None if rule.ports.is_empty() => {
            matches!(&host.host, HostPattern::Exact(name) if name.in_mesh().is_some())
        }
        None => rule.ports.iter().any(|port| *port != DEFAULT_PORT),
    });
    if !rule.inspect && !plain {
        let hint = "add `inspect: true`, or name the port of plain HTTP";
        f.mistake("credentials", "nothing can be added to requests of this rule: they are inside TLS", hint);
    }
}

fn header() -> Kind<String> {
    kinds::checked(Checked {
        name: "header name",
        pattern: "^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$",
        accepts: |text| {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            let known = NOT_ADDED.iter().any(|name| text.eq_ignore_ascii_case(name));
            (1..=64).contains(&text.len()) && text.bytes().all(token) && !known
        },
        hint: "a name such as Authorization or X-Api-Key; not one that says how a message is read, such as Host",
    })
}

fn prefix_text() -> Kind<String> {
    kinds::checked(Checked {
        name: "text",
        pattern: "^[ -~]*$",
        accepts: |text| text.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
        hint: "printable ASCII characters",
    })
}
