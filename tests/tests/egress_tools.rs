//! What tools may reach: servers behind their sidecar, which finds out which call is behind each connection.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::egress::{Origin, read_all, read_until};
use outrigger_tests::sidecar::text_of;
use outrigger_tests::subjects::{fetching, installed, words};
use outrigger_tests::{Call, Client, Mesh, TestSidecar};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nsunny";

/// A server's `egress` section with rules for names of this machine.
fn section(mesh: &Mesh, rules: &[(&str, &str, u16, &str)]) -> String {
    let rules: Vec<_> = rules
        .iter()
        .map(|(name, host, port, more)| {
            format!("    - {{ name: {name}, hosts: [\"{host}:{port}\"], addresses: [127.0.0.0/8, \"::1\"], {more} }}\n")
        })
        .collect();
    let log = mesh.path().join("egress.jsonl");
    format!("egress:\n  listen: 127.0.0.1:0\n  log: {}\n  rules:\n{}", log.display(), rules.concat())
}

fn lines(mesh: &Mesh) -> Vec<Value> {
    let text = std::fs::read_to_string(mesh.path().join("egress.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn fetch(client: &Client, tool: &str, url: &str) -> String {
    text_of(&client.reply(&Call::tool(tool, &json!({ "url": url }).to_string())).await.json())
}

#[tokio::test]
async fn a_rule_for_one_tool_does_not_let_another_through() {
    let (mesh, origin) = (Mesh::new(), Origin::http(OK).await);
    let port = origin.address.port();
    let url = format!("http://localhost:{port}/");
    let rules = [("weather", "localhost", port, "tools: [weather]")];
    let sidecar = TestSidecar::start(&mesh, &format!("{}{}", fetching(), section(&mesh, &rules))).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(fetch(&client, "weather", &url).await, "200 sunny");
    let refused = fetch(&client, "news", &url).await;
    let told: Value =
        serde_json::from_str(refused.strip_prefix("403 ").unwrap_or_else(|| panic!("{refused}"))).unwrap();
    assert_eq!((told["reason"].as_str(), told["tool"].as_str()), (Some("tool"), Some("news")));
    assert_eq!((told["rule"].as_str(), told["service"].as_str()), (Some("egress/weather"), Some("fs")));
    assert_eq!(origin.seen().len(), 1);
    assert_eq!(sidecar.metric("outrigger_denied_total{reason=\"egress\",service=\"fs\"}").await as u64, 1);

    // Beside a call of `weather`, which one is behind the connection is not certain: the set decides.
    let resting = Call::tool("weather", &json!({ "seconds": 1.5 }).to_string());
    let (rested, reached) = tokio::join!(client.reply(&resting), async {
        // The call beside it must be at work first.
        outrigger_tests::eventually("the set has both", || async {
            (fetch(&client, "news", &url).await == "200 sunny").then_some(())
        })
        .await;
    });
    let ((), rested) = (reached, rested.json());
    assert_eq!(text_of(&rested), "rested");
    sidecar.stop().await;

    let log = lines(&mesh);
    let first: Vec<_> = log[..2].iter().map(|line| (line["tools"].to_string(), line["verdict"].to_string())).collect();
    assert_eq!(
        first,
        [("[\"weather\"]".into(), "\"allowed\"".into()), ("[\"news\"]".into(), "\"denied\"".into())],
        "{log:?}"
    );
    assert!(log.iter().any(|line| line["tools"].as_array().unwrap().len() == 2 && line["verdict"] == "allowed"));
}

/// A client of a sidecar with rules for `weather` alone, its origin's URL, and both.
async fn weather_only(mesh: &Mesh, origin: &Origin, attribution: &str, more: &str) -> (TestSidecar, Client, String) {
    let port = origin.address.port();
    let rules = [("weather", "localhost", port, "tools: [weather], raw: true")];
    let section = section(mesh, &rules).replace("egress:\n", &format!("egress:\n  attribution: {attribution}\n"));
    let sidecar = TestSidecar::start(mesh, &format!("{}{section}{more}", fetching())).await;
    let client = sidecar.ready_client(mesh).await;
    (sidecar, client, format!("http://localhost:{port}/"))
}

async fn resting(client: &Client, seconds: f64) -> String {
    text_of(&client.reply(&Call::tool("weather", &json!({ "seconds": seconds }).to_string())).await.json())
}

#[tokio::test]
async fn with_exact_attribution_one_tool_does_not_ride_on_another() {
    let (mesh, origin) = (Mesh::new(), Origin::http(OK).await);
    let (sidecar, client, url) = weather_only(&mesh, &origin, "exact", "").await;
    assert_eq!(fetch(&client, "weather", &url).await, "200 sunny");
    let (rested, reason) = tokio::join!(resting(&client, 1.5), async {
        outrigger_tests::eventually("both are at work", || async {
            let refused = fetch(&client, "news", &url).await;
            let told: Value = serde_json::from_str(refused.strip_prefix("403 ").expect(&refused)).unwrap();
            // Alone it is its own tool; beside the other nobody knows.
            (told["reason"] == "attribution").then(|| told["rule"].as_str().map(str::to_owned))
        })
        .await
    });
    assert_eq!((rested.as_str(), reason.as_deref()), ("rested", Some("egress/weather")));
    assert_eq!(origin.seen().len(), 1, "only what `weather` fetched by itself");

    // A trace that the request shows is certainty.
    let traced = json!({ "url": url, "traced": true }).to_string();
    let beside = async |tool: &'static str| {
        outrigger_tests::eventually("it is beside another call", || async {
            let said = text_of(&client.reply(&Call::tool(tool, &traced)).await.json());
            let status = said.split(' ').next().unwrap_or_default().to_owned();
            lines(&mesh).iter().any(|line| line["parent_id"].is_string()).then_some(status)
        })
        .await
    };
    let (_, weather, news) = tokio::join!(resting(&client, 1.0), beside("weather"), beside("news"));
    assert_eq!((weather.as_str(), news.as_str()), ("200", "403"));
    sidecar.stop().await;
}

#[tokio::test]
async fn with_serial_attribution_calls_wait_for_each_other_and_each_is_judged_alone() {
    let (mesh, origin) = (Mesh::new(), Origin::http(OK).await);
    let (sidecar, client, url) = weather_only(&mesh, &origin, "serial", "").await;
    let all = (0..3).map(|_| async { (fetch(&client, "weather", &url).await, fetch(&client, "news", &url).await) });
    let all: Vec<_> = all.collect();
    let mut all = all.into_iter();
    let (a, b, c) = tokio::join!(all.next().unwrap(), all.next().unwrap(), all.next().unwrap());
    for (weather, news) in [a, b, c] {
        assert_eq!(weather, "200 sunny");
        assert!(news.starts_with("403 ") && news.contains("\"tool\""), "{news}");
    }
    assert_eq!(origin.seen().len(), 3);
    sidecar.stop().await;
    assert!(lines(&mesh).iter().all(|line| line["tools"].as_array().unwrap().len() == 1));
}

#[tokio::test]
async fn a_tunnel_ends_with_the_calls_that_it_was_for() {
    for attribution in ["set", "exact", "serial"] {
        let (mesh, origin) = (Mesh::new(), Origin::echo().await);
        let (sidecar, client, url) = weather_only(&mesh, &origin, attribution, "session: shared\n").await;
        let authority = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let open = async || {
            let mut stream = TcpStream::connect(sidecar.egress().unwrap()).await.unwrap();
            let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let status = read_until(&mut stream, "\r\n").await.split(' ').nth(1).unwrap().to_owned();
            (stream, status)
        };
        let ((_, mut tunnel), rested) = tokio::join!(
            async {
                outrigger_tests::eventually("a tunnel while the call is at work", || async {
                    let (stream, status) = open().await;
                    (status == "200").then_some(((), stream))
                })
                .await
            },
            resting(&client, 1.5)
        );
        assert_eq!(rested, "rested");
        // It was open, and is cut: another call finds nothing to ride on.
        read_all(&mut tunnel).await;
        assert_eq!(open().await.1, "403", "{attribution}: no call is at work");
        sidecar.stop().await;
        assert!(lines(&mesh).iter().any(|line| line["verdict"] == "denied" && line["reason"] == "tool"));
    }
}

#[tokio::test]
async fn the_child_of_one_caller_does_not_ride_on_the_call_of_another() {
    let (mesh, origin) = (Mesh::new(), Origin::http(OK).await);
    let (sidecar, a, url) = weather_only(&mesh, &origin, "set", "").await;
    let b = sidecar.client(&mesh, "b");
    // Credentials that the proxy variables carry, and none: then the kernel says whose connection it is.
    for bare in [false, true] {
        let fetching = json!({ "url": url, "bare": bare }).to_string();
        let fetch =
            async |client: &Client, tool: &str| text_of(&client.reply(&Call::tool(tool, &fetching)).await.json());
        assert_eq!(fetch(&b, "weather").await, "200 sunny", "bare: {bare}");
        let ((), rested) = tokio::join!(
            async {
                // Until it is certain that the call of the other is at work, and beside it.
                outrigger_tests::eventually("its own child rides on it", || async {
                    (fetch(&a, "news").await == "200 sunny").then_some(())
                })
                .await;
                let refused = fetch(&b, "news").await;
                assert!(
                    refused.starts_with("403 ") && refused.contains("\"tool\":\"news\""),
                    "bare: {bare}: {refused}"
                );
            },
            resting(&a, 2.0)
        );
        assert_eq!(rested, "rested");
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn credentials_of_nobody_are_refused_with_what_to_do() {
    let (mesh, origin) = (Mesh::new(), Origin::http(OK).await);
    let (sidecar, a, url) = weather_only(&mesh, &origin, "set", "").await;
    assert_eq!(fetch(&a, "weather", &url).await, "200 sunny", "a second child, beside that of the catalog");
    let authority = url.trim_start_matches("http://").trim_end_matches('/');
    let ask = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(sidecar.egress().unwrap()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        read_all(&mut stream).await
    };
    // `child-1:wrong`
    for (credentials, reason) in
        [("Proxy-Authorization: Basic Y2hpbGQtMTp3cm9uZw==\r\n", "wrong_credential"), ("", "child")]
    {
        for request in [format!("GET {url} HTTP/1.1\r\n"), format!("CONNECT {authority} HTTP/1.1\r\n")] {
            let reply = ask(format!("{request}Host: {authority}\r\n{credentials}\r\n").as_bytes()).await;
            assert!(reply.starts_with("HTTP/1.1 407 ") && reply.contains("Proxy-Authenticate: Basic"), "{reply}");
            assert!(reply.contains(&format!("\"reason\":\"{reason}\"")) && reply.contains("HTTP_PROXY"), "{reply}");
        }
    }
    let wanted = [&b"\x05\x01\x00\x03\x09localhost"[..], &origin.address.port().to_be_bytes()].concat();
    let wrong = ask(&[&b"\x05\x02\x00\x02\x01\x07child-1\x05wrong"[..], &wanted].concat()).await;
    assert_eq!(wrong.as_bytes(), b"\x05\x02\x01\x01");
    let none = ask(&[&b"\x05\x01\x00"[..], &wanted].concat()).await;
    assert_eq!(none.as_bytes(), b"\x05\x00\x05\x02\x00\x01\0\0\0\0\0\0");
    assert_eq!(origin.seen().len(), 1);
    sidecar.stop().await;
    let told = std::fs::read_to_string(mesh.path().join("egress.jsonl")).unwrap();
    assert!(!told.contains("wrong\""), "nothing of what was shown: {told}");
}

#[tokio::test]
async fn a_call_says_itself_what_it_was_refused() {
    let (mesh, origin) = (Mesh::new(), Origin::http(OK).await);
    let access = mesh.path().join("access.jsonl");
    let more = format!("access_log: {}\n", access.display());
    let (sidecar, client, url) = weather_only(&mesh, &origin, "set", &more).await;
    assert!(fetch(&client, "news", &url).await.starts_with("403 "));
    assert_eq!(fetch(&client, "weather", &url).await, "200 sunny");
    assert_eq!(resting(&client, 0.0).await, "rested");
    let port = origin.address.port();
    let labels = "host=\"other\",rule=\"egress/weather\",service=\"fs\",tool=\"news\",verdict=\"denied\"";
    assert_eq!(sidecar.metric(&format!("outrigger_egress_total{{{labels}}}")).await as u64, 1);
    sidecar.stop().await;
    for path in [access, TestSidecar::audit(&mesh, "fs")] {
        let text = std::fs::read_to_string(&path).unwrap();
        let told = |tool: &str| -> Vec<Value> {
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines.filter(|line| line["capability"] == tool).collect()
        };
        let (news, weather) = (told("news"), told("weather"));
        let refused = json!([{ "host": "localhost", "port": port, "reason": "tool", "rule": "egress/weather" }]);
        assert_eq!(news[0]["egress"], json!({ "allowed": 0, "denied": 1, "refused": refused }), "{text}");
        assert_eq!(weather[0]["egress"], json!({ "allowed": 1, "denied": 0, "refused": [] }));
        assert!(weather[1].get("egress").is_none(), "it dialled nothing");
        assert_eq!(news[0]["trace_id"], lines(&mesh)[0]["trace_id"], "one trace");
    }
    let egress = lines(&mesh);
    assert!(egress.iter().all(|line| line["span_id"].is_string() && line["parent_id"].is_string()), "{egress:?}");
}

#[tokio::test]
async fn an_unchanged_fetch_server_reaches_what_is_allowed_and_nothing_else() {
    let (mesh, origin, other) = (Mesh::new(), Origin::http(OK).await, Origin::http(OK).await);
    let (port, elsewhere) = (origin.address.port(), other.address.port());
    let command = words(&[&installed("venv/bin/mcp-server-fetch"), "--ignore-robots-txt", "--allow-private-ips"]);
    let rules = [("local", "localhost", port, "tools: [\"*\"]")];
    let settings = format!("command: {command}\n{}", section(&mesh, &rules));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let reached = fetch(&client, "fetch", &format!("http://localhost:{port}/")).await;
    assert!(reached.contains("sunny"), "{reached}");
    for url in [format!("http://localhost:{elsewhere}/"), format!("http://127.0.0.1:{port}/")] {
        let refused = fetch(&client, "fetch", &url).await;
        assert!(refused.contains("403"), "{url}: {refused}");
    }
    assert_eq!((origin.seen().len(), other.seen().len()), (1, 0));
    sidecar.stop().await;
}

#[tokio::test]
async fn a_confined_server_has_no_way_but_its_proxy() {
    let (mesh, origin) = (Mesh::new(), Origin::http(OK).await);
    let port = origin.address.port();
    let rules = [("weather", "localhost", port, "tools: [weather]")];
    let settings = format!("{}sandbox: strict\n{}", fetching(), section(&mesh, &rules));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    assert_eq!(fetch(&client, "weather", &format!("http://localhost:{port}/")).await, "200 sunny");
    assert!(fetch(&client, "news", &format!("http://localhost:{port}/")).await.starts_with("403 "));
    // Past the variables.
    let direct = json!({ "url": format!("http://127.0.0.1:{port}/"), "direct": true }).to_string();
    for tool in ["weather", "news"] {
        let reply = text_of(&client.reply(&Call::tool(tool, &direct)).await.json());
        assert!(reply.starts_with("no connection: "), "{reply}");
    }
    assert_eq!(origin.seen().len(), 1);
    sidecar.stop().await;
}
