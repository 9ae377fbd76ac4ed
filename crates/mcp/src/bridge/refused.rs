//! Errors with which a legacy client answered questions of a call, on the retry that brings its answers
//! (docs/decisions/0002-session-extension.md). A legacy server gets each as the error that it is; a server of the
//! stateless revision cannot be told, so its call fails.

use bytes::Bytes;

use crate::{
    envelope::{Message, Meta, Param},
    json::{Span, decode_string, member, members},
};

/// The error that answers the question of this key.
pub(super) fn error(retry: &Message, key: &str) -> Option<Bytes> {
    let body = retry.body();
    let refused = member(body, retry.meta().get(Meta::AnswerErrors)?, key)?;
    object(retry, refused).map(|error| retry.slice(error))
}

fn object(retry: &Message, refused: Span) -> Option<Span> {
    member(retry.body(), refused, "error").filter(|error| retry.raw(*error).first() == Some(&b'{'))
}

/// Why a call cannot go on at a server that takes no errors: the first one that nothing in `inputResponses` stands for.
pub fn unanswered(retry: &Message) -> Option<String> {
    let errors = retry.meta().get(Meta::AnswerErrors)?;
    let body = retry.body();
    let given = retry.params().get(Param::InputResponses);
    let (_, refused) = members(body, errors).into_iter().find(|(key, _)| {
        let key = key.decode(body);
        given.and_then(|given| member(body, given, &key)).is_none()
    })?;
    let text = |of: Span, name| member(body, of, name).and_then(|text| decode_string(text.of(body)));
    let method = text(refused, "method").unwrap_or_default();
    let why = object(retry, refused).and_then(|error| text(error, "message")).unwrap_or_default();
    Some(format!("the client refused {method}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(params: &str) -> Message {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t",{params}}}}}"#);
        Message::parse(text.into()).unwrap()
    }

    #[test]
    fn an_error_without_another_answer_ends_the_call() {
        let both = r#""_meta":{"outrigger.dev/errors":{"a":{"method":"elicitation/create","error":{"code":1,"message":"x"}},"b":{"method":"roots/list","error":{"code":-32601,"message":"n\u006f"}}}}"#;
        let answered = retry(&format!(r#""inputResponses":{{"a":{{"action":"cancel"}}}},{both}"#));
        assert_eq!(unanswered(&answered).unwrap(), "the client refused roots/list: no");
        assert_eq!(error(&answered, "b").unwrap(), br#"{"code":-32601,"message":"n\u006f"}"#[..]);
        assert_eq!(error(&answered, "c"), None);
        let all = retry(&format!(r#""inputResponses":{{"a":{{}},"b":{{}}}},{both}"#));
        assert_eq!(unanswered(&all), None);
        for nothing in [r#""_meta":{}"#, r#""_meta":{"outrigger.dev/errors":7}"#] {
            assert_eq!((unanswered(&retry(nothing)), error(&retry(nothing), "a")), (None, None));
        }
    }
}
