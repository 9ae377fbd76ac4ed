//! Settings: one declaration gives parsing, errors with line and column, environment, docs and JSON Schema. Pure.
//!
//! ```text
//!  text --Document::parse--> Node tree --Document::read(env, |fields| ...)--> typed struct
//!                                |                                        \-> every mistake at once
//!  describe(|fields| ...) -- the same closure, nothing read --> Settings --> Markdown, JSON Schema
//! ```
//!
//! Nothing here touches the file system or the process environment: text and an environment lookup are passed in.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod describe;
pub mod diagnostics;
pub mod fields;
pub mod kinds;
pub mod node;
pub mod secret;
pub mod sections;
pub mod suggest;

pub use describe::{SettingDoc, Settings, describe};
pub use diagnostics::{Diagnostic, Diagnostics};
pub use fields::{Doc, Env, Fields, Loaded, OPTIONAL_OR, doc, load};
pub use kinds::{Kind, Mistake};
pub use node::{Document, Entry, Node, Position, Scalar, Value};
pub use secret::Secret;
pub use suggest::nearest;
