//! What a decision about a destination costs under 10,000 rules:
//!
//! ```console
//! cargo run --release -p outrigger-policy --example egress_decide
//! ```
#![expect(clippy::print_stdout, reason = "it is what it is for")]

use std::hint::black_box;

use outrigger_policy::egress::{Ask, Destination, DestinationError, EgressRule, Host, Request, Rules, Tools};

/// Rules: a third of them wildcards, a tenth ranges, and some for tools.
const RULES: usize = 10_000;
/// Decisions that one figure is the mean of.
const ROUNDS: u32 = 200_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rules = Rules::new((0..RULES).map(rule).collect::<Result<_, _>>()?);
    let addresses = ["1.2.3.4".parse()?, "2600::1".parse()?];
    for (what, text) in [
        ("exact name, allowed", "api9998.example.test"),
        ("below a wildcard, allowed", "a.b.c.wild9999.example.test"),
        ("name of no rule, denied", "exfiltration.deep.down.somewhere.else.test"),
        ("address in a range, allowed", "20.39.10.1"),
        ("metadata address, denied", "169.254.169.254"),
    ] {
        let host = Host::parse(text)?;
        let known = if matches!(host, Host::Name(_)) { &addresses[..] } else { &[] };
        let ask = Ask { host: &host, port: 443, tools: Tools::Outside, request: Request::Sealed, addresses: known };
        #[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
        let begun = std::time::Instant::now();
        for _ in 0..ROUNDS {
            let _decided = black_box(rules.decide(black_box(&ask)));
        }
        let each = begun.elapsed() / ROUNDS;
        let outcome = if rules.decide(&ask).is_ok() { "allowed" } else { "denied" };
        println!("{what:28} {outcome:8} {:5} ns", each.as_nanos());
    }
    Ok(())
}

fn rule(n: usize) -> Result<EgressRule, DestinationError> {
    let destination = match n {
        n if n % 10 == 0 => format!("20.{}.{}.0/24", n / 250, n % 250),
        n if n % 3 == 0 => format!("*.wild{n}.example.test"),
        n => format!("api{n}.example.test"),
    };
    Destination::parse(&destination).map(EgressRule::short)
}
