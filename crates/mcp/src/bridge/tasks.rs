//! Tasks: calls whose result is fetched later, in the two forms that exist.
//!
//! ```text
//!               2025-11-25 (experimental)               2026-07-28 (extension io.modelcontextprotocol/tasks)
//!  who decides  the client, by `params.task`            the server, for clients that declare the extension
//!  the answer   {task: {taskId, ttl, pollInterval}}     {resultType: "task", taskId, ttlMs, pollIntervalMs}
//!  the result   tasks/result, which waits for it        in tasks/get, as `result` or `error`
//!  questions    requests on the stream of tasks/result  `inputRequests` in tasks/get, answered by tasks/update
//!  news         notifications/tasks/status              notifications/tasks, for the `taskIds` of a listen
//! ```
//!
//! [`to_server`] turns the right column into the left for a legacy server, [`to_client`] the left into the right for a
//! legacy client, and [`ids`] gives tasks names that lead back to their place and belong to one caller.
//!
//! Sources: SEP-2663 (tasks extension), 2025-11-25 basic/utilities/tasks.

pub mod ids;
pub mod to_client;
pub mod to_server;

use crate::{
    edit::rebuild_object,
    envelope::{Message, Meta},
    json::{Span, decode_string, member, members, write_string},
};

/// The name of the extension in `capabilities.extensions`.
pub const EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// How a tool wants to be called (`execution.taskSupport`, 2025-11-25).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TaskSupport {
    /// Never as a task; the default.
    #[default]
    Forbidden,
    /// Either way.
    Optional,
    /// Only as a task.
    Required,
}

impl TaskSupport {
    /// Reads `execution` of a tool's definition (raw JSON).
    pub fn of_execution(execution: &[u8]) -> Self {
        let support = member(execution, whole(execution), "taskSupport").map(|span| span.of(execution));
        match support {
            Some(b"\"optional\"") => Self::Optional,
            Some(b"\"required\"") => Self::Required,
            _ => Self::Forbidden,
        }
    }
}

/// How far a task is; the words are the same in both forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// At work.
    Working,
    /// Waits for answers of the client.
    InputRequired,
    /// Done.
    Completed,
    /// Done, with an error. In 2025-11-25 also a tool's own error, which the extension calls completed.
    Failed,
    /// Given up.
    Cancelled,
}

impl Status {
    /// Recognises a status; what is none counts as at work, so that the task is looked at again.
    pub fn of(raw: &[u8]) -> Self {
        match raw {
            b"\"input_required\"" => Self::InputRequired,
            b"\"completed\"" => Self::Completed,
            b"\"failed\"" => Self::Failed,
            b"\"cancelled\"" => Self::Cancelled,
            _ => Self::Working,
        }
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::InputRequired => "input_required",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it is the last one.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Whether a modern request's client declares the extension.
pub fn declared(request: &Message) -> bool {
    request.meta().get(Meta::ClientCapabilities).is_some_and(|span| has_extension(request.body(), span))
}

/// Whether capabilities, which lie at `span` of `body`, name the extension.
pub fn has_extension(body: &[u8], span: Span) -> bool {
    member(body, span, "extensions").is_some_and(|list| member(body, list, EXTENSION).is_some())
}

/// Capabilities (a raw object) with the extension among them.
pub fn with_extension(capabilities: &[u8]) -> Vec<u8> {
    let extensions = member(capabilities, whole(capabilities), "extensions")
        .filter(|span| span.of(capabilities).first() == Some(&b'{'));
    let extensions = match extensions {
        Some(span) => rebuild_object(capabilities, span, |_| false, &[(EXTENSION, b"{}")]),
        None => format!("{{\"{EXTENSION}\":{{}}}}").into_bytes(),
    };
    rebuild_object(capabilities, whole(capabilities), |_| false, &[("extensions", &extensions)])
}

/// Whether a server that says these capabilities (a raw object) lets tools be called as tasks in the form of 2025-11-25.
pub fn legacy_support(capabilities: &[u8]) -> bool {
    let step = |at: Option<Span>, name| at.and_then(|at| member(capabilities, at, name));
    ["tasks", "requests", "tools", "call"].into_iter().fold(Some(whole(capabilities)), step).is_some()
}

/// What a legacy server says of tasks, as a modern one would: capabilities (a raw object) with the extension in place of
/// `tasks`. The same bytes where it says nothing.
pub fn modern_capabilities(capabilities: &[u8]) -> Vec<u8> {
    if !legacy_support(capabilities) {
        return capabilities.to_vec();
    }
    let with = with_extension(capabilities);
    rebuild_object(&with, whole(&with), |name| name == "tasks", &[])
}

/// The status and the pause that a task asks for between two looks, in milliseconds, from the object that describes it.
pub fn progress(body: &[u8], task: Span) -> (Status, Option<u64>) {
    let status = member(body, task, "status").map_or(Status::Working, |span| Status::of(span.of(body)));
    let pause = member(body, task, "pollIntervalMs").or_else(|| member(body, task, "pollInterval"));
    (status, pause.and_then(|span| std::str::from_utf8(span.of(body)).ok()?.parse().ok()))
}

/// The members that differ between the forms, (2025-11-25, extension).
const NAMES: [(&str, &str); 2] = [("ttl", "ttlMs"), ("pollInterval", "pollIntervalMs")];

/// Which form to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Legacy,
    Modern,
}

/// The members of a description in another form, with `set` in place of members of the same name and without `drop`.
fn described(body: &[u8], task: Span, form: Form, drop: &[&str], set: &[(&str, &[u8])], out: &mut Vec<u8>) {
    let mut first = true;
    let mut separate = |out: &mut Vec<u8>| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
    };
    for (key, value) in members(body, task) {
        let name = key.decode(body);
        let renamed = NAMES.iter().find_map(|(legacy, modern)| match form {
            Form::Legacy => (name == *modern).then_some(*legacy),
            Form::Modern => (name == *legacy).then_some(*modern),
        });
        let name = renamed.unwrap_or(&name);
        if drop.contains(&name) || set.iter().any(|(set, _)| *set == name) {
            continue;
        }
        separate(out);
        write_string(out, name);
        out.push(b':');
        out.extend_from_slice(value.of(body));
    }
    for (name, value) in set {
        separate(out);
        write_string(out, name);
        out.push(b':');
        out.extend_from_slice(value);
    }
}

/// `params.taskId` or another identifier, as text.
fn text(body: &[u8], object: Span, name: &str) -> Option<String> {
    member(body, object, name).and_then(|span| decode_string(span.of(body))).map(std::borrow::Cow::into_owned)
}

fn whole(value: &[u8]) -> Span {
    Span { start: 0, end: u32::try_from(value.len()).unwrap_or(u32::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_is_declared_without_losing_what_else_is() {
        assert_eq!(with_extension(b"{}"), br#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#);
        let more = with_extension(br#"{"sampling":{},"extensions":{"x":{"a":1.0}}}"#);
        assert_eq!(more, br#"{"sampling":{},"extensions":{"x":{"a":1.0},"io.modelcontextprotocol/tasks":{}}}"#);
        assert!(has_extension(&more, whole(&more)));
        assert!(!has_extension(b"{}", whole(b"{}")));
    }

    #[test]
    fn what_a_server_says_of_tasks_is_read() {
        let says = br#"{"tools":{},"tasks":{"list":{},"requests":{"tools":{"call":{}}}}}"#;
        assert!(legacy_support(says));
        assert_eq!(modern_capabilities(says), br#"{"tools":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#);
        for not in [&br#"{"tasks":{"requests":{}}}"#[..], b"{}", br#"{"tasks":true}"#] {
            assert_eq!(modern_capabilities(not), not);
        }
        assert_eq!(TaskSupport::of_execution(br#"{"taskSupport":"required"}"#), TaskSupport::Required);
        assert_eq!(TaskSupport::of_execution(br#"{"taskSupport":1}"#), TaskSupport::Forbidden);
        assert_eq!(TaskSupport::of_execution(b"7"), TaskSupport::Forbidden);
    }
}
