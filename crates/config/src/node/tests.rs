//! The tree, its positions and its limits.

use proptest::prelude::*;

use super::{Document, Position, Value};

fn mistake(text: &str) -> String {
    Document::parse("f.yaml", text).expect_err("must be refused").to_string()
}

#[test]
fn values_know_their_place() {
    let document = Document::parse("f.yaml", "a: 1\nb:\n  - x\n  - {c: 'true'}\n").unwrap();
    let list = document.node.get("b").unwrap().items().unwrap();
    assert_eq!(document.node.get("a").unwrap().at, Position { line: 1, column: 4 });
    assert_eq!(list[0].at, Position { line: 3, column: 5 });
    let quoted = list[1].get("c").unwrap();
    assert_eq!(quoted.at, Position { line: 4, column: 9 });
    assert!(matches!(&quoted.value, Value::Scalar(scalar) if !scalar.plain && scalar.text == "true"));
}

#[test]
fn as_json_only_what_is_plain_is_more_than_text() {
    let document = Document::parse("f", "a: [1, '1', true, \"true\", 1.10, 0o17, ~]\nb: {c: -2}\n").unwrap();
    let expected = serde_json::json!({"a": [1, "1", true, "true", "1.10", "0o17", null], "b": {"c": -2}});
    assert_eq!(document.node.to_json(), expected);
}

#[test]
fn text_is_kept_as_written() {
    let document = Document::parse("f", "v: 1.10\no: 0o17\nn: no\nq: \"~\"\nempty:\n").unwrap();
    let text = |key: &str| document.node.get(key).unwrap().text().map(str::to_owned);
    assert_eq!(text("v").as_deref(), Some("1.10"));
    assert_eq!(text("n").as_deref(), Some("no"));
    assert_eq!(text("q").as_deref(), Some("~"));
    assert_eq!(text("empty"), None);
}

#[test]
fn empty_files_are_empty_mappings() {
    for text in ["", "# only a comment\n", "---\n", "---\n---\n"] {
        let document = Document::parse("f", text).unwrap();
        assert_eq!(document.node.entries().unwrap().len(), 0, "{text:?}");
    }
}

#[test]
fn documents_are_separate() {
    let all = Document::parse_all("f", "a: 1\n---\n---\na: 2\n").unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[1].node.get("a").unwrap().text(), Some("2"));
    let wrong = mistake("a: 1\n---\na: 2\n");
    assert!(wrong.starts_with("f.yaml:3:1: a second document"), "{wrong}");
}

#[test]
fn syntax_errors_have_a_place_and_the_line() {
    let wrong = mistake("a: 1\nb: [1, 2\nc: 3\n");
    assert!(wrong.starts_with("f.yaml:"), "{wrong}");
    assert!(wrong.contains("not valid YAML") && wrong.contains('^'), "{wrong}");
}

#[test]
fn repeated_keys_are_reported_and_the_first_one_stays() {
    let document = Document::parse("f", "a: 1\na: 2\n").unwrap();
    assert_eq!(document.node.get("a").unwrap().text(), Some("1"));
    assert_eq!(document.mistakes.len(), 1);
    assert_eq!(document.mistakes[0].line, 2);
    let nested = Document::parse("f", "s:\n  - {x: 1}\n  - {b: {a: 1, a: 2}}\n").unwrap();
    assert_eq!(nested.mistakes[0].path, "s[1].b.a");
}

#[test]
fn aliases_are_written_out_at_their_own_place() {
    let document = Document::parse("f", "a: &x [1, 2]\nb: *x\n").unwrap();
    let alias = document.node.get("b").unwrap();
    assert_eq!(alias.items().unwrap().len(), 2);
    assert_eq!(alias.at, Position { line: 2, column: 4 });
    assert!(mistake("a: &x [*x]\n").contains("alias"));
}

#[test]
fn alias_bombs_are_refused() {
    let mut text = "l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let items = vec![format!("*l{}", level - 1); 10].join(", ");
        text.push_str(&format!("l{level}: &l{level} [{items}]\n"));
    }
    assert!(mistake(&text).contains("more than 100000 values"));
}

#[test]
fn depth_is_bounded_also_through_aliases() {
    assert!(mistake(&format!("a: {}{}\n", "[".repeat(60), "]".repeat(60))).contains("nested deeper"));
    let mut text = "l0: &l0 [x]\n".to_owned();
    for level in 1..60 {
        text.push_str(&format!("l{level}: &l{level} [*l{}]\n", level - 1));
    }
    assert!(mistake(&text).contains("nested deeper"));
}

#[test]
fn huge_files_are_refused() {
    assert!(mistake(&"#".repeat(super::MAX_BYTES + 1)).contains("bytes"));
}

#[test]
fn keys_must_be_single_words() {
    assert!(mistake("? [a, b]\n: 1\n").contains("as a key"));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in ".{0,400}") {
        let _ = Document::parse_all("f", &text);
    }

    #[test]
    fn arbitrary_yaml_shapes_never_panic(text in r#"([a-c]: |- |\[|\]|\{|\}|&a |\*a |"|'|\n|  |x|, |\?|---\n|\| |!t ){0,60}"#) {
        if let Ok(documents) = Document::parse_all("f", &text) {
            prop_assert!(documents.iter().all(|document| document.node.value != Value::Null));
        }
    }
}
