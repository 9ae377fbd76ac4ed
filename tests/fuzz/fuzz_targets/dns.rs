//! Questions to the resolver: nothing panics, what is read is a name of hosts, and every answer is one to the question.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use outrigger_egress::dns::{Code, Wrong, question};

fuzz_target!(|data: &[u8]| {
    let asked = match question(data) {
        Ok(asked) => asked,
        Err(Wrong::Silence) => return,
        Err(Wrong::Answer(reply)) => return answers(data, &reply),
    };
    if let Some(name) = &asked.name {
        assert!(!name.is_empty() && name.len() < 256);
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
    }
    assert!((512..=1232).contains(&asked.payload));
    for code in [Code::Fine, Code::Failed, Code::NoName, Code::Refused] {
        answers(data, &asked.answer(code));
    }
    let limit = usize::from(asked.payload);
    let all: Vec<IpAddr> = (0..32).flat_map(|n| [Ipv4Addr::from_bits(n).into(), Ipv6Addr::from_bits(n.into()).into()]).collect();
    let cut = asked.addresses(&all, 60, limit);
    answers(data, &cut);
    assert!(cut.len() <= limit, "{} over {limit}", cut.len());
});

/// A reply is one to this message: its id, and the bit that says so. Nothing at all is not sent.
fn answers(data: &[u8], reply: &[u8]) {
    if !reply.is_empty() {
        assert_eq!(data.get(..2), reply.get(..2));
        assert!(reply[2] & 0x80 != 0);
    }
}
