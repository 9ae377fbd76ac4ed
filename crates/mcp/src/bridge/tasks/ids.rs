//! What tasks are called on the way: `<service>~<replica>.<seal>~<the server's own id>`.
//!
//! The sidecar makes a *handle* of every task's id, `<replica>.<seal>~<id>`: the replica leads back to it
//! ([`super::super::owner`]), the seal binds the task to whoever made it, so that an id that leaked is of no use to others.
//! On the merged endpoint the service stands before it. Ids are found and replaced wherever messages name tasks.

use crate::{
    bridge::{meta_keys::RELATED_TASK, owner},
    edit::Edits,
    envelope::{Field, Message, Meta, Param, Shape},
    json::{Span, decode_string, elements, member, members, quote},
    method::Method,
    names::{check_service, hex},
};

/// Longest id of a server that gets a handle; it still fits a header when every byte is escaped.
const MAX_ID: usize = 1024;
/// What stands between a name in front and the rest. Neither services nor seals hold it.
const JOINER: char = '~';
/// Bytes of a seal: as many as a MAC needs to be beyond guessing.
pub const SEAL_BYTES: usize = 16;

/// The handle of `id`, made by `replica` for `caller`. `mac` authenticates bytes under a key that nobody else has.
/// `None` when the id is too long to be one.
pub fn handle(replica: &str, caller: &str, id: &str, mac: impl Fn(&[u8]) -> [u8; SEAL_BYTES]) -> Option<String> {
    (id.len() <= MAX_ID).then(|| owner::mark(replica, &format!("{}{JOINER}{id}", seal(caller, id, mac))))
}

/// The server's own id, when the handle was made by `replica` for `caller`.
pub fn open<'h>(
    replica: &str,
    caller: &str,
    handle: &'h str,
    mac: impl Fn(&[u8]) -> [u8; SEAL_BYTES],
) -> Option<&'h str> {
    let (made_by, rest) = owner::split(handle)?;
    let (given, id) = rest.split_once(JOINER)?;
    // Length is public; what is compared is not secret once it was sent, so only equality matters. Both are hashed by
    // the caller's key: a guess tells nothing about the next byte.
    let same = made_by == replica && id.len() <= MAX_ID && equal(given.as_bytes(), seal(caller, id, mac).as_bytes());
    same.then_some(id)
}

fn seal(caller: &str, id: &str, mac: impl Fn(&[u8]) -> [u8; SEAL_BYTES]) -> String {
    // The length keeps caller and id apart.
    hex(&mac(format!("{}:{caller}{id}", caller.len()).as_bytes()))
}

/// Compares without telling by its duration where two texts differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// A task of `service` on the merged endpoint.
pub fn expose(service: &str, handle: &str) -> String {
    format!("{service}{JOINER}{handle}")
}

/// Splits what [`expose`] made. The caller decides whether it knows the service.
pub fn split(exposed: &str) -> Option<(&str, &str)> {
    let (service, handle) = exposed.split_once(JOINER)?;
    check_service(service).ok()?;
    (!handle.is_empty()).then_some((service, handle))
}

/// The edits that give tasks in a message other names. `answers` is the method of the request that a reply answers: only
/// replies that describe a task have `taskId` for a member of their own. `map` gives the new name, or `None` to keep it.
pub fn rename(message: &Message, answers: Method, map: impl Fn(&str) -> Option<String>, edits: &mut Edits) {
    for span in places(message, answers) {
        if let Some(new) = decode_string(message.raw(span)).and_then(|old| map(&old)) {
            edits.replace(span, quote(&new));
        }
    }
}

/// Where a message names tasks.
fn places(message: &Message, answers: Method) -> Vec<Span> {
    let body = message.body();
    let mut found: Vec<Span> =
        message.meta().get(Meta::RelatedTask).and_then(|at| member(body, at, "taskId")).into_iter().collect();
    let mut described = |at: Span| {
        for (key, value) in members(body, at) {
            match &*key.decode(body) {
                "taskId" => found.push(value),
                "inputRequests" => {
                    let asked = members(body, value).into_iter().filter_map(|(_, ask)| member(body, ask, "params"));
                    found.extend(asked.filter_map(|params| related(body, params)));
                }
                "result" => found.extend(related(body, value)),
                _ => {}
            }
        }
    };
    match message.shape {
        Shape::Result => {
            let is_task = message.result_text(Field::ResultType).as_deref() == Some("task");
            if let Some(at) = message.result_span().filter(|_| is_task || answers.about_task()) {
                described(at);
            }
        }
        Shape::Notification | Shape::Request => {
            if matches!(message.method, Method::TasksChanged | Method::TasksStatus) {
                message.params().object().into_iter().for_each(described);
            } else if message.method.about_task() {
                found.extend(message.params().get(Param::TaskId));
            }
            let filter = message.params().get(Param::Notifications).and_then(|at| member(body, at, "taskIds"));
            found.extend(filter.and_then(|list| elements(body, list)).unwrap_or_default());
        }
        Shape::Error => {}
    }
    found
}

/// The id in the `_meta` of an object that names the task it belongs to.
fn related(body: &[u8], object: Span) -> Option<Span> {
    let meta = member(body, object, "_meta")?;
    member(body, member(body, meta, RELATED_TASK)?, "taskId")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const REPLICA: &str = "0123456789abcdef";

    /// No MAC, but one that differs with its input.
    fn mac(bytes: &[u8]) -> [u8; SEAL_BYTES] {
        let mut out = [0u8; SEAL_BYTES];
        for (at, byte) in bytes.iter().enumerate() {
            out[at % SEAL_BYTES] = out[at % SEAL_BYTES].rotate_left(1) ^ byte;
        }
        out
    }

    fn renamed(text: &str, answers: Method) -> String {
        let message = Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap();
        let mut edits = Edits::new();
        rename(&message, answers, |id| Some(format!("fs~{id}")), &mut edits);
        String::from_utf8(edits.apply_flat(message.body()).to_vec()).unwrap()
    }

    #[test]
    fn a_handle_is_good_for_its_caller_and_replica_alone() {
        let made = handle(REPLICA, "ada", "t1", mac).unwrap();
        assert_eq!(open(REPLICA, "ada", &made, mac), Some("t1"));
        assert_eq!(open(REPLICA, "bob", &made, mac), None);
        assert_eq!(open("fedcba9876543210", "ada", &made, mac), None);
        assert_eq!(open(REPLICA, "ada", &made.replace("t1", "t2"), mac), None);
        assert_eq!(open(REPLICA, "ada", "t1", mac), None);
        assert_eq!(handle(REPLICA, "ada", &"x".repeat(1025), mac), None);
        assert_eq!(split("nothing"), None);
        assert_eq!(split("No~x"), None);
        assert_eq!(split("fs~"), None);
    }

    #[test]
    fn tasks_are_renamed_wherever_they_are_named() {
        let related = r#""_meta":{"io.modelcontextprotocol/related-task":{"taskId":"a"}}"#;
        for (text, answers) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"a"}}"#.to_owned(), Method::Other),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"taskIds":["a","a"]}}}"#.to_owned(),
                Method::Other,
            ),
            (
                r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"taskIds":["a"]}}}"#.to_owned(),
                Method::Other,
            ),
            (
                format!(r#"{{"jsonrpc":"2.0","method":"notifications/tasks","params":{{"taskId":"a","status":"completed","result":{{"content":[],{related}}}}}}}"#),
                Method::Other,
            ),
            (format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{{related}}}}}"#), Method::Other),
            (r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"task","taskId":"a"}}"#.to_owned(), Method::ToolsCall),
            (
                format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"taskId":"a","inputRequests":{{"k":{{"method":"m","params":{{{related}}}}}}}}}}}"#),
                Method::TasksGet,
            ),
            (format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[],{related}}}}}"#), Method::ToolsCall),
        ] {
            assert_eq!(renamed(&text, answers), text.replace("\"a\"", "\"fs~a\""), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_task_stays() {
        let result = r#"{"jsonrpc":"2.0","id":1,"result":{"taskId":"a","content":[{"taskId":"a"}],"structuredContent":{"taskId":"a"}}}"#;
        assert_eq!(renamed(result, Method::ToolsCall), result);
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"taskId":"a"},"taskId":"a"}}"#;
        assert_eq!(renamed(call, Method::Other), call);
    }

    proptest! {
        #[test]
        fn names_of_tasks_round_trip(service in "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", caller in "\\PC{0,20}", id in "\\PC{1,40}") {
            let exposed = expose(&service, &handle(REPLICA, &caller, &id, mac).unwrap());
            let (found, rest) = split(&exposed).unwrap();
            prop_assert_eq!(found, service.as_str());
            prop_assert_eq!(open(REPLICA, &caller, rest, mac), Some(id.as_str()));
        }
    }
}
