//! Entry point of `outrigger-ingress`.

fn main() {}
