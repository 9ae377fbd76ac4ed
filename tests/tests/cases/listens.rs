//! Cases 39 and 51 to 53: streams of changes.

use std::time::Duration;

use outrigger_tests::{
    Call, Stream, eventually,
    http_server::{error, result},
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
    let list: Vec<_> = uris.iter().take(2000).map(|uri| json!({"uri": uri, "name": uri})).collect();
    let lists = json!({"capabilities": {"resources": {"subscribe": true}}, "resources/list": {"resources": list}});
    let server = modern(lists, |received| async move { error(&received, 404, -32601, "no") });
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
