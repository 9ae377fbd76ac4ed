//! Between the eras: pure state machines without io, driven by messages.
//!
//! ```text
//!  legacy client --[ to_client ]-- modern MCP inside the mesh --[ handshake, to_server, demux ]-- legacy server
//! ```
//!
//! The sidecar owns the right half (it learns what its server speaks and translates towards it), the ingress the
//! left half. Modern to modern passes through neither.

pub mod demux;
pub mod handshake;
pub mod log_level;
pub mod meta_keys;
pub mod narrow;
pub mod owner;
pub mod refused;
pub mod tasks;
pub mod to_client;
pub mod to_server;
