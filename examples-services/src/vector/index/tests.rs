//! Ranking, limits and paging of the index.

use serde_json::json;

use super::*;

fn index() -> Index {
    Index::new(Caps { documents: 3, total_bytes: 1000 })
}

fn add(index: &mut Index, id: &str, text: &str) -> Result<bool, AddError> {
    index.add(id, text.to_owned(), JsonObject::new())
}

#[test]
fn ranks_by_cosine_and_breaks_ties_by_id() {
    let mut index = index();
    add(&mut index, "b", "The boat, the BOAT").unwrap();
    add(&mut index, "a", "boat the boat the").unwrap();
    add(&mut index, "c", "canoe outrigger boat").unwrap();
    let hits = index.search("Boat the", 10);
    let ids: Vec<&str> = hits.iter().map(|hit| hit.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    assert!((hits[0].score - 1.0).abs() < 1e-9 && hits[0].score <= 1.0);
    assert!((hits[2].score - 1.0 / 6f64.sqrt()).abs() < 1e-9, "{}", hits[2].score);
    assert_eq!(index.search("boat", 1).len(), 1);
}

#[test]
fn unrelated_documents_and_empty_queries_give_no_hit() {
    let mut index = index();
    add(&mut index, "a", "boat").unwrap();
    assert!(index.search("car", 5).is_empty());
    assert!(index.search(" ,.", 5).is_empty());
}

#[test]
fn metadata_comes_back_and_long_texts_are_quoted_in_part() {
    let mut index = Index::new(Caps { documents: 1, total_bytes: 100_000 });
    let metadata = json!({"lang": "ja", "n": 1}).as_object().unwrap().clone();
    index.add("a", format!("舟 {}", "é".repeat(1000)), metadata.clone()).unwrap();
    let hits = index.search("舟", 1);
    assert_eq!(hits[0].metadata, metadata);
    assert_eq!(hits[0].excerpt.chars().count(), EXCERPT_CHARS);
}

#[test]
fn replacing_keeps_the_byte_account_right() {
    let mut index = index();
    assert!(!add(&mut index, "a", &"x ".repeat(400)).unwrap());
    assert!(add(&mut index, "a", "short").unwrap());
    assert_eq!(index.len(), 1);
    // Room for another 800 bytes is only there if the old text no longer counts.
    add(&mut index, "b", &"y ".repeat(400)).unwrap();
    assert!(index.search("x", 1).is_empty());
}

#[test]
fn every_limit_is_enforced_and_leaves_the_index_alone() {
    let mut index = index();
    assert_eq!(add(&mut index, "", "a"), Err(AddError::BadId(0)));
    assert_eq!(add(&mut index, &"x".repeat(201), "a"), Err(AddError::BadId(201)));
    assert_eq!(add(&mut index, "a", "?!"), Err(AddError::NoWords));
    assert_eq!(add(&mut index, "a", &"x".repeat(MAX_TEXT_BYTES + 1)), Err(AddError::TextTooLong(MAX_TEXT_BYTES + 1)));
    let big = json!({"k": "v".repeat(MAX_METADATA_BYTES)}).as_object().unwrap().clone();
    assert!(matches!(index.add("a", "a".into(), big), Err(AddError::MetadataTooLong(_))));
    assert!(matches!(add(&mut index, "a", &"x".repeat(1000)), Err(AddError::Full { documents: 0, .. })));
    for id in ["a", "b", "c"] {
        add(&mut index, id, "x").unwrap();
    }
    assert!(matches!(add(&mut index, "d", "x"), Err(AddError::Full { documents: 3, .. })));
    assert!(add(&mut index, "c", "y").unwrap(), "a full index still takes replacements");
}

#[test]
fn pages_are_stable_and_end() {
    let mut index = index();
    for id in ["c", "a", "b"] {
        add(&mut index, id, "x").unwrap();
    }
    let (first, next) = index.page(None, 2);
    assert_eq!((first, next.as_deref()), (vec!["a".to_owned(), "b".to_owned()], Some("b")));
    let (second, end) = index.page(next.as_deref(), 2);
    assert_eq!((second, end), (vec!["c".to_owned()], None));
    assert_eq!(index.page(Some("zzz"), 2), (vec![], None));
}
