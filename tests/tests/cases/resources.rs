//! Cases 54 to 57 and 87: resources, prompts and completions of several services.

use outrigger_tests::{
    Call,
    http_server::{HttpServer, error, result},
};
use serde_json::{Value, json};

use crate::world::{World, modern, refused, tools};

/// A server whose resource has the same URI as that of the other one, and a tool that links to it.
fn notes(name: &'static str) -> HttpServer {
    let lists = json!({
        "tools/list": tools(&["link"])["tools/list"],
        "prompts/list": {"prompts": [{"name": "ask"}]},
        "resources/list": {"resources": [{"uri": "note:///1", "name": "n"}, {"uri": format!("own:///{name}"), "name": "o"}]},
        "resources/templates/list": {"resourceTemplates": [{"uriTemplate": "note:///{id}", "name": "t"}]},
        "capabilities": {"completions": {}},
    });
    modern(lists, move |received| async move {
        let params = received.json()["params"].clone();
        match received.rpc_method().as_str() {
            "resources/read" => result(
                &received,
                json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "private",
                "contents": [{"uri": params["uri"], "text": name}]}),
            ),
            "tools/call" => result(
                &received,
                json!({"resultType": "complete", "content": [
                {"type": "resource_link", "uri": "note:///1", "name": "n"},
                {"type": "resource", "resource": {"uri": "note:///1", "text": name}}]}),
            ),
            "prompts/get" => result(
                &received,
                json!({"resultType": "complete", "messages": [{"role": "user",
                "content": {"type": "text", "text": format!("{name} {}", params["name"])}}]}),
            ),
            "completion/complete" => result(
                &received,
                json!({"resultType": "complete", "completion": {"values": [name, params["ref"].to_string()]}}),
            ),
            _ => error(&received, 404, -32601, "no"),
        }
    })
}

async fn two() -> (World, HttpServer, HttpServer) {
    let (one, two) = (notes("one"), notes("two"));
    (World::of(&[("one", &one.setting()), ("two", &two.setting())]).await, one, two)
}

async fn read(world: &World, uri: &str) -> Value {
    world.client().reply(&Call::read(uri)).await.json()["result"]["contents"][0].clone()
}

#[tokio::test]
async fn case_54_a_uri_of_two_services_is_two_resources_and_alone_means_neither() {
    let (world, one, two) = two().await;
    let uris = world.names("resources/list", "resources", "uri").await;
    assert_eq!(uris, ["one+note:///1", "own:///one", "two+note:///1", "own:///two"]);
    for (uri, text) in [("one+note:///1", "one"), ("two+note:///1", "two"), ("own:///two", "two")] {
        assert_eq!(read(&world, uri).await["text"], text);
    }
    refused(&world.client().reply(&Call::read("note:///1")).await, 200, -32602);
    assert_eq!((one.received_of("resources/read").len(), two.received_of("resources/read").len()), (1, 2));
    let session = world.session("2025-06-18").await;
    let ambiguous = session.ask("resources/read", &json!({"uri": "note:///1"})).await;
    assert!(ambiguous.json()["error"]["code"].is_i64(), "{ambiguous:?}");
    world.stop().await;
}

#[tokio::test]
async fn case_55_a_link_in_a_result_can_be_read() {
    let (world, _one, _two) = two().await;
    let reply = world.client().reply(&Call::tool("two__link", "{}")).await.json();
    let content = &reply["result"]["content"];
    assert_eq!(
        (&content[0]["uri"], &content[1]["resource"]["uri"]),
        (&json!("two+note:///1"), &json!("two+note:///1"))
    );
    assert_eq!(read(&world, content[0]["uri"].as_str().unwrap()).await["text"], "two");
    let session = world.session("2025-11-25").await;
    let old = session.tool("one__link", &json!({})).await;
    assert_eq!(old["result"]["content"][0]["uri"], "one+note:///1");
    world.stop().await;
}

#[tokio::test]
async fn case_56_prompts_are_named_as_tools_are() {
    let (world, _one, _two) = two().await;
    assert_eq!(world.names("prompts/list", "prompts", "name").await, ["one__ask", "two__ask"]);
    for service in ["one", "two"] {
        let name = format!("{service}__ask");
        let get = Call::new("prompts/get").params(&format!("\"name\":\"{name}\"")).header("mcp-name", &name);
        let got = world.client().reply(&get).await.json();
        assert_eq!(got["result"]["messages"][0]["content"]["text"], format!("{service} \"ask\""));
    }
    world.stop().await;
}

#[tokio::test]
async fn case_57_completions_go_to_the_owner_of_what_they_complete() {
    let (world, _one, _two) = two().await;
    let complete = async |reference: Value| {
        let params = format!("\"ref\":{reference},\"argument\":{{\"name\":\"a\",\"value\":\"v\"}}");
        world.client().reply(&Call::new("completion/complete").params(&params)).await
    };
    let values = |reply: outrigger_tests::Reply| reply.json()["result"]["completion"]["values"].clone();
    let prompt = values(complete(json!({"type": "ref/prompt", "name": "two__ask"})).await);
    assert_eq!(prompt[0], "two");
    assert!(prompt[1].as_str().unwrap().contains("\"ask\""), "{prompt}");
    let template = values(complete(json!({"type": "ref/resource", "uri": "one+note:///{id}"})).await);
    assert_eq!(template[0], "one");
    assert!(template[1].as_str().unwrap().contains("\"note:///{id}\""), "{template}");
    for unknown in [
        json!({"type": "ref/prompt", "name": "three__ask"}),
        json!({"type": "ref/prompt", "name": "ask"}),
        json!({"type": "ref/resource", "uri": "note:///{id}"}),
        json!({"type": "ref/other"}),
    ] {
        refused(&complete(unknown).await, 200, -32602);
    }
    world.stop().await;
}

#[tokio::test]
async fn case_87_what_is_read_has_the_uri_that_was_asked_for() {
    let (world, one, _two) = two().await;
    assert_eq!(read(&world, "one+note:///1").await, json!({"uri": "one+note:///1", "text": "one"}));
    assert_eq!(read(&world, "one+note:///42").await["uri"], "one+note:///42", "of a template as well");
    let told = one.received_of("resources/read").pop().unwrap();
    assert_eq!((&told.json()["params"]["uri"], told.header("mcp-name")), (&json!("note:///42"), "note:///42"));
    let session = world.session("2025-06-18").await;
    let old = session.ask("resources/read", &json!({"uri": "two+note:///1"})).await.json();
    assert_eq!(old["result"]["contents"][0]["uri"], "two+note:///1");
    world.stop().await;
}
