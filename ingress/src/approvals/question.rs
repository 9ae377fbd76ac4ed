//! What is asked of a client whose user is to approve a call, what it answers, and which call that is about.

use aws_lc_rs::digest::{Context, SHA256, digest};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use outrigger_mcp::canonical::canonical;
use outrigger_mcp::edit::{Edits, rebuild_object};
use outrigger_mcp::envelope::{Field, Message, Meta, Param};
use outrigger_mcp::json::{decode_string, member};
use outrigger_mcp::method::Method;
use serde_json::json;

use super::table::Binding;

/// The question among those that a client is asked.
const KEY: &str = "outrigger.dev/approval";
/// What our states begin with. Those of sidecars and of servers are their own business.
const PREFIX: &str = "outrigger.approval.";
/// Bytes of arguments that a person is shown.
const MAX_SHOWN: usize = 16 * 1024;

/// Identifies a call: who, what (service, kind, name), with which parameters, under which policy, and which of its rules
/// want approval, which may depend on more than the call. How the parameters are spelt does not count, and what a retry
/// adds does not either.
pub(super) fn binding<'a>(
    who: &str,
    what: [&str; 3],
    message: &Message,
    policy: u64,
    rules: impl Iterator<Item = &'a str>,
) -> Binding {
    let mut context = Context::new(&SHA256);
    // Each part is preceded by its length, so that no two calls give the same input.
    let mut part = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    part(who.as_bytes());
    what.iter().for_each(|text| part(text.as_bytes()));
    part(message.method_name().as_bytes());
    part(&policy.to_be_bytes());
    // Where the caller names it, in one of several spellings.
    let named = if message.method == Method::ResourcesRead { "uri" } else { "name" };
    let own = |name: &str| matches!(name, "_meta" | "requestState" | "inputResponses") || name == named;
    let params = message.params().object().map(|at| rebuild_object(message.body(), at, own, &[]));
    part(&canonical(params.as_deref().unwrap_or(b"{}")));
    // Last, because there may be any number of them.
    rules.for_each(|rule| part(rule.as_bytes()));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// Identifies a state that somebody else made.
pub(super) fn state_digest(state: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, state.as_bytes()).as_ref());
    out
}

/// The state that a reply asks to be brought back with answers, if it asks anything.
pub(super) fn asks(reply: &Message) -> Option<String> {
    (reply.result_text(Field::ResultType).as_deref() == Some("input_required")).then_some(())?;
    let state = reply.results().get(Field::RequestState)?;
    Some(decode_string(reply.raw(state))?.into_owned())
}

/// Whether the client can put a question with a form to its user.
pub(super) fn can_ask(message: &Message) -> bool {
    let Some(declared) = message.meta().get(Meta::ClientCapabilities) else { return false };
    let Some(able) = member(message.body(), declared, "elicitation") else { return false };
    // Those of 2025-06-18 could do nothing else, and so declare nothing more.
    let form = member(message.body(), able, "form").is_some();
    form || (message.raw(able).starts_with(b"{") && member(message.body(), able, "url").is_none())
}

/// The id in a state of ours.
pub(super) fn id_of(state: &str) -> Option<&str> {
    state.strip_prefix(PREFIX)
}

/// What the user said: yes, no, or nothing that could be understood.
pub(super) fn answer(message: &Message) -> Option<bool> {
    let given = message.params().get(Param::InputResponses)?;
    let answer = member(message.body(), given, KEY)?;
    let action = member(message.body(), answer, "action")?;
    match &*decode_string(message.raw(action))? {
        "accept" => {
            let content = member(message.body(), answer, "content")?;
            let said = member(message.body(), content, "approve")?;
            Some(message.raw(said) == b"true")
        }
        "decline" | "cancel" => Some(false),
        _ => None,
    }
}

/// The message without our state and its answers, for the service.
pub(super) fn stripped(message: &Message) -> Option<Message> {
    let at = message.params().object()?;
    let params = rebuild_object(message.body(), at, |name| matches!(name, "requestState" | "inputResponses"), &[]);
    let mut edits = Edits::new();
    edits.replace(at, params);
    Message::parse(edits.apply_flat(message.body())).ok()
}

/// As much of the arguments as is shown to a person, and whether that is all of them.
pub(super) fn shown(message: &Message) -> (String, bool) {
    let raw = message.params().get(Param::Arguments).map_or(&b"{}"[..], |at| message.raw(at));
    let text = outrigger_integrity::readable(raw);
    let cut = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_SHOWN).last().unwrap_or_default();
    if text.len() <= MAX_SHOWN { (text, true) } else { (text.get(..cut).unwrap_or_default().to_owned(), false) }
}

/// A whole reply that asks the client's user.
pub(super) fn ask(message: &Message, id: &str, what: &str, arguments: &str, whole: bool, rule: &str) -> Bytes {
    let more = if whole { "" } else { " (and more that is not shown)" };
    let most = 2000;
    let more = if arguments.chars().count() > most { " (and more that is not shown)" } else { more };
    let arguments: String = arguments.chars().take(most).collect();
    let text = format!("{what} waits for your approval, as the rule {rule} says. Arguments: {arguments}{more}");
    let schema = json!({
        "type": "object",
        "properties": { "approve": { "type": "boolean", "title": "Approve this call", "default": false } },
        "required": ["approve"],
    });
    let question = json!({
        "method": "elicitation/create",
        "params": { "mode": "form", "message": text, "requestedSchema": schema },
    });
    let result = json!({
        "resultType": "input_required",
        "inputRequests": { KEY: question },
        "requestState": format!("{PREFIX}{id}"),
    });
    let id = message.id().unwrap_or_else(|| Bytes::from_static(b"null"));
    let mut out = b"{\"jsonrpc\":\"2.0\",\"id\":".to_vec();
    out.extend_from_slice(&id);
    out.extend_from_slice(b",\"result\":");
    out.extend_from_slice(result.to_string().as_bytes());
    out.push(b'}');
    Bytes::from(out)
}

/// A name for a call that nobody can guess.
pub(super) fn fresh_id() -> Option<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(HEXLOWER.encode(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(params: &str) -> Message {
        Message::parse(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#).into()).unwrap()
    }

    #[test]
    fn a_call_is_known_again_by_what_it_is() {
        let of_rules = |who: &str, params: &str, policy, rules: &[&'static str]| {
            binding(who, ["fs", "tool", "write"], &message(params), policy, rules.iter().copied())
        };
        let of = |who: &str, params: &str, policy| of_rules(who, params, policy, &["p/r"]);
        let first = of("user:ada", r#"{"name":"fs__write","arguments":{"a":1,"b":[2]}}"#, 7);
        let again = r#"{"requestState":"s","inputResponses":{"x":{}},"_meta":{"a":1},"arguments":{"b":[2.0],"a":1},"name":"fs.write"}"#;
        assert_eq!(of("user:ada", again, 7), first);
        for (who, params, policy) in [
            ("user:bob", again, 7),
            ("user:ada", again, 8),
            ("user:ada", r#"{"name":"fs__write","arguments":{"a":2,"b":[2]}}"#, 7),
            ("user:ada", r#"{"name":"fs__write","arguments":{"a":1,"b":[2],"c":null}}"#, 7),
            ("user:ada", r#"{"name":"fs__write","arguments":{"a":1,"b":[2]},"task":{}}"#, 7),
            ("user:ada", r#"{"name":"fs__write"}"#, 7),
        ] {
            assert_ne!(of(who, params, policy), first, "{who} {params}");
        }
        for rules in [&[][..], &["p/s"], &["p/r", "p/s"], &["p/", "r"]] {
            assert_ne!(of_rules("user:ada", again, 7, rules), first, "{rules:?}");
        }
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        let said = |answer: &str| {
            answer_of(&format!(r#"{{"name":"t","inputResponses":{{"outrigger.dev/approval":{answer}}}}}"#))
        };
        fn answer_of(params: &str) -> Option<bool> {
            super::answer(&message(params))
        }
        assert_eq!(said(r#"{"action":"accept","content":{"approve":true}}"#), Some(true));
        for no in
            [r#"{"action":"accept","content":{"approve":false}}"#, r#"{"action":"decline"}"#, r#"{"action":"cancel"}"#]
        {
            assert_eq!(said(no), Some(false), "{no}");
        }
        assert_eq!(said(r#"{"action":"accept","content":{"approve":"true"}}"#), Some(false));
        for none in [r#"{"action":"accept"}"#, r#"{"action":"accept","content":{}}"#, "7", r#"{"action":"yes"}"#] {
            assert_eq!(said(none), None, "{none}");
        }
        assert_eq!(answer_of(r#"{"name":"t"}"#), None);
    }

    #[test]
    fn who_can_ask_says_so() {
        let able = |caps: &str| {
            can_ask(&message(&format!(
                r#"{{"name":"t","_meta":{{"io.modelcontextprotocol/clientCapabilities":{caps}}}}}"#
            )))
        };
        assert!(able(r#"{"elicitation":{}}"#) && able(r#"{"elicitation":{"form":{},"url":{}}}"#));
        for not in ["{}", r#"{"elicitation":{"url":{}}}"#, r#"{"elicitation":null}"#, r#"{"sampling":{}}"#] {
            assert!(!able(not), "{not}");
        }
        assert!(!can_ask(&message(r#"{"name":"t"}"#)));
    }

    #[test]
    fn the_service_sees_nothing_of_it() {
        let asked =
            message(r#"{"requestState":"outrigger.approval.1","name":"t","arguments":{"a":1.50},"inputResponses":{}}"#);
        let plain = stripped(&asked).unwrap();
        assert_eq!(plain.body(), &message(r#"{"name":"t","arguments":{"a":1.50}}"#).body().clone());
    }
}
