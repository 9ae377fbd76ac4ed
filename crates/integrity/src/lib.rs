//! Whether the definitions of a server are those that somebody approved, and whether they try to deceive.
//!
//! ```text
//!  Catalog --Lock::of--> outrigger.lock (in git, read by people) --review--> what changed, what is new
//!  Catalog --scan-----> hidden characters, instructions to the model, look-alike names
//! ```
//!
//! Nothing here decides what happens to a definition: the ingress hides or refuses, the tool for people tells.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod definition;
mod diff;
mod lock;
mod review;
pub mod scan;
mod show;

pub use definition::Digest;
pub use diff::Change;
pub use lock::{Lock, LockError, MAX_BYTES, ServiceLock};
pub use review::{Deviation, Review, Subject, Verdict, review};
pub use show::{readable, visible};
