//! Entry point of `outrigger-sidecar`.

fn main() {}
