//! The proxy beside one MCP server.

pub mod config;
