//! Sockets, tasks, drain, readiness, reload and the admin endpoints: what every process needs around its proxy.
//!
//! ```text
//!  start::run --> bind (listen) --> serve, each task in a TaskGroup --> ready when no blocker is left
//!                                        |                                  (admin shows what is missing)
//!                 SIGHUP, files (watch) -+-> reload
//!                 SIGTERM (drain) -------+-> tell watchers, wait for guards, then force
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may fail loudly"))]

pub mod admin;
pub mod descriptors;
pub mod drain;
pub mod health_check;
pub mod listen;
pub mod ready;
pub mod records;
pub mod signals;
pub mod start;
pub mod tasks;
pub mod watch;

pub use admin::{AdminPage, AdminRequest, AdminServer, Answering};
pub use drain::{DrainGuard, DrainOutcome, DrainTrigger, DrainWatcher};
pub use listen::{ListenError, ListenOptions, Listener};
pub use ready::{BlockReady, Readiness};
pub use signals::ShutdownSignals;
pub use start::{Exit, run};
pub use tasks::TaskGroup;
pub use watch::{Change, FileWatcher};
