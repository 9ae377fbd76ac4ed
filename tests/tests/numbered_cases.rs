//! Every case of the table in docs/TESTING.md is a test named by its number, and the table has all of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

const CASES: u32 = 90;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All Rust sources of the workspace; what is built or installed is not among them.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The names of tests by the number that they begin with.
fn tests() -> BTreeMap<u32, BTreeSet<String>> {
    let mut files = Vec::new();
    sources(root(), &mut files);
    let mut tests: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut attributed = false;
        for line in text.lines().map(str::trim) {
            let name =
                line.trim_start_matches("async ").strip_prefix("fn case_").and_then(|rest| rest.split('(').next());
            match name {
                // Only what is run counts: a helper of that name shows nothing.
                Some(name) if attributed => {
                    let number = name.split('_').next().and_then(|number| number.parse().ok());
                    let number = number.unwrap_or_else(|| panic!("case_{name} in {} has no number", file.display()));
                    tests.entry(number).or_default().insert(format!("case_{name}"));
                }
                _ => {}
            }
            attributed = line.starts_with("#[tokio::test")
                || line.starts_with("#[test]")
                || (attributed && line.starts_with("#["));
        }
    }
    tests
}

#[test]
fn every_case_has_a_test() {
    let tests = tests();
    let missing: Vec<u32> = (1..=CASES).filter(|number| !tests.contains_key(number)).collect();
    assert!(missing.is_empty(), "no test is named case_NN_ for {missing:?}");
    let unknown: Vec<_> = tests.keys().filter(|number| !(1..=CASES).contains(*number)).collect();
    assert!(unknown.is_empty(), "there are no cases {unknown:?}");
}

#[test]
fn the_documentation_tells_every_case_once_and_in_order() {
    let text = std::fs::read_to_string(root().join("docs/TESTING.md")).unwrap();
    let (_, section) = text.split_once("\n## The numbered cases\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let numbers: Vec<u32> =
        section.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok()).collect();
    assert_eq!(numbers, (1..=CASES).collect::<Vec<_>>());
}
