//! The numbered cases of docs/TESTING.md, each through an ingress and sidecars over real sockets. Every test is named
//! `case_NN_...`; cases that other test files show are found there by the same names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]
#![allow(unreachable_pub, reason = "a test binary has no users")]

mod bodies;
mod calls;
mod headers;
mod ids;
mod lapses;
mod listens;
mod lists;
mod names;
mod probes;
mod questions;
mod reads;
mod resources;
mod sessions;
mod trust;
mod world;
