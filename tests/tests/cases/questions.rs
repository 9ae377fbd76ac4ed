//! Cases 22, 23 and 26 to 30: what servers ask of clients.

use outrigger_tests::{
    Call, Client, Reply, TestSidecar, eventually,
    http_server::{error, result, text},
    sidecar::text_of,
    subjects::scripted,
};
use serde_json::{Value, json};

use crate::world::{ABLE, World, modern, refused, tool, tools};

fn ask(arguments: &str) -> Call {
    Call::tool("fs__elicit", arguments).capabilities(ABLE)
}

async fn asked(world: &World) -> String {
    let reply = world.client().reply(&ask("{}")).await.json();
    assert_eq!(reply["result"]["resultType"], "input_required", "{reply}");
    reply["result"]["requestState"].as_str().unwrap().to_owned()
}

async fn answered(client: &Client, call: Call, state: &str) -> Reply {
    let answer = json!({"r1": {"action": "accept", "content": {"a": "x"}}});
    client.reply(&call.params(&format!("\"inputResponses\":{answer},\"requestState\":{}", json!(state)))).await
}

/// What the server behind `fs` remembers.
async fn seen(world: &World) -> Value {
    let reply = world.client().reply(&Call::tool("fs__seen", "{}").capabilities(ABLE)).await.json();
    serde_json::from_str(&text_of(&reply)).unwrap()
}

#[tokio::test]
async fn case_22_questions_of_two_servers_with_the_same_id_are_two_questions() {
    let world = World::of(&[("one", &scripted(&[])), ("two", &scripted(&[]))]).await;
    let session = world.session("2025-06-18").await;
    let mut calls = Vec::new();
    for service in ["one", "two"] {
        let call = tool(&json!(service), &format!("{service}__elicit"), &json!({}));
        let mut stream = session.send(http::Method::POST, &call).await;
        let question = stream.next().await.unwrap();
        assert_eq!(question["method"], "elicitation/create", "{question}");
        calls.push((service, question["id"].clone(), stream));
    }
    assert_ne!(calls[0].1, calls[1].1, "both servers number their first question the same");
    calls.reverse();
    for (service, id, _) in &calls {
        let answer = json!({"action": "accept", "content": {"a": format!("for {service}")}});
        assert_eq!(session.tell(&json!({"jsonrpc": "2.0", "id": id, "result": answer})).await, 202);
    }
    for (service, _, stream) in &mut calls {
        let done = stream.next().await.unwrap();
        assert!(done["id"] == *service && text_of(&done).contains(&format!("for {service}")), "{done}");
    }
    world.stop().await;
}

#[tokio::test]
async fn case_23_an_answer_after_its_call_was_cancelled_is_taken_and_dropped() {
    let world = World::one(&scripted(&[])).await;
    let session = world.session("2025-06-18").await;
    let mut call = session.begin("tools/call", &json!({"name": "fs__elicit", "arguments": {}})).await;
    let question = call.next().await.unwrap();
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    assert_eq!(session.tell(&cancel).await, 202);
    assert_eq!(call.next().await, None, "nothing more is said about it");
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {}}});
    assert_eq!(session.tell(&answer).await, 202);
    assert_eq!(text_of(&session.tool("fs__echo", &json!({})).await), "{}");
    world.stop().await;
}

#[tokio::test]
async fn case_26_an_answer_for_another_call_or_of_somebody_else_leaves_the_call_waiting() {
    let world = World::one(&scripted(&[])).await;
    let state = asked(&world).await;
    refused(&answered(world.client(), ask(r#"{"other":1}"#), &state).await, 200, -32602);
    // What else it says of the call belongs to it as well, whether anybody here has a use for it or not.
    let more = ask("{}").params(&format!(
        r#""other":1,"inputResponses":{{"r1":{{"action":"accept"}}}},"requestState":{}"#,
        json!(state)
    ));
    refused(&world.client().reply(&more).await, 200, -32602);
    refused(&answered(world.client(), Call::tool("fs__roots", "{}").capabilities(ABLE), &state).await, 200, -32602);
    let stranger = world.sidecars[0].client(&world.mesh, "stranger");
    refused(&answered(&stranger, Call::tool("elicit", "{}").capabilities(ABLE), &state).await, 200, -32602);
    let audit = TestSidecar::audit(&world.mesh, "fs");
    eventually("the attempts are on record", || async {
        let text = std::fs::read_to_string(&audit).unwrap_or_default();
        let bad = text.lines().filter(|line| line.contains("bad_request")).collect::<Vec<_>>();
        (bad.len() >= 4 && bad.iter().any(|line| line.contains("/stranger"))).then_some(())
    })
    .await;
    let done = answered(world.client(), ask("{}"), &state).await.json();
    assert!(text_of(&done).contains("accept"), "{done}");
    world.stop().await;
}

#[tokio::test]
async fn a_retry_may_spell_its_arguments_in_another_way() {
    let world = World::one(&scripted(&[])).await;
    let first = r#"{"a":[1,"\u00e9"],"b":{"y":2.50,"x":null}}"#;
    let reply = world.client().reply(&ask(first)).await.json();
    let state = reply["result"]["requestState"].as_str().unwrap();
    for other in [r#"{"a":[1,"e"],"b":{"y":2.5,"x":null}}"#, r#"{"a":[1,"é"],"b":{"y":2.5}}"#] {
        refused(&answered(world.client(), ask(other), state).await, 200, -32602);
    }
    let twice = r#""inputResponses":{"r1":{"action":"decline"},"r1":{"action":"accept"}}"#;
    let twice = ask(first).params(&format!("{twice},\"requestState\":{}", json!(state)));
    refused(&world.client().reply(&twice).await, 400, -32600);
    let again = "{ \"b\": {\"x\": null, \"y\": 2.5}, \"\\u0061\": [1.0, \"é\"] }";
    let done = answered(world.client(), ask(again), state).await.json();
    assert!(text_of(&done).contains("accept"), "{done}");
    world.stop().await;
}

#[tokio::test]
async fn case_27_an_answer_is_good_once() {
    let world = World::one(&scripted(&[])).await;
    let state = asked(&world).await;
    let (first, second) =
        tokio::join!(answered(world.client(), ask("{}"), &state), answered(world.client(), ask("{}"), &state));
    let (used, refusal) = if first.json()["result"].is_object() { (first, second) } else { (second, first) };
    assert!(text_of(&used.json()).contains("accept"), "{used:?}");
    refused(&refusal, 200, -32602);
    refused(&answered(world.client(), ask("{}"), &state).await, 200, -32602);
    world.stop().await;
}

#[tokio::test]
async fn case_28_a_call_whose_client_never_answers_is_cancelled_and_let_go() {
    let world = World::one(&format!("{}timeouts: {{ answer: 1s }}\n", scripted(&[]))).await;
    let state = asked(&world).await;
    let parked = "outrigger_parked_calls";
    assert_eq!(world.sidecars[0].metric(parked).await, 1.0);
    eventually("the call is let go", || async { (world.sidecars[0].metric(parked).await == 0.0).then_some(()) }).await;
    eventually("the server is told", || async {
        (seen(&world).await["cancelled"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    refused(&answered(world.client(), ask("{}"), &state).await, 200, -32603);
    world.stop().await;
}

#[tokio::test]
async fn case_29_a_client_is_never_asked_what_it_did_not_declare() {
    let world = World::one(&scripted(&[])).await;
    let reply = world.client().reply(&Call::tool("fs__elicit", "{}").capabilities(r#"{"roots":{}}"#)).await;
    refused(&reply, 400, -32021);
    assert_eq!(reply.json()["error"]["data"]["requiredCapabilities"], json!({"elicitation": {}}));
    let told = world.client().reply(&Call::tool("fs__seen", "{}").capabilities(r#"{"roots":{}}"#)).await.json();
    let told: Value = serde_json::from_str(&text_of(&told)).unwrap();
    assert_eq!(told["client"]["capabilities"], json!({"roots": {}}), "the server was told no more");
    // What a server of the stateless revision says about it reaches the client as it is.
    let strict = modern(tools(&["t"]), |received| async move {
        let declared = received.json()["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"].clone();
        match declared.get("elicitation") {
            None => error(&received, 400, -32021, "elicitation is needed"),
            Some(_) => text(&received, "asked"),
        }
    });
    let world = World::one(&strict.setting()).await;
    refused(&world.client().reply(&Call::tool("fs__t", "{}")).await, 400, -32021);
    world.stop().await;
}

#[tokio::test]
async fn case_30_a_list_that_asks_for_input_is_no_list() {
    let input = json!({"resultType": "input_required", "inputRequests": {}, "requestState": "x", "tools": []});
    let server = modern(json!({"capabilities": {"tools": {}}, "prompts/list": {"prompts": [{"name": "p"}]}}), {
        let input = input.clone();
        move |received| {
            let input = input.clone();
            async move { result(&received, input) }
        }
    });
    let world = World::one(&server.setting()).await;
    assert_eq!(world.names("prompts/list", "prompts", "name").await, ["fs__p"], "the other lists are unharmed");
    let health = world.sidecars[0].health().await;
    assert_eq!(health["catalog"]["tools"], json!([]), "nothing was kept of it");
    assert_eq!(health["status"], "degraded", "{health}");
    // Where each caller's list is asked for, the caller is told.
    let world = World::one(&format!("{}catalog: {{ mode: per_caller }}\n", server.setting())).await;
    let client = world.sidecars[0].ready_client(&world.mesh).await;
    refused(&client.reply(&Call::new("tools/list").capabilities(ABLE)).await, 502, -32603);
    world.stop().await;
}

#[tokio::test]
async fn a_refusal_of_a_legacy_client_reaches_the_legacy_server_as_it_is() {
    let world = World::one(&scripted(&[])).await;
    let session = world.session("2025-06-18").await;
    let refusal = json!({"code": -1, "message": "User rejected sampling request", "data": {"n": 1}});
    for tool in ["elicit", "sample", "roots"] {
        let params = json!({"name": format!("fs__{tool}"), "arguments": {}});
        let mut call = session.begin("tools/call", &params).await;
        let question = call.next().await.unwrap();
        assert_eq!(session.tell(&json!({"jsonrpc": "2.0", "id": question["id"], "error": refusal})).await, 202);
        let reply = call.next().await.unwrap();
        let told: Value = serde_json::from_str(&text_of(&reply)).unwrap();
        assert_eq!(told, json!({ "error": refusal }), "the server decides how its call goes on");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_modern_client_cannot_answer_with_the_errors_of_the_mesh() {
    let world = World::one(&scripted(&[])).await;
    let call = || Call::tool("fs__sample", "{}").capabilities(ABLE);
    let asked = world.client().reply(&call()).await.json();
    let state = asked["result"]["requestState"].as_str().unwrap();
    let errors = r#""outrigger.dev/errors":{"r1":{"method":"roots/list","error":{"code":1,"message":"no"}}}"#;
    let retry = call().meta(errors).params(&format!("\"requestState\":{}", json!(state)));
    let again = world.client().reply(&retry).await.json();
    assert_eq!(again["result"]["resultType"], "input_required", "{again}");
    world.stop().await;
}

#[tokio::test]
async fn a_refusal_ends_a_call_of_a_modern_server_and_names_it() {
    let server = modern(tools(&["t"]), |received| async move {
        let asks = json!({"k": {"method": "roots/list"}});
        result(&received, json!({"resultType": "input_required", "inputRequests": asks, "requestState": "s"}))
    });
    let world = World::one(&server.setting()).await;
    let session = world.session("2025-06-18").await;
    let mut call = session.begin("tools/call", &json!({"name": "fs__t", "arguments": {}})).await;
    let question = call.next().await.unwrap();
    let refusal = json!({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -1, "message": "never"}});
    assert_eq!(session.tell(&refusal).await, 202);
    let error = call.next().await.unwrap()["error"].clone();
    assert_eq!((&error["code"], &error["data"]["service"]), (&json!(-32603), &json!("fs")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("the client refused roots/list: never"), "{error}");
    assert_eq!(server.received_of("tools/call").len(), 1, "it is not asked again");
    world.stop().await;
}
