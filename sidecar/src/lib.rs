//! The proxy beside one MCP server.

pub mod authorize;
pub mod child;
pub mod config;
pub mod drive;
pub mod keeper;
pub mod listen;
pub mod record;
pub mod upstream;
