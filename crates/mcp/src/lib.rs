//! MCP on the wire: envelopes, headers, SSE, names, catalogs and the era bridge. Pure: no io.
