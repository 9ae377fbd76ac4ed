//! The proxy beside one MCP server.
//!
//! ```text
//!  mesh ==mTLS==> inbound (peek, authorize, ...) --> upstream: relay | session --> MCP server
//!                    |                                   ^
//!                    +-- /mesh/v1/health <-- keeper -----+  greets, learns the catalog, watches, restarts
//! ```
//!
//! Read `inbound.rs` first: it is the life of a request. `start.rs` puts the parts together.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may fail loudly"))]

pub mod authorize;
pub mod caller_lists;
pub mod child;
pub mod command;
pub mod config;
mod drain;
pub mod drive;
mod forward;
pub mod health;
pub mod inbound;
mod init;
pub mod keeper;
mod legacy;
pub mod listen;
pub mod outbound;
pub mod own_answers;
mod own_directory;
mod probes;
pub mod record;
pub mod redirect;
mod register;
pub mod reload;
pub mod sandbox;
pub mod start;
pub mod tasks;
pub mod upstream;

pub use command::main;
pub use start::{Sidecar, StartError, process, start};
