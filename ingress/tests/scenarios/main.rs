//! Scenarios: an ingress in this process between a client and fake sidecars, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may fail loudly")]
#![allow(unreachable_pub, reason = "a test binary has no users")]

mod approvals;
mod calls;
mod cases;
mod catalogs;
mod certificates;
mod edge;
mod fake;
mod integrity;
mod life;
mod listens;
mod mesh;
mod oauth;
mod oauth_opaque;
mod provider;
mod quotas;
mod replicas;
mod safety;
mod streams;
mod tasks;
mod users;
