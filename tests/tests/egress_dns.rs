//! Looking names up with a resolver that lies: what of its answers is dialled, handed out and asked for at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use outrigger_tests::dns::{Asked, Nameserver, addresses, ask, ask_over_stream};
use outrigger_tests::egress::{Origin, TestEgress};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";

/// An outbound half that asks this resolver, with rules for `name`, whose address may be 127.0.0.1, at this port.
fn start(dns: &Nameserver, hosts: &str, port: u16, more: &str) -> TestEgress {
    TestEgress::start(&format!(
        "  dns: {{ listen: \"127.0.0.1:0\", servers: [\"{}\"], {more} }}\n  \
         rules: [ {{ name: own, hosts: [{hosts}], ports: [{port}], addresses: [127.0.0.1] }} ]\n\
         admin: {{ listen: \"127.0.0.1:0\" }}\n",
        dns.address
    ))
}

async fn get(egress: &TestEgress, host: &str, port: u16) -> String {
    let request = format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    egress.say(request.as_bytes()).await
}

/// The status, and the reason of a refusal.
async fn verdict(egress: &TestEgress, host: &str, port: u16) -> String {
    let reply = get(egress, host, port).await;
    let status = reply.split(' ').nth(1).unwrap_or_default();
    let body = reply.split("\r\n\r\n").nth(1).unwrap_or_default();
    let told: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    format!("{status} {}", told["reason"].as_str().unwrap_or_default()).trim().to_owned()
}

#[tokio::test]
async fn a_name_that_moves_inside_is_refused_when_it_has_moved() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let dns = Nameserver::start(|asked| asked.addresses(&[["127.0.0.1", "127.0.0.2"][asked.before.min(1)]], 0)).await;
    let egress = start(&dns, "moves.test", port, "min_ttl: 0s");
    assert_eq!(verdict(&egress, "moves.test", port).await, "200");
    assert_eq!(verdict(&egress, "moves.test", port).await, "403 address");
    assert!(addresses(&ask(egress.dns(), "moves.test", RecordType::A).await).is_empty(), "nor is it handed out");
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn one_address_inside_spoils_the_name() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let dns = Nameserver::start(|asked| match asked.name.as_str() {
        "mixed.test" => asked.addresses(&["127.0.0.1", "10.0.0.1"], 60),
        "mixed6.test" => asked.addresses(&["127.0.0.1", "::ffff:10.0.0.1"], 60),
        _ => Vec::new(),
    })
    .await;
    let egress = start(&dns, "mixed.test, mixed6.test", port, "");
    assert_eq!(verdict(&egress, "mixed.test", port).await, "403 address");
    assert_eq!(verdict(&egress, "mixed6.test", port).await, "403 address");
    assert_eq!(addresses(&ask(egress.dns(), "mixed.test", RecordType::A).await), ["127.0.0.1"]);
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn aliases_are_followed_and_guarded_at_their_end() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let alias = |asked: &Asked, to: &str, address: &str| {
        let mut reply = asked.reply();
        reply.add_answer(asked.alias(&asked.name, to));
        reply.add_answers(asked.record(to, address, 60));
        vec![reply]
    };
    let dns = Nameserver::start(move |asked| match asked.name.as_str() {
        // The name that it leads to is nobody's business; where it leads is.
        "good.test" => alias(asked, "cdn.test", "127.0.0.1"),
        "bad.test" => alias(asked, "inside.test", "169.254.169.254"),
        // The resolver leaves the rest to us.
        "half.test" => {
            let mut reply = asked.reply();
            reply.add_answer(asked.alias("half.test", "cdn.test"));
            vec![reply]
        }
        "cdn.test" => asked.addresses(&["127.0.0.1"], 60),
        "round.test" => {
            let mut reply = asked.reply();
            reply.add_answer(asked.alias("round.test", "round.test"));
            vec![reply]
        }
        _ => Vec::new(),
    })
    .await;
    let egress = start(&dns, "good.test, bad.test, half.test, round.test", port, "");
    assert_eq!(verdict(&egress, "good.test", port).await, "200");
    assert_eq!(verdict(&egress, "half.test", port).await, "200");
    assert_eq!(verdict(&egress, "bad.test", port).await, "403 address");
    assert_eq!(verdict(&egress, "round.test", port).await, "502 no_address");
    assert_eq!(verdict(&egress, "cdn.test", port).await, "403 host", "no rule names it");
}

#[tokio::test]
async fn what_is_no_answer_to_the_question_is_no_answer() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let dns = Nameserver::start(|asked| {
        let good = asked.addresses(&["127.0.0.1"], 60);
        match asked.name.as_str() {
            "id.test" => {
                let mut forged = asked.addresses(&["127.0.0.2"], 60);
                forged[0].metadata.id ^= 1;
                [forged, good].concat()
            }
            "name.test" => {
                let mut reply = asked.reply();
                reply.add_answers(asked.record("other.test", "127.0.0.1", 60));
                reply.add_answers(asked.record("evil.test", "127.0.0.1", 60));
                vec![reply]
            }
            // The right address, and one that came along under another name.
            "along.test" => {
                let mut reply = good;
                reply[0].add_answers(asked.record("other.test", "127.0.0.2", 60));
                reply
            }
            _ => Vec::new(),
        }
    })
    .await;
    let egress = start(&dns, "id.test, name.test, along.test", port, "");
    assert_eq!(verdict(&egress, "id.test", port).await, "200");
    assert_eq!(verdict(&egress, "name.test", port).await, "502 no_address");
    assert_eq!(verdict(&egress, "along.test", port).await, "200");
}

#[tokio::test]
async fn answers_are_good_for_as_long_as_the_settings_let_them() {
    let dns = Nameserver::start(|asked| match asked.name.as_str() {
        "none.test" => asked.addresses(&["1.2.3.4"], 0),
        "huge.test" => asked.addresses(&["1.2.3.4"], u32::MAX),
        "usual.test" => asked.addresses(&["1.2.3.4"], 90),
        _ => Vec::new(),
    })
    .await;
    let egress = start(&dns, "none.test, huge.test, usual.test", 443, "min_ttl: 60s, max_ttl: 2m");
    let ttl = async |name| ask(egress.dns(), name, RecordType::A).await.answers[0].ttl;
    // A second may have gone by.
    assert!((50..=60).contains(&ttl("none.test").await));
    assert!((110..=120).contains(&ttl("huge.test").await));
    assert!((80..=90).contains(&ttl("usual.test").await));
    let asked = dns.seen().len();
    for name in ["none.test", "huge.test", "usual.test"] {
        assert_eq!(addresses(&ask_over_stream(egress.dns(), name, RecordType::A).await), ["1.2.3.4"]);
        assert!(addresses(&ask(egress.dns(), name, RecordType::AAAA).await).is_empty());
    }
    assert_eq!(dns.seen().len(), asked, "all of it was known: {:?}", dns.seen());
    let metrics = egress.metrics().await;
    assert!(metrics.contains("outrigger_egress_lookups_total{outcome=\"cached\",service=\"egress\"} 6"), "{metrics}");
}

#[tokio::test]
async fn large_answers_are_cut_and_truncated_ones_fetched() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let dns = Nameserver::start(|asked| {
        let many: Vec<String> = (1..=200).map(|n| format!("1.2.3.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        match (asked.name.as_str(), asked.stream) {
            ("many.test", true) => asked.addresses(&many, 60),
            ("cut.test", true) => asked.addresses(&["127.0.0.1"], 60),
            (_, false) => vec![asked.reply().truncate()],
            _ => Vec::new(),
        }
    })
    .await;
    let egress = start(&dns, "many.test, cut.test", port, "");
    assert_eq!(verdict(&egress, "cut.test", port).await, "200");
    assert_eq!(addresses(&ask_over_stream(egress.dns(), "many.test", RecordType::A).await).len(), 32);
    let short = ask(egress.dns(), "many.test", RecordType::A).await;
    assert!(short.metadata.truncation && short.answers.is_empty(), "it does not fit a datagram: {short:?}");
    let metrics = egress.metrics().await;
    let line = "outrigger_egress_dns_limited_total{limit=\"addresses\",service=\"egress\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn silence_and_trouble_end_and_hurt_no_other_name() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let dns = Nameserver::start(|asked| match asked.name.as_str() {
        "well.test" => asked.addresses(&["127.0.0.1"], 60),
        // Never says that there is no AAAA.
        "half.test" if !asked.v6 => asked.addresses(&["127.0.0.1"], 60),
        "broken.test" => {
            let mut reply = asked.reply();
            reply.metadata.response_code = ResponseCode::ServFail;
            vec![reply]
        }
        _ => Vec::new(),
    })
    .await;
    let hosts = "well.test, half.test, broken.test, silent.test";
    let settings = format!(
        "  dns: {{ listen: \"127.0.0.1:0\", servers: [\"{}\"] }}\n  timeouts: {{ resolve: 2s }}\n  \
         rules: [ {{ name: own, hosts: [{hosts}], ports: [{port}], addresses: [127.0.0.1] }} ]\n",
        dns.address
    );
    let egress = TestEgress::start(&settings);
    let (silent, broken, half, well) = tokio::join!(
        verdict(&egress, "silent.test", port),
        verdict(&egress, "broken.test", port),
        verdict(&egress, "half.test", port),
        verdict(&egress, "well.test", port)
    );
    assert_eq!((half.as_str(), well.as_str()), ("200", "200"));
    assert_eq!((silent.as_str(), broken.as_str()), ("504 resolve_timeout", "502 no_address"));
    let asked = dns.seen().len();
    assert_eq!(ask(egress.dns(), "silent.test", RecordType::A).await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(dns.seen().len(), asked, "a failure is believed for a moment");
}

#[tokio::test]
async fn names_that_no_rule_covers_never_leave() {
    let dns = Nameserver::start(|asked| asked.addresses(&["1.2.3.4"], 60)).await;
    let egress = start(&dns, "allowed.test", 443, "");
    let code = |message: Message| message.metadata.response_code;
    for name in ["c2VjcmV0.evil.test", "allowed.test.evil.test", "sub.allowed.test", "test", "1.0.0.127.in-addr.arpa"] {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::PTR, RecordType::HTTPS] {
            assert_eq!(code(ask(egress.dns(), name, kind).await), ResponseCode::NXDomain, "{name} {kind}");
            assert_eq!(code(ask_over_stream(egress.dns(), name, kind).await), ResponseCode::NXDomain, "{name} {kind}");
        }
        assert_eq!(verdict(&egress, name, 443).await, "403 host");
    }
    // No text, and no keys that would hide a name from us (ECH comes in HTTPS records).
    for kind in [RecordType::TXT, RecordType::HTTPS, RecordType::SVCB, RecordType::ANY, RecordType::CNAME] {
        let reply = ask(egress.dns(), "allowed.test", kind).await;
        assert!(reply.answers.is_empty() && code(reply) == ResponseCode::NoError, "{kind}");
    }
    assert_eq!(dns.seen(), Vec::<String>::new());
    assert_eq!(addresses(&ask(egress.dns(), "ALLOWED.test", RecordType::A).await), ["1.2.3.4"]);
    let log = egress.stop().await;
    let told = log.iter().filter(|line| line["way"] == "dns" && line["reason"] == "host").count();
    assert_eq!(told, 50, "each is told");
}

#[tokio::test]
async fn names_below_a_wildcard_are_short_and_few() {
    let dns = Nameserver::start(|asked| asked.addresses(&["1.2.3.4"], 60)).await;
    let egress = start(&dns, "\"*.wild.test\"", 443, "wildcard_bytes: 10, wildcard_names: 2");
    let code = async |name| ask(egress.dns(), name, RecordType::A).await.metadata.response_code;
    assert_eq!(code("a.wild.test").await, ResponseCode::NoError);
    assert_eq!(code("exfiltrated.wild.test").await, ResponseCode::Refused);
    assert_eq!(verdict(&egress, "exfiltrated.wild.test", 443).await, "403 wildcard_bytes");
    assert_eq!(code("b.wild.test").await, ResponseCode::NoError);
    assert_eq!(code("c.wild.test").await, ResponseCode::Refused);
    assert_eq!(verdict(&egress, "d.wild.test", 443).await, "403 wildcard_names", "by whatever way");
    assert_eq!(code("b.wild.test").await, ResponseCode::NoError, "it was looked up before");
    let left: Vec<String> = dns.seen().into_iter().filter(|line| line.ends_with(" A")).collect();
    assert_eq!(left, ["a.wild.test A", "b.wild.test A"]);
    let metrics = egress.metrics().await;
    for line in ["limit=\"wildcard_bytes\",service=\"egress\"} 2", "limit=\"wildcard_names\",service=\"egress\"} 2"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}
