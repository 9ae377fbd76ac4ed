//! A legacy client's tasks (2025-11-25) on modern servers, which decide themselves what becomes a task.
//!
//! The client asked for a task and must get one. When the server made none, its answer is kept here as a task that was
//! finished at once, a *mirror*. For the others the ledger remembers only what was said last, for `tasks/list`.

use bytes::Bytes;

use crate::{
    bridge::meta_keys::{RELATED_TASK, SERVER_INFO},
    edit::{Edits, rebuild_object},
    envelope::{Field, Message, Param},
    error::{INTERNAL, INVALID_PARAMS, RpcError},
    json::{decode_string, member, members, quote},
    method::Method,
};

use super::{Form, Status, described, progress, whole};

/// Tasks that one session may have; the oldest gives way.
const MAX_TASKS: usize = 256;
/// Bytes of the answers that mirrors of one session hold; the oldest gives way.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// How long a mirror is kept when its client does not say, in milliseconds.
const DEFAULT_TTL_MS: u64 = 5 * 60 * 1000;
/// How long it is kept at most.
const MAX_TTL_MS: u64 = 60 * 60 * 1000;
/// The pause that clients are asked to make before they look at a task of a server that says none, in milliseconds.
pub const DEFAULT_PAUSE_MS: u64 = 1000;

/// The capabilities that a 2025-11-25 client is told in `initialize`, when the mesh knows tasks.
pub const CAPABILITY: &[u8] = br#"{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}"#;

/// What a client said about the task that it wants. `None` when it wants none.
pub fn wanted(call: &Message) -> Option<Wanted> {
    let span = call.params().get(Param::Task).filter(|_| call.method == Method::ToolsCall)?;
    let body = call.body();
    if call.raw(span).first() != Some(&b'{') {
        return None;
    }
    let ttl = member(body, span, "ttl").and_then(|ttl| std::str::from_utf8(ttl.of(body)).ok()?.parse().ok());
    Some(Wanted { ttl_ms: ttl })
}

/// See [`wanted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// How long the task should be kept, in milliseconds.
    pub ttl_ms: Option<u64>,
}

/// The call without `params.task`, which modern servers do not know.
pub fn plain(call: &Message) -> Bytes {
    let (Some(params), Some(_)) = (call.params().object(), call.params().get(Param::Task)) else {
        return call.body().clone();
    };
    let mut edits = Edits::new();
    edits.replace(params, rebuild_object(call.body(), params, |name| name == "task", &[]));
    edits.apply_flat(call.body())
}

/// One task that a session knows.
#[derive(Debug)]
struct Entry {
    id: String,
    /// Its description in the client's form, as it was told last.
    task: Vec<u8>,
    /// The answer of a mirror: a raw result.
    answer: Option<Bytes>,
    /// When it is forgotten, in milliseconds of the caller's clock.
    until: u64,
    cancelled: bool,
}

/// The tasks of one session, oldest first.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
}

/// What a task is that a client names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A mirror: its description, and its result.
    Mirror(Bytes, Bytes),
    /// Not ours: the mesh knows.
    Elsewhere,
}

impl Ledger {
    /// Takes a task that a server made; gives the result for the client. `now` is in milliseconds.
    pub fn created(&mut self, now: u64, reply: &Message) -> Option<Vec<u8>> {
        let at = reply.result_span()?;
        let id = super::text(reply.body(), at, "taskId")?;
        let task = legacy(reply, false);
        self.remember(now, id, &task);
        Some(nested(&task, reply))
    }

    /// Makes a finished task of an answer that a server gave at once; gives the result for the client. `stamp` is the time
    /// (ISO 8601), `id` a name that nobody can guess.
    pub fn mirror(&mut self, now: u64, stamp: &str, id: &str, wanted: Wanted, reply: &Message) -> Option<Vec<u8>> {
        let result = reply.result_span()?;
        let failed = reply.results().get(Field::IsError).is_some_and(|span| reply.raw(span) == b"true");
        let status = if failed { Status::Failed } else { Status::Completed };
        let ttl = wanted.ttl_ms.unwrap_or(DEFAULT_TTL_MS).min(MAX_TTL_MS);
        let task = format!(
            "{{\"taskId\":{},\"status\":\"{}\",\"createdAt\":\"{stamp}\",\"lastUpdatedAt\":\"{stamp}\",\"ttl\":{ttl},\"pollInterval\":{DEFAULT_PAUSE_MS}}}",
            quote(id),
            status.as_str(),
        )
        .into_bytes();
        let answer = Bytes::from(related(reply.body(), result, id));
        self.make_room(now, answer.len());
        let out = nested(&task, reply);
        self.entries.push(Entry { id: id.to_owned(), task, answer: Some(answer), until: now + ttl, cancelled: false });
        Some(out)
    }

    /// What the client means by `id`.
    pub fn find(&mut self, now: u64, id: &str) -> Found {
        self.entries.retain(|entry| entry.until > now);
        match self.entries.iter().find(|entry| entry.id == id) {
            Some(Entry { task, answer: Some(answer), .. }) => {
                Found::Mirror(Bytes::copy_from_slice(task), answer.clone())
            }
            _ => Found::Elsewhere,
        }
    }

    /// The answer to `tasks/get`, from that of the mesh.
    pub fn described(&mut self, now: u64, reply: &Message) -> Option<Vec<u8>> {
        let id = super::text(reply.body(), reply.result_span()?, "taskId")?;
        let cancelled = self.entries.iter().any(|entry| entry.id == id && entry.cancelled);
        let task = legacy(reply, cancelled);
        self.remember(now, id, &task);
        Some(task)
    }

    /// Notes that the client gave a task up: it is cancelled from now on, whatever becomes of it (2025-11-25, "Task
    /// Cancellation").
    pub fn cancel(&mut self, id: &str) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.cancelled = true;
        }
    }

    /// The result of `tasks/list`: the tasks of this session, as they were told last.
    pub fn list(&mut self, now: u64) -> Vec<u8> {
        self.entries.retain(|entry| entry.until > now);
        let tasks: Vec<&[u8]> = self.entries.iter().map(|entry| &entry.task[..]).collect();
        [b"{\"tasks\":[", tasks.join(&b","[..]).as_slice(), b"]}"].concat()
    }

    fn remember(&mut self, now: u64, id: String, task: &[u8]) {
        let ttl =
            member(task, whole(task), "ttl").and_then(|span| std::str::from_utf8(span.of(task)).ok()?.parse().ok());
        let until = now + ttl.unwrap_or(MAX_TTL_MS).min(MAX_TTL_MS);
        match self.entries.iter_mut().find(|entry| entry.id == id) {
            Some(entry) => entry.task = task.to_vec(),
            None => {
                self.make_room(now, 0);
                self.entries.push(Entry { id, task: task.to_vec(), answer: None, until, cancelled: false });
            }
        }
    }

    fn make_room(&mut self, now: u64, bytes: usize) {
        self.entries.retain(|entry| entry.until > now);
        let held = |entries: &[Entry]| entries.iter().filter_map(|e| e.answer.as_ref()).map(Bytes::len).sum::<usize>();
        while !self.entries.is_empty()
            && (self.entries.len() >= MAX_TASKS || held(&self.entries).saturating_add(bytes) > MAX_BYTES)
        {
            self.entries.remove(0);
        }
    }
}

/// A time, in seconds since 1970, as descriptions have it (ISO 8601, UTC).
pub fn stamp(seconds: u64) -> String {
    let (days, rest) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Counted from March, so that leap days come last (proleptic Gregorian calendar, eras of 400 years).
    let from_march = days + 719_468;
    let era = from_march.div_euclid(146_097);
    let day_of_era = from_march.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + next;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// A description in the client's form. A tool's own error makes a task fail there.
fn legacy(reply: &Message, cancelled: bool) -> Vec<u8> {
    let body = reply.body();
    let at = reply.result_span().unwrap_or_default();
    let said = progress(body, at).0;
    let failed = member(body, at, "result")
        .and_then(|result| member(body, result, "isError"))
        .is_some_and(|span| span.of(body) == b"true");
    let status = match said {
        _ if cancelled => Status::Cancelled,
        Status::Completed if failed => Status::Failed,
        other => other,
    };
    let word = format!("\"{}\"", status.as_str());
    let why = member(body, at, "error").and_then(|error| member(body, error, "message"));
    let mut set: Vec<(&str, &[u8])> = vec![("status", word.as_bytes())];
    if let Some(why) = why.filter(|_| member(body, at, "statusMessage").is_none()) {
        set.push(("statusMessage", why.of(body)));
    }
    let mut out = b"{".to_vec();
    let drop = ["resultType", "result", "error", "inputRequests", "_meta"];
    described(body, at, Form::Legacy, &drop, &set, &mut out);
    out.push(b'}');
    out
}

/// `{task, _meta}` as the answer to the call.
fn nested(task: &[u8], reply: &Message) -> Vec<u8> {
    let mut out = b"{\"task\":".to_vec();
    out.extend_from_slice(task);
    if let Some(meta) = reply.meta().object() {
        out.extend_from_slice(b",\"_meta\":");
        out.extend_from_slice(reply.raw(meta));
    }
    out.push(b'}');
    out
}

/// A result that says which task it belongs to, as `tasks/result` must.
fn related(body: &[u8], result: crate::json::Span, id: &str) -> Vec<u8> {
    let task = format!("{{\"taskId\":{}}}", quote(id));
    let set: [(&str, &[u8]); 1] = [(RELATED_TASK, task.as_bytes())];
    let meta = match member(body, result, "_meta") {
        Some(meta) => rebuild_object(body, meta, |name| name == SERVER_INFO, &set),
        None => rebuild_object(b"{}", whole(b"{}"), |_| false, &set),
    };
    rebuild_object(body, result, |_| false, &[("_meta", &meta)])
}

/// How a task is, for a client that waits for its result.
#[derive(Debug)]
pub enum Waited {
    /// Look again after this many milliseconds.
    Wait(u64),
    /// The client is asked these things first: key, method, raw params.
    Ask(Vec<(String, Method, Bytes)>),
    /// The raw result.
    Result(Bytes),
    /// The raw error.
    Error(Bytes),
}

/// Reads the mesh's answer to `tasks/get` for a `tasks/result` of the client. `seen` says whether a question was put to
/// the client before.
pub fn waited(id: &str, reply: &Message, seen: impl Fn(&str) -> bool) -> Waited {
    let body = reply.body();
    let Some(at) = reply.result_span() else {
        let error = reply.error_span().map(|span| reply.slice(span));
        return Waited::Error(error.unwrap_or_else(|| unknown(id).object().into()));
    };
    let (status, pause) = progress(body, at);
    let pause = pause.unwrap_or(DEFAULT_PAUSE_MS).clamp(100, 60_000);
    match status {
        Status::Completed => match member(body, at, "result") {
            Some(result) => Waited::Result(related(body, result, id).into()),
            None => Waited::Error(RpcError::new(INTERNAL, "the task has no result").object().into()),
        },
        Status::Failed => {
            let error = member(body, at, "error").map(|span| reply.slice(span));
            Waited::Error(error.unwrap_or_else(|| RpcError::new(INTERNAL, "the task failed").object().into()))
        }
        Status::Cancelled => Waited::Error(RpcError::new(INTERNAL, "the task was cancelled").object().into()),
        Status::Working => Waited::Wait(pause),
        Status::InputRequired => {
            let asked = member(body, at, "inputRequests").map(|span| members(body, span)).unwrap_or_default();
            let asks: Vec<_> = asked
                .into_iter()
                .filter_map(|(key, value)| {
                    let key = key.decode(body).into_owned();
                    let method = member(body, value, "method").and_then(|m| decode_string(m.of(body)))?;
                    let params = member(body, value, "params").map(|span| span.of(body)).unwrap_or(b"{}");
                    let params = related(params, whole(params), id);
                    (!seen(&key)).then(|| (key, Method::parse(method.as_bytes()), params.into()))
                })
                .collect();
            if asks.is_empty() { Waited::Wait(pause) } else { Waited::Ask(asks) }
        }
    }
}

/// The status in the mesh's answer to `tasks/get`.
pub fn status(reply: &Message) -> Option<Status> {
    Some(progress(reply.body(), reply.result_span()?).0)
}

/// A notification that tells a client of a task, from its description.
pub fn told(task: &[u8]) -> Bytes {
    crate::error::notification(Method::TasksStatus.as_str(), Some(task))
}

/// The error for a task that is not known, or not the client's.
pub fn unknown(id: &str) -> RpcError {
    RpcError::new(INVALID_PARAMS, format!("Task not found: {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    fn state(status: &str, more: &str) -> Message {
        message(&format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"complete","taskId":"t","status":"{status}","createdAt":"c","lastUpdatedAt":"l","ttlMs":60000,"pollIntervalMs":5{more}}}}}"#
        ))
    }

    #[test]
    fn what_the_client_wants_is_read_and_taken_out() {
        let call = message(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","task":{"ttl":5},"arguments":{"a":1.0}}}"#,
        );
        assert_eq!(wanted(&call), Some(Wanted { ttl_ms: Some(5) }));
        assert_eq!(
            plain(&call),
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1.0}}}"#
        );
        assert_eq!(wanted(&message(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"task":7}}"#)), None);
        assert_eq!(wanted(&message(r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"task":{}}}"#)), None);
    }

    #[test]
    fn a_task_of_the_server_is_nested_and_listed() {
        let mut ledger = Ledger::default();
        let made = message(
            r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"task","taskId":"t","status":"working","createdAt":"c","lastUpdatedAt":"l","ttlMs":60000,"pollIntervalMs":5,"_meta":{"a":1}}}"#,
        );
        let task =
            r#"{"taskId":"t","createdAt":"c","lastUpdatedAt":"l","ttl":60000,"pollInterval":5,"status":"working"}"#;
        assert_eq!(text(ledger.created(0, &made).unwrap()), format!(r#"{{"task":{task},"_meta":{{"a":1}}}}"#));
        assert_eq!(text(ledger.list(1)), format!(r#"{{"tasks":[{task}]}}"#));
        assert_eq!(ledger.find(1, "t"), Found::Elsewhere);
        let failed = ledger.described(2, &state("completed", r#","result":{"isError":true}"#)).unwrap();
        assert!(text(failed).contains(r#""status":"failed""#));
        ledger.cancel("t");
        let late = ledger.described(2, &state("working", "")).unwrap();
        assert!(text(late).contains(r#""status":"cancelled""#), "a cancelled task stays so");
        assert_eq!(text(ledger.list(60_000)), r#"{"tasks":[]}"#, "its time is over");
    }

    #[test]
    fn an_answer_at_once_becomes_a_finished_task() {
        let mut ledger = Ledger::default();
        let reply = message(r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true,"x":1.50}}"#);
        let wanted = Wanted { ttl_ms: Some(u64::MAX) };
        let told = text(ledger.mirror(0, "2026-01-01T00:00:00Z", "m", wanted, &reply).unwrap());
        assert_eq!(
            told,
            r#"{"task":{"taskId":"m","status":"failed","createdAt":"2026-01-01T00:00:00Z","lastUpdatedAt":"2026-01-01T00:00:00Z","ttl":3600000,"pollInterval":1000}}"#
        );
        let Found::Mirror(task, answer) = ledger.find(1, "m") else { panic!("it should be here") };
        assert!(told.contains(std::str::from_utf8(&task).unwrap()));
        assert_eq!(
            answer,
            r#"{"content":[],"isError":true,"x":1.50,"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"m"}}}"#
        );
        assert_eq!(ledger.find(MAX_TTL_MS, "m"), Found::Elsewhere);
    }

    #[test]
    fn times_are_written_as_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_795_305_599, "2026-11-21T23:59:59Z"),
        ] {
            assert_eq!(stamp(seconds), text);
        }
    }

    #[test]
    fn mirrors_are_bounded() {
        let mut ledger = Ledger::default();
        let big = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"x":"{}"}}}}"#, "x".repeat(MAX_BYTES / 3));
        for id in ["a", "b", "c"] {
            ledger.mirror(0, "s", id, Wanted { ttl_ms: None }, &message(&big)).unwrap();
        }
        assert_eq!(ledger.find(1, "a"), Found::Elsewhere);
        assert!(matches!(ledger.find(1, "c"), Found::Mirror(..)));
        for n in 0..300 {
            ledger.mirror(
                0,
                "s",
                &n.to_string(),
                Wanted { ttl_ms: None },
                &message(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
            );
        }
        assert_eq!(ledger.entries.len(), MAX_TASKS);
    }

    #[test]
    fn waiting_for_a_result_says_what_is_missing() {
        let of = |message: &Message| waited("t", message, |key| key == "old");
        assert!(matches!(of(&state("working", "")), Waited::Wait(100)));
        let asks = state(
            "input_required",
            r#","inputRequests":{"old":{"method":"roots/list"},"new":{"method":"elicitation/create","params":{"message":"m"}}}"#,
        );
        let Waited::Ask(asks) = of(&asks) else { panic!("it asks") };
        assert_eq!(asks.len(), 1);
        assert_eq!(asks[0].2, r#"{"message":"m","_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t"}}}"#);
        let Waited::Result(result) = of(&state("completed", r#","result":{"content":[]}"#)) else {
            panic!("it is done")
        };
        assert_eq!(result, r#"{"content":[],"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t"}}}"#);
        let Waited::Error(error) = of(&state("failed", r#","error":{"code":-1,"message":"x"}"#)) else {
            panic!("it failed")
        };
        assert_eq!(error, r#"{"code":-1,"message":"x"}"#);
        assert!(matches!(of(&state("cancelled", "")), Waited::Error(_)));
        let unknown = message(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no"}}"#);
        assert!(matches!(of(&unknown), Waited::Error(error) if error == r#"{"code":-32602,"message":"no"}"#));
    }
}
