//! A modern client's task on a legacy server: when a call becomes one, and what its state is in the client's terms.

use bytes::Bytes;

use crate::{
    bridge::{
        meta_keys::{RELATED_TASK, SERVER_INFO},
        to_server::{Answer, Ask},
    },
    edit::{Edits, insert_member, rebuild_object},
    envelope::{Field, Message, Meta, Param, Shape},
    error::{INTERNAL, RpcError, result_reply},
    json::{Span, member, quote},
};

use super::{Form, Status, TaskSupport, described, progress};

/// How a call of a tool is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// As it is.
    Plain,
    /// As a task, which the client follows.
    AsTask,
    /// As a task, because the tool allows nothing else; but the client knows no tasks, so it waits for the result.
    Waiting,
}

impl Plan {
    /// What to do, given what the server offers, how the tool wants to be called, and whether the client knows tasks.
    pub fn of(server: bool, tool: TaskSupport, client: bool) -> Self {
        match (server, tool, client) {
            (false, ..) | (_, TaskSupport::Forbidden, _) | (_, TaskSupport::Optional, false) => Self::Plain,
            (true, _, true) => Self::AsTask,
            (true, TaskSupport::Required, false) => Self::Waiting,
        }
    }
}

/// The call with `params.task`, which asks for a task that is kept for `ttl_ms`. A member of that name which the client
/// sent has no meaning in its revision and gives way.
pub fn as_task(call: &Message, ttl_ms: u64, edits: &mut Edits) {
    let task = format!("{{\"ttl\":{ttl_ms}}}");
    match (call.params().get(Param::Task), call.params().object()) {
        (Some(span), _) => edits.replace(span, task),
        (None, Some(params)) => insert_member(call.body(), params, "\"task\":", task.as_bytes(), edits),
        (None, None) => {}
    }
}

/// The id of the task that a reply to such a call announces; `None` when it is the result itself, or an error.
pub fn announced(reply: &Message) -> Option<String> {
    super::text(reply.body(), reply.results().get(Field::Task)?, "taskId")
}

/// What a task with that reply costs: how long it is kept, in milliseconds, by the server's own account.
pub fn ttl_ms(reply: &Message) -> Option<u64> {
    let ttl = member(reply.body(), reply.results().get(Field::Task)?, "ttl")?;
    std::str::from_utf8(reply.raw(ttl)).ok()?.parse().ok()
}

/// The reply to a call that became a task, for the client: flat, under the name `handle`.
pub fn created(reply: &Message, client_id: &[u8], handle: &str, ttl_ms: u64, server_info: &[u8]) -> Bytes {
    let mut out = b"{\"resultType\":\"task\",".to_vec();
    if let Some(task) = reply.results().get(Field::Task) {
        let (name, ttl) = (quote(handle), ttl_ms.to_string());
        let set: [(&str, &[u8]); 2] = [("taskId", name.as_bytes()), ("ttlMs", ttl.as_bytes())];
        described(reply.body(), task, Form::Modern, &[], &set, &mut out);
    }
    out.extend_from_slice(b",\"_meta\":");
    out.extend_from_slice(&meta(reply, server_info));
    out.push(b'}');
    result_reply(client_id, &out)
}

/// A reply's `_meta` with the server's name and without the task's.
fn meta(reply: &Message, server_info: &[u8]) -> Vec<u8> {
    let set: [(&str, &[u8]); 1] = [(SERVER_INFO, server_info)];
    match reply.meta().object() {
        Some(meta) => rebuild_object(reply.body(), meta, |name| name == RELATED_TASK, &set),
        None => rebuild_object(b"{}", Span { start: 0, end: 2 }, |_| false, &set),
    }
}

/// A question of the server that its client has not answered.
#[derive(Debug, Clone)]
struct Open {
    key: String,
    ask: Ask,
}

/// What is known of a task besides what the server says when asked: its open questions.
#[derive(Debug, Default)]
pub struct Questions {
    open: Vec<Open>,
    asked: u64,
}

/// Questions of one task that may be open at once. A server that asks more waits for answers to none of them.
const MAX_OPEN: usize = 64;

impl Questions {
    /// Takes a question. Its key is used for no other one in the life of the task. Gives the refusal to send when there
    /// are too many.
    pub fn ask(&mut self, ask: Ask) -> Option<Bytes> {
        if self.open.len() >= MAX_OPEN {
            return Some(ask.abandon());
        }
        self.asked += 1;
        self.open.push(Open { key: format!("r{}", self.asked), ask });
        None
    }

    /// Whether the server waits for an answer that nobody gave yet.
    pub fn any(&self) -> bool {
        !self.open.is_empty()
    }

    /// Gives up what the client cannot answer, because it did not declare what that takes; gives what to tell the server.
    pub fn refuse(&mut self, capabilities: &[u8]) -> Vec<Bytes> {
        let can = |open: &Open| open.ask.can_be_answered(capabilities).is_ok();
        let (kept, refused) = std::mem::take(&mut self.open).into_iter().partition(can);
        self.open = kept;
        let refused: Vec<Open> = refused;
        refused.iter().map(|open| open.ask.abandon()).collect()
    }

    /// Takes the answers of a `tasks/update`; gives what to send to the server. Answers to nothing that is open are
    /// ignored, as the extension asks.
    pub fn answer(&mut self, update: &Message) -> Vec<Bytes> {
        let mut answers = Vec::new();
        self.open.retain(|open| {
            let Some(answer) = Answer::given(update, &open.key) else { return true };
            answers.push(open.ask.answer(&answer));
            false
        });
        answers
    }

    /// Forgets everything, when the task is over.
    pub fn clear(&mut self) {
        self.open.clear();
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"inputRequests\":{");
        for (at, open) in self.open.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(
                format!("\"{}\":{{\"method\":\"{}\",\"params\":", open.key, open.ask.method.as_str()).as_bytes(),
            );
            out.extend_from_slice(&without_related(&open.ask.params));
            out.push(b'}');
        }
        out.push(b'}');
    }
}

/// An object without the name that the server has for the task.
fn without_related(object: &[u8]) -> Vec<u8> {
    let whole = super::whole(object);
    let Some(meta) = member(object, whole, "_meta") else { return object.to_vec() };
    let rest = rebuild_object(object, meta, |name| name == RELATED_TASK, &[]);
    if rest == b"{}" {
        return rebuild_object(object, whole, |name| name == "_meta", &[]);
    }
    rebuild_object(object, whole, |_| false, &[("_meta", &rest)])
}

/// What to do before a task can be described to its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Describe,
    /// Fetch the result with `tasks/result`: the extension has it in the description.
    Fetch,
    /// Keep a `tasks/result` open: that is where the server asks.
    Listen,
}

/// Reads the server's answer to `tasks/get`.
pub fn next(status: &Message) -> Next {
    let Some(at) = status.result_span() else { return Next::Describe };
    match progress(status.body(), at).0 {
        Status::Completed | Status::Failed => Next::Fetch,
        Status::InputRequired => Next::Listen,
        Status::Working | Status::Cancelled => Next::Describe,
    }
}

/// Whether the server's answer to `tasks/get` says that the task is over.
pub fn is_over(status: &Message) -> bool {
    status.result_span().is_some_and(|at| progress(status.body(), at).0.is_terminal())
}

/// The members that describe a task (`DetailedTask`), without braces: from the server's answer to `tasks/get`, what is
/// asked, and its reply to `tasks/result` when that was fetched.
pub fn detailed(handle: &str, ttl_ms: u64, status: &Message, asked: &Questions, outcome: Option<&Message>) -> Vec<u8> {
    let body = status.body();
    let at = status.result_span().unwrap_or_default();
    let said = progress(body, at).0;
    let now = match outcome.map(|outcome| outcome.shape) {
        // A tool's own error is a result like others in the extension.
        Some(Shape::Result) => Status::Completed,
        Some(_) => Status::Failed,
        None if said.is_terminal() => said,
        None if asked.any() => Status::InputRequired,
        // It waits, but for nothing that the client could give: either it has answered, or the question is on its way.
        None => Status::Working,
    };
    let (name, word, ttl) = (quote(handle), format!("\"{}\"", now.as_str()), ttl_ms.to_string());
    let set: [(&str, &[u8]); 3] = [("taskId", name.as_bytes()), ("status", word.as_bytes()), ("ttlMs", ttl.as_bytes())];
    let mut out = Vec::with_capacity(256);
    described(body, at, Form::Modern, &["_meta", "resultType"], &set, &mut out);
    match (now, outcome) {
        (Status::InputRequired, _) => {
            out.push(b',');
            asked.write(&mut out);
        }
        (Status::Completed, Some(outcome)) => {
            out.extend_from_slice(b",\"result\":");
            let result = outcome.result_span().map_or(&b"{}"[..], |span| outcome.raw(span));
            out.extend_from_slice(&without_related(result));
        }
        (Status::Failed, Some(outcome)) => {
            out.extend_from_slice(b",\"error\":");
            match outcome.error_span() {
                Some(span) => out.extend_from_slice(outcome.raw(span)),
                None => out.extend_from_slice(&lost()),
            }
        }
        // The extension demands one, and the server could not give it.
        (Status::Failed, None) => {
            out.extend_from_slice(b",\"error\":");
            out.extend_from_slice(&lost());
        }
        _ => {}
    }
    out
}

fn lost() -> Vec<u8> {
    RpcError::new(INTERNAL, "the task failed").object()
}

/// The reply to `tasks/get`, from [`detailed`].
pub fn got(client_id: &[u8], detailed: &[u8], status: &Message, server_info: &[u8]) -> Bytes {
    let mut out = b"{\"resultType\":\"complete\",".to_vec();
    out.extend_from_slice(detailed);
    out.extend_from_slice(b",\"_meta\":");
    out.extend_from_slice(&meta(status, server_info));
    out.push(b'}');
    result_reply(client_id, &out)
}

/// The reply to `tasks/update` and `tasks/cancel`: seen, nothing more.
pub fn acknowledged(client_id: &[u8], server_info: &[u8]) -> Bytes {
    let mut out = b"{\"resultType\":\"complete\",\"_meta\":".to_vec();
    out.extend_from_slice(&rebuild_object(b"{}", Span { start: 0, end: 2 }, |_| false, &[(SERVER_INFO, server_info)]));
    out.push(b'}');
    result_reply(client_id, &out)
}

/// The params of a request of ours about a task.
pub fn params(id: &str) -> Vec<u8> {
    format!("{{\"taskId\":{}}}", quote(id)).into_bytes()
}

/// The task that a request of the server belongs to, by its own account.
pub fn related(message: &Message) -> Option<String> {
    super::text(message.body(), message.meta().get(Meta::RelatedTask)?, "taskId")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::Method;

    fn message(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn ask(id: &str) -> Ask {
        Ask::from_request(&message(&format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"elicitation/create","params":{{"message":"m","_meta":{{"io.modelcontextprotocol/related-task":{{"taskId":"u"}}}}}}}}"#
        )))
        .unwrap()
    }

    const WORKING: &str = r#"{"jsonrpc":"2.0","id":9,"result":{"taskId":"u","status":"working","statusMessage":"m","createdAt":"c","lastUpdatedAt":"l","ttl":5,"pollInterval":7}}"#;

    #[test]
    fn a_task_is_made_when_all_three_want_one() {
        use TaskSupport::{Forbidden, Optional, Required};
        assert_eq!(Plan::of(true, Required, true), Plan::AsTask);
        assert_eq!(Plan::of(true, Optional, true), Plan::AsTask);
        assert_eq!(Plan::of(true, Required, false), Plan::Waiting);
        for (server, tool, client) in
            [(true, Optional, false), (true, Forbidden, true), (false, Required, true), (false, Required, false)]
        {
            assert_eq!(Plan::of(server, tool, client), Plan::Plain);
        }
        let call = message(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","task":7}}"#);
        let mut edits = Edits::new();
        as_task(&call, 60, &mut edits);
        assert_eq!(
            edits.apply_flat(call.body()),
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","task":{"ttl":60}}}"#
        );
    }

    #[test]
    fn the_announcement_becomes_flat() {
        let reply = message(
            r#"{"jsonrpc":"2.0","id":9,"result":{"task":{"taskId":"u","status":"working","createdAt":"c","lastUpdatedAt":"l","ttl":null,"pollInterval":1000,"x":1.50},"_meta":{"a":1,"io.modelcontextprotocol/related-task":{"taskId":"u"}}}}"#,
        );
        assert_eq!(announced(&reply).as_deref(), Some("u"));
        assert_eq!(ttl_ms(&reply), None);
        assert_eq!(
            created(&reply, b"\"c\"", "h", 60, b"{}"),
            r#"{"jsonrpc":"2.0","id":"c","result":{"resultType":"task","status":"working","createdAt":"c","lastUpdatedAt":"l","pollIntervalMs":1000,"x":1.50,"taskId":"h","ttlMs":60,"_meta":{"a":1,"io.modelcontextprotocol/serverInfo":{}}}}"#
        );
        assert_eq!(announced(&message(r#"{"jsonrpc":"2.0","id":9,"result":{"content":[]}}"#)), None);
    }

    #[test]
    fn questions_keep_their_keys_and_are_answered_once() {
        let mut asked = Questions::default();
        assert!(asked.ask(ask("7")).is_none() && asked.ask(ask("\"b\"")).is_none());
        let status = message(WORKING);
        let text = String::from_utf8(detailed("h", 5, &status, &asked, None)).unwrap();
        assert!(text.ends_with(
            r#""inputRequests":{"r1":{"method":"elicitation/create","params":{"message":"m"}},"r2":{"method":"elicitation/create","params":{"message":"m"}}}"#
        ), "{text}");
        assert!(text.contains(r#""status":"input_required""#));
        let update = message(
            r#"{"jsonrpc":"2.0","id":1,"method":"tasks/update","params":{"taskId":"h","inputResponses":{"r2":{"action":"accept"},"r1":5,"zz":{}}}}"#,
        );
        assert_eq!(asked.answer(&update), [r#"{"jsonrpc":"2.0","id":"b","result":{"action":"accept"}}"#]);
        assert_eq!(asked.answer(&update), [""; 0]);
        asked.ask(ask("8"));
        let text = String::from_utf8(detailed("h", 5, &status, &asked, None)).unwrap();
        assert!(text.contains("\"r1\"") && text.contains("\"r3\"") && !text.contains("\"r2\""), "{text}");
        assert_eq!(asked.refuse(b"{}").len(), 2);
        assert!(!asked.any());
    }

    #[test]
    fn the_result_moves_into_the_description() {
        let done = message(&WORKING.replace("working", "failed"));
        assert_eq!(next(&done), Next::Fetch);
        assert_eq!(next(&message(WORKING)), Next::Describe);
        assert_eq!(next(&message(&WORKING.replace("working", "input_required"))), Next::Listen);
        let asked = Questions::default();
        let tool_error = message(
            r#"{"jsonrpc":"2.0","id":9,"result":{"content":[],"isError":true,"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"u"}}}}"#,
        );
        let of = |outcome: Option<&Message>| String::from_utf8(detailed("h", 5, &done, &asked, outcome)).unwrap();
        let head =
            r#""statusMessage":"m","createdAt":"c","lastUpdatedAt":"l","pollIntervalMs":7,"taskId":"h","status":"#;
        assert_eq!(
            of(Some(&tool_error)),
            format!(r#"{head}"completed","ttlMs":5,"result":{{"content":[],"isError":true}}"#)
        );
        let error = message(r#"{"jsonrpc":"2.0","id":9,"error":{"code":-1,"message":"x"}}"#);
        assert_eq!(of(Some(&error)), format!(r#"{head}"failed","ttlMs":5,"error":{{"code":-1,"message":"x"}}"#));
        assert!(of(None).ends_with(r#""error":{"code":-32603,"message":"the task failed"}"#));
        let waiting = message(&WORKING.replace("working", "input_required"));
        let text = String::from_utf8(detailed("h", 5, &waiting, &asked, None)).unwrap();
        assert!(text.contains(r#""status":"working""#), "nothing can be answered: {text}");
        let got = message(std::str::from_utf8(&got(b"1", text.as_bytes(), &waiting, b"{\"name\":\"s\"}")).unwrap());
        assert_eq!(got.result_text(Field::ResultType).as_deref(), Some("complete"));
        assert_eq!(Method::parse(b"notifications/tasks"), Method::TasksChanged);
    }
}
