use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    catalog::{
        About, CacheScope, Catalog, Collector, Limits, List, ListPage,
        merge::{ServiceState, ServiceView},
    },
    cursor::Cursor,
    names::Naming,
};

fn service(name: &str, tools: &[String]) -> ServiceView {
    let text = format!("{{\"tools\":[{}]}}", tools.join(","));
    let mut collector = Collector::new(Kind::Tool, Limits { items: 1_000_000, ..Limits::default() });
    collector.add(ListPage::parse(Kind::Tool, &Bytes::from(text)).unwrap());
    let none = List::default;
    let catalog = Catalog::new(collector.finish(), none(), none(), none(), About::default(), 0);
    ServiceView { name: name.into(), catalog: Arc::new(catalog), state: ServiceState::Fresh }
}

fn tools(sizes: &[usize]) -> Vec<String> {
    let one = |(i, size): (usize, &usize)| format!(r#"{{"name":"t{i}","d":"{}"}}"#, "x".repeat(*size));
    sizes.iter().enumerate().map(one).collect()
}

fn merged(services: Vec<ServiceView>) -> Merged {
    Merged::new(services, Naming::default())
}

fn parse(pieces: &[Bytes]) -> Value {
    serde_json::from_slice(&pieces.concat()).unwrap()
}

fn size(page: &Page) -> usize {
    page.items.iter().map(Bytes::len).sum()
}

fn names(result: &Value) -> Vec<String> {
    result["tools"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn results_have_the_members_of_their_era() {
    let merged = merged(vec![service("a", &tools(&[1])), service("b", &tools(&[0, 0]))]);
    let list = PreparedList::build(&merged, Kind::Tool, true, |_, _, _| true, PAGE_BYTES);
    let page = list.page(0).unwrap();
    assert_eq!((list.len(), page.next), (3, None));
    let fresh = Freshness { ttl_ms: 7, scope: CacheScope::Private };
    let modern = list.result(&page, None, &suffix(Some(fresh), Some(br#"{"k":1}"#)));
    assert_eq!(
        String::from_utf8(modern.concat()).unwrap(),
        concat!(
            r#"{"tools":[{"name":"a__t0","d":"x"},{"name":"b__t0","d":""},{"name":"b__t1","d":""}],"ttlMs":7,"#,
            r#""cacheScope":"private","resultType":"complete","_meta":{"k":1}}"#
        )
    );
    let legacy = list.result(&page, Some("c\"1"), &suffix(None, None));
    assert!(legacy.concat().ends_with(br#"],"nextCursor":"c\"1"}"#));
    assert_eq!(parse(&legacy).as_object().unwrap().len(), 2);
}

#[test]
fn empty_lists_are_one_empty_page() {
    for kind in Kind::ALL {
        let list = PreparedList::build(&merged(vec![]), kind, true, |_, _, _| true, PAGE_BYTES);
        assert!(list.is_empty());
        let result = parse(&list.result(&list.page(0).unwrap(), None, &suffix(None, None)));
        assert_eq!(result, serde_json::json!({kind.list_member(): []}));
    }
}

#[test]
fn an_audience_sees_only_what_it_may() {
    let merged = merged(vec![service("a", &tools(&[1, 1])), service("b", &tools(&[1, 1]))]);
    let list =
        PreparedList::build(&merged, Kind::Tool, true, |service, _, name| service == "a" || name == "t1", PAGE_BYTES);
    let result = parse(&list.result(&list.page(0).unwrap(), None, &suffix(None, None)));
    assert_eq!(names(&result), ["a__t0", "a__t1", "b__t1"]);
    let all = PreparedList::build(&merged, Kind::Tool, true, |_, _, _| true, PAGE_BYTES);
    assert_ne!(all.fingerprint(), list.fingerprint());
    let again = PreparedList::build(&merged, Kind::Tool, true, |_, _, _| true, PAGE_BYTES);
    assert_eq!(all.fingerprint(), again.fingerprint());
}

#[test]
fn tools_with_invalid_annotations_are_hidden_from_modern_http_clients_alone() {
    let bad = r#"{"name":"bad","inputSchema":{"properties":{"a":{"type":"number","x-mcp-header":"A"}}}}"#.to_owned();
    let good = r#"{"name":"good","inputSchema":{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}}"#.to_owned();
    let merged = merged(vec![service("s", &[bad, good])]);
    let modern = PreparedList::build(&merged, Kind::Tool, true, |_, _, _| true, PAGE_BYTES);
    let result = parse(&modern.result(&modern.page(0).unwrap(), None, &suffix(None, None)));
    assert_eq!(names(&result), ["s__good"]);
    assert!(modern.hidden()[0].starts_with("s.bad: x-mcp-header of \"a\" needs"));
    assert_eq!(PreparedList::build(&merged, Kind::Tool, false, |_, _, _| true, PAGE_BYTES).len(), 2);
}

#[test]
fn a_list_up_to_the_limit_is_one_page_and_offsets_are_checked() {
    // `{"name":"s__t0","d":""}` has 23 bytes, and the comma one.
    let merged = merged(vec![service("s", &tools(&[0, 0, 0]))]);
    let build = |bytes| PreparedList::build(&merged, Kind::Tool, true, |_, _, _| true, bytes);
    assert_eq!(build(71).page(0).unwrap().next, None);
    let two = build(70);
    assert_eq!(two.page(0).unwrap().next, Some(2));
    assert_eq!(two.page(2).unwrap().next, None);
    assert!(two.page(1).is_none() && two.page(3).is_none());
}

#[test]
fn a_page_is_narrowed_once_for_all_older_clients_of_a_form() {
    let tool = |schema: &str| format!(r#"{{"name":"t{}","outputSchema":{schema}}}"#, schema.len());
    let both = [tool(r#"{"type":"object"}"#), tool(r#"{"type":"array"}"#)];
    let merged = merged(vec![service("s", &both)]);
    let list = PreparedList::build(&merged, Kind::Tool, false, |_, _, _| true, 40);
    let second = list.page(0).unwrap().next.unwrap();
    // One piece each.
    let items = |offset, revision| list.page_for(offset, revision).unwrap().items.remove(0);
    for (revisions, objects) in [
        ([Revision::V2024_11_05, Revision::V2025_03_26], &b"{\"name\":\"s__t17\"}"[..]),
        ([Revision::V2025_06_18, Revision::V2025_11_25], &items(0, Revision::MODERN)),
    ] {
        for (offset, expected) in [(0, objects), (second, &b"{\"name\":\"s__t16\"}"[..])] {
            let made = items(offset, revisions[0]);
            assert_eq!(made, expected);
            for revision in revisions {
                let again = items(offset, revision);
                assert_eq!((again.as_ptr(), again.len()), (made.as_ptr(), made.len()), "{}", revision.as_str());
            }
        }
    }
    // A list that is made of the same has it already.
    let again = list.renewed(&merged, false, |_, _, _| true, 40).page_for(0, Revision::V2024_11_05).unwrap();
    assert_eq!(again.items[0].as_ptr(), items(0, Revision::V2024_11_05).as_ptr());
    // What can stay as it is takes no memory of its own.
    assert_eq!(items(0, Revision::V2025_11_25).as_ptr(), items(0, Revision::MODERN).as_ptr());
}

#[test]
fn a_thousand_services_merge_without_quadratic_work() {
    let all: Vec<_> = (0..1_000).map(|i| service(&format!("s{i}"), &tools(&[200; 50]))).collect();
    let merged = merged(all);
    let list = PreparedList::build(&merged, Kind::Tool, true, |_, _, _| true, PAGE_BYTES);
    assert_eq!(list.len(), 50_000);
    assert!(size(&list.page(0).unwrap()) <= PAGE_BYTES);
    assert_eq!(merged.resolve_name(Kind::Tool, "s999__t49").unwrap().item.unwrap().key(), "t49");
}

/// A service by what it lists: how many tools, which resources, how many prompts; nothing when it is missing.
type Offers = (u8, Vec<u8>, u8, bool);

fn offering(at: usize, (tools, resources, prompts, missing): &Offers) -> ServiceView {
    let list = |kind: Kind, items: Vec<String>| {
        let text = format!("{{\"{}\":[{}]}}", kind.list_member(), items.join(","));
        let mut collector = Collector::new(kind, Limits::default());
        collector.add(ListPage::parse(kind, &Bytes::from(text)).unwrap());
        collector.finish()
    };
    // One tool has a page, which is a resource: whose that is matters to the list of tools.
    let tool = |n: u8| match n {
        0 => r#"{"name":"t0","_meta":{"ui":{"resourceUri":"ui://0"}}}"#.to_owned(),
        n => format!(r#"{{"name":"t{n}{}"}}"#, "x".repeat(usize::from(n) * 12)),
    };
    let catalog = Catalog::new(
        list(Kind::Tool, (0..*tools).map(tool).collect()),
        list(Kind::Prompt, (0..*prompts).map(|n| format!(r#"{{"name":"p{n}"}}"#)).collect()),
        list(Kind::Resource, resources.iter().map(|n| format!(r#"{{"uri":"ui://{n}","name":"r"}}"#)).collect()),
        List::default(),
        About::default(),
        0,
    );
    let state = if *missing { ServiceState::Missing } else { ServiceState::Fresh };
    ServiceView { name: format!("s{at}").into(), catalog: Arc::new(catalog), state }
}

fn all_services(offers: &[Offers]) -> Vec<ServiceView> {
    offers.iter().enumerate().map(|(at, offers)| offering(at, offers)).collect()
}

#[test]
fn a_change_of_one_service_leaves_the_groups_of_others() {
    let mut services: Vec<_> = (0..100).map(|i| service(&format!("s{i}"), &tools(&[200; 50]))).collect();
    let before = merged(services.clone());
    let list = PreparedList::build(&before, Kind::Tool, true, |_, _, _| true, PAGE_BYTES);
    services[40] = service("s40", &tools(&[200; 49]));
    let after = before.renewed(services);
    let renewed = list.renewed(&after, true, |_, _, _| true, PAGE_BYTES);
    let same = list.groups.iter().zip(&renewed.groups).filter(|(old, new)| Arc::ptr_eq(old, new)).count();
    assert_eq!((same, list.groups.len()), (6, 7));
    assert_ne!(list.fingerprint(), renewed.fingerprint());
    assert_eq!(renewed.len(), 4_999);
}

fn mac(bytes: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&Sha256::new().chain_update("key").chain_update(bytes).finalize()[..16]);
    out
}

proptest! {
    #[test]
    fn paging_gives_every_item_once_and_in_order(
        sizes in proptest::collection::vec(proptest::collection::vec(0_usize..60, 0..12), 0..40), page_bytes in 1_usize..200
    ) {
        let services = sizes.iter().enumerate().map(|(i, sizes)| service(&format!("s{i}"), &tools(sizes))).collect();
        let merged = merged(services);
        let list = PreparedList::build(&merged, Kind::Tool, true, |_, _, _| true, page_bytes);
        let here = Cursor { kind: Kind::Tool, generation: list.fingerprint(), class: [1; 16], offset: 0 };
        let (mut got, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let offset = cursor.as_deref().map_or(0, |text| here.open(text, &mac).unwrap());
            let page = list.page(offset).unwrap();
            cursor = page.next.map(|offset| Cursor { offset, ..here }.seal(&mac));
            let pieces = list.result(&page, cursor.as_deref(), &suffix(None, None));
            let found = names(&parse(&pieces));
            prop_assert!(size(&page) <= page_bytes || found.len() == 1);
            got.extend(found);
            if cursor.is_none() { break; }
        }
        let expected: Vec<_> = merged.exposed(Kind::Tool).map(|e| e.name.into_owned()).collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn what_is_renewed_is_as_if_made_anew(
        mut offers in proptest::collection::vec(any::<Offers>().prop_map(small), 1..40),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<Offers>().prop_map(small)), 1..6),
        more in proptest::option::of(any::<Offers>().prop_map(small)),
    ) {
        let build = |merged: &Merged, kind| PreparedList::build(merged, kind, true, |_, _, _| true, 300);
        let mut merged = merged(all_services(&offers));
        let mut lists = Kind::ALL.map(|kind| build(&merged, kind));
        for (at, change) in changes {
            let at = at.index(offers.len());
            offers[at] = change;
            let anew = super::Merged::new(all_services(&offers), Naming::default());
            merged = merged.renewed(all_services(&offers));
            for list in &mut lists {
                *list = list.renewed(&merged, true, |_, _, _| true, 300);
                let expected = build(&anew, list.kind);
                prop_assert_eq!(list.fingerprint(), expected.fingerprint());
                prop_assert_eq!(&list.pages, &expected.pages);
            }
            offers.extend(more.clone());
        }
        let anew = super::Merged::new(merged.services().to_vec(), Naming::default());
        prop_assert_eq!(merged.warnings(), anew.warnings());
    }
}

fn small((tools, resources, prompts, missing): Offers) -> Offers {
    (tools % 4, resources.into_iter().take(3).map(|n| n % 4).collect(), prompts % 3, missing)
}
