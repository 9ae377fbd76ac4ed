//! Host names and destinations: nothing panics, and the one form of a host reads as itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_policy::egress::{Ask, Destination, EgressRule, Host, Range, Request, Rules, Tools, address};

fuzz_target!(|text: &str| {
    let _ = Range::parse(text);
    if let Ok(destination) = Destination::parse(text) {
        assert_eq!(Destination::parse(&destination.to_string()).as_ref(), Ok(&destination));
    }
    let Ok(host) = Host::parse(text) else { return };
    assert_eq!(Host::parse(&host.to_string()).as_ref(), Ok(&host));
    let allowed = Destination::parse("*.wild.test").ok().map(EgressRule::short);
    let rules = Rules::new(allowed.into_iter().collect());
    let ask = Ask { host: &host, port: 443, tools: Tools::Outside, request: Request::Sealed, addresses: &[] };
    let through = rules.decide(&ask).is_ok();
    match &host {
        Host::Name(name) => assert_eq!(through, name.as_str().ends_with(".wild.test")),
        Host::Address(found) => {
            let _ = address::check(*found, std::iter::empty());
            assert!(!through);
        }
    }
});
