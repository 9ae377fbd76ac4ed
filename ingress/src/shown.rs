//! Arguments that a rule shows in the audit (`audit: { arguments: [...] }`), bounded, and without what looks like a secret.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use outrigger_mcp::envelope::{Message, Param};
use outrigger_mcp::json::{Span, decode_string, member};
use outrigger_policy::rule::Shown;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// Bytes of a value that are written out; of a longer one its length and digest are.
const MAX_VALUE: usize = 512;
/// Parts of names of which values are never written out.
const SECRET: [&str; 10] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "authorization",
    "credential",
];

/// The shown arguments of a call, by the way to each; those that it does not have are left out.
pub(crate) fn arguments(shown: &Shown, message: &Message) -> Option<Box<RawValue>> {
    let all = message.params().get(Param::Arguments)?;
    let mut out = Map::new();
    for way in shown {
        let found = way.iter().try_fold(all, |at, name| member(message.body(), at, name));
        if let Some(found) = found {
            out.insert(way.join("."), value(way, message, found));
        }
    }
    if out.is_empty() {
        return None;
    }
    RawValue::from_string(Value::Object(out).to_string()).ok()
}

fn value(way: &[Box<str>], message: &Message, at: Span) -> Value {
    let raw = message.raw(at);
    let secret = way.iter().any(|name| {
        let name = name.to_lowercase();
        SECRET.iter().any(|part| name.contains(part))
    });
    if secret {
        return json!({ "redacted": true });
    }
    if raw.len() > MAX_VALUE {
        return digested(raw);
    }
    match raw.first() {
        Some(b'"') => decode_string(raw).map_or(Value::Null, |text| Value::from(text.into_owned())),
        // An object or a list could hold what nobody named.
        Some(b'{' | b'[') => digested(raw),
        _ => serde_json::from_slice(raw).unwrap_or_default(),
    }
}

fn digested(raw: &[u8]) -> Value {
    json!({ "bytes": raw.len(), "sha256": HEXLOWER.encode(digest(&SHA256, raw).as_ref()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(ways: &[&str], arguments: &str) -> Value {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{arguments}}}}}"#
        );
        let message = Message::parse(text.into()).unwrap();
        let ways: Vec<Box<[Box<str>]>> = ways.iter().map(|way| way.split('.').map(Into::into).collect()).collect();
        super::arguments(&ways, &message).map_or(Value::Null, |raw| serde_json::from_str(raw.get()).unwrap())
    }

    #[test]
    fn only_what_is_named_is_shown() {
        let arguments = r#"{"path":"/a","mode":{"deep":true,"list":[1]},"other":"private","n":1.5}"#;
        assert_eq!(
            shown(&["path", "mode.deep", "n", "none", "path.x"], arguments),
            json!({"path": "/a", "mode.deep": true, "n": 1.5})
        );
        assert_eq!(shown(&["none"], arguments), Value::Null);
        assert_eq!(shown(&["mode"], arguments)["mode"]["bytes"], 24, "what is inside is not named");
    }

    #[test]
    fn secrets_and_long_values_are_not() {
        for name in ["password", "apiKey", "X-Auth-Token", "clientSecret"] {
            assert_eq!(
                shown(&[name], &format!(r#"{{"{name}":"hunter2"}}"#))[name],
                json!({"redacted": true}),
                "{name}"
            );
        }
        let long = shown(&["text"], &format!(r#"{{"text":"{}"}}"#, "x".repeat(600)));
        assert_eq!(long["text"]["bytes"], 602);
        assert!(!long.to_string().contains("xxx"));
    }
}
