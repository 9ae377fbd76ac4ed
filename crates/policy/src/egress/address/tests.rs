//! The guard over addresses: what is special, what opens it, and that a wide range does not.

use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn guarded(text: &str, named: &[&str]) -> Result<(), Special> {
    let ranges: Vec<Range> = named.iter().map(|range| Range::parse(range).unwrap()).collect();
    check(address(text), ranges.iter())
}

#[test]
fn public_addresses_pass() {
    for text in ["1.1.1.1", "20.20.20.10", "2606:4700::1111", "172.32.0.1", "100.128.0.1", "2001:4860:4860::8888"] {
        assert_eq!(guarded(text, &[]), Ok(()), "{text}");
    }
}

#[test]
fn every_special_range_is_refused() {
    for (text, why) in [
        ("127.0.0.1", Special::Loopback),
        ("127.255.255.255", Special::Loopback),
        ("::1", Special::Loopback),
        ("169.254.169.254", Special::LinkLocal),
        ("fe80::1", Special::LinkLocal),
        ("100.100.100.200", Special::Metadata),
        ("168.63.129.16", Special::Metadata),
        ("fd00:ec2::254", Special::Metadata),
        ("10.0.0.5", Special::Private),
        ("172.16.0.1", Special::Private),
        ("172.31.255.255", Special::Private),
        ("192.168.1.1", Special::Private),
        ("fd12::1", Special::Private),
        ("fec0::1", Special::Private),
        ("100.64.0.5", Special::CarrierNat),
        ("224.0.0.1", Special::Multicast),
        ("255.255.255.255", Special::Multicast),
        ("ff02::1", Special::Multicast),
        ("0.0.0.0", Special::Reserved),
        ("::", Special::Reserved),
        ("192.0.2.1", Special::Reserved),
        ("198.18.0.1", Special::Reserved),
        ("198.51.100.1", Special::Reserved),
        ("203.0.113.1", Special::Reserved),
        ("240.0.0.1", Special::Reserved),
        ("2001:db8::1", Special::Reserved),
        ("2001:20::1", Special::Reserved),
        ("3fff::1", Special::Reserved),
        ("100::1", Special::Reserved),
        ("5f00::1", Special::Reserved),
        ("::ffff:8.8.8.8", Special::Embedded),
        ("::8.8.8.8", Special::Embedded),
        ("64:ff9b::808:808", Special::Embedded),
        ("64:ff9b:1::1", Special::Embedded),
        ("2002:7f00:1::", Special::Embedded),
        ("2001:0:1::1", Special::Embedded),
    ] {
        assert_eq!(guarded(text, &[]), Err(why), "{text}");
    }
}

#[test]
fn a_range_opens_what_it_names_and_no_more() {
    assert_eq!(guarded("10.0.0.5", &["10.0.0.0/24"]), Ok(()));
    assert_eq!(guarded("10.0.1.5", &["10.0.0.0/24"]), Err(Special::Private));
    assert_eq!(guarded("127.0.0.1", &["127.0.0.1"]), Ok(()));
    assert_eq!(guarded("127.0.0.1", &["0.0.0.0/0"]), Err(Special::Loopback), "everything names nothing");
    assert_eq!(guarded("169.254.169.254", &["128.0.0.0/1"]), Err(Special::LinkLocal));
    assert_eq!(guarded("100.100.100.200", &["100.64.0.0/10"]), Err(Special::Metadata), "the network around it");
    assert_eq!(guarded("fd00:ec2::254", &["fd00::/8"]), Err(Special::Metadata));
    assert_eq!(guarded("fd00:ec2::1", &["fd00::/8"]), Ok(()));
}

#[test]
fn what_is_inside_another_address_is_looked_at_too() {
    for (outer, range) in [
        ("::ffff:127.0.0.1", "::ffff:0:0/96"),
        ("64:ff9b::7f00:1", "64:ff9b::/96"),
        ("2002:7f00:1::", "2002::/16"),
        ("2001:0:1::80ff:fffe", "2001::/32"),
    ] {
        assert_eq!(guarded(outer, &[range]), Err(Special::Loopback), "{outer}");
        assert_eq!(guarded(outer, &[range, "127.0.0.0/8"]), Ok(()), "{outer}");
    }
    assert_eq!(guarded("64:ff9b::808:808", &["64:ff9b::/96"]), Ok(()));
}

#[test]
fn ranges_are_written_whole() {
    assert_eq!(Range::parse("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
    assert_eq!(Range::parse("10.1.2.3").unwrap().to_string(), "10.1.2.3");
    for wrong in ["10.0.0.1/8", "10.0.0.0/33", "10.0.0/8", "fe80::1%lo", "x", "", "0x7f.1", "010.0.0.0/8"] {
        assert!(Range::parse(wrong).is_err(), "{wrong}");
    }
}
