//! The kinds of values of a policy document: names, patterns, grants, and the words of its enumerations.

use crate::capability::CapabilityKind;
use crate::glob::{Glob, MAX_GLOB_BYTES};
use crate::limit::Per;
use crate::policy_set::MtlsMode;
use crate::rule::{Effect, Mode, Requirement};
use outrigger_config::kinds::{Checked, checked, choice};
use outrigger_config::{Kind, Mistake};
use serde_json::json;

/// Longest name of a service, as everywhere in the mesh: merged names must stay short.
const MAX_SERVICE_NAME: usize = 20;
/// Longest name of a policy, rule or limit: it is a log field and goes into replies.
const MAX_NAME: usize = 63;
/// Longest role or scope.
const MAX_GRANT: usize = 256;

/// Words of `mtls.mode`.
pub(super) const MTLS_MODES: &[(&str, MtlsMode)] =
    &[("STRICT", MtlsMode::Strict), ("PERMISSIVE", MtlsMode::Permissive)];
/// Words of `spec.mode`.
pub(super) const MODES: &[(&str, Mode)] = &[("enforce", Mode::Enforce), ("audit", Mode::Audit)];
/// Words of a rule's `effect`.
pub(super) const EFFECTS: &[(&str, Effect)] = &[("allow", Effect::Allow), ("deny", Effect::Deny)];
/// Words of a limit's `per`.
pub(super) const PER: &[(&str, Per)] = &[("client", Per::Client), ("service", Per::Service), ("tool", Per::Tool)];

/// Words of a rule's `kinds`.
pub(super) fn capability_kind() -> Kind<CapabilityKind> {
    choice(&[
        ("tool", CapabilityKind::Tool),
        ("prompt", CapabilityKind::Prompt),
        ("resource", CapabilityKind::Resource),
        ("template", CapabilityKind::Template),
    ])
}

/// The name of a policy, rule or limit. No `/`, which joins the two halves of a rule id.
pub(super) fn name() -> Kind<String> {
    checked(Checked {
        name: "name",
        pattern: "^[A-Za-z0-9._-]{1,63}$",
        accepts: |text| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(fits)
        },
        hint: "letters, digits, '.', '_' and '-', at most 63",
    })
}

/// The way to an argument.
pub(super) fn argument() -> Kind<String> {
    checked(Checked {
        name: "argument",
        pattern: "^[^.\\s]{1,64}(\\.[^.\\s]{1,64}){0,7}$",
        accepts: |text| {
            let fits = |part: &str| {
                (1..=64).contains(&part.len()) && !part.chars().any(|c| c.is_whitespace() || c.is_control())
            };
            text.split('.').count() <= 8 && text.split('.').all(fits)
        },
        hint: "an argument's name, or names with `.` between them: options.mode",
    })
}

/// A role or scope: compared exactly, so a stray space would be a rule that nobody can meet.
pub(crate) fn grant() -> Kind<String> {
    checked(Checked {
        name: "role or scope",
        pattern: "^[^\\s\\x00-\\x1f\\x7f]{1,256}$",
        accepts: |text| {
            (1..=MAX_GRANT).contains(&text.len()) && !text.chars().any(|c| c.is_whitespace() || c.is_control())
        },
        hint: "one word as it stands in the token; several are several entries",
    })
}

/// Any pattern.
pub(super) fn glob() -> Kind<Glob> {
    pattern("pattern", compile, Glob::to_string)
}

/// A pattern for service names. One that no service name can fit is a mistake.
pub(super) fn service_glob() -> Kind<Glob> {
    let parse = |text: &str| {
        let glob = compile(text)?;
        let fixed: usize = text.bytes().filter(|byte| *byte != b'*').count();
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'*');
        if fixed > MAX_SERVICE_NAME || text.starts_with('-') || text.ends_with('-') || !text.bytes().all(fits) {
            let hint =
                "service names are lower-case letters, digits and '-', at most 20; `*` stands for any run of them";
            return Err(Mistake::new(format!("`{}` fits no service name", shown(text)), hint));
        }
        Ok(glob)
    };
    pattern("pattern for services", parse, Glob::to_string)
}

/// A pattern for workloads: for the whole SPIFFE id when it begins like one, else for the service name in it.
pub(super) fn workload() -> Kind<Requirement> {
    let parse = |text: &str| {
        let glob = compile(text)?;
        let path = text.strip_prefix("spiffe://");
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b'*');
        if !path.unwrap_or(text).bytes().all(fits) {
            let hint = "write a service name (agent-*) or a SPIFFE id (spiffe://demo.outrigger.local/agent-*)";
            return Err(Mistake::new(format!("`{}` fits no workload", shown(text)), hint));
        }
        Ok(if path.is_some() { Requirement::WorkloadId(glob) } else { Requirement::WorkloadService(glob) })
    };
    pattern("pattern for workloads", parse, Requirement::to_string)
}

fn pattern<T: 'static>(
    name: &str,
    parse: impl Fn(&str) -> Result<T, Mistake> + 'static,
    show: impl Fn(&T) -> String + 'static,
) -> Kind<T> {
    let schema = json!({"type": "string", "minLength": 1, "maxLength": MAX_GLOB_BYTES});
    Kind::scalar(name, schema, parse, show)
}

fn compile(text: &str) -> Result<Glob, Mistake> {
    Glob::new(text).map_err(|error| Mistake::new(error.to_string(), "`*` stands for any run of characters"))
}

/// Short enough for a message and safe for a terminal.
fn shown(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}
