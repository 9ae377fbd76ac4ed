//! Scenarios of legacy clients against a scripted mesh: what arrives there is what the test says, when it says so.
//! Time is paused, so waiting costs none and nothing races with a clock.

mod answers;
mod handshake;
mod http_sse;
mod listening;
mod questions;
mod replicas;
mod resuming;
mod support;
