//! The phases that both proxies compose: accept, handshake, identify, peek, authorize, forward, reply, record.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod accept;
pub mod assertion;
pub mod body;
pub mod circumstances;
pub mod dial;
pub mod failure;
pub mod handshake;
pub mod header_names;
pub mod legacy;
pub mod listens;
pub mod log_bound;
pub mod observe;
pub mod pause;
pub mod peek;
pub mod peers;
pub mod piece;
pub mod pool;
pub mod reply;
pub mod serve;
pub mod stream;
mod tasks;
#[cfg(test)]
mod testing;
pub mod trace;
