//! The edge of the mesh: client authentication, merged catalogs, routing, audit.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may fail loudly"))]

pub mod changes;
pub mod config;
pub mod core;
pub mod gateway;
pub mod legacy;
pub mod policy;
mod relay;
