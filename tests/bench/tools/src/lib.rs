//! What the benchmark programs share: TLS, a small HTTP/1.1 client, MCP requests, and accounts of processes.
//!
//! These programs measure; they meet only each other and the proxies under test, on loopback. A wrong argument or a
//! missing file ends them with a message.

pub mod http1;
pub mod process;
pub mod rpc;
pub mod tls;

/// What these programs fail with: shown to the person who runs them.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
