//! How a workload gets its certificate from an authority over the network, and keeps it fresh.
//!
//! ```text
//!  obtain: key made here --request + proof--> authority --certificate, roots, revoked--> Credentials
//!  keep:   at two thirds of the life: new key --request over mTLS--> certificate    \
//!          all the time: what is believed and revoked, as soon as it changes         +--> Credentials::offer
//! ```
//!
//! Where an agent of the SPIFFE Workload API gives certificate, key and roots, `agent` and `follow` do both.
//!
//! | file | what |
//! |---|---|
//! | `protocol` | the messages, for both sides |
//! | `contact` | one question to the authority and its answer |
//! | `source` | settings: where the authority is, how it is known, what proves us |
//! | `obtain` | the first certificate, waited for as long as it takes |
//! | `keep` | renewal, and news of roots and revocations |
//! | `agent`, `follow` | the same from an agent of the SPIFFE Workload API: its stream of messages, and what they lead to |
//! | `pace` | how long to wait after a failure |
//! | `report` | what people hear of it |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod agent;
mod contact;
mod follow;
mod keep;
mod obtain;
mod pace;
pub mod protocol;
mod report;
mod source;

pub use contact::ContactError;
pub use obtain::{Keeper, ObtainError, Obtained, Waiting, obtain};
