//! Each kind: what it takes, what it refuses, and that what it shows is what it reads.

use std::fmt::Debug;
use std::time::Duration;

use proptest::prelude::*;

use super::{
    Kind, Scheme, boolean, bytes, choice, command, count, duration, host_port, integer, list_of, listen, map_of,
};
use super::{path, percent, rate, secret, sha256, split_words, text, url};
use crate::sections::{service_name, spiffe_id, trust_domain};

fn takes<T: Debug + PartialEq + 'static>(kind: &Kind<T>, text: &str, expected: &T) {
    assert_eq!((kind.from_text)(text).as_ref(), Ok(expected), "{text:?}");
    // What documentation shows as a default must be what one may write.
    assert_eq!((kind.from_text)(&(kind.show)(expected)).as_ref(), Ok(expected), "shown form of {text:?}");
}

fn refuses<T: Debug + PartialEq + 'static>(kind: &Kind<T>, texts: &[&str]) {
    for text in texts {
        let wrong = (kind.from_text)(text).expect_err(text);
        assert!(!wrong.message.is_empty() && !wrong.hint.is_empty(), "{text:?}");
    }
}

#[test]
fn simple_values() {
    takes(&boolean(), "true", &true);
    refuses(&boolean(), &["yes", "on", "1", "True", ""]);
    takes(&integer(1..=10), "10", &10);
    refuses(&integer(1..=10), &["0", "11", "+5", "-1", "1.0", "0x5", "", " 5", "99999999999999999999"]);
    takes(&count(0..=5), "5", &5);
    takes(&text(), "a b", &"a b".to_owned());
    refuses(&text(), &["", "a\0b"]);
    refuses(&path(), &["", "a\0b"]);
    takes(&choice(&[("a", 1), ("b", 2)]), "b", &2);
    refuses(&choice(&[("a", 1)]), &["A", "", "c"]);
    assert_eq!((sha256().from_text)(&"AB".repeat(32)), Ok("ab".repeat(32)));
    refuses(&sha256(), &["", "ab", &"zz".repeat(32)]);
}

#[test]
fn durations() {
    let kind = duration(Duration::ZERO..=Duration::from_secs(86_400));
    for (text, millis) in [
        ("250ms", 250),
        ("30s", 30_000),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("0s", 0),
        ("90s", 90_000),
    ] {
        takes(&kind, text, &Duration::from_millis(millis));
    }
    refuses(
        &kind,
        &["", "5", "s", "5 s", "-5s", "1.5s", "5S", "2d", "99999999999999999999s", "18446744073709551615d", "1m30s"],
    );
}

#[test]
fn sizes() {
    let kind = bytes(0..=1 << 30);
    for (text, size) in [
        ("4MiB", 4 << 20),
        ("32KiB", 32 << 10),
        ("1GiB", 1 << 30),
        ("512", 512),
        ("512B", 512),
        ("2MB", 2_000_000),
        ("0", 0),
    ] {
        takes(&kind, text, &size);
    }
    refuses(&kind, &["", "MiB", "4 MiB", "4mib", "4M", "-1", "+1", "1.5MiB", "2GiB", "18446744073709551615GiB"]);
}

#[test]
fn rates() {
    takes(&rate(), "50/s", &super::Rate { count: 50, per: Duration::from_secs(1) });
    takes(&rate(), "10/h", &super::Rate { count: 10, per: Duration::from_secs(3600) });
    refuses(&rate(), &["", "50", "0/s", "/s", "50/", "50/d", "-1/s", "+1/s", "4294967296/s"]);
}

#[test]
fn shares() {
    takes(&percent(0..=90), "0%", &0);
    takes(&percent(0..=90), "90%", &90);
    refuses(&percent(0..=90), &["", "%", "50", "91%", "+5%", "-1%", "5.5%", "5 %", "256%"]);
}

#[test]
fn addresses_to_listen_on() {
    takes(&listen(), "127.0.0.1:0", &([127, 0, 0, 1], 0).into());
    takes(&listen(), "[::1]:80", &"[::1]:80".parse().unwrap());
    assert_eq!((listen().from_text)("localhost:80"), Ok(([127, 0, 0, 1], 80).into()));
    refuses(&listen(), &["", "127.0.0.1", "example.com:80", "127.0.0.1:70000", "localhost"]);
    assert!((listen().from_text)(":8080").unwrap_err().hint.contains("0.0.0.0:8080"));
}

#[test]
fn peers() {
    for good in ["fs.internal:8443", "10.0.0.7:1", "[fd00::7]:8443", "my_service:80", "a.b.:1"] {
        let peer = (host_port().from_text)(good).unwrap();
        assert_eq!(peer.to_string(), good);
    }
    refuses(
        &host_port(),
        &[
            "",
            "a",
            ":80",
            "a:0",
            "a:",
            "a:b",
            "a:70000",
            "a b:1",
            "a..b:1",
            "fd00::7:1",
            "[x]:1",
            "1.2.3:4",
            "a:+1",
            "[::1]80",
        ],
    );
}

#[test]
fn urls() {
    let read = |text: &str| (url().from_text)(text).unwrap();
    assert_eq!(read("http://Host:9001/mcp?x=1").to_string(), "http://host:9001/mcp?x=1");
    assert_eq!(read("https://host").to_string(), "https://host:443/");
    assert_eq!(read("http://[::1]:80?q").to_string(), "http://[::1]:80/?q");
    let socket = read("unix:/run/a.sock");
    assert_eq!((&socket.scheme, socket.path.as_str()), (&Scheme::Unix("/run/a.sock".into()), "/mcp"));
    assert_eq!(read("unix:/run/a.sock:/x").path, "/x");
    refuses(
        &url(),
        &[
            "",
            "host",
            "ftp://h",
            "http://",
            "http:///x",
            "http://u:p@h/",
            "http://h/#f",
            "http://h/ x",
            "http://h/\r\nA: b",
            "http://h:0/",
            "unix:relative",
            "unix:/",
            "unix:/a:b",
            "http://h/ä",
        ],
    );
}

#[test]
fn names_of_the_mesh() {
    for good in ["a", "fs", "a-b", "x1", "12345678901234567890"] {
        takes(&service_name(), good, &good.to_owned());
    }
    refuses(&service_name(), &["", "-a", "a-", "A", "a_b", "a.b", "123456789012345678901", "é"]);
    takes(&spiffe_id(false), "spiffe://demo.local/ns/fs", &"spiffe://demo.local/ns/fs".to_owned());
    refuses(
        &spiffe_id(false),
        &[
            "",
            "spiffe://",
            "spiffe://d",
            "spiffe://d/",
            "spiffe://D/x",
            "https://d/x",
            "spiffe://d/../x",
            "spiffe://d/*",
        ],
    );
    takes(&spiffe_id(true), "spiffe://d/*", &"spiffe://d/*".to_owned());
    refuses(&trust_domain(), &["", "A", "a/b", "spiffe://a"]);
}

#[test]
fn commands_are_split_like_a_shell_would_but_mean_nothing_more() {
    let words = |line: &str| split_words(line).unwrap();
    assert_eq!(words(r#"npx  -y 'a b' "c \"d\" \n" e\ f """#), ["npx", "-y", "a b", r#"c "d" \n"#, "e f", ""]);
    assert_eq!(words("a$HOME '*' a'b'c"), ["a$HOME", "*", "abc"]);
    refuses(&command(), &["", "  ", "''", "a 'b", "a \"b", "a\\", "a \"b\\", "a\0"]);
}

#[test]
fn lists_and_maps_in_one_variable() {
    let list = list_of(integer(0..=9));
    takes(&list, "1, 2,3,", &vec![1, 2, 3]);
    takes(&list, " ", &vec![]);
    refuses(&list, &["1 2", "1,x"]);
    let map = map_of(service_name(), integer(0..=9));
    takes(&map, "a=1, b = 2", &vec![("a".to_owned(), 1), ("b".to_owned(), 2)]);
    refuses(&map, &["a", "A=1", "a=x"]);
    assert_eq!((map_of(service_name(), secret()).show)(&vec![("a".into(), crate::Secret::new("s"))]), "a=(hidden)");
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in ".{0,60}") {
        let _ = (duration(Duration::ZERO..=Duration::MAX).from_text)(&text);
        let _ = (bytes(0..=usize::MAX).from_text)(&text);
        let _ = (url().from_text)(&text);
        let _ = (host_port().from_text)(&text);
        let _ = (listen().from_text)(&text);
        let _ = (rate().from_text)(&text);
        let _ = (command().from_text)(&text);
        let _ = (spiffe_id(true).from_text)(&text);
        let _ = (map_of(service_name(), super::text()).from_text)(&text);
    }

    #[test]
    fn quoted_words_come_back(words in proptest::collection::vec("[^'\0]{0,8}", 1..5)) {
        let line = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        prop_assert_eq!(split_words(&line), Ok(words));
    }

    #[test]
    fn a_good_url_shows_as_a_good_url(text in "(https?://[a-z]{1,5}(:[0-9]{1,5})?(/[a-z]{0,4})?|unix:/[a-z]{1,5}(:/[a-z]{0,3})?)") {
        if let Ok(read) = (url().from_text)(&text) {
            prop_assert_eq!((url().from_text)(&read.to_string()), Ok(read));
        }
    }
}
