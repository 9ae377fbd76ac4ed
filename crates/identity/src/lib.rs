//! Workload certificates: authority, rotation, rustls configurations, peer verification.
//!
//! ```text
//!  Authority --issue--> Issued --write_leaf--> <name>.pem <name>.key ca.pem crl.pem
//!                                                      |
//!                                        Credentials::load, reload_if_changed
//!                                                      v
//!            one snapshot: server config, client configs per expected peer, verifier, ticket keys
//!                                                      |
//!                                        handshake --> Credentials::peer: who is it?
//! ```
//!
//! | file | what |
//! |---|---|
//! | `spiffe` | the names: trust domain and SPIFFE id |
//! | `root`, `authority`, `revocation`, `store` | the embedded authority and its files |
//! | `files`, `watch` | reading identity files, and noticing that they changed |
//! | `peer`, `verifier` | who a certificate is, and whether we believe it |
//! | `tls`, `credentials`, `public` | rustls configurations and their reload |
//! | `minting` | an authority in memory, for reading inside TLS |
//! | `warm`, `renew` | start-up cost, and when to renew |
//!
//! Nothing here is async and nothing opens a socket; what reads files says so and takes a few milliseconds at most.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod authority;
mod credentials;
mod files;
mod minting;
mod peer;
mod public;
mod renew;
mod revocation;
mod root;
mod spiffe;
mod store;
mod tls;
mod verifier;
mod warm;
mod watch;

pub use authority::{Authority, AuthorityError, AuthorityOptions, write_leaf};
pub use credentials::{CredentialOptions, Credentials, CredentialsError, Reload, server_name};
pub use files::{FileError, FileRole, IdentityFiles};
pub use minting::{MintError, Minter};
pub use peer::{PeerError, peer_id};
pub use public::{ClientAuth, PublicCredentials, PublicFiles};
pub use renew::{MAX_JITTER, renew_at};
pub use revocation::Serial;
pub use root::{DEFAULT_LEAF_LIFE, DEFAULT_ROOT_LIFE, Issued};
pub use spiffe::{MAX_SERVICE_NAME, MAX_SPIFFE_ID, MAX_TRUST_DOMAIN, SpiffeError, SpiffeId, TrustDomain};
pub use tls::{install_provider, provider};
pub use warm::{WarmUpError, warm_up};
