//! Harness for scenarios: a mesh in one process, on ports that the system chooses.
//!
//! ```text
//!  Client --> TestIngress
//!      \            \\ mTLS
//!       \==mTLS==> TestSidecar --> HttpServer (in this process) | scripted.py | servers nobody here wrote
//!      \_________ Mesh: an authority in a temporary directory that names them all
//! ```
//!
//! | file | what |
//! |---|---|
//! | `mesh` | certificates: good ones, expired ones, those of strangers |
//! | `sidecar` | a sidecar started from a settings text |
//! | `ingress` | an ingress in front of sidecars |
//! | `client`, `call` | a modern client that can also send nonsense |
//! | `consul` | a Consul catalog with blocking queries |
//! | `session` | a client of an older revision |
//! | `egress` | the outbound half by itself, and origins for it |
//! | `dns` | a resolver that lies, and a client of resolvers |
//! | `http_server` | a Streamable HTTP server whose every answer a test decides |
//! | `kube_api` | an API server of Kubernetes that also misbehaves |
//! | `sse_server` | an HTTP+SSE server, the transport of 2024-11-05 |
//! | `subjects` | the servers that tests start, and what is missing when they cannot |
//! | `wait`, `processes` | bounded waits; which processes are left |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a harness states what it expects by failing"
)]

pub mod call;
pub mod client;
pub mod consul;
pub mod dns;
pub mod egress;
pub mod http_server;
pub mod ingress;
pub mod kube_api;
pub mod mesh;
pub mod processes;
pub mod session;
pub mod sidecar;
pub mod sse_server;
pub mod subjects;
pub mod wait;

pub use call::Call;
pub use client::{Client, Reply, Stream};
pub use ingress::TestIngress;
pub use kube_api::KubeApi;
pub use mesh::Mesh;
pub use session::Session;
pub use sidecar::TestSidecar;
pub use wait::{eventually, within};
