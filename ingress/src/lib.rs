//! The edge: client authentication, merged catalogs, routing, audit.

pub mod config;
