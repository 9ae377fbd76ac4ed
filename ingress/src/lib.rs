//! The edge of the mesh: client authentication, merged catalogs, routing, audit.
//!
//! ```text
//!  client --> entrance > identify > era --+--> modern: peek > route > authorize > forward --> sidecar ==> relay --> client
//!             (gateway.rs reads it        |                                  ^
//!              top to bottom)             +--> legacy: sessions, translation-+ (Gateway::call)
//!
//!  sidecars --health--> watch (per replica) --> services --> snapshot --> view (per class of callers) --> lists, changes
//! ```
//!
//! | file | what |
//! |---|---|
//! | `gateway` | the composition: one request, phase by phase |
//! | `core` | what the modern and the legacy half share |
//! | `entrance`, `identify`, `era` | before anything is known; who calls; what it speaks |
//! | `route`, `owner`, `authorize`, `forward`, `relay`, `record` | the phases of a call |
//! | `health`, `services`, `watch`, `snapshot`, `view`, `lists`, `describe` | what there is, and who sees what of it |
//! | `members`, `registry`, `register` | which sidecars there are, and how they come by themselves |
//! | `discovery` | services that an orchestrator knows |
//! | `caller_lists` | the same for one caller, where servers list to each something else |
//! | `approvals` | calls that a person has to approve, and where people do |
//! | `integrity` | which definitions are those that somebody approved |
//! | `listen`, `changes`, `subscribe`, `task_news` | telling clients what changes |
//! | `start`, `reload`, `admin`, `command` | the process around it |
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may fail loudly"))]

mod adaptive;
mod admin;
mod approvals;
mod authorize;
mod breaker;
mod caller_lists;
pub mod changes;
pub mod command;
pub mod config;
pub mod core;
mod describe;
pub mod discovery;
mod entrance;
mod forward;
pub mod gateway;
mod health;
mod identify;
mod in_order;
pub mod integrity;
mod legacy;
mod listen;
mod lists;
mod members;
mod oauth;
mod owner;
mod places;
pub mod policy;
mod quota;
mod record;
mod register;
mod registry;
mod relay;
mod reload;
mod retry;
mod route;
mod services;
mod shown;
mod snapshot;
pub mod start;
mod subscribe;
mod task_news;
mod trace;
mod trust;
mod view;
mod watch;

pub use start::{Error, Running, run, start};
