//! Rules that change while the outbound half runs, and its log that is rotated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use outrigger_tests::egress::{Origin, TestEgress, read_all, read_until};
use outrigger_tests::eventually;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

fn rules(list: &[(&str, u16, &str)]) -> String {
    let each = list.iter().map(|(name, port, more)| {
        format!(
            "{{ name: {name}, hosts: [\"localhost:{port}\"], addresses: [127.0.0.0/8, \"::1\"], raw: true, {more} }}"
        )
    });
    let each: Vec<_> = each.collect();
    format!("  rules: [ {} ]\nadmin: {{ listen: \"127.0.0.1:0\" }}\n", each.join(", "))
}

async fn status(egress: &TestEgress, port: u16) -> String {
    let request =
        format!("GET http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n");
    egress.say(request.as_bytes()).await.split(' ').nth(1).unwrap_or_default().to_owned()
}

async fn tunnel(egress: &TestEgress, port: u16) -> TcpStream {
    let mut stream = egress.dial().await;
    let head = format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    stream
}

#[tokio::test]
async fn changed_rules_hold_without_a_restart_and_cut_what_they_refuse() {
    let (stays, goes, comes) = (Origin::echo().await, Origin::echo().await, Origin::http(OK).await);
    let [stays, goes, comes] = [&stays, &goes, &comes].map(|origin| origin.address.port());
    let egress = TestEgress::start(&rules(&[("stays", stays, "rate: 2/h, burst: 2"), ("goes", goes, "")]));
    let (mut kept, mut cut) = (tunnel(&egress, stays).await, tunnel(&egress, goes).await);
    assert_eq!(status(&egress, comes).await, "403");

    // What cannot be read changes nothing.
    egress.change("  rules: [ { name: broken } ]\n");
    eventually("it is refused", || async {
        let line = "outrigger_reloads_total{outcome=\"failed\",what=\"egress\"} 1";
        egress.metrics().await.contains(line).then_some(())
    })
    .await;
    kept.write_all(b"still").await.unwrap();
    assert_eq!(read_until(&mut kept, "still").await, "still");

    egress.change(&rules(&[("comes", comes, ""), ("stays", stays, "rate: 2/h, burst: 2")]));
    assert_eq!(read_all(&mut cut).await, "", "nothing more goes through it");
    assert_eq!(status(&egress, comes).await, "200");
    kept.write_all(b"here").await.unwrap();
    assert_eq!(read_until(&mut kept, "here").await, "here");
    drop(tunnel(&egress, stays).await);
    assert_eq!(status(&egress, stays).await, "429", "a reload gives nobody a fresh start");
    let log = egress.stop().await;
    let line = log.iter().find(|line| line["port"] == goes).unwrap();
    assert_eq!((line["verdict"].as_str(), line["reason"].as_str()), (Some("denied"), Some("port")));
}

#[tokio::test]
async fn a_rotated_log_is_opened_again_on_sighup_which_ends_nothing() {
    let origin = Origin::http(OK).await;
    let port = origin.address.port();
    let egress = TestEgress::start(&rules(&[("own", port, "")]));
    assert_eq!(status(&egress, port).await, "200");
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    eventually("the first line is written", || async { (read(egress.log()) == 1).then_some(()) }).await;
    let rotated = egress.log().with_extension("1");
    std::fs::rename(egress.log(), &rotated).unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
    eventually("lines go to the new file", || async {
        assert_eq!(status(&egress, port).await, "200");
        (read(egress.log()) > 0).then_some(())
    })
    .await;
    assert!(read(&rotated) >= 1, "what was written stays where it was");
    std::fs::remove_file(rotated).unwrap();
    assert!(!egress.stop().await.is_empty());
}

#[tokio::test]
async fn a_rule_that_has_no_credential_any_more_gives_none_away() {
    let (first, second) = (Origin::http(OK).await, Origin::http(OK).await);
    let [one, two] = [&first, &second].map(|origin| origin.address.port());
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "the-key").unwrap();
    let credential = format!("credentials: [ {{ header: X-Key, file: {:?} }} ]", secret.path());
    let egress = TestEgress::start(&rules(&[("api", one, &credential)]));
    assert_eq!(status(&egress, one).await, "200");
    assert!(first.seen()[0].to_lowercase().contains("x-key: the-key"), "{:?}", first.seen());

    egress.change(&rules(&[("api", two, "")]));
    eventually("the changed rule holds", || async { (status(&egress, two).await == "200").then_some(()) }).await;
    assert!(!second.seen().concat().contains("the-key"), "{:?}", second.seen());

    // The same hosts with another credential are a change, too.
    egress.change(&rules(&[("api", two, &credential)]));
    eventually("the credential is there", || async {
        status(&egress, two).await;
        second.seen().concat().contains("the-key").then_some(())
    })
    .await;
    egress.stop().await;
}

#[tokio::test]
async fn what_needs_a_restart_says_so_and_changes_nothing() {
    let (stays, origin) = (Origin::http(OK).await, Origin::http(OK).await);
    let [stays, other] = [&stays, &origin].map(|origin| origin.address.port());
    let egress = TestEgress::start(&rules(&[("stays", stays, "")]));
    assert_eq!(status(&egress, stays).await, "200", "it runs, and watches its file");
    let changed = rules(&[("other", other, "")]).replace("raw: true", "inspect: true");
    egress.change(&changed);
    eventually("it is refused", || async {
        let line = "outrigger_reloads_total{outcome=\"failed\",what=\"egress\"} 1";
        egress.metrics().await.contains(line).then_some(())
    })
    .await;
    assert_eq!((status(&egress, stays).await, status(&egress, other).await), ("200".into(), "403".into()));
}
