use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    catalog::{About, Collector, Limits, List, ListPage},
    names::Joiner,
};

fn list(kind: Kind, keys: &[&str], rest: &str) -> List {
    let items: Vec<_> =
        keys.iter().map(|key| format!("{{\"{}\":{}}}", kind.key_member(), crate::json::quote(key))).collect();
    let text = format!("{{\"{}\":[{}]{rest}}}", kind.list_member(), items.join(","));
    let mut collector = Collector::new(kind, Limits::default());
    collector.add(ListPage::parse(kind, &Bytes::from(text)).unwrap());
    collector.finish()
}

/// A service with tools, resources and templates.
fn service(name: &str, tools: &[&str], resources: &[&str], templates: &[&str]) -> ServiceView {
    let catalog = Catalog::new(
        list(Kind::Tool, tools, ""),
        list(Kind::Prompt, tools, ""),
        list(Kind::Resource, resources, ""),
        list(Kind::Template, templates, ""),
        About::default(),
        0,
    );
    ServiceView { name: name.into(), catalog: Arc::new(catalog), state: ServiceState::Fresh }
}

fn merge(services: Vec<ServiceView>) -> Merged {
    Merged::new(services, Naming::default())
}

fn exposed(merged: &Merged, kind: Kind) -> Vec<String> {
    merged.exposed(kind).map(|e| e.name.into_owned()).collect()
}

/// Service name and original, or the error.
fn to<'a>(merged: &'a Merged, got: Result<Target<'a>, ResolveError>) -> Result<(&'a str, &'a str), ResolveError> {
    got.map(|target| (&*merged.services()[target.service].name, target.original))
}

#[test]
fn names_carry_their_service_and_find_back() {
    let merged = merge(vec![service("b", &["search", "x.y__z"], &[], &[]), service("a", &["search"], &[], &[])]);
    for kind in [Kind::Tool, Kind::Prompt] {
        assert_eq!(exposed(&merged, kind), ["b__search", "b__x.y__z", "a__search"]);
        let call = |name| to(&merged, merged.resolve_name(kind, name));
        assert_eq!(call("a__search"), Ok(("a", "search")));
        assert_eq!(call("a.search"), Ok(("a", "search")));
        assert_eq!(call("b__x.y__z"), Ok(("b", "x.y__z")));
        // Routing does not depend on what is listed.
        assert_eq!(call("a__new"), Ok(("a", "new")));
        assert!(merged.resolve_name(kind, "a__new").unwrap().item.is_none());
        assert_eq!(call("search"), Err(ResolveError::Unknown));
        assert_eq!(call("c__search"), Err(ResolveError::Unknown));
    }
}

#[test]
fn one_service_keeps_its_names() {
    let merged = Merged::single(service("a", &["b__c", &"n".repeat(90)], &["a+file:///x"], &["file:///{p}"]));
    assert_eq!(exposed(&merged, Kind::Tool), ["b__c".to_owned(), "n".repeat(90)]);
    assert_eq!(exposed(&merged, Kind::Resource), ["a+file:///x"]);
    assert_eq!(to(&merged, merged.resolve_name(Kind::Tool, "b__c")), Ok(("a", "b__c")));
    assert_eq!(to(&merged, merged.resolve_uri("a+file:///x")), Ok(("a", "a+file:///x")));
    assert_eq!(merged.expose_uri(0, "memo://1"), None);
}

#[test]
fn long_names_find_back_in_either_spelling() {
    let (long, other) = ("n".repeat(100), format!("{}m", "n".repeat(99)));
    let merged = merge(vec![service("fs", &[&long, &other, "short"], &[], &[])]);
    let names = exposed(&merged, Kind::Tool);
    assert!(names.iter().all(|name| name.len() <= 64) && names[0] != names[1]);
    assert_eq!(to(&merged, merged.resolve_name(Kind::Tool, &names[0])), Ok(("fs", long.as_str())));
    assert_eq!(to(&merged, merged.resolve_name(Kind::Tool, &names[1])), Ok(("fs", other.as_str())));
    let dotted = names[0].replacen("__", ".", 1);
    assert_eq!(to(&merged, merged.resolve_name(Kind::Tool, &dotted)), Ok(("fs", long.as_str())));
    let full = format!("fs__{long}");
    assert_eq!(to(&merged, merged.resolve_name(Kind::Tool, &full)), Ok(("fs", long.as_str())));
}

#[test]
fn a_taken_short_name_is_never_given_twice() {
    let long = "n".repeat(100);
    let short = Naming::default().shorten("fs", &long).unwrap();
    let merged = merge(vec![service("fs", &[&long, &short], &[], &[])]);
    assert_eq!(exposed(&merged, Kind::Tool), [format!("fs__{short}")]);
    let name = format!("fs__{short}");
    assert_eq!(to(&merged, merged.resolve_name(Kind::Tool, &name)), Ok(("fs", short.as_str())));
    assert!(merged.warnings()[0].contains("shortened name is taken"));
}

#[test]
fn the_dot_is_configurable() {
    let merged = Merged::new(vec![service("a", &["x"], &[], &[])], Naming::new(Joiner::Dot, 64).unwrap());
    assert_eq!(exposed(&merged, Kind::Tool), ["a.x"]);
}

#[test]
fn a_uri_of_two_services_is_told_apart_and_never_guessed() {
    let merged =
        merge(vec![service("a", &[], &["file:///x", "memo://1"], &[]), service("b", &[], &["file:///x"], &[])]);
    assert_eq!(exposed(&merged, Kind::Resource), ["a+file:///x", "memo://1", "b+file:///x"]);
    let read = |uri| to(&merged, merged.resolve_uri(uri));
    assert_eq!(read("file:///x"), Err(ResolveError::Ambiguous));
    assert_eq!(read("b+file:///x"), Ok(("b", "file:///x")));
    assert_eq!(read("memo://1"), Ok(("a", "memo://1")));
    assert_eq!(read("a+memo://1"), Ok(("a", "memo://1")));
    assert_eq!(read("memo://2"), Err(ResolveError::Unknown));
    assert!(merged.resolve_uri("b+file:///x").unwrap().wrapped);
    assert!(!merged.resolve_uri("memo://1").unwrap().wrapped);
}

#[test]
fn a_uri_that_imitates_a_wrapped_one_cannot_capture_it() {
    let merged = merge(vec![service("a", &[], &["file:///x"], &[]), service("evil", &[], &["a+file:///x"], &[])]);
    assert_eq!(exposed(&merged, Kind::Resource), ["file:///x", "evil+a+file:///x"]);
    assert_eq!(to(&merged, merged.resolve_uri("a+file:///x")), Ok(("a", "file:///x")));
    assert_eq!(to(&merged, merged.resolve_uri("evil+a+file:///x")), Ok(("evil", "a+file:///x")));
}

#[test]
fn uris_without_a_scheme_are_left_out_when_they_conflict() {
    let merged = merge(vec![service("a", &[], &["plain", "other"], &[]), service("b", &[], &["plain"], &[])]);
    assert_eq!(exposed(&merged, Kind::Resource), ["other"]);
    assert_eq!(merged.warnings().len(), 2);
}

#[test]
fn templates_route_by_their_longest_literal_head() {
    let merged = merge(vec![
        service("a", &[], &[], &["repo://{owner}", "db://{x}", "{+any}"]),
        service("b", &[], &[], &["repo://acme/{name}", "db://{x}"]),
    ]);
    assert_eq!(
        exposed(&merged, Kind::Template),
        ["repo://{owner}", "a+db://{x}", "{+any}", "repo://acme/{name}", "b+db://{x}"]
    );
    let read = |uri| to(&merged, merged.resolve_uri(uri));
    assert_eq!(read("repo://me"), Ok(("a", "repo://me")));
    assert_eq!(read("repo://acme/x"), Ok(("b", "repo://acme/x")));
    assert_eq!(read("db://1"), Err(ResolveError::Ambiguous));
    assert_eq!(read("b+db://1"), Ok(("b", "db://1")));
    assert_eq!(read("else://1"), Err(ResolveError::Unknown));
    let complete = |template| to(&merged, merged.resolve_template(template));
    assert_eq!(complete("repo://{owner}"), Ok(("a", "repo://{owner}")));
    assert_eq!(complete("b+db://{x}"), Ok(("b", "db://{x}")));
    assert_eq!(complete("db://{x}"), Err(ResolveError::Ambiguous));
    assert!(merged.resolve_template("repo://{owner}").unwrap().item.is_some());
}

#[test]
fn the_only_service_with_resources_gets_unlisted_uris() {
    let merged = merge(vec![service("a", &["t"], &[], &[]), service("b", &[], &["memo://1"], &[])]);
    assert_eq!(to(&merged, merged.resolve_uri("else://9")), Ok(("b", "else://9")));
    assert_eq!(to(&merge(vec![]), merge(vec![]).resolve_uri("else://9")).unwrap_err(), ResolveError::Unknown);
}

#[test]
fn uris_in_results_can_be_read_back() {
    let merged = merge(vec![
        service("a", &[], &["file:///x", "https://w/1", "https://w/2"], &["repo://{r}"]),
        service("b", &[], &["file:///x", "https://w/1"], &[]),
    ]);
    for service in 0..2 {
        for uri in ["file:///x", "repo://z", "new://1", "https://w/1", "a+file:///x"] {
            let shown = merged.expose_uri(service, uri).unwrap_or_else(|| uri.to_owned());
            let target = merged.resolve_uri(&shown).unwrap();
            assert_eq!((target.service, target.original), (service, uri), "{shown}");
        }
    }
    assert_eq!(merged.expose_uri(0, "repo://z"), None);
    assert_eq!(merged.expose_uri(1, "https://elsewhere/3"), None);
    assert_eq!(merged.expose_uri(0, "https://w/1").as_deref(), Some("a+https://w/1"));
}

#[test]
fn a_missing_service_is_routed_but_not_listed() {
    let missing = ServiceView { state: ServiceState::Missing, ..service("m", &["t"], &["memo://1"], &[]) };
    let merged = merge(vec![missing, service("a", &["t"], &["memo://1"], &[])]);
    assert_eq!(exposed(&merged, Kind::Tool), ["a__t"]);
    assert_eq!(exposed(&merged, Kind::Resource), ["memo://1"]);
    assert_eq!(to(&merged, merged.resolve_name(Kind::Tool, "m__t")), Ok(("m", "t")));
}

#[test]
fn freshness_is_that_of_the_weakest_part() {
    let with = |name: &str, rest: &str, state| {
        let lists = (list(Kind::Tool, &["t"], rest), List::default(), List::default(), List::default());
        let catalog = Catalog::new(lists.0, lists.1, lists.2, lists.3, About::default(), 1_000);
        ServiceView { name: name.into(), catalog: Arc::new(catalog), state }
    };
    let public = |name, ttl: u32| with(name, &format!(r#","ttlMs":{ttl},"cacheScope":"public""#), ServiceState::Fresh);
    let of = |services| {
        let got = merge(services).freshness(Kind::Tool, 1_500, 30);
        (got.ttl_ms, got.scope)
    };
    assert_eq!(of(vec![public("a", 5_000), public("b", 900)]), (400, CacheScope::Public));
    assert_eq!(of(vec![public("a", 100)]), (0, CacheScope::Public));
    assert_eq!(of(vec![public("a", 5_000), with("b", "", ServiceState::Fresh)]), (30, CacheScope::Private));
    assert_eq!(of(vec![public("a", 5_000), service("b", &[], &["memo://1"], &[])]), (4_500, CacheScope::Public));
    let stale = with("b", r#","ttlMs":9000,"cacheScope":"public""#, ServiceState::Stale);
    assert_eq!(of(vec![public("a", 5_000), stale]), (0, CacheScope::Public));
    assert_eq!(of(vec![]), (30, CacheScope::Private));
}

proptest! {
    /// Whatever servers call their things, everything listed is listed once and leads back to its owner.
    #[test]
    fn everything_listed_leads_back(
        parts in proptest::collection::vec((
            proptest::collection::vec("(a|b|_|\\.|é){1,4}|n{55,58}", 0..5),
            proptest::collection::vec("(s0\\+|s1\\+|n\\.7\\+|ui://s0\\+|ui://7\\+)?(file|web|7x|ui)?:?/{0,2}[ab+]{0,2}", 0..5),
        ), 0..4)
    ) {
        let names = ["s0", "s1", "7", "s0-x"];
        let services: Vec<_> = names.iter().zip(&parts).map(|(name, (tools, uris))| {
            let tools: Vec<_> = tools.iter().map(String::as_str).collect();
            // An empty key is no item at all; the collector leaves it out.
            let uris: Vec<_> = uris.iter().map(String::as_str).collect();
            service(name, &tools, &uris, &[])
        }).collect();
        let merged = Merged::new(services, Naming::new(Joiner::Underscores, 50).unwrap());
        for kind in [Kind::Tool, Kind::Resource] {
            let mut seen = HashSet::new();
            for listed in merged.exposed(kind) {
                prop_assert!(seen.insert(listed.name.to_string()), "{} is listed twice", listed.name);
                let target = match kind {
                    Kind::Tool => merged.resolve_name(kind, &listed.name),
                    _ => merged.resolve_uri(&listed.name),
                };
                let target = target.unwrap();
                let owner = &merged.services()[target.service];
                prop_assert_eq!((&*owner.name, target.original), (&*listed.service.name, listed.item.key()));
                prop_assert!(target.item.is_some());
            }
        }
    }
}
