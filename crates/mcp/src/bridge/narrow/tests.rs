use serde_json::{Value, json};

use super::*;

/// The four revisions with sessions, oldest first.
const LEGACY: [Revision; 4] =
    [Revision::V2024_11_05, Revision::V2025_03_26, Revision::V2025_06_18, Revision::V2025_11_25];

fn message(result: &str) -> Message {
    Message::parse(Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#))).unwrap()
}

/// The result as a client of a revision gets it, raw.
fn told(method: Method, given: &str, revision: Revision) -> String {
    let message = message(given);
    let bytes = result(&message, method, revision).unwrap_or_else(|| message.body().clone());
    let narrowed = Message::parse(bytes).unwrap();
    String::from_utf8(narrowed.raw(narrowed.result_span().unwrap()).to_vec()).unwrap()
}

/// Checks a row: what each revision gets of a result, oldest first.
fn row(method: Method, given: &str, expected: [&str; 4]) {
    for (revision, expected) in LEGACY.into_iter().zip(expected) {
        assert_eq!(told(method, given, revision), expected, "{} for {}", given, revision.as_str());
    }
}

/// Checks a row in which nothing changes for any revision.
fn same(method: Method, given: &str) {
    for revision in LEGACY {
        assert!(result(&message(given), method, revision).is_none(), "{given} for {}", revision.as_str());
    }
}

#[test]
fn members_of_the_stateless_revision_are_left_out() {
    for (given, expected) in [
        (r#"{"resultType":"complete","contents":[],"ttlMs":0,"cacheScope":"private"}"#, r#"{"contents":[]}"#),
        (r#"{"ttlMs":0, "cacheScope":"private", "n":1.50, "resultType":"complete"}"#, r#"{"n":1.50}"#),
        (r#"{"a":1,"ttlMs":2,"b":3}"#, r#"{"a":1,"b":3}"#),
        (r#"{ "resultType" : "complete" }"#, "{  }"),
        (r#"{"result\u0054ype":"complete","a":{"ttlMs":1}}"#, r#"{"a":{"ttlMs":1}}"#),
    ] {
        for method in [Method::ResourcesRead, Method::ToolsCall, Method::CompletionComplete, Method::ToolsList] {
            row(method, given, [expected; 4]);
        }
    }
    same(Method::ResourcesRead, r#"{"contents":[{"uri":"a:b","ttlMs":1}]}"#);
    same(Method::ToolsCall, r#"{"resultType":"vendor","content":[]}"#);
}

#[test]
fn structured_content_is_an_object_or_text() {
    let object = r#"{"content":[{"type":"text","text":"t"}],"structuredContent":{"a": 1.0}}"#;
    let text = r#"{"content":[{"type":"text","text":"t"}]}"#;
    row(Method::ToolsCall, object, [text, text, object, object]);
    let list = r#"{"structuredContent":[1],"content":[{"type":"text","text":"t"}],"z":1.50}"#;
    row(Method::ToolsCall, list, [r#"{"content":[{"type":"text","text":"t"}],"z":1.50}"#; 4]);
    // Without other content it says itself what it was.
    let alone = r#"{"content":[],"structuredContent":{"a": 1.0},"isError":false}"#;
    let said = r#"{"content":[{"type":"text","text":"{\"a\": 1.0}"}],"isError":false}"#;
    row(Method::ToolsCall, alone, [said, said, alone, alone]);
    row(Method::ToolsCall, r#"{"structuredContent":[1]}"#, [r#"{"content":[{"type":"text","text":"[1]"}]}"#; 4]);
    row(
        Method::ToolsCall,
        r#"{"resultType":"complete","structuredContent":7,"ttlMs":0}"#,
        [r#"{"content":[{"type":"text","text":"7"}]}"#; 4],
    );
    same(Method::PromptsGet, r#"{"structuredContent":[1]}"#);
}

#[test]
fn schemas_of_results_describe_objects() {
    let of =
        |schema: &str| format!(r#"{{"tools":[{{"name":"a","outputSchema":{schema},"title":"A"}},{{"name":"b"}}]}}"#);
    let without = r#"{"tools":[{"name":"a","title":"A"},{"name":"b"}]}"#;
    let object = of(r#"{"type":"object","properties":{}}"#);
    row(Method::ToolsList, &object, [without, without, &object, &object]);
    for other in [r#"{"type":"array"}"#, r#"{"oneOf":[]}"#, "true"] {
        row(Method::ToolsList, &of(other), [without; 4]);
    }
    same(Method::PromptsList, &object);
}

#[test]
fn definitions_are_narrowed_as_in_results_and_once_for_each_form() {
    let with = |schema: &str| format!(r#"{{"name":"a","outputSchema":{schema}}},{{"name":"b","title":"B"}}"#);
    for tools in [with(r#"{"type":"object"}"#), with(r#"{"type":"array"}"#), r#"{"name":"b"}"#.into(), String::new()] {
        let mut forms: [Option<String>; LIST_FORMS] = Default::default();
        for revision in LEGACY {
            let narrowed = definitions(Kind::Tool, tools.as_bytes(), revision);
            let narrowed = narrowed.map_or_else(|| tools.clone(), |list| String::from_utf8(list.to_vec()).unwrap());
            let whole = told(Method::ToolsList, &format!(r#"{{"tools":[{tools}]}}"#), revision);
            assert_eq!(format!(r#"{{"tools":[{narrowed}]}}"#), whole, "{}", revision.as_str());
            let form = forms[list_form(revision).unwrap()].get_or_insert_with(|| narrowed.clone());
            assert_eq!(*form, narrowed, "{}", revision.as_str());
            // Only tools have schemas of results.
            assert!(definitions(Kind::Prompt, tools.as_bytes(), revision).is_none());
        }
        assert!(definitions(Kind::Tool, tools.as_bytes(), Revision::MODERN).is_none());
    }
}

#[test]
fn blocks_that_a_revision_does_not_know_become_text() {
    let text = r#"{"type":"text","text":"t"}"#;
    let link = r#"{"name":"n","uri":"a:\/b","type":"resource_link"}"#;
    let audio = r#"{"type":"audio","data":"AAAA","mimeType":"audio/wav"}"#;
    let as_text = r#"{"type":"text","text":"a:\/b"}"#;
    let note = r#"{"type":"text","text":"[audio, audio/wav: left out, because revision 2024-11-05 has none]"}"#;
    let call = |blocks: [&str; 3]| format!(r#"{{"content":[{}]}}"#, blocks.join(","));
    let given = call([text, link, audio]);
    let (first, second) = (call([text, as_text, note]), call([text, as_text, audio]));
    row(Method::ToolsCall, &given, [&first, &second, &given, &given]);
    let prompt = |blocks: [&str; 3]| {
        let messages = blocks.map(|block| format!(r#"{{"role":"user","content":{block}}}"#));
        format!(r#"{{"messages":[{}]}}"#, messages.join(","))
    };
    let given = prompt([text, link, audio]);
    let (first, second) = (prompt([text, as_text, note]), prompt([text, as_text, audio]));
    row(Method::PromptsGet, &given, [&first, &second, &given, &given]);
}

#[test]
fn members_that_older_revisions_allow_stay() {
    for (method, given) in [
        (
            Method::ToolsList,
            r#"{"tools":[{"name":"a","title":"A","icons":[{"src":"x:y"}],"annotations":{"readOnlyHint":true},"execution":{"taskSupport":"optional"},"_meta":{"k":1},"inputSchema":{"$defs":{},"type":"object"}}],"nextCursor":"c","_meta":{"k":1}}"#,
        ),
        (
            Method::ResourcesList,
            r#"{"resources":[{"uri":"a:b","name":"n","title":"T","icons":[],"size":1,"annotations":{"lastModified":"x"}}]}"#,
        ),
        (Method::PromptsList, r#"{"prompts":[{"name":"n","title":"T","arguments":[{"name":"a","title":"A"}]}]}"#),
        (
            Method::ToolsCall,
            r#"{"content":[{"type":"image","data":"","mimeType":"m","annotations":{}},{"type":"later"},7,{"type":"resource","resource":{"uri":"a:b","text":""}}],"isError":true,"_meta":{"k":1}}"#,
        ),
        (Method::ToolsCall, r#"{"content":"odd"}"#),
        (Method::ToolsList, r#"{"tools":{}}"#),
        (Method::PromptsGet, r#"{"messages":[{"content":[{"type":"audio"}]},null]}"#),
    ] {
        same(method, given);
    }
}

fn asked(method: Method, params: &Value, revision: Revision) -> Value {
    let narrowed = question(method, params.to_string().into(), revision).unwrap();
    serde_json::from_slice(&narrowed).unwrap_or_else(|error| panic!("{error}: {narrowed:?}"))
}

#[test]
fn models_are_asked_one_block_at_a_time() {
    let (text, audio) = (json!({"type": "text", "text": "t"}), json!({"type": "audio", "data": "", "mimeType": "m"}));
    let note = json!({"type": "text", "text": "[audio, m: left out, because revision 2024-11-05 has none]"});
    let user = |content: &Value| json!({"role": "user", "content": content});
    let ask = |messages: Value| json!({"maxTokens": 1, "messages": messages, "systemPrompt": "s"});
    let given = ask(json!([user(&json!([text, audio])), {"content": text, "role": "assistant"}]));
    let apart = |second: &Value| ask(json!([user(&text), user(second), {"content": text, "role": "assistant"}]));
    let expected = [apart(&note), apart(&audio), apart(&audio), given.clone()];
    for (revision, expected) in LEGACY.into_iter().zip(expected) {
        assert_eq!(asked(Method::SamplingCreateMessage, &given, revision), expected, "{}", revision.as_str());
    }
    for odd in [json!({}), json!({"messages": 7}), ask(json!([]))] {
        assert_eq!(asked(Method::SamplingCreateMessage, &odd, Revision::V2025_03_26), odd);
    }
}

#[test]
fn named_choices_have_their_names_beside_them() {
    let form = |color: Value| {
        json!({"message": "m", "requestedSchema": {"type": "object", "properties": {
        "n": {"type": "integer"}, "color": color}, "required": ["n"]}})
    };
    let options = json!([{"const": "r", "title": "Red"}, {"title": "Blue", "const": "b"}]);
    let given = form(json!({"type": "string", "oneOf": options, "default": "r"}));
    let older = form(json!({"type": "string", "enum": ["r", "b"], "enumNames": ["Red", "Blue"], "default": "r"}));
    assert_eq!(asked(Method::ElicitationCreate, &given, Revision::V2025_06_18), older);
    assert_eq!(asked(Method::ElicitationCreate, &given, Revision::V2025_11_25), given);
    let unnamed = form(json!({"oneOf": [{"const": "r"}]}));
    assert_eq!(asked(Method::ElicitationCreate, &unnamed, Revision::V2025_06_18), form(json!({"enum": ["r"]})));
    for other in [json!({"oneOf": [{"type": "string"}]}), json!({"oneOf": 7}), json!(7)] {
        assert_eq!(asked(Method::ElicitationCreate, &form(other.clone()), Revision::V2025_06_18), form(other));
    }
}

#[test]
fn several_choices_at_once_are_left_out_or_refused() {
    let several = json!({"type": "array", "items": {"anyOf": [{"const": "r", "title": "Red"}]}, "minItems": 1});
    let form = |properties: Value, required: &[&str]| json!({"message": "m", "requestedSchema": {"type": "object", "properties": properties, "required": required}});
    let name = json!({"type": "string"});
    let kept = form(json!({ "name": name }), &["name"]);
    for given in [json!({"colors": several, "name": name}), json!({"name": name, "colors": several})] {
        let given = form(given, &["name"]);
        assert_eq!(asked(Method::ElicitationCreate, &given, Revision::V2025_06_18), kept);
        assert_eq!(asked(Method::ElicitationCreate, &given, Revision::V2025_11_25), given);
    }
    let alone = form(json!({ "colors": several }), &[]);
    assert_eq!(asked(Method::ElicitationCreate, &alone, Revision::V2025_06_18), form(json!({}), &[]));
    let needed = form(json!({"name": name, "colors": several}), &["colors"]).to_string();
    let refused = question(Method::ElicitationCreate, needed.into(), Revision::V2025_06_18).unwrap_err();
    assert!(refused.contains("`colors`") && refused.contains("2025-06-18"), "{refused}");
}
