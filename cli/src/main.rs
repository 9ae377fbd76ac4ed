//! The `outrigger` tool.

fn main() {}
