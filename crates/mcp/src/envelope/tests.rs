use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Message, Rejected> {
    Message::parse(Bytes::copy_from_slice(text.as_bytes()))
}

fn code(text: &str) -> i64 {
    parse(text).unwrap_err().error.code()
}

#[test]
fn finds_everything_in_one_pass_whatever_the_order() {
    let m = parse(
        r#"{"params":{"arguments":{"a":1},"_meta":{"progressToken":7,"traceparent":"00-x"},"name":"echo"},"id":"1","method":"tools/call","jsonrpc":"2.0"}"#,
    )
    .unwrap();
    assert_eq!(m.shape, Shape::Request);
    assert_eq!(m.method, Method::ToolsCall);
    assert_eq!(m.id().unwrap(), &b"\"1\""[..]);
    assert_eq!(m.target().unwrap(), "echo");
    assert_eq!(m.raw(m.params().get(Param::Arguments).unwrap()), br#"{"a":1}"#);
    assert_eq!(m.raw(m.meta().get(Meta::ProgressToken).unwrap()), b"7");
}

#[test]
fn reads_results_and_errors() {
    let m =
        parse(r#"{"result":{"resultType":"input_required","_meta":{}},"id":12345678901234567890123,"jsonrpc":"2.0"}"#)
            .unwrap();
    assert_eq!(m.shape, Shape::Result);
    assert_eq!(m.id().unwrap(), &b"12345678901234567890123"[..]);
    assert_eq!(m.result_text(Field::ResultType).unwrap(), "input_required");
    let m = parse(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}"#).unwrap();
    assert_eq!((m.shape, m.error_code()), (Shape::Error, Some(-32700)));
}

#[test]
fn duplicates_of_members_that_policy_reads_are_refused_also_when_escaped() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","n\u0061me":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"traceparent":"a","traceparent":"b"}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{},"params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"name":"a","name":"b"}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"uri":"a","ur\u0069":"b"}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"a","type":"b"}}}"#,
    ] {
        let rejected = parse(text).unwrap_err();
        assert!(matches!(rejected.error, EnvelopeError::Duplicate(_)), "{text}");
        assert_eq!(rejected.id.unwrap(), &b"1"[..]);
    }
    assert!(parse(r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"other":1,"other":2}}"#).is_ok());
}

#[test]
fn codes_say_what_is_wrong() {
    assert_eq!(code("{"), -32700);
    assert_eq!(code("[]"), -32600);
    assert_eq!(code("1"), -32600);
    assert_eq!(code(r#"{"id":1,"method":"ping"}"#), -32600);
    assert_eq!(code(r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#), -32600);
    for id in ["null", "1.5", "true", "[1]", "1e3"] {
        assert_eq!(code(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#)), -32600, "{id}");
    }
    assert_eq!(code(r#"{"jsonrpc":"2.0","id":1}"#), -32600);
    assert_eq!(code(r#"{"jsonrpc":"2.0","id":1,"method":"x","result":{}}"#), -32600);
    assert_eq!(code(r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[1]}"#), -32602);
    assert_eq!(code(r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":1}}"#), -32602);
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = Message::parse(Bytes::from(bytes));
    }
}
