//! Small real MCP services: fs, http, vector.
