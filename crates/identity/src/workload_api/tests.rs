//! Messages of agents, honest and otherwise. They are written by hand here, so that no library shares a mistake with the parser.

use super::*;

/// A field with a length.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend_from_slice(value);
    out
}

/// A SEQUENCE in DER with this inside.
fn der(inside: &[u8]) -> Vec<u8> {
    let length = inside.len();
    let mut out = vec![0x30];
    match length {
        0..0x80 => out.push(u8::try_from(length).unwrap()),
        _ => out.extend([0x82, u8::try_from(length >> 8).unwrap(), u8::try_from(length & 0xff).unwrap()]),
    }
    out.extend_from_slice(inside);
    out
}

fn svid(id: &str) -> Vec<u8> {
    let chain = [der(b"leaf"), der(&[7; 300])].concat();
    [field(1, id.as_bytes()), field(2, &chain), field(3, &der(b"key")), field(4, &der(b"root"))].concat()
}

fn identity(message: &[u8], expected: Option<&str>) -> Result<Svid, AgentError> {
    let expected = expected.map(|id| SpiffeId::parse(id).unwrap());
    X509SvidResponse::parse(message)?.identity(expected.as_ref())
}

/// A certificate that can be a root.
fn root() -> Vec<u8> {
    rcgen::generate_simple_self_signed(["root".to_owned()]).unwrap().cert.der().to_vec()
}

#[test]
fn a_message_gives_the_first_identity_or_the_one_that_is_wanted() {
    let entry = [field(1, b"spiffe://partner"), field(2, &[root(), root()].concat())].concat();
    let message = [
        field(1, &svid("spiffe://demo/fs")),
        // Of later versions: a number, eight bytes, four bytes, and a field without a name here.
        vec![9 << 3, 0x96, 0x01],
        [vec![9 << 3 | 1], vec![0; 8]].concat(),
        [vec![9 << 3 | 5], vec![0; 4]].concat(),
        field(9, b"later"),
        field(1, &svid("spiffe://demo/vector")),
        field(3, &entry),
    ]
    .concat();
    let first = identity(&message, None).unwrap();
    assert_eq!(first.id().to_string(), "spiffe://demo/fs");
    assert_eq!(first.federated().map(TrustDomain::as_str).collect::<Vec<_>>(), ["partner"]);
    assert_eq!(identity(&message, Some("spiffe://demo/vector")).unwrap().id().to_string(), "spiffe://demo/vector");
    let other = identity(&message, Some("spiffe://demo/eve")).unwrap_err().to_string();
    assert!(other.contains("`spiffe://demo/fs`, `spiffe://demo/vector`") && other.contains("spiffe_id"), "{other}");
    assert!(!format!("{first:?}").contains("KEY"));
}

#[test]
fn an_empty_message_says_what_to_do() {
    assert!(identity(&[], None).unwrap_err().to_string().contains("registration entry"));
}

#[test]
fn what_is_cut_or_overlong_is_refused() {
    let whole = field(1, &svid("spiffe://demo/fs"));
    for end in 1..whole.len() {
        identity(&whole[..end], None).unwrap_err();
    }
    for wrong in [
        vec![0x0b],                                     // a group
        vec![0x0f],                                     // a kind that does not exist
        [vec![0x08], vec![0x80; 10], vec![1]].concat(), // a number without an end
        [vec![0x08], vec![0xff; 9], vec![2]].concat(),  // a number of more than 64 bits
        [vec![0x0a], vec![0xff; 9], vec![1]].concat(),  // a length of 2^64 - 1
    ] {
        X509SvidResponse::parse(&wrong).unwrap_err();
    }
    let many = field(1, b"").repeat(MAX_SVIDS + 1);
    X509SvidResponse::parse(&many).unwrap_err();
}

#[test]
fn parts_that_are_not_der_are_refused() {
    let with = |number: u8, value: &[u8]| {
        let parts = [(1, b"spiffe://demo/fs".to_vec()), (2, der(b"leaf")), (3, der(b"key")), (4, der(b"root"))];
        let part = |(at, usual): &(u8, Vec<u8>)| field(*at, if *at == number { value } else { usual });
        field(1, &parts.iter().flat_map(part).collect::<Vec<u8>>())
    };
    identity(&with(9, b""), None).unwrap();
    for (number, value) in [
        (1, &b"http://demo/fs"[..]),
        (1, b"\xff"),
        (2, b""),
        (2, b"x"),
        (2, &[0x30, 0x84, 0, 0, 0, 1, 0]),
        (3, b""),
        (3, &[0x30, 0x01, 0, 0]),
        (4, b""),
        (4, &[0x30, 0x82, 0xff, 0xff]),
    ] {
        identity(&with(number, value), None).unwrap_err();
    }
}

#[test]
fn roots_that_are_not_another_domains_are_left_out_and_the_rest_is_taken() {
    let entry = |domain: &str, roots: &[u8]| field(3, &[field(1, domain.as_bytes()), field(2, roots)].concat());
    let (own, root) = (field(1, &svid("spiffe://demo/fs")), root());
    let half = [root.clone(), der(b"no certificate")].concat();
    for (bad, roots) in [
        ("spiffe://demo", &root[..]),
        ("demo", &root),
        ("spiffe://Demo", &root),
        ("spiffe://", &root),
        ("partner", &root),
        ("third", b""),
        ("third", b"x"),
        ("third", &half),
    ] {
        let message = [own.clone(), entry("spiffe://partner", &root), entry(bad, roots), entry("fourth", &root)];
        let svid = identity(&message.concat(), None).unwrap();
        assert_eq!(svid.federated().map(TrustDomain::as_str).collect::<Vec<_>>(), ["partner", "fourth"], "{bad}");
        assert_eq!(svid.left_out().len(), 1, "{bad}");
    }
    let fine = identity(&[own, entry("spiffe://partner", &root)].concat(), None).unwrap();
    assert!(fine.left_out().is_empty());
}

#[test]
fn no_change_of_a_message_makes_the_reader_stumble() {
    let entry = [field(1, b"spiffe://partner"), field(2, &der(b"root"))].concat();
    let message = [field(1, &svid("spiffe://demo/fs")), field(2, &der(b"crl")), field(3, &entry)].concat();
    identity(&message, None).unwrap();
    for at in 0..message.len() {
        for value in [0, 1, 0x0a, 0x30, 0x7f, 0x80, 0x82, 0x84, 0xff] {
            let mut changed = message.clone();
            changed[at] = value;
            let _ = identity(&changed, None);
            changed.truncate(at);
            let _ = identity(&changed, None);
        }
    }
}
