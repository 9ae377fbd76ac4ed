//! `ca serve` with sidecars and an ingress that ask it for their certificates, each a process of its own.

mod attacks;
mod kubernetes;
mod mesh;
mod world;
