//! Cases 17 to 19, 21, 31 to 34: which message belongs to which call.

use outrigger_tests::{
    Call, Session, eventually,
    http_server::{event, stream},
    sidecar::text_of,
    subjects::scripted,
};
use serde_json::{Value, json};

use crate::world::{STRAY, World, legacy, modern, post, refused, said, tool, tools};

fn shared() -> String {
    format!("{}session: shared\n", scripted(&[]))
}

#[tokio::test]
async fn case_17_clients_that_use_the_same_id_get_their_own_answers() {
    let world = World::one(&shared()).await;
    let sessions: Vec<Session> =
        [world.session("2025-03-26").await, world.session("2025-06-18").await, world.session("2025-11-25").await]
            .into();
    let mut calls = Vec::new();
    for (at, session) in sessions.iter().enumerate() {
        let (client, headers) = (world.client().clone(), session.headers.clone());
        let nonce = json!({"nonce": format!("caller {at}"), "steps": 10, "asks": 0, "die": false, "again": false});
        calls.push(tokio::spawn(async move { post(&client, &headers, &tool(&json!(7), "fs__work", &nonce)).await }));
    }
    for (at, call) in calls.into_iter().enumerate() {
        let reply = call.await.unwrap().json();
        assert_eq!(reply["id"], 7);
        assert!(text_of(&reply).contains(&format!("caller {at}")), "{reply}");
    }
    world.stop().await;
}

#[tokio::test]
async fn case_18_an_id_that_is_at_work_is_refused_and_the_call_goes_on() {
    let world = World::one(&scripted(&[])).await;
    let session = world.session("2025-06-18").await;
    let mut first = session.begin("tools/call", &json!({"name": "fs__elicit", "arguments": {}})).await;
    let question = first.next().await.unwrap();
    let again = post(world.client(), &session.headers, &tool(&json!(1), "fs__count", &json!({}))).await;
    refused(&again, 400, -32600);
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}});
    assert_eq!(session.tell(&answer).await, 202);
    let done = first.next().await.unwrap();
    assert_eq!((&done["id"], text_of(&done).contains("decline")), (&json!(1), true));
    assert_eq!(text_of(&session.tool("fs__count", &json!({})).await), "1", "the second one did not run");
    world.stop().await;
}

#[tokio::test]
async fn case_19_a_text_and_a_number_are_two_ids() {
    let world = World::one(&scripted(&[])).await;
    let session = world.session("2025-06-18").await;
    let ask = |id: Value, n: u32| {
        let (client, headers) = (world.client().clone(), session.headers.clone());
        async move {
            let arguments = json!({"nonce": n.to_string(), "steps": 20, "asks": 0, "die": false, "again": false});
            post(&client, &headers, &tool(&id, "fs__work", &arguments)).await.json()
        }
    };
    let (number, text) = tokio::join!(ask(json!(1), 1), ask(json!("1"), 2));
    assert_eq!((&number["id"], &text["id"]), (&json!(1), &json!("1")));
    assert!(text_of(&number).contains("\"1\"") && text_of(&text).contains("\"2\""), "{number} {text}");
    let modern = |id: &'static str| Call::tool("fs__echo", "{}").id(Some(id));
    let (number, text) = (modern("1"), modern("\"1\""));
    let (number, text) = tokio::join!(world.client().reply(&number), world.client().reply(&text));
    assert_eq!((&number.json()["id"], &text.json()["id"]), (&json!(1), &json!("1")));
    world.stop().await;
}

#[tokio::test]
async fn case_21_answers_that_nobody_waits_for_are_dropped_and_counted() {
    let world = World::one(&scripted(&[])).await;
    let twice = r#"{"nonce":"n","steps":1,"asks":0,"die":false,"again":true}"#;
    assert!(said(&world, "fs__work", twice).await.contains("\"n\""));
    eventually("both are counted", || async { (world.counted(0, STRAY).await >= 2.0).then_some(()) }).await;
    assert_eq!(said(&world, "fs__count", "{}").await, "1", "the server is still the same");
    world.stop().await;
}

#[tokio::test]
async fn case_31_the_same_progress_token_of_many_clients_reaches_each_its_own() {
    let world = World::one(&shared()).await;
    let mut calls = Vec::new();
    for (at, token) in ["1", "1", "\"1\"", "\"1\""].into_iter().enumerate() {
        let client = world.client().clone();
        let work = format!(r#"{{"nonce":"{at}","steps":5,"asks":0,"die":false,"again":false}}"#);
        let call = Call::tool("fs__work", &work).meta(&format!("\"progressToken\":{token}"));
        calls.push((token, tokio::spawn(async move { client.reply(&call).await })));
    }
    for (at, (token, call)) in calls.into_iter().enumerate() {
        let reply = call.await.unwrap();
        let progress: Vec<_> = reply.events.iter().filter(|e| e["method"] == "notifications/progress").collect();
        assert_eq!(progress.len(), 5, "{reply:?}");
        for event in progress {
            assert_eq!(event["params"]["message"], at.to_string());
            assert_eq!(event["params"]["progressToken"].to_string(), token, "of the same type");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn case_32_progress_after_the_answer_is_dropped_and_falling_progress_is_not_ours() {
    let world = World::one(&scripted(&[])).await;
    let reply = world.client().reply(&Call::tool("fs__late", "{}").meta(r#""progressToken":"p""#)).await;
    let told: Vec<_> = reply.events.iter().filter_map(|e| e["params"]["progress"].as_i64()).collect();
    assert_eq!(told, [5, 3], "as the server said it, up to its answer");
    assert!(reply.events.last().unwrap()["result"].is_object());
    eventually("the late one", || async { (world.counted(0, STRAY).await == 1.0).then_some(()) }).await;
    world.stop().await;
}

#[tokio::test]
async fn case_33_of_a_cancellation_and_an_answer_exactly_one_wins() {
    let world = World::one(&scripted(&[])).await;
    let session = world.session("2025-11-25").await;
    for round in 0..30 {
        let id = json!(format!("r{round}"));
        let call = tool(&id, "fs__sleep", &json!({"ms": round / 3}));
        let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
        let (reply, told) = tokio::join!(post(world.client(), &session.headers, &call), async {
            tokio::time::sleep(std::time::Duration::from_millis(7)).await;
            session.tell(&cancel).await
        });
        assert_eq!(told, 202);
        let answers: Vec<Value> = match reply.events.len() {
            0 if reply.body.is_empty() => Vec::new(),
            0 => vec![reply.json()],
            _ => reply.events.clone(),
        };
        assert!(answers.len() <= 1 && answers.iter().all(|answer| answer["id"] == id), "{reply:?}");
    }
    assert_eq!(text_of(&session.tool("fs__echo", &json!({})).await), "{}");
    world.stop().await;
}

#[tokio::test]
async fn case_34_cancelling_what_cannot_be_cancelled_is_ignored() {
    let world = World::one(&scripted(&[])).await;
    let session = world.session("2025-06-18").await;
    let mut call = session
        .begin(
            "tools/call",
            &json!({"name": "fs__progress", "arguments": {},
        "_meta": {"progressToken": 1}}),
        )
        .await;
    assert_eq!(call.next().await.unwrap()["params"]["progress"], 1);
    // The id of `initialize`, of nothing, of the same number as text, and none at all.
    let cancel = |params: Value| json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
    for params in [json!({"requestId": 0}), json!({"requestId": "zzz"}), json!({"requestId": "1"}), json!({})] {
        assert_eq!(session.tell(&cancel(params)).await, 202);
    }
    let go = post(world.client(), &session.headers, &tool(&json!(2), "fs__go", &json!({}))).await;
    assert_eq!(text_of(&go.json()), "gone");
    assert_eq!(call.next().await.unwrap()["params"]["progress"], 2);
    assert_eq!(text_of(&call.next().await.unwrap()), "done");
    world.stop().await;
}

#[tokio::test]
async fn case_21_answers_for_others_on_a_stream_of_an_http_server_are_dropped() {
    let server = legacy("2025-06-18", tools(&["t"]), |received| async move {
        let (sender, response) = stream();
        let own = received.json()["id"].clone();
        tokio::spawn(async move {
            for id in [json!(999_999), own.clone(), own] {
                let done = json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": id.to_string()}]}});
                if sender.send(event(&done)).await.is_err() {
                    return;
                }
            }
            let _ = sender.finish().await;
        });
        response
    });
    let own = modern(tools(&["u"]), |received| async move { outrigger_tests::http_server::text(&received, "own") });
    let world = World::of(&[("fs", &server.setting()), ("own", &own.setting())]).await;
    for _ in 0..3 {
        assert_ne!(said(&world, "fs__t", "{}").await, "999999");
    }
    assert_eq!(said(&world, "own__u", "{}").await, "own");
    world.stop().await;
}
