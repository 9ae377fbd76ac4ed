//! `ca serve` with sidecars and an ingress that ask it for their certificates, each a process of its own; and an agent of the SPIFFE
//! Workload API in its place.

mod agent;
mod attacks;
mod federation;
mod hooks;
mod kubernetes;
mod mesh;
mod webhook;
mod workload_api;
mod world;
