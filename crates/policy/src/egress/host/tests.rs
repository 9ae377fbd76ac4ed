//! One meaning for every spelling of a host.

use proptest::prelude::*;

use super::*;

fn shown(text: &str) -> String {
    match Host::parse(text) {
        Ok(Host::Name(name)) => format!("name {name}"),
        Ok(address) => format!("address {address}"),
        Err(error) => format!("{error:?}"),
    }
}

#[test]
fn names_have_one_form() {
    for (text, expected) in [
        ("Example.COM", "name example.com"),
        ("example.com.", "name example.com"),
        ("bücher.test", "name xn--bcher-kva.test"),
        ("BÜCHER.test", "name xn--bcher-kva.test"),
        ("XN--BCHER-KVA.test", "name xn--bcher-kva.test"),
        ("allowed\u{3002}test", "name allowed.test"),
        ("evil\u{ff0e}test", "name evil.test"),
        ("allo\u{ad}wed.test", "name allowed.test"),
        ("\u{24d1}\u{24de}\u{24d2}alhost", "name bocalhost"),
        ("\u{430}llowed.test", "name xn--llowed-2nf.test"),
        ("my_service", "name my_service"),
        ("a1.2b", "name a1.2b"),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
}

#[test]
fn addresses_are_seen_in_every_spelling() {
    for text in [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "0X7F.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.000.000.001",
        "127.0.0.1.",
        "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
        "127\u{3002}0\u{3002}0\u{3002}1",
    ] {
        assert_eq!(shown(text), "address 127.0.0.1", "{text}");
    }
    assert_eq!(shown("0"), "address 0.0.0.0");
    assert_eq!(shown("0x"), "address 0.0.0.0");
    assert_eq!(shown("2852039166"), "address 169.254.169.254");
    assert_eq!(shown("[::1]"), "address [::1]");
    assert_eq!(shown("::1"), "address [::1]");
    assert_eq!(shown("[0:0:0:0:0:ffff:127.0.0.1]"), "address [::ffff:127.0.0.1]");
    for wrong in [
        "256.0.0.1",
        "1.2.3.4.5",
        "127.0.0.1.5",
        "1.2.3.4294967296",
        "0400.0.0.1",
        "08.1",
        "x.1",
        "example.1",
        "4294967296",
        "[::1%25lo]",
        "[::1%lo]",
        "::1%lo",
        "[::1",
        "[127.0.0.1]",
        "[]",
        "1:2",
        "foo.0x1g.0x",
    ] {
        assert_eq!(shown(wrong), "Address", "{wrong}");
    }
}

#[test]
fn what_is_no_host_is_refused() {
    for wrong in ["", ".", "..", ".a", "a..b", "a.."] {
        assert_eq!(shown(wrong), "Empty", "{wrong}");
    }
    for wrong in ["a b", "a\tb", "a@b", "a/b", "a%2eb", "*.a", "a#b", "a?b", "a\\b", "a;b", "a\0b", "a,b", "a!b", "a'b"]
    {
        assert_eq!(shown(wrong), "Character", "{wrong:?}");
    }
    assert_eq!(shown("xn--a"), "Idna");
    assert_eq!(shown("a\u{202e}b.test"), "Idna");
    assert_eq!(shown(&"a".repeat(64)), "TooLong");
    assert_eq!(shown(&format!("{}a", "a.".repeat(127))), "TooLong");
    assert_eq!(shown(&"a.".repeat(600)), "TooLong");
}

#[test]
fn look_alikes_are_flagged() {
    let mixes = |text: &str| match Host::parse(text) {
        Ok(Host::Name(name)) => name.mixes_scripts(),
        other => panic!("{other:?}"),
    };
    assert!(mixes("\u{430}llowed.test"), "Cyrillic among Latin");
    assert!(mixes("g\u{3bf}\u{3bf}gle.test"), "Greek among Latin");
    assert!(!mixes("allowed.test"));
    assert!(!mixes("bücher.test"));
    assert!(!mixes("пример.test"), "one script per label is how people write");
    assert!(!mixes("日本語.test"));
}

proptest! {
    #[test]
    fn nothing_panics_and_the_form_is_stable(text in "\\PC{0,40}") {
        if let Ok(host) = Host::parse(&text) {
            prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
        }
    }

    #[test]
    fn addresses_read_back(bits in any::<u32>()) {
        let address = Ipv4Addr::from(bits);
        let [a, b, c, d] = address.octets();
        for text in [format!("{bits}"), format!("{bits:#x}"), format!("0{bits:o}"), format!("{a:#x}.0{b:o}.{c}.{d}"), format!("{a}.{}", bits & 0xff_ffff)] {
            prop_assert_eq!(Host::parse(&text), Ok(Host::Address(address.into())));
        }
    }
}
