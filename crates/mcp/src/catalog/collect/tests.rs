use super::*;

fn page(text: &str) -> Result<ListPage, PageError> {
    ListPage::parse(Kind::Tool, &Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn pages_give_their_items_and_how_to_go_on() {
    let got =
        page(r#"{"nextCursor":"","tools":[{"name":"a"},{"x":1},{"name":"b"}],"ttlMs":1500.7,"cacheScope":"public"}"#);
    let got = got.unwrap();
    assert_eq!(got.items.iter().map(Item::key).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(got.skipped, ["tool 1 has no `name`"]);
    assert_eq!(got.next_cursor.as_deref(), Some(""));
    assert_eq!((got.ttl_ms, got.cache_scope), (Some(1500), Some(CacheScope::Public)));
    let legacy = page(r#"{"tools":[],"nextCursor":null}"#).unwrap();
    assert_eq!((legacy.next_cursor, legacy.ttl_ms, legacy.cache_scope), (None, None, None));
    assert_eq!(page(r#"{"tools":[],"ttlMs":-5,"cacheScope":"else"}"#).unwrap().ttl_ms, Some(0));
}

#[test]
fn tools_that_a_client_over_http_must_reject_are_skipped() {
    let mut got = page(
        r#"{"tools":[{"name":"a","inputSchema":{"properties":{"x":{"type":"number","x-mcp-header":"X"}}}},{"name":"b"}]}"#,
    )
    .unwrap();
    got.skip_invalid_headers();
    assert_eq!(got.items.iter().map(Item::key).collect::<Vec<_>>(), ["b"]);
    assert!(got.skipped[0].starts_with("a: x-mcp-header"), "{:?}", got.skipped);
}

#[test]
fn unusable_pages_are_errors() {
    assert_eq!(page("[]").unwrap_err(), PageError::Items("tools"));
    assert_eq!(page("{}").unwrap_err(), PageError::Items("tools"));
    assert_eq!(page(r#"{"tools":{}}"#).unwrap_err(), PageError::Items("tools"));
    assert_eq!(page(r#"{"tools":[],"nextCursor":7}"#).unwrap_err(), PageError::Cursor);
    assert!(matches!(page(r#"{"tools":[],"tools":[]}"#), Err(PageError::Repeated(_))));
    assert!(matches!(page(r#"{"tools":[}"#), Err(PageError::Json(_))));
}

fn items(range: std::ops::Range<usize>, cursor: Option<&str>) -> ListPage {
    let items: Vec<_> = range.map(|i| format!(r#"{{"name":"t{i}"}}"#)).collect();
    let cursor = cursor.map_or(String::new(), |c| format!(r#","nextCursor":"{c}""#));
    page(&format!(r#"{{"tools":[{}]{cursor}}}"#, items.join(","))).unwrap()
}

fn collector(limits: Limits) -> Collector {
    Collector::new(Kind::Tool, limits)
}

fn names(list: &List) -> Vec<&str> {
    list.items().iter().map(Item::key).collect()
}

#[test]
fn pages_are_joined_in_order() {
    let mut all = collector(Limits::default());
    assert_eq!(all.add(items(0..2, Some(""))).as_deref(), Some(""));
    assert_eq!(all.add(items(2..3, Some("x"))).as_deref(), Some("x"));
    assert_eq!(all.add(items(3..4, None)), None);
    let list = all.finish();
    assert_eq!(names(&list), ["t0", "t1", "t2", "t3"]);
    assert!(list.complete() && list.warnings().is_empty());
    assert_eq!(list.find("t2").map(Item::key), Some("t2"));
    assert!(list.find("t9").is_none());
}

#[test]
fn a_list_without_end_becomes_partial() {
    let mut repeats = collector(Limits::default());
    assert!(repeats.add(items(0..1, Some("x"))).is_some());
    assert_eq!(repeats.add(items(1..2, Some("x"))), None);
    let list = repeats.finish();
    assert_eq!(names(&list), ["t0", "t1"]);
    assert!(!list.complete() && list.warnings()[0].contains("repeats a cursor"));

    let mut pages = collector(Limits { pages: 2, ..Limits::default() });
    assert!(pages.add(items(0..1, Some("a"))).is_some());
    assert_eq!(pages.add(items(1..2, Some("b"))), None);
    assert!(pages.finish().warnings()[0].contains("more than 2 pages"));

    let mut many = collector(Limits { items: 3, ..Limits::default() });
    assert_eq!(many.add(items(0..5, Some("a"))), None);
    let list = many.finish();
    assert_eq!(names(&list), ["t0", "t1", "t2"]);
    assert!(!list.complete());

    let mut big = collector(Limits { bytes: 100, ..Limits::default() });
    assert!(big.add(items(0..1, Some("a"))).is_some());
    assert_eq!(big.add(items(1..50, None)), None);
    let list = big.finish();
    assert_eq!(names(&list), ["t0"]);
    assert!(!list.complete());
}

#[test]
fn exactly_at_a_bound_is_complete() {
    let mut all = collector(Limits { items: 3, pages: 2, bytes: 1000 });
    assert!(all.add(items(0..2, Some("a"))).is_some());
    assert_eq!(all.add(items(2..3, None)), None);
    assert!(all.finish().complete());
}

#[test]
fn duplicates_and_bad_items_are_left_out_with_a_warning() {
    let mut all = collector(Limits::default());
    all.add(page(r#"{"tools":[{"name":"a","v":1},{"name":"a","v":2},{"no":1}]}"#).unwrap());
    let list = all.finish();
    assert_eq!(list.items()[0].raw(), r#"{"name":"a","v":1}"#);
    assert_eq!((list.items().len(), list.warnings().len(), list.complete()), (1, 2, true));

    let mut noisy = collector(Limits::default());
    noisy.add(page(&format!(r#"{{"tools":[{}]}}"#, vec!["{}"; 1000].join(","))).unwrap());
    assert_eq!(noisy.finish().warnings().last().unwrap(), "and 980 more warnings");
}

#[test]
fn a_page_that_fails_leaves_a_partial_list() {
    let mut all = collector(Limits::default());
    all.add(items(0..2, Some("x")));
    let list = all.abandon("timeout", &List::default());
    assert_eq!(names(&list), ["t0", "t1"]);
    assert!(!list.complete() && list.warnings()[0].contains("page 2 could not be read: timeout"));
}

#[test]
fn the_least_fresh_and_most_private_page_counts() {
    let with = |rest: &str| page(&format!(r#"{{"tools":[]{rest}}}"#)).unwrap();
    let mut all = collector(Limits::default());
    all.add(with(r#","ttlMs":9,"cacheScope":"public","nextCursor":"a""#));
    all.add(with(r#","ttlMs":5,"cacheScope":"private","nextCursor":"b""#));
    all.add(with(r#","ttlMs":7,"cacheScope":"public""#));
    let list = all.finish();
    assert_eq!((list.ttl_ms(), list.cache_scope()), (Some(5), Some(CacheScope::Private)));
}
