//! What a server's outbound connections say, read without trust: proxy requests, bodies, SOCKS5, ClientHello, DNS. Pure.
//!
//! Everything here is handed bytes and gives back what they mean, that more are needed, or why they are refused. Nothing
//! is repaired: what two readers could understand differently is no request.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod body;
pub mod client_hello;
pub mod dns;
pub mod placeholder;
pub mod reply;
pub mod request;
pub mod socks;
