//! Real certificates, real handshakes over pipes in memory, real files in a temporary directory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod authority;
mod enrolment;
mod federation;
mod handshake;
mod public;
mod reload;
mod revocation;
mod rotation;
mod support;
