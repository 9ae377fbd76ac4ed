//! Lists that depend on the caller: what a server lists in one caller's session reaches that caller, and nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::{
    Call, Client, Mesh, Session, Stream, TestIngress, TestSidecar, eventually,
    sidecar::text_of,
    subjects::{GrowingOverHttp, growing, scripted},
    wait::within,
};
use serde_json::{Value, json};

const LISTS: [(&str, &str); 3] =
    [("tools/list", "tools"), ("prompts/list", "prompts"), ("resources/list", "resources")];

/// SHA-256 of the tokens `ada` and `bob`.
const ADA: &str = "fdee430d40bd57deeac186cd9790033d0f06f909a8806e7ce6e717ab7c7d5029";
const BOB: &str = "81b637d8fcd2c6da6359e6963113a1170de795e4b725b84d1e0b4cfd9ec58ce9";

/// A client of the stateless revision.
struct Modern {
    client: Client,
    token: Option<&'static str>,
    path: &'static str,
    prefix: &'static str,
}

impl Modern {
    fn direct(client: Client) -> Self {
        Self { client, token: None, path: "/mcp", prefix: "" }
    }

    fn call(&self, call: Call) -> Call {
        let call = call.at(self.path);
        match self.token {
            Some(token) => call.header("authorization", &format!("Bearer {token}")),
            None => call,
        }
    }

    async fn list(&self, method: &str, member: &str) -> Value {
        let reply = self.client.reply(&self.call(Call::new(method))).await.json();
        assert!(reply["result"][member].is_array(), "{reply}");
        reply["result"].clone()
    }

    /// The names of all lists, joined.
    async fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (method, member) in LISTS {
            let list = self.list(method, member).await;
            names.extend(list[member].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        }
        names
    }

    async fn tool(&self, name: &str, arguments: &Value) -> Value {
        let name = format!("{}{name}", self.prefix);
        self.client.reply(&self.call(Call::tool(&name, &arguments.to_string()))).await.json()
    }

    async fn grow(&self, name: &str) {
        let grown = self.tool("grow", &json!({ "name": name })).await;
        assert_eq!(grown["result"]["isError"], false, "{grown}");
    }

    async fn listen(&self) -> Stream {
        let wanted =
            "\"notifications\":{\"toolsListChanged\":true,\"promptsListChanged\":true,\"resourcesListChanged\":true}";
        let mut stream = self.client.open(&self.call(Call::new("subscriptions/listen").params(wanted))).await;
        assert_eq!(stream.next().await.unwrap()["method"], "notifications/subscriptions/acknowledged");
        stream
    }

    async fn lists_eventually(&self, name: &str) {
        eventually("it is listed", || async {
            let names = self.names().await;
            (names.iter().filter(|listed| listed.ends_with(name)).count() == LISTS.len()).then_some(())
        })
        .await;
    }
}

/// An ingress in front of a service `fs` whose lists grow and one of another server, and two users of it, by their tokens.
struct World {
    mesh: Mesh,
    sidecars: Vec<TestSidecar>,
    ingress: TestIngress,
}

impl World {
    async fn start(growing: &str, settings: &str) -> Self {
        let mesh = Mesh::new();
        let sidecars =
            vec![TestSidecar::start(&mesh, growing).await, TestSidecar::of(&mesh, "steady", &scripted(&[])).await];
        for (sidecar, status) in sidecars.iter().zip(["serving"; 2]) {
            sidecar.health_where("it serves", |health| health["status"] == status).await;
        }
        let services = [("fs", vec![sidecars[0].address()]), ("steady", vec![sidecars[1].address()])];
        let tokens =
            format!("tokens: [ {{ subject: ada, sha256: {ADA} }}, {{ subject: bob, sha256: {BOB} }} ]\n{settings}");
        let ingress = TestIngress::over(&mesh, &services, &tokens).await;
        Self { mesh, sidecars, ingress }
    }

    /// A session of an older client of a user.
    async fn session(&self, token: &str) -> Session {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        Session::open_with(&self.ingress.client, "2025-06-18", &json!({}), headers).await
    }

    fn user(&self, token: &'static str) -> Modern {
        Modern { client: self.ingress.client.clone(), token: Some(token), path: "/mcp", prefix: "fs__" }
    }

    async fn stop(self) {
        self.ingress.stop().await;
        for sidecar in self.sidecars {
            sidecar.stop().await;
        }
        drop(self.mesh);
    }
}

/// The three changes, in any order and nothing else.
async fn three_changes(stream: &mut Stream) {
    let mut told = Vec::new();
    for _ in 0..LISTS.len() {
        told.push(within("a change is told", stream.next()).await.unwrap()["method"].as_str().unwrap().to_owned());
    }
    told.sort();
    let wanted = ["prompts", "resources", "tools"].map(|list| format!("notifications/{list}/list_changed"));
    assert_eq!(told, wanted);
}

/// One of two callers grows: it alone is told and sees it.
async fn one_grows(one: &Modern, other: &Modern) {
    let before = other.names().await;
    let (mut told, mut untold) = (one.listen().await, other.listen().await);
    assert_eq!(one.names().await, before);
    one.grow("mine").await;
    three_changes(&mut told).await;
    one.lists_eventually("mine").await;
    assert_eq!(other.names().await, before);
    assert_eq!(text_of(&one.tool("mine", &json!({})).await), "mine of 1");
    let refused = other.tool("mine", &json!({})).await;
    assert_eq!(refused["result"]["isError"], true, "the server itself does not know it there: {refused}");
    // The other one grows too; the first thing that it is told is its own.
    other.grow("yours").await;
    three_changes(&mut untold).await;
    other.lists_eventually("yours").await;
    let (one, other) = (one.names().await, other.names().await);
    assert!(one.iter().all(|name| !name.contains("yours")) && other.iter().all(|name| !name.contains("mine")));
}

#[tokio::test]
async fn through_a_sidecar_a_caller_is_listed_what_its_own_child_lists() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &growing(&[])).await;
    let one = Modern::direct(sidecar.ready_client(&mesh).await);
    let other = Modern::direct(sidecar.client(&mesh, "desk"));
    assert_eq!(sidecar.health().await.get("lists"), None, "nothing tells yet that lists depend on the caller");
    one_grows(&one, &other).await;
    let health = sidecar.health().await;
    assert_eq!(health["lists"], "per_caller");
    assert!(!health["catalog"].to_string().contains("mine"), "what all are offered is as before");
    sidecar.stop().await;
}

#[tokio::test]
async fn through_a_sidecar_a_caller_is_listed_what_its_own_http_session_lists() {
    let mesh = Mesh::new();
    let server = GrowingOverHttp::start().await;
    let sidecar = TestSidecar::start(&mesh, &format!("upstream: {}\n", server.url)).await;
    let one = Modern::direct(sidecar.ready_client(&mesh).await);
    one_grows(&one, &Modern::direct(sidecar.client(&mesh, "desk"))).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn lists_of_silent_servers_are_asked_for_where_that_is_set() {
    let mesh = Mesh::new();
    let settings = format!("{}catalog: {{ mode: per_caller }}\n", growing(&["--silent"]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let one = Modern::direct(sidecar.ready_client(&mesh).await);
    let other = Modern::direct(sidecar.client(&mesh, "desk"));
    assert_eq!(sidecar.health().await["lists"], "per_caller", "before anybody asks");
    one.grow("mine").await;
    assert_eq!(one.names().await.len(), other.names().await.len() + LISTS.len());
    sidecar.stop().await;
}

#[tokio::test]
async fn sessions_of_older_clients_at_a_sidecar_have_lists_of_their_own() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &growing(&[])).await;
    let client = sidecar.ready_client(&mesh).await;
    let one = Session::open(&client, "2025-06-18", &json!({})).await;
    let other = Session::open(&client, "2025-06-18", &json!({})).await;
    let (mut told, mut untold) = (one.listen().await, other.listen().await);
    for (session, name, stream) in [(&one, "mine", &mut told), (&other, "yours", &mut untold)] {
        assert_eq!(text_of(&session.tool("grow", &json!({ "name": name })).await), "grow of 1");
        three_changes(stream).await;
    }
    for (session, name) in [(&one, "mine"), (&other, "yours")] {
        let listed = session.ask("tools/list", &json!({})).await.json();
        let names: Vec<_> = listed["result"]["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
        assert_eq!(names, ["grow", "again", name]);
        assert_eq!(text_of(&session.tool(name, &json!({})).await), format!("{name} of 1"));
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn a_storm_in_one_session_that_changes_nothing_is_told_to_nobody() {
    let mesh = Mesh::new();
    let sidecar = TestSidecar::start(&mesh, &growing(&[])).await;
    let one = Modern::direct(sidecar.ready_client(&mesh).await);
    let mut stream = one.listen().await;
    let stormed = one.tool("again", &json!({"times": 1000})).await;
    assert_eq!(text_of(&stormed), "again of 0");
    assert_eq!(one.names().await.len(), 4);
    assert_eq!(sidecar.health().await.get("lists"), None);
    sidecar.stop().await;
    let end = stream.next().await.unwrap();
    assert_eq!(end["result"]["resultType"], "complete", "{end}");
}

#[tokio::test]
async fn on_the_merged_endpoint_a_user_is_listed_what_its_own_child_lists() {
    let world = World::start(&growing(&[]), "").await;
    let (ada, bob) = (world.user("ada"), world.user("bob"));
    one_grows(&ada, &bob).await;
    let list = ada.list("tools/list", "tools").await;
    assert_eq!(list["cacheScope"], "private");
    assert_eq!(list["_meta"]["outrigger.dev/services"], json!({"fs": "ok", "steady": "ok"}));
    let names = ada.names().await;
    assert!(names.contains(&"fs__mine".to_owned()) && names.iter().any(|name| name.starts_with("steady__")));
    let read = Call::read("grown://mine");
    let read = ada.client.reply(&ada.call(read)).await.json();
    assert_eq!(read["result"]["contents"][0]["text"], "read grown://mine", "{read}");
    world.stop().await;
}

#[tokio::test]
async fn at_its_own_endpoint_lists_of_silent_servers_are_asked_for_where_that_is_set() {
    let settings = format!("{}catalog: {{ mode: per_caller }}\n", growing(&["--silent"]));
    let world = World::start(&settings, "").await;
    let (mut ada, mut bob) = (world.user("ada"), world.user("bob"));
    for user in [&mut ada, &mut bob] {
        (user.path, user.prefix) = ("/s/fs/mcp", "");
    }
    ada.grow("mine").await;
    assert_eq!(ada.names().await, ["grow", "again", "mine", "first", "mine", "first", "mine"]);
    assert_eq!(bob.names().await, ["grow", "again", "first", "first"]);
    world.stop().await;
}

#[tokio::test]
async fn on_the_merged_endpoint_sessions_of_older_clients_have_lists_of_their_own() {
    let world = World::start(&growing(&[]), "").await;
    // Two sessions of one user: what one does is not for the other either.
    let (one, other) = (world.session("ada").await, world.session("ada").await);
    let (mut told, mut untold) = (one.listen().await, other.listen().await);
    for (session, name, stream) in [(&one, "mine", &mut told), (&other, "yours", &mut untold)] {
        assert_eq!(text_of(&session.tool("fs__grow", &json!({ "name": name })).await), "grow of 1");
        three_changes(stream).await;
        let listed = session.ask("tools/list", &json!({})).await.json();
        let tools = listed["result"]["tools"].as_array().unwrap();
        let own: Vec<_> = tools.iter().filter_map(|tool| tool["name"].as_str()?.strip_prefix("fs__")).collect();
        assert_eq!(own, ["grow", "again", name]);
        assert_eq!(text_of(&session.tool(&format!("fs__{name}"), &json!({})).await), format!("{name} of 1"));
    }
    world.stop().await;
}

#[tokio::test]
async fn lists_that_are_too_large_or_many_give_way_and_say_so() {
    // Room for nobody but whoever asked last, and one list that does not fit at all.
    let world = World::start(&growing(&[]), "limits: { caller_lists_bytes: 1KiB, caller_list_bytes: 4KiB }\n").await;
    let (ada, bob) = (world.user("ada"), world.user("bob"));
    for user in [&ada, &bob] {
        user.grow("mine").await;
        user.lists_eventually("mine").await;
    }
    ada.lists_eventually("mine").await;
    let limited = async || {
        let page = world.ingress.admin("/metrics").await;
        page.lines().filter(|line| line.contains("caller_lists") && !line.ends_with(" 0")).count()
    };
    assert!(limited().await > 0, "one of them gave way to the other");
    bob.grow(&"x".repeat(3000)).await;
    eventually("the reason is told", || async {
        let services = bob.list("tools/list", "tools").await["_meta"]["outrigger.dev/services"].clone();
        (services["fs"] == "stale" || services["fs"].as_str()?.contains("caller_list_bytes")).then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn a_resource_of_forgotten_lists_goes_on_being_told_of() {
    // Room for nobody but whoever asked last.
    let mut world = World::start(&growing(&[]), "limits: { caller_lists_bytes: 1KiB }\n").await;
    let (ada, bob) = (world.user("ada"), world.user("bob"));
    ada.grow("mine").await;
    ada.lists_eventually("mine").await;
    let listed = ada.list("resources/list", "resources").await;
    let uri =
        listed["resources"].as_array().unwrap().iter().find(|one| one["name"] == "fs__mine" || one["name"] == "mine");
    let uri = uri.unwrap_or_else(|| panic!("{listed}"))["uri"].as_str().unwrap();
    let wanted = format!("\"notifications\":{{\"resourceSubscriptions\":[\"{uri}\"]}}");
    let call = ada.call(Call::new("subscriptions/listen").params(&wanted));
    let mut stream = ada.client.open(&call).await;
    let acknowledged = stream.next().await.unwrap();
    assert_eq!(acknowledged["params"]["notifications"]["resourceSubscriptions"], json!([uri]), "{acknowledged}");

    bob.grow("other").await;
    bob.lists_eventually("other").await;
    // Another service goes: whom to listen to is looked at anew, with ada's lists forgotten.
    world.sidecars.pop().unwrap().stop().await;
    eventually("its going is noticed", || async {
        let services = bob.list("tools/list", "tools").await["_meta"]["outrigger.dev/services"].clone();
        (services["steady"] != "ok").then_some(())
    })
    .await;
    let told = async {
        loop {
            ada.tool("again", &json!({ "times": 0, "update": "grown://mine" })).await;
            // Until the new listen hears, a change is nobody's to tell.
            let next = tokio::time::timeout(std::time::Duration::from_millis(500), stream.next()).await;
            if next.is_ok_and(|told| told.is_some_and(|told| told["params"]["uri"] == *uri)) {
                return;
            }
        }
    };
    within("the change is told", told).await;
    world.stop().await;
}
