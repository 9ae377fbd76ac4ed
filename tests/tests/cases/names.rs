//! Cases 1 to 3 and 7: names on the merged endpoint.

use outrigger_tests::{Call, TestIngress, http_server::text, sidecar::text_of};

use crate::world::{World, call, modern, refused, said, tools};

#[tokio::test]
async fn case_01_two_services_with_the_same_tool_are_told_apart_by_their_prefix() {
    let one = modern(tools(&["search"]), |received| async move { text(&received, "one") });
    let two = modern(tools(&["search"]), |received| async move { text(&received, "two") });
    let world = World::of(&[("one", &one.setting()), ("two", &two.setting())]).await;
    assert_eq!(world.tools().await, ["one__search", "two__search"]);
    assert_eq!(said(&world, "one__search", "{}").await, "one");
    assert_eq!(said(&world, "two__search", "{}").await, "two");
    refused(&call(&world, "search", "{}").await, 200, -32602);
    assert_eq!((one.received_of("tools/call").len(), two.received_of("tools/call").len()), (1, 1));
    world.stop().await;
}

#[tokio::test]
async fn case_02_a_name_is_split_at_the_first_joiner_and_services_cannot_contain_one() {
    let echo = |received: outrigger_tests::http_server::Received| async move {
        let name = received.json()["params"]["name"].as_str().unwrap().to_owned();
        text(&received, &name)
    };
    let (plain, dashed) = (modern(tools(&["b__c", "c"]), echo), modern(tools(&["c"]), echo));
    let world = World::of(&[("a", &plain.setting()), ("a-b", &dashed.setting())]).await;
    assert_eq!(world.tools().await, ["a__b__c", "a__c", "a-b__c"]);
    assert_eq!(said(&world, "a__b__c", "{}").await, "b__c");
    assert_eq!(said(&world, "a-b__c", "{}").await, "c");
    assert_eq!((plain.received_of("tools/call").len(), dashed.received_of("tools/call").len()), (1, 1));
    for bad in ["a__b", "a_b", "-a", "A", "a.b"] {
        let text = format!(
            "services: {{ {bad}: {{ addresses: [\"127.0.0.1:1\"] }} }}\n{}",
            world.mesh.identity_section("ingress")
        );
        let refused = outrigger_ingress::config::Config::from_sources(Some(("ingress.yaml", &text)), &|_| None);
        assert!(refused.unwrap_err().to_string().contains(bad), "{bad}");
    }
    world.stop().await;
}

#[tokio::test]
async fn case_03_a_name_that_is_too_long_is_shortened_the_same_way_everywhere() {
    let long = "x".repeat(90);
    let (first, second) = (format!("{long}1"), format!("{long}2"));
    let server = modern(tools(&[&first, &second]), |received| async move {
        let name = received.json()["params"]["name"].as_str().unwrap().to_owned();
        text(&received, &name)
    });
    let world = World::one(&server.setting()).await;
    let names = world.tools().await;
    assert!(names.iter().all(|name| name.len() <= 64 && name.starts_with("fs__")), "{names:?}");
    assert_ne!(names[0], names[1]);
    let other = TestIngress::start(&world.mesh, &[world.sidecars[0].address()], "").await;
    for (short, full) in names.iter().zip([&first, &second]) {
        assert_eq!(said(&world, short, "{}").await, **full);
        let there = other.client.reply(&Call::tool(short, "{}")).await;
        assert_eq!(text_of(&there.json()), **full, "another ingress knows the same name");
    }
    assert_eq!(said(&world, &format!("fs__{first}"), "{}").await, first, "the whole name is good as well");
    other.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn case_07_the_name_header_is_compared_before_the_prefix_goes_and_written_anew() {
    let server = modern(tools(&["read"]), |received| async move { text(&received, received.header("mcp-name")) });
    let world = World::one(&server.setting()).await;
    let named = |value: &str| Call::tool("fs__read", "{}").without("mcp-name").header("mcp-name", value);
    for wrong in ["read", "fs__write", "fs.read"] {
        refused(&world.client().reply(&named(wrong)).await, 400, -32020);
    }
    assert!(server.received_of("tools/call").is_empty());
    assert_eq!(said(&world, "fs__read", "{}").await, "read");
    world.stop().await;
}
