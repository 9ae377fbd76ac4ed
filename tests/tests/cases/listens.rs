//! Cases 39 and 51 to 53: streams of changes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use outrigger_proxy::body::BodySender;
use outrigger_tests::{
    Call, Mesh, Session, Stream, TestSidecar, eventually,
    http_server::{HttpServer, error, event, result, stream},
    sidecar::text_of,
    subjects::scripted,
    wait::within,
};
use serde_json::{Value, json};

use crate::world::{World, modern, said};

fn listen(filter: &Value) -> Call {
    Call::new("subscriptions/listen").params(&format!("\"notifications\":{filter}"))
}

async fn open(world: &World, call: &Call) -> (Stream, Value) {
    let mut stream = world.client().open(call).await;
    let first = stream.next().await.unwrap();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
    (stream, first["params"]["notifications"].clone())
}

#[tokio::test]
async fn case_39_a_second_get_takes_the_place_of_the_first() {
    let world = World::one(&format!("{}session: shared\n", scripted(&[]))).await;
    let session = world.session("2025-06-18").await;
    let mut first = session.listen().await;
    assert_eq!(first.status.as_u16(), 200);
    let mut second = session.listen().await;
    assert_eq!(second.status.as_u16(), 200, "the old one may be half dead: it is no reason to refuse");
    assert_eq!(first.next().await, None);
    session.tool("fs__change", &json!({})).await;
    assert_eq!(second.next().await.unwrap()["method"], "notifications/tools/list_changed");
    world.stop().await;
}

#[tokio::test]
async fn case_51_of_many_resources_only_so_many_are_honoured() {
    let uris: Vec<String> = (0..10_000).map(|n| format!("many://{n}")).collect();
    let (server, _open) = with_resources(&uris[..2000]);
    let world = World::one(&server.setting()).await;
    let (_stream, honoured) = open(&world, &listen(&json!({"resourceSubscriptions": uris}))).await;
    let honoured = honoured["resourceSubscriptions"].as_array().unwrap();
    assert_eq!(honoured.len(), 1000);
    assert!(honoured.iter().all(|uri| uris.contains(&uri.as_str().unwrap().to_owned())));
    world.stop().await;
}

#[tokio::test]
async fn case_52_two_listens_with_the_same_id_on_one_server_are_told_under_their_own() {
    let world = World::one(&format!("{}session: shared\n", scripted(&["--era", "modern"]))).await;
    let wanted = json!({"resourceSubscriptions": ["test://a"]});
    let (mut number, _) = open(&world, &listen(&wanted).id(Some("1"))).await;
    let (mut text, _) = open(&world, &listen(&wanted).id(Some("\"1\""))).await;
    said(&world, "fs__update", r#"{"uri":"test://a"}"#).await;
    for (stream, id) in [(&mut number, json!(1)), (&mut text, json!("1"))] {
        let told = stream.next().await.unwrap();
        assert_eq!(told["params"]["uri"], "test://a");
        assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], id, "{told}");
    }
    world.stop().await;
}

#[tokio::test]
async fn case_53_a_listen_outlives_the_server_behind_it() {
    let settings =
        format!("{}restart: {{ initial: 50ms, max: 100ms }}\nsession: shared\n", scripted(&["--era", "modern"]));
    let steady = modern(json!({"tools/list": {"tools": []}}), |received| async move { result(&received, json!({})) });
    let world = World::of(&[("fs", &settings), ("steady", &steady.setting())]).await;
    let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": ["test://a"]});
    said(&world, "fs__change", "{}").await;
    let added = "fs__extra0".to_owned();
    eventually("one more tool", || async { world.tools().await.contains(&added).then_some(()) }).await;
    let (mut stream, _) = open(&world, &listen(&wanted)).await;
    world.client().reply(&Call::tool("fs__die", "{}")).await;
    // The new server does not have the tool that was added to the old one.
    let mut methods = Vec::new();
    while methods.len() < 2 {
        let event = within("what changed", stream.next()).await.expect("the same stream");
        methods.push(event["method"].as_str().unwrap().to_owned());
        methods.dedup();
    }
    methods.sort();
    assert_eq!(methods, ["notifications/resources/updated", "notifications/tools/list_changed"]);
    let heard = async {
        loop {
            let reply = world.client().reply(&Call::tool("fs__update", r#"{"uri":"test://a"}"#)).await.json();
            assert_eq!(text_of(&reply), "updated");
            if let Ok(event) = tokio::time::timeout(Duration::from_millis(200), stream.next()).await {
                return event.unwrap();
            }
        }
    };
    assert_eq!(within("an update", heard).await["params"]["uri"], "test://a");
    world.stop().await;
}

/// The open listens at a server, each with what it asks for.
type Open = Arc<Mutex<Vec<(BodySender, Vec<String>)>>>;

/// A server with these resources that has to be told of every listen.
fn with_resources(uris: &[String]) -> (HttpServer, Open) {
    let list: Vec<_> = uris.iter().map(|uri| json!({"uri": uri, "name": uri})).collect();
    let lists = json!({"capabilities": {"resources": {"subscribe": true}}, "resources/list": {"resources": list}});
    let open = Open::default();
    let kept = open.clone();
    let server = modern(lists, move |received| {
        let open = kept.clone();
        async move {
            if received.rpc_method() != "subscriptions/listen" {
                return error(&received, 404, -32601, "no");
            }
            let request = received.json();
            let (sender, response) = stream();
            let wanted = request["params"]["notifications"].clone();
            let params = json!({"notifications": wanted,
                "_meta": {"io.modelcontextprotocol/subscriptionId": request["id"]}});
            let acknowledged =
                json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params});
            sender.send(event(&acknowledged)).await.unwrap();
            let uris = wanted["resourceSubscriptions"].as_array().cloned().unwrap_or_default();
            let uris = uris.iter().map(|uri| uri.as_str().unwrap().to_owned()).collect();
            open.lock().unwrap().push((sender, uris));
            response
        }
    });
    (server, open)
}

/// Says on every open listen for it that a resource has changed.
async fn update(open: &Open, uri: &str) {
    let listens = std::mem::take(&mut *open.lock().unwrap());
    let told = json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri,
        "_meta": {"io.modelcontextprotocol/subscriptionId": 1}}});
    for (sender, uris) in &listens {
        if uris.iter().any(|wanted| wanted == uri) {
            let _ = sender.send(event(&told)).await;
        }
    }
    open.lock().unwrap().extend(listens);
}

/// Subscribes to all of them, one after the other, and looks at what that asked of the server and told the client.
async fn subscribes_one_by_one(session: &Session, server: &HttpServer, open: &Open, uris: &[String]) {
    let mut stream = session.listen().await;
    for uri in uris {
        let reply = session.ask("resources/subscribe", &json!({"uri": uri})).await.json();
        assert_eq!(reply["result"], json!({}), "{uri}: {reply}");
    }
    // Each of them is listened to at any time: also right after the last one.
    update(open, &uris[7]).await;
    let listens = server.received_of("subscriptions/listen");
    let count =
        |listen: &Value| listen["params"]["notifications"]["resourceSubscriptions"].as_array().map_or(0, Vec::len);
    let asked: usize = listens.iter().map(|listen| count(&listen.json())).sum();
    let each = uris.len();
    assert!(listens.len() <= each + 10, "{} listens", listens.len());
    assert!(asked <= 8 * each, "{asked} URIs in {} listens", listens.len());
    let of_lists = |listen: &Value| listen["params"]["notifications"]["toolsListChanged"] == true;
    assert!(listens.iter().filter(|listen| of_lists(&listen.json())).count() <= 2, "the sidecar's, and one that stays");
    update(open, &uris[each - 1]).await;
    let mut told = Vec::new();
    while told.last() != Some(&uris[each - 1]) {
        let event = within("an update", stream.next()).await.unwrap();
        assert_eq!(event["method"], "notifications/resources/updated", "{event}");
        told.push(event["params"]["uri"].as_str().unwrap().to_owned());
    }
    let first = told.iter().filter(|uri| **uri == uris[7]).count();
    assert!((1..=2).contains(&first), "{told:?}");
    assert!(told.iter().all(|uri| *uri == uris[7] || *uri == uris[each - 1]), "nobody changed the others: {told:?}");
    // In the end one listen is for all of them.
    eventually("one listen", || async {
        let listens = open.lock().unwrap();
        listens.last().is_some_and(|(_, uris)| uris.len() == each).then_some(())
    })
    .await;
    update(open, &uris[3]).await;
    let event = within("an update", stream.next()).await.unwrap();
    assert!([&uris[3], &uris[each - 1]].contains(&&event["params"]["uri"].as_str().unwrap().to_owned()), "{event}");
}

#[tokio::test]
async fn a_hundred_subscriptions_ask_for_each_resource_a_few_times() {
    let uris: Vec<String> = (0..100).map(|n| format!("many://{n}")).collect();
    let (server, open) = with_resources(&uris);
    // All of it has one place.
    let settings = format!("{}limits: {{ listens_per_principal: 1 }}\n", server.setting());
    let world = World::one(&settings).await;
    let session = world.session("2025-06-18").await;
    subscribes_one_by_one(&session, &server, &open, &uris).await;
    world.stop().await;
}

#[tokio::test]
async fn a_sidecar_without_an_ingress_asks_for_each_resource_a_few_times() {
    let uris: Vec<String> = (0..100).map(|n| format!("many://{n}")).collect();
    let (server, open) = with_resources(&uris);
    let mesh = Mesh::new();
    let settings = format!("{}limits: {{ listens_per_principal: 1 }}\n", server.setting());
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let session = Session::open(&client, "2025-06-18", &json!({})).await;
    subscribes_one_by_one(&session, &server, &open, &uris).await;
    sidecar.stop().await;
}

/// A line of the metrics of an ingress.
async fn counted(world: &World, line: &str) -> f64 {
    let text = world.ingress.admin("/metrics").await;
    text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0.0)
}

/// Two services with a resource each; only one client may listen to `full`.
async fn full_and_free() -> (World, [(HttpServer, Open); 2]) {
    let full = with_resources(&["full://a".to_owned()]);
    let free = with_resources(&["free://a".to_owned()]);
    let settings = format!("{}limits: {{ listens_per_principal: 1 }}\n", full.0.setting());
    let world = World::of(&[("full", &settings), ("free", &free.0.setting())]).await;
    (world, [full, free])
}

#[tokio::test]
async fn a_listen_that_a_sidecar_has_no_place_for_is_not_acknowledged() {
    let (world, servers) = full_and_free().await;
    let (_, open_at_full) = &servers[0];
    let full = json!({"resourceSubscriptions": ["full://a"]});
    let (first, honoured) = open(&world, &listen(&full)).await;
    assert_eq!(honoured, full);
    // Nothing else is asked for, or it is the endpoint of that service: an error that names the setting.
    let with_lists = json!({"toolsListChanged": true, "resourceSubscriptions": ["full://a"]});
    for call in [listen(&full), listen(&with_lists).at("/s/full/mcp")] {
        let refused = world.client().reply(&call).await;
        assert_eq!(refused.status.as_u16(), 429);
        let data = refused.json()["error"]["data"].clone();
        assert_eq!((&data["limit"], &data["service"]), (&json!("limits.listens_per_principal"), &json!("full")));
    }
    // Where something is left, that is acknowledged.
    let both = json!({"resourceSubscriptions": ["free://a", "full://a"]});
    let (mut second, honoured) = open(&world, &listen(&both)).await;
    assert_eq!(honoured, json!({"resourceSubscriptions": ["free://a"]}));
    let (third, honoured) = open(&world, &listen(&with_lists)).await;
    assert_eq!(honoured, json!({"toolsListChanged": true, "resourceSubscriptions": []}));
    // It can be seen.
    assert!(counted(&world, r#"outrigger_listen_failures_total{reason="limited",service="full"}"#).await >= 4.0);
    for (line, count) in [(r#"{service="full"}"#, 1.0), (r#"{service="free"}"#, 1.0), (r#"{service="*"}"#, 3.0)] {
        assert_eq!(counted(&world, &format!("outrigger_listens_open{line}")).await, count, "{line}");
    }
    assert_eq!(world.counted(0, r#"outrigger_listens_open{service="full"}"#).await, 1.0);
    drop(third);
    eventually("the page tells of one", || async {
        let page: Value = serde_json::from_str(&world.ingress.admin("/catalog").await).unwrap();
        (page["services"]["full"]["listens"] == json!({"open": 1, "failing": 1})).then_some(())
    })
    .await;
    // A place becomes free: what was missed is made up for.
    drop(first);
    let told = within("what was missed", second.next()).await.unwrap();
    assert_eq!(told["params"]["uri"], "full://a");
    update(open_at_full, "full://a").await;
    assert_eq!(within("an update", second.next()).await.unwrap()["params"]["uri"], "full://a");
    world.stop().await;
}

#[tokio::test]
async fn an_older_client_is_told_that_a_sidecar_has_no_place() {
    let (world, _servers) = full_and_free().await;
    let (_first, _) = open(&world, &listen(&json!({"resourceSubscriptions": ["full://a"]}))).await;
    let session = world.session("2025-06-18").await;
    let _stream = session.listen().await;
    let refused = session.ask("resources/subscribe", &json!({"uri": "full://a"})).await.json();
    assert_eq!(refused["error"]["data"]["limit"], "limits.listens_per_principal", "{refused}");
    let free = session.ask("resources/subscribe", &json!({"uri": "free://a"})).await.json();
    assert_eq!(free["result"], json!({}), "{free}");
    world.stop().await;
}

#[tokio::test]
async fn what_a_server_does_not_acknowledge_is_not_acknowledged() {
    // It lists one that it does not tell of.
    let uris = json!([{"uri": "n://a", "name": "a"}, {"uri": "n://b", "name": "b"}]);
    let lists = json!({"capabilities": {"resources": {"subscribe": true}}, "resources/list": {"resources": uris}});
    let server = modern(lists, |received| async move {
        if received.rpc_method() != "subscriptions/listen" {
            return error(&received, 404, -32601, "no");
        }
        let (sender, response) = stream();
        let id = received.json()["id"].clone();
        let params = json!({"notifications": {"resourceSubscriptions": ["n://a"]},
            "_meta": {"io.modelcontextprotocol/subscriptionId": id}});
        let told = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params});
        sender.send(event(&told)).await.unwrap();
        tokio::spawn(async move { sender.gone().await });
        response
    });
    let world = World::one(&server.setting()).await;
    let (_listen, honoured) = open(&world, &listen(&json!({"resourceSubscriptions": ["n://a", "n://b"]}))).await;
    assert_eq!(honoured["resourceSubscriptions"], json!(["n://a"]));
    let session = world.session("2025-06-18").await;
    let _stream = session.listen().await;
    assert_eq!(session.ask("resources/subscribe", &json!({"uri": "n://a"})).await.json()["result"], json!({}));
    for uri in ["n://b", "n://b", "n://nobody"] {
        let code = session.ask("resources/subscribe", &json!({"uri": uri})).await.error_code();
        assert_eq!(code, -32002, "{uri}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_listen_and_all_that_it_takes_have_one_place_at_a_sidecar() {
    let uris = ["many://0".to_owned(), "many://1".to_owned()];
    let (server, open_listens) = with_resources(&uris);
    let settings =
        format!("{}catalog: {{ mode: per_caller }}\nlimits: {{ listens_per_principal: 1 }}\n", server.setting());
    let world = World::one(&settings).await;
    let both = json!({"toolsListChanged": true, "resourceSubscriptions": uris});
    let (mut stream, honoured) = open(&world, &listen(&both)).await;
    assert_eq!(honoured, both);
    update(&open_listens, "many://1").await;
    loop {
        let told = within("an update", stream.next()).await.unwrap();
        if told["method"] == "notifications/resources/updated" {
            assert_eq!(told["params"]["uri"], "many://1");
            break;
        }
    }
    assert_eq!(world.counted(0, r#"outrigger_listens_open{service="fs"}"#).await, 2.0, "lists, and resources");
    assert_eq!(world.counted(0, r#"outrigger_limited_total{limit="listens",service="fs"}"#).await, 0.0);
    world.stop().await;
}

#[tokio::test]
async fn a_resource_of_a_server_without_any_cannot_be_subscribed_to() {
    let lists = json!({"tools/list": {"tools": []}});
    let server = modern(lists, |received| async move { error(&received, 404, -32601, "no") });
    let world = World::one(&server.setting()).await;
    let direct = world.sidecars[0].ready_client(&world.mesh).await;
    let at_sidecar = Session::open(&direct, "2025-11-25", &json!({})).await;
    for session in [world.session("2025-11-25").await, at_sidecar] {
        let told = session.ask("resources/subscribe", &json!({"uri": "n://a"})).await;
        assert_eq!(told.error_code(), -32002);
    }
    world.stop().await;
}
