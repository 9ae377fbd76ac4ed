//! The `outrigger` tool as a library, so that its parts can be tested; `main.rs` only calls it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod manifest;
