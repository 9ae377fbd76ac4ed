//! What a server may reach: hosts as they are written, ranges of addresses, rules, and the one decision about them. Pure.
//!
//! ```text
//!  "WWW.Example.com."  --Host::parse--> Name or Address --\
//!  egress settings     --Rules::new---> Rules -------------> decide(ask) -> Allow(rule) | Deny(reason, nearest rule)
//!  resolved addresses  --special------> public, or why it is never dialled unless a rule names its range
//! ```
//!
//! Rules only allow; what no rule allows is denied. One rule must admit all of an ask: the host, the port, the tool behind
//! it, the request where it can be read, and every address that the name has.

pub mod address;
pub mod budget;
pub mod host;
mod index;
pub mod rule;
mod rules;

pub use address::{Range, Special};
pub use budget::{Budget, Meter, Meters, Over};
pub use host::{Host, HostError, Name};
pub use rule::{DEFAULT_PORT, Destination, DestinationError, EgressRule, HostPattern};
pub use rules::{Allowed, Ask, Decision, Denied, Reason, Request, Rules, Tools};
