//! Cases 4 to 6, 8 to 14, 71 and 72: headers that mirror the message, versions, and what is accepted.

use outrigger_tests::{
    Call,
    http_server::{event, stream, text},
    sidecar::text_of,
    subjects::scripted,
};
use serde_json::{Value, json};

use crate::world::{World, legacy, modern, post, refused, said, tool, tools};

fn named(name: &str, header: &str) -> Call {
    Call::tool(name, "{}").without("mcp-name").header("mcp-name", header)
}

#[tokio::test]
async fn case_04_names_of_any_script_are_listed_as_they_are_and_encoded_in_the_header() {
    let server =
        modern(tools(&["检索", "a b"]), |received| async move { text(&received, received.header("mcp-name")) });
    let world = World::one(&server.setting()).await;
    assert_eq!(world.tools().await, ["fs__检索", "fs__a b"]);
    assert_eq!(said(&world, "fs__检索", "{}").await, "=?base64?5qOA57Si?=");
    assert_eq!(said(&world, "fs__a b", "{}").await, "a b");
    let raw = Call::tool("fs__检索", "{}").without("mcp-name").header_bytes("mcp-name", "fs__检索".as_bytes());
    refused(&world.client().reply(&raw).await, 400, -32020);
    world.stop().await;
}

#[tokio::test]
async fn case_05_a_name_that_looks_encoded_must_be_encoded() {
    let server =
        modern(tools(&["=?base64?x?="]), |received| async move { text(&received, received.header("mcp-name")) });
    let world = World::of(&[("fs", &server.setting())]).await;
    // With its prefix it looks like nothing any more; on the endpoint of one service it does.
    assert_eq!(said(&world, "fs__=?base64?x?=", "{}").await, "=?base64?PT9iYXNlNjQ/eD89?=");
    let client = world.sidecars[0].ready_client(&world.mesh).await;
    refused(&client.reply(&named("=?base64?x?=", "=?base64?x?=")).await, 400, -32020);
    refused(&client.reply(&named("x", "=?base64?x?=")).await, 400, -32020);
    let encoded = named("=?base64?x?=", "=?base64?PT9iYXNlNjQ/eD89?=");
    assert_eq!(client.reply(&encoded).await.status, 200);
    world.stop().await;
}

#[tokio::test]
async fn case_06_encodings_that_cannot_be_read_are_refused() {
    let world = World::one(&scripted(&[])).await;
    for bad in [
        "=?base64?ZnNfX2VjaG8?=",
        "=?base64?ZnNfX2V*aG8=?=",
        "=?base64?//8=?=",
        "=?BASE64?ZnNfX2VjaG8=?=",
        "=?base64? ZnNfX2VjaG8=?=",
    ] {
        refused(&world.client().reply(&named("fs__echo", bad)).await, 400, -32020);
    }
    assert_eq!(world.client().reply(&named("fs__echo", "=?base64?ZnNfX2VjaG8=?=")).await.status, 200);
    world.stop().await;
}

#[tokio::test]
async fn case_08_a_header_that_says_two_things_is_refused() {
    let world = World::one(&scripted(&[])).await;
    for (header, other) in
        [("mcp-method", "tools/list"), ("mcp-name", "fs__count"), ("mcp-protocol-version", "2025-11-25")]
    {
        // Whichever comes first.
        let right = Call::tool("fs__echo", "{}");
        let value = right.fields()[header].to_str().unwrap().to_owned();
        let first = right.clone().header(header, other);
        let last = right.without(header).header(header, other).header(header, &value);
        for call in [first, last] {
            refused(&world.client().reply(&call).await, 400, -32020);
        }
    }
    let twice = Call::tool("fs__echo", "{}").header("mcp-method", "tools/call");
    assert_eq!(world.client().reply(&twice).await.status, 200, "the same thing twice is one thing");
    world.stop().await;
}

#[tokio::test]
async fn case_09_header_names_are_of_any_case_and_values_are_not() {
    let world = World::one(&scripted(&[])).await;
    let method = |name: &str, value: &str| Call::tool("fs__echo", "{}").without("mcp-method").header(name, value);
    assert_eq!(world.client().reply(&method("MCP-METHOD", "tools/call")).await.status, 200);
    refused(&world.client().reply(&method("mcp-method", "TOOLS/CALL")).await, 400, -32020);
    refused(&world.client().reply(&named("fs__echo", "FS__ECHO")).await, 400, -32020);
    world.stop().await;
}

#[tokio::test]
async fn case_10_the_version_must_be_said_twice_and_the_same() {
    let world = World::one(&scripted(&[])).await;
    let good = Call::tool("fs__echo", "{}");
    let text = String::from_utf8(good.bytes()).unwrap();
    let without = text.replace("\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",", "");
    assert_ne!(text, without);
    refused(&world.client().reply(&good.clone().body(without)).await, 400, -32602);
    refused(&world.client().reply(&good.clone().without("mcp-protocol-version")).await, 400, -32020);
    let other = good.clone().without("mcp-protocol-version").header("mcp-protocol-version", "2025-11-25");
    refused(&world.client().reply(&other).await, 400, -32020);
    let newer = text.replace("2026-07-28", "2027-01-01");
    refused(&world.client().reply(&good.body(newer)).await, 400, -32020);
    world.stop().await;
}

#[tokio::test]
async fn case_11_a_version_that_we_do_not_know_is_answered_with_those_that_we_do() {
    let server = modern(tools(&["t"]), |received| async move { text(&received, "called") });
    let world = World::one(&server.setting()).await;
    let call = Call::tool("fs__t", "{}");
    let body = String::from_utf8(call.bytes()).unwrap().replace("2026-07-28", "2027-01-01");
    let call = call.without("mcp-protocol-version").header("mcp-protocol-version", "2027-01-01").body(body);
    let reply = world.client().reply(&call).await;
    refused(&reply, 400, -32022);
    let data = &reply.json()["error"]["data"];
    assert_eq!(data["requested"], "2027-01-01");
    assert!(data["supported"].as_array().unwrap().contains(&json!("2026-07-28")), "{data}");
    assert!(server.received_of("tools/call").is_empty());
    world.stop().await;
}

#[tokio::test]
async fn case_12_mirrored_headers_of_older_clients_decide_nothing() {
    for era in ["modern", "legacy"] {
        let answer = |received: outrigger_tests::http_server::Received| async move {
            let call = received.json();
            text(&received, &format!("{} {}", call["params"]["name"], received.header("mcp-name")))
        };
        let server = match era {
            "modern" => modern(tools(&["good", "evil"]), answer),
            _ => legacy("2025-06-18", tools(&["good", "evil"]), answer),
        };
        let policy = "  authorization: { rules: [ { name: some, services: [\"*\"], capabilities: [good] } ] }\n";
        let world = World::guarded(policy, &server.setting()).await;
        let session = world.session("2025-11-25").await;
        let mut headers = session.headers.clone();
        headers.insert("mcp-protocol-version", "2025-11-25".parse().unwrap());
        headers.insert("mcp-method", "tools/list".parse().unwrap());
        headers.insert("mcp-name", "fs__evil".parse().unwrap());
        let good = post(world.client(), &headers, &tool(&json!(1), "fs__good", &json!({}))).await;
        let seen = if era == "modern" { "\"good\" good" } else { "\"good\" " };
        assert_eq!(text_of(&good.json()), seen, "what the body says, and nothing of the client's headers");
        headers.insert("mcp-name", "fs__good".parse().unwrap());
        let evil = post(world.client(), &headers, &tool(&json!(2), "fs__evil", &json!({}))).await;
        refused(&evil, 200, -32602);
        assert_eq!(server.received_of("tools/call").len(), 1);
        world.stop().await;
    }
}

#[tokio::test]
async fn case_14_numbers_are_compared_as_numbers_and_only_where_they_are_exact() {
    let lists = json!({"tools/list": {"tools": [{"name": "t", "inputSchema": {"type": "object", "properties": {
        "n": {"type": "integer", "x-mcp-header": "N"}}}}]}});
    let server = modern(lists, |received| async move { text(&received, received.header("mcp-param-n")) });
    let world = World::one(&server.setting()).await;
    let call = |argument: &str, header: &str| {
        Call::tool("fs__t", &format!("{{\"n\":{argument}}}")).header("mcp-param-n", header)
    };
    for (argument, header) in [("42", "42"), ("42.0", "42"), ("42", "42.0"), ("4.2e1", "42"), ("-7", "-7")] {
        let reply = world.client().reply(&call(argument, header)).await;
        assert_eq!(reply.status, 200, "{argument} {header}: {reply:?}");
    }
    for (argument, header) in [("42", "43"), ("42.5", "42.5"), ("9007199254740993", "9007199254740993")] {
        refused(&world.client().reply(&call(argument, header)).await, 400, -32020);
    }
    world.stop().await;
}

#[tokio::test]
async fn case_71_what_a_client_takes_decides_the_form_of_the_answer() {
    let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}});
    let server = modern(tools(&["t", "s"]), move |received| {
        let progress = progress.clone();
        async move {
            if received.header("mcp-name") == "t" {
                return text(&received, "plain");
            }
            let (sender, response) = stream();
            let done = json!({"jsonrpc": "2.0", "id": received.json()["id"], "result": {"resultType": "complete", "content": []}});
            tokio::spawn(async move {
                sender.send(event(&progress)).await.unwrap();
                sender.send(event(&done)).await.unwrap();
                sender.finish().await.unwrap();
            });
            response
        }
    });
    let world = World::one(&server.setting()).await;
    let accept = |call: Call, value: &str| call.without("accept").header("accept", value);
    let any = world.client().reply(&accept(Call::tool("fs__s", "{}"), "*/*")).await;
    assert_eq!((any.status.as_u16(), any.events.len()), (200, 2), "anything is both");
    let json_only = world.client().reply(&accept(Call::tool("fs__t", "{}"), "application/json")).await;
    assert_eq!(json_only.header("content-type"), "application/json");
    // Where an answer is in the stream it is taken out of it; a listen is nothing but a stream.
    let taken = world.client().reply(&accept(Call::tool("fs__s", "{}"), "application/json")).await;
    assert_eq!((taken.status.as_u16(), taken.header("content-type")), (200, "application/json"), "{taken:?}");
    let listen = Call::new("subscriptions/listen").params("\"notifications\":{\"toolsListChanged\":true}");
    assert_eq!(world.client().reply(&accept(listen, "application/json")).await.status, 406);
    assert_eq!(world.client().reply(&accept(Call::tool("fs__t", "{}"), "text/html")).await.status, 406);

    let session = world.session("2025-06-18").await;
    let mut headers = session.headers.clone();
    headers.insert("accept", "*/*".parse().unwrap());
    assert_eq!(post(world.client(), &headers, &tool(&json!(1), "fs__t", &json!({}))).await.status, 200);
    headers.insert("accept", "text/html".parse().unwrap());
    assert_eq!(post(world.client(), &headers, &tool(&json!(1), "fs__t", &json!({}))).await.status, 406);
    world.stop().await;
}

#[tokio::test]
async fn case_72_bodies_are_not_compressed_and_streams_never_are() {
    let world = World::one(&scripted(&[])).await;
    for (encoding, status) in [("gzip", 415), ("br", 415), ("gzip, identity", 415), ("identity", 200)] {
        let reply = world.client().reply(&Call::tool("fs__echo", "{}").header("content-encoding", encoding)).await;
        assert_eq!(reply.status.as_u16(), status, "{encoding}");
        let session = world.session("2025-06-18").await;
        let mut headers = session.headers.clone();
        headers.insert("content-encoding", encoding.parse().unwrap());
        let reply = post(world.client(), &headers, &tool(&json!(1), "fs__echo", &json!({}))).await;
        assert_eq!(reply.status.as_u16(), status, "{encoding}");
    }
    let flood = Call::tool("fs__flood", r#"{"n":50}"#).meta(r#""progressToken":1"#);
    let reply = world.client().reply(&flood.header("accept-encoding", "gzip, br, deflate")).await;
    assert_eq!(reply.header("content-type"), "text/event-stream");
    assert_eq!((reply.header("content-encoding"), reply.header("x-accel-buffering")), ("", "no"));
    let last: Value = reply.json();
    assert_eq!(text_of(&last), "flooded");
    world.stop().await;
}
