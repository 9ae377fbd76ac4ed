use serde_json::json;

use super::*;

fn compile(schema: &Value) -> Result<Option<ParamHeaders>, ParamSchemaError> {
    ParamHeaders::compile(schema.to_string().as_bytes())
}

fn sample() -> ParamHeaders {
    let schema = json!({"type": "object", "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "options": {"type": "object", "properties": {"limit": {"type": "integer", "x-mcp-header": "Limit"}}},
        "dry": {"type": "boolean", "x-mcp-header": "Dry"},
        "plain": {"type": "string"},
    }});
    compile(&schema).unwrap().unwrap()
}

fn check(arguments: &str, headers: &[(&str, &str)]) -> Result<(), String> {
    let owned: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes())).collect();
    sample().check(Some(arguments.as_bytes()), |name| {
        owned.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| *v)
    })
}

#[test]
fn schemas_without_annotations_cost_nothing() {
    assert_eq!(compile(&json!({"type": "object", "properties": {"x": {"type": "string"}}})), Ok(None));
    assert_eq!(ParamHeaders::compile(b"not even json"), Ok(None));
    // The word as data, or as the name of a property, is no annotation.
    assert_eq!(compile(&json!({"properties": {"a": {"default": {"x-mcp-header": "A"}}}})), Ok(None));
    assert_eq!(compile(&json!({"properties": {"x-mcp-header": {"type": "string"}}})), Ok(None));
    assert_eq!(compile(&json!({"$defs": {"x-mcp-header": {"type": "string"}}})), Ok(None));
}

#[test]
fn escapes_do_not_hide_an_annotation() {
    let schema = br#"{"properties":{"a":{"type":"string","\u0078-mcp-header":"A"}}}"#;
    let compiled = ParamHeaders::compile(schema).unwrap().unwrap();
    assert_eq!(compiled.header_names().collect::<Vec<_>>(), ["Mcp-Param-A"]);
}

#[test]
fn invalid_annotations_say_why() {
    let with = |property: Value| compile(&json!({"properties": {"a": property}}));
    for name in [json!(""), json!("a b"), json!("a\r\nb"), json!("ä"), json!("a:b"), json!(1), json!(null)] {
        let got = with(json!({"type": "string", "x-mcp-header": name}));
        assert_eq!(got, Err(ParamSchemaError::Name("a".into())), "{name}");
    }
    for kind in [json!("number"), json!("object"), json!("array"), json!(["string", "null"]), json!(null)] {
        assert_eq!(with(json!({"type": kind, "x-mcp-header": "A"})), Err(ParamSchemaError::Type("a".into())), "{kind}");
    }
    let twice = json!({"properties": {
        "a": {"type": "string", "x-mcp-header": "Same"},
        "b": {"properties": {"c": {"type": "string", "x-mcp-header": "sAME"}}},
    }});
    assert_eq!(compile(&twice), Err(ParamSchemaError::Repeated("sAME".into())));
}

#[test]
fn annotations_off_the_chain_of_properties_are_invalid() {
    let leaf = json!({"type": "string", "x-mcp-header": "A"});
    for keyword in ["items", "not", "if", "then", "else", "additionalProperties", "contains"] {
        let got = compile(&json!({"properties": {"a": {keyword: leaf}}}));
        assert_eq!(got, Err(ParamSchemaError::Unreachable(format!("a.{keyword}"))));
        assert!(compile(&json!({keyword: {"properties": {"a": leaf}}})).is_err(), "{keyword}");
    }
    for keyword in ["oneOf", "anyOf", "allOf", "prefixItems"] {
        assert!(compile(&json!({"properties": {"a": {keyword: [{"type": "null"}, leaf]}}})).is_err(), "{keyword}");
    }
    assert!(compile(&json!({"$defs": {"x": leaf}, "properties": {"a": {"$ref": "#/$defs/x"}}})).is_err());
    assert!(compile(&leaf).is_err());
}

#[test]
fn headers_must_mirror_arguments() {
    let full = r#"{"plain":"x","options":{"limit":42},"region":"us-west1","dry":true}"#;
    let good = [("mcp-param-region", "us-west1"), ("MCP-PARAM-LIMIT", "42.0"), ("Mcp-Param-Dry", "true")];
    assert_eq!(check(full, &good), Ok(()));
    assert_eq!(check("{}", &[]), Ok(()));
    assert_eq!(check(r#"{"region":null,"options":{}}"#, &[]), Ok(()));
    assert_eq!(check(r#"{"region":"世界"}"#, &[("mcp-param-region", "=?base64?5LiW55WM?=")]), Ok(()));
    assert_eq!(check(r#"{"region":"a\u0062"}"#, &[("mcp-param-region", "ab")]), Ok(()));
    for i in 0..good.len() {
        let mut without = good.to_vec();
        without.remove(i);
        assert!(check(full, &without).unwrap_err().contains("missing"));
        let mut wrong = good.to_vec();
        wrong[i].1 = "7";
        assert!(check(full, &wrong).unwrap_err().contains("differs"));
    }
}

#[test]
fn mirrors_that_could_deceive_are_refused() {
    let region = |value| [("mcp-param-region", value)];
    assert!(check("{}", &region("us")).unwrap_err().contains("absent"));
    assert!(check(r#"{"region":null}"#, &region("null")).is_err());
    assert!(check(r#"{"region":"us"}"#, &region("US")).is_err());
    assert!(check(r#"{"region":"us"}"#, &region("=?base64?dXM?=")).unwrap_err().contains("base64"));
    assert!(check(r#"{"region":"é"}"#, &region("é")).unwrap_err().contains("ASCII"));
    assert!(check(r#"{"region":"us","region":"eu"}"#, &region("us")).unwrap_err().contains("more than once"));
    assert!(check(r#"{"region":{"a":1}}"#, &region("x")).is_err());
    let limit = |n: &str| check(&format!(r#"{{"options":{{"limit":{n}}}}}"#), &[("mcp-param-limit", n)]);
    assert_eq!(limit("9007199254740991"), Ok(()));
    assert!(limit("9007199254740993").is_err());
}

#[test]
fn generated_headers_pass_their_own_check() {
    let params = sample();
    let arguments = r#"{"region":" padded ","options":{"limit":4.2e1},"dry":false,"plain":"x"}"#.as_bytes();
    let made = params.generate(Some(arguments));
    let expected =
        [("Mcp-Param-Region", "=?base64?IHBhZGRlZCA=?="), ("Mcp-Param-Limit", "42"), ("Mcp-Param-Dry", "false")];
    assert_eq!(made.iter().map(|(n, v)| (*n, v.as_str())).collect::<Vec<_>>(), expected);
    let header = |name: &str| made.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_bytes());
    assert_eq!(params.check(Some(arguments), header), Ok(()));
    assert!(params.generate(None).is_empty());
    assert!(params.generate(Some(b"{\"region\":null}")).is_empty());
}
