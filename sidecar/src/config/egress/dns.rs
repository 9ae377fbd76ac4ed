//! Settings of looking names up: for the proxy itself, and for the server where a resolver listens for it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use outrigger_config::kinds::{self, Kind};
use outrigger_config::sections::{HOUR, MINUTE, SECOND, how_many};
use outrigger_config::{Fields, Mistake, doc};
use serde_json::json;

/// The port of a resolver that names none.
const DNS: u16 = 53;

/// The `egress.dns` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressDns {
    /// Where the resolver for the server listens.
    pub listen: Option<SocketAddr>,
    /// Who is asked; nobody: those of the system.
    pub servers: Vec<SocketAddr>,
    /// How long an answer is believed at least.
    pub min_ttl: Duration,
    /// And at most.
    pub max_ttl: Duration,
    /// Names that are remembered.
    pub cache: usize,
    /// Bytes of a name before the suffix of the wildcard that covers it.
    pub wildcard_bytes: usize,
    /// Different names below one wildcard in an hour.
    pub wildcard_names: usize,
}

pub(super) fn read(f: &mut Fields<'_>) -> Option<EgressDns> {
    let text = doc(
        "Where the server may look names up, over UDP and TCP: names that some rule covers have addresses, others do not \
         exist. For `outrigger-sidecar redirect install --dns-port`. Without it nothing listens.",
    )
    .env("OUTRIGGER_EGRESS_DNS_LISTEN")
    .example("127.0.0.1:15053");
    let listen = f.optional("listen", text, kinds::listen());
    let text = doc("Resolvers to ask. With any here, the search list of the system is not used.")
        .because("those of /etc/resolv.conf")
        .env("OUTRIGGER_EGRESS_DNS_SERVERS")
        .example("[10.0.0.2, \"10.0.0.3:5353\"]");
    let servers = f.with_default("servers", text, kinds::list_of(server()), Vec::new());
    let text = doc("How long an answer is believed at least, whatever it says itself; `0s`: as it says.")
        .because("names that say 0 would be asked for with every connection");
    let min_ttl = f.with_default("min_ttl", text, kinds::duration(Duration::ZERO..=HOUR), 5 * SECOND);
    let text = doc("How long an answer is believed at most.").because("who moves is found again within minutes");
    let max_ttl = f.with_default("max_ttl", text, kinds::duration(Duration::ZERO..=24 * HOUR), 5 * MINUTE);
    if min_ttl > max_ttl {
        f.mistake("min_ttl", "longer than `max_ttl`", "make `min_ttl` the shorter one");
    }
    let text = doc("Names whose addresses are remembered; of more, the one whose time ends first is forgotten.")
        .because("half a kilobyte each; a server talks to few hosts");
    let cache = f.with_default("cache", text, how_many(), 1024);
    let text =
        doc("Bytes that a name may have before the suffix of the wildcard that covers it: `a.b` of `a.b.example.com`.")
            .because("one whole label; longer ones carry data more often than they name hosts");
    let wildcard_bytes = f.with_default("wildcard_bytes", text, kinds::count(1..=253), 64);
    let text = doc("Different names that are looked up below one wildcard within an hour.")
        .because("more than a busy site has, and together with their length a bound on what leaves inside names");
    let wildcard_names = f.with_default("wildcard_names", text, how_many(), 500);
    Some(EgressDns { listen, servers, min_ttl, max_ttl, cache, wildcard_bytes, wildcard_names })
}

/// The kind of a resolver's address: `10.0.0.2`, `10.0.0.2:5353`, `[fd00::2]:53`.
fn server() -> Kind<SocketAddr> {
    let parse = |text: &str| {
        let bare = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS));
        text.parse().or_else(|_| bare()).map_err(|_| {
            Mistake::new("not the address of a resolver", "an IP address, or one with a port: 10.0.0.2, 10.0.0.3:5353")
        })
    };
    Kind::scalar("address[:port]", json!({"type": "string", "minLength": 1}), parse, ToString::to_string)
}
