//! Cases 15, 16, 20 and 81 to 83: batches, ids, and bodies that could be read in two ways.

use http::HeaderMap;
use outrigger_tests::{Call, Client, Reply, sidecar::text_of, subjects::scripted};
use serde_json::{Value, json};

use crate::world::{World, post, refused, request, said, tool};

async fn batch(client: &Client, headers: &HeaderMap, messages: &[String]) -> Reply {
    post(client, headers, &format!("[{}]", messages.join(","))).await
}

fn array(reply: &Reply) -> Vec<Value> {
    match reply.events.len() {
        0 => serde_json::from_slice(&reply.body).unwrap(),
        _ => reply.events.clone(),
    }
}

#[tokio::test]
async fn case_15_a_batch_of_the_revision_that_has_them_is_answered_as_one() {
    let world = World::one(&scripted(&[])).await;
    let session = world.session("2025-03-26").await;
    let note = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}).to_string();
    let messages = [
        tool(&json!("a"), "fs__echo", &json!({"x": 1})),
        note.clone(),
        tool(&json!(2), "fs__fail", &json!({})),
        request(&json!(3), "no/such", &json!({})),
    ];
    let reply = batch(world.client(), &session.headers, &messages).await;
    assert_eq!(reply.status, 200);
    let replies = array(&reply);
    let of = |id: Value| replies.iter().find(|reply| reply["id"] == id).unwrap();
    assert_eq!(replies.len(), 3, "{replies:?}");
    assert_eq!(text_of(of(json!("a"))), r#"{"x": 1}"#);
    assert_eq!(of(json!(2))["result"]["isError"], true);
    assert_eq!(of(json!(3))["error"]["code"], -32601);
    let quiet = batch(world.client(), &session.headers, &[note.clone(), note]).await;
    assert_eq!((quiet.status.as_u16(), quiet.body.len()), (202, 0));
    refused(&batch(world.client(), &session.headers, &[]).await, 400, -32600);
    world.stop().await;
}

#[tokio::test]
async fn case_16_a_batch_anywhere_else_is_refused_and_nothing_of_it_runs() {
    let world = World::one(&scripted(&[])).await;
    let modern = Call::tool("fs__count", "{}");
    let body = String::from_utf8(modern.bytes()).unwrap();
    refused(&world.client().reply(&modern.clone().body(format!("[{body}]"))).await, 400, -32600);
    refused(&world.client().reply(&modern.body("[]")).await, 400, -32600);
    for revision in ["2024-11-05", "2025-06-18", "2025-11-25"] {
        let session = world.session(revision).await;
        let calls = [tool(&json!(1), "fs__count", &json!({})), tool(&json!(2), "fs__count", &json!({}))];
        refused(&batch(world.client(), &session.headers, &calls).await, 400, -32600);
        assert_eq!(text_of(&session.tool("fs__count", &json!({})).await), "1", "{revision}: nothing ran");
    }
    assert_eq!(said(&world, "fs__count", "{}").await, "1");
    world.stop().await;
}

#[tokio::test]
async fn case_20_ids_that_are_none_are_refused_and_large_ones_come_back_as_text() {
    const HUGE: &str = "123456789012345678901234567890";
    let world = World::one(&scripted(&[])).await;
    let session = world.session("2025-06-18").await;
    let old = |id: &str| tool(&json!(0), "fs__echo", &json!({})).replace("\"id\":0", &format!("\"id\":{id}"));
    for bad in ["null", "true", "1.5", "[]", "{}"] {
        let modern = world.client().reply(&Call::tool("fs__echo", "{}").id(Some(bad))).await;
        let legacy = post(world.client(), &session.headers, &old(bad)).await;
        for reply in [modern, legacy] {
            refused(&reply, 400, -32600);
            assert!(reply.json().get("id").is_none(), "{bad}: {reply:?}");
        }
    }
    for good in [HUGE, "9223372036854775808", "\"\"", "-1"] {
        let modern = world.client().reply(&Call::tool("fs__echo", "{}").id(Some(good))).await;
        let legacy = post(world.client(), &session.headers, &old(good)).await;
        for reply in [modern, legacy] {
            assert_eq!(reply.status, 200, "{good}");
            let body = String::from_utf8(reply.body.to_vec()).unwrap().replace(": ", ":");
            assert!(body.contains(&format!("\"id\":{good}")), "{good}: {body}");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn case_81_a_key_that_stands_twice_could_get_past_a_policy_and_is_refused() {
    let policy = "  authorization: { rules: [ { name: some, services: [\"*\"], capabilities: [echo] } ] }\n";
    let world = World::guarded(policy, &scripted(&[])).await;
    let good = Call::tool("fs__echo", "{}");
    let text = String::from_utf8(good.bytes()).unwrap();
    let session = world.session("2025-06-18").await;
    let old = tool(&json!(1), "fs__echo", &json!({}));
    let name = "\"name\":\"fs__echo\"";
    for twice in [
        format!("{name},\"name\":\"fs__count\""),
        format!("\"name\":\"fs__count\",{name}"),
        format!("{name},\"n\\u0061me\":\"fs__count\""),
    ] {
        let changed = text.replace(name, &twice);
        assert_ne!(changed, text);
        refused(&world.client().reply(&good.clone().body(changed)).await, 400, -32600);
        refused(&post(world.client(), &session.headers, &old.replace(name, &twice)).await, 400, -32600);
    }
    assert_eq!(world.client().reply(&good).await.status, 200);
    world.stop().await;
}

#[tokio::test]
async fn case_82_the_order_of_members_means_nothing() {
    let world = World::one(&scripted(&[])).await;
    let good = Call::tool("fs__elicit", "{}").capabilities(r#"{"elicitation":{}}"#);
    let message: Value = serde_json::from_slice(&good.bytes()).unwrap();
    let turned = format!(r#"{{"params":{},"method":"tools/call","id":"z","jsonrpc":"2.0"}}"#, message["params"]);
    let reply = world.client().reply(&good.body(turned)).await.json();
    assert_eq!((&reply["id"], &reply["result"]["resultType"]), (&json!("z"), &json!("input_required")), "{reply}");

    // An answer with its result first finds the question as well.
    let session = world.session("2025-06-18").await;
    let mut stream = session.begin("tools/call", &json!({"name": "fs__elicit", "arguments": {}})).await;
    let question = stream.next().await.unwrap();
    let answer =
        format!(r#"{{"result":{{"content":{{"a":"b"}},"action":"accept"}},"id":{},"jsonrpc":"2.0"}}"#, question["id"]);
    assert_eq!(post(world.client(), &session.headers, &answer).await.status, 202);
    assert!(text_of(&stream.next().await.unwrap()).contains("accept"));
    world.stop().await;
}

#[tokio::test]
async fn case_83_messages_of_another_json_rpc_are_refused() {
    let world = World::one(&scripted(&[])).await;
    let session = world.session("2025-06-18").await;
    let good = Call::tool("fs__echo", "{}");
    let modern = String::from_utf8(good.bytes()).unwrap();
    let old = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"fs__echo","arguments":{}}}"#;
    for other in ["", "\"jsonrpc\":\"1.0\",", "\"jsonrpc\":2.0,", "\"jsonrpc\":null,"] {
        let bad = |text: &str| text.replace("\"jsonrpc\":\"2.0\",", other);
        refused(&world.client().reply(&good.clone().body(bad(&modern))).await, 400, -32600);
        refused(&post(world.client(), &session.headers, &bad(old)).await, 400, -32600);
    }
    world.stop().await;
}
