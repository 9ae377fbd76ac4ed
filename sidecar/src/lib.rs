//! The proxy beside one MCP server.

pub mod child;
pub mod config;
pub mod keeper;
pub mod upstream;
