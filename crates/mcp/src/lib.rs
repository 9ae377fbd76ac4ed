//! MCP on the wire: envelopes, headers, SSE, names, catalogs and the era bridge. Pure: no io.
//!
//! ```text
//!  bytes -> json (where things lie) -> envelope (what the message is) -> edit (splices) -> bytes
//!                                          |
//!              names, headers, catalog, cursor (the merged endpoint) and bridge (between the eras)
//! ```
//!
//! Messages stay the sender's bytes: unknown members, number spellings and key order survive.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may fail loudly"))]

pub mod apps;
pub mod bridge;
pub mod canonical;
pub mod catalog;
pub mod catalog_kind;
pub mod cursor;
pub mod edit;
pub mod envelope;
pub mod error;
pub mod headers;
pub mod json;
pub mod method;
pub mod names;
pub mod oversized;
pub mod param_headers;
pub mod reply_watch;
pub mod revision;
pub mod sse;
pub mod sse_endpoint;
