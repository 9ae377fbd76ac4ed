//! Sidecars in pods of Kubernetes: from a pod to the patch that adds one, or the reason why not. Pure.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod settings;

pub use settings::{Anchor, Egress, Images, Resources, Settings, is_quantity};
