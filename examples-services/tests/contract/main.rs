//! Contract tests: each service, run as a process, is driven by an rmcp client over stdio and HTTP in both eras.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fs;
mod http;
mod origin;
mod support;
mod transport;
mod vector;
