//! Reading: precedence, mistakes, nesting, and that nothing panics.

use std::time::Duration;

use proptest::prelude::*;

use super::{Doc, Fields, doc, load};
use crate::diagnostics::Diagnostics;
use crate::kinds;
use crate::secret::Secret;
use crate::sections;

const NONE: &dyn Fn(&str) -> Option<String> = &|_| None;

#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    wait: Duration,
    inner: Option<u64>,
    peers: Vec<(String, Vec<String>)>,
    steps: Vec<bool>,
    key: Option<Secret>,
}

const WAIT: Doc = doc("Wait.").because("it is enough").env("WAIT");

fn sample(f: &mut Fields<'_>) -> Option<Sample> {
    let name = f.required("name", doc("Name.").env("NAME"), kinds::text());
    let wait =
        f.with_default("wait", WAIT, kinds::duration(Duration::ZERO..=Duration::from_secs(60)), Duration::from_secs(5));
    let inner = f.optional_section("inner", "Inner.", |f| f.required("count", doc("Count."), kinds::integer(1..=9)));
    let peers = f.map("peers", "Peers.", &sections::service_name(), |_, f| {
        f.required("hosts", doc("Hosts."), kinds::list_of(kinds::text()))
    });
    let steps = f.list("steps", "Steps.", |f| Some(f.with_default("on", doc("On."), kinds::boolean(), false)));
    let key = f.optional("key", doc("Key.").env("KEY"), kinds::secret());
    Some(Sample { name: name?, wait, inner, peers, steps, key })
}

fn read(text: &str) -> Result<Sample, Diagnostics> {
    load(Some(("f", text)), NONE, sample).map(|loaded| loaded.value)
}

fn mistakes(text: &str) -> Vec<String> {
    let wrong = read(text).expect_err("must be refused");
    wrong
        .0
        .iter()
        .map(|mistake| format!("{}:{} {}: {}", mistake.line, mistake.column, mistake.path, mistake.message))
        .collect()
}

#[test]
fn everything_is_read() {
    let text = "name: x\nwait: 250ms\ninner: { count: 3 }\npeers:\n  b: { hosts: [h1, h2] }\n  a: { hosts: [] }\nsteps:\n  - on: true\n  -\n";
    let expected = Sample {
        name: "x".into(),
        wait: Duration::from_millis(250),
        inner: Some(3),
        peers: vec![("b".into(), vec!["h1".into(), "h2".into()]), ("a".into(), vec![])],
        steps: vec![true, false],
        key: None,
    };
    assert_eq!(read(text).unwrap(), expected);
}

#[test]
fn the_environment_wins_and_empty_is_unset() {
    let env = |name: &str| match name {
        "WAIT" => Some("7s".to_owned()),
        "NAME" => Some(String::new()),
        _ => None,
    };
    let loaded = load(Some(("f", "name: file\nwait: 1s\n")), &env, sample).unwrap();
    assert_eq!((loaded.value.name.as_str(), loaded.value.wait), ("file", Duration::from_secs(7)));
    let wrong = load(None, &env, sample).unwrap_err();
    assert!(
        wrong.to_string().starts_with("settings: name: this setting is missing (add `name: ...`, or set NAME)"),
        "{wrong}"
    );
}

#[test]
fn mistakes_of_the_environment_name_the_variable() {
    let env = |name: &str| (name == "WAIT").then(|| "soon".to_owned());
    let wrong = load(Some(("f", "name: x\nwait: later\n")), &env, sample).unwrap_err();
    assert_eq!(wrong.0.len(), 2, "file and environment are both checked: {wrong}");
    assert_eq!((wrong.0[1].file.as_str(), wrong.0[1].path.as_str(), wrong.0[1].line), ("environment", "WAIT", 0));
}

#[test]
fn a_variable_means_nothing_where_there_may_be_many_sections() {
    let env = |name: &str| (name == "WAIT").then(|| "9s".to_owned());
    let section = |f: &mut Fields<'_>| {
        f.section("deep", "Deep.", |f| {
            f.optional("wait", WAIT, kinds::duration(Duration::ZERO..=Duration::from_secs(60)))
        })
    };
    let read = |f: &mut Fields<'_>| {
        let one = f.optional_section("one", "One.", section);
        let many = f.map("many", "Many.", &sections::service_name(), |_, f| section(f));
        let listed = f.list("listed", "Listed.", section);
        Some((one, many.len(), listed.len(), section(f)))
    };
    let text = "one: {}\nmany: { a: {} }\nlisted: [ {} ]\n";
    let expected = (None, 0, 0, Some(Duration::from_secs(9)));
    assert_eq!(load(Some(("f", text)), &env, read).unwrap().value, expected);
}

#[test]
fn all_mistakes_come_at_once_in_file_order() {
    let text = "nmae: x\nwait: 61s\ninner: []\npeers:\n  A: { hosts: [[]] }\nsteps:\n  - on: maybe\nwait: 1s\n";
    let expected = [
        "1:1 name: this setting is missing",
        "1:1 nmae: unknown setting",
        "2:7 wait: `61s` is out of range",
        "3:8 inner: expected a section of `key: value` lines, found a list",
        "5:3 peers.A: `A` is not a valid service name",
        "5:16 peers.A.hosts: expected text, found a list",
        "7:9 steps[0].on: `maybe` is not a boolean",
        "8:1 wait: this key stands here twice",
    ];
    assert_eq!(mistakes(text), expected);
}

#[test]
fn an_empty_value_is_not_a_default() {
    assert_eq!(mistakes("name: x\nwait:\n"), ["2:5 wait: expected duration 0s to 1m, found nothing"]);
}

#[test]
fn wrong_shapes_of_maps_and_lists_are_mistakes() {
    assert_eq!(mistakes("name: x\npeers: [a]\n"), ["2:8 peers: expected names with a section each, found a list"]);
    assert_eq!(mistakes("name: x\nsteps: {}\n"), ["2:8 steps: expected a list, found a section of `key: value` lines"]);
    assert_eq!(mistakes("[a]\n"), ["1:1 : expected a section of `key: value` lines, found a list"]);
}

#[test]
fn a_wrong_secret_shows_neither_value_nor_line() {
    let wrong = read("name: x\nkey: [hunter2]\n").unwrap_err();
    assert_eq!(wrong.0.len(), 1);
    assert!(!wrong.to_string().contains("hunter2"), "{wrong}");
}

#[test]
fn a_section_that_gives_up_silently_is_still_an_error() {
    let nothing: Result<crate::Loaded<()>, _> = load(None, NONE, |_| None);
    assert!(nothing.unwrap_err().to_string().contains("not complete"));
}

#[test]
fn a_section_can_be_there_because_of_its_variable() {
    let section = |f: &mut Fields<'_>| {
        let url = f.required("url", doc("Url.").env("STORE"), kinds::text());
        let ca = f.optional("ca", doc("Ca.").env("STORE_CA"), kinds::text());
        Some((url?, ca))
    };
    let read = |text: &str, set: &'static [(&str, &str)]| {
        let env = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let read = |f: &mut Fields<'_>| Some(f.optional_section_or("store", "Store.", "STORE", section));
        load(Some(("f", text)), &env, read).map(|loaded| loaded.value).map_err(|wrong| wrong.to_string())
    };
    let (here, of_file) = (Some(("here".to_owned(), None)), Some(("there".to_owned(), Some("c".to_owned()))));
    assert_eq!(read("{}", &[]), Ok(None));
    assert_eq!(read("{}", &[("STORE_CA", "c")]), Ok(None), "it says nothing by itself");
    assert_eq!(read("{}", &[("STORE", "here")]), Ok(here));
    assert_eq!(read("store: { url: there }", &[("STORE_CA", "c")]), Ok(of_file));
    assert!(read("store: {}", &[]).unwrap_err().contains("set STORE"));
}

#[test]
fn warnings_stop_nothing() {
    let loaded = load(Some(("f", "a: 1\n")), NONE, |f| {
        f.warn("a", "old", "new");
        f.optional("a", doc("A."), kinds::text())
    });
    let loaded = loaded.unwrap();
    assert_eq!((loaded.value.as_str(), loaded.warnings[0].line), ("1", 1));
}

proptest! {
    #[test]
    fn arbitrary_settings_never_panic(
        text in r"((name|wait|inner|peers|steps|key|on|x)(: |:\n|:\n  )|- |\[|\]|\{|\}|5s|a|\n|  |, ){0,40}",
        wait in ".{0,20}",
    ) {
        let env = |name: &str| (name == "WAIT").then(|| wait.clone());
        match load(Some(("f", &text)), &env, sample) {
            Ok(loaded) => prop_assert!(loaded.value.wait <= Duration::from_secs(60)),
            Err(wrong) => prop_assert!(!wrong.0.is_empty() && !wrong.to_string().is_empty()),
        }
    }
}
