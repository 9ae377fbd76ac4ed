//! The tool as people use it: a real process, its files, its output and its exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, reason = "processes live in real time; every wait has a condition and a bound")]

mod approvals;
mod bench;
mod commands;
mod connect;
mod doctor;
mod enrolment;
mod inject;
mod lock;
mod support;
mod up;
