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
//! | `rotation` | authorities below an offline root, and one replacing another |
//! | `key`, `request`, `material` | a workload's own key, what it asks the authority for, and what it gets |
//! | `workload_api`, `svid` | what an agent of the SPIFFE Workload API says, and gives |
//! | `authority_tls`, `first_contact` | both ends of the connection on which it asks |
//! | `files`, `watch` | reading identity files, and noticing that they changed |
//! | `peer`, `verifier` | who a certificate is, and whether we believe it |
//! | `tls`, `credentials`, `public` | rustls configurations and their reload |
//! | `minting` | an authority in memory, for reading inside TLS |
//! | `warm`, `renew` | start-up cost, and when to renew |
//!
//! Nothing here is async and nothing opens a socket; what reads files says so and takes a few milliseconds at most.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod authority;
mod authority_tls;
mod credentials;
mod files;
mod first_contact;
mod key;
mod known;
mod material;
mod minting;
mod peer;
mod pem;
mod public;
mod renew;
mod request;
mod revocation;
mod root;
mod roots;
mod rotation;
mod spiffe;
mod statement;
mod store;
mod svid;
mod tls;
mod verifier;
mod warm;
mod watch;
mod workload_api;

pub use authority::{AUTHORITY_NAME, Authority, AuthorityError, AuthorityOptions, Trust, write_leaf};
pub use authority_tls::AuthorityCredentials;
pub use credentials::{CredentialOptions, Credentials, CredentialsError, Reload, server_name};
pub use files::{FileError, FileRole, IdentityFiles};
pub use first_contact::{Anchor, first_contact};
pub use key::{KeyError, WorkloadKey};
pub use material::{Federation, Given, Material};
pub use minting::{MintError, Minter};
pub use peer::{PeerError, peer_id};
pub use public::{ClientAuth, PublicCredentials, PublicFiles};
pub use renew::{MAX_JITTER, renew_at, replaced_by};
pub use request::{CertificateRequest, MAX_REQUEST, RequestError};
pub use revocation::Serial;
pub use root::{DEFAULT_LEAF_LIFE, DEFAULT_ROOT_LIFE, Issued, Signed};
pub use roots::{RootsError, add_roots};
pub use rotation::Rotation;
pub use spiffe::{MAX_SERVICE_NAME, MAX_SPIFFE_ID, MAX_TRUST_DOMAIN, SpiffeError, SpiffeId, TrustDomain};
pub use statement::{MAX_PAYLOAD, MAX_STATEMENT, StatementError};
pub use svid::Svid;
pub use tls::{install_provider, provider};
pub use warm::{WarmUpError, warm_up};
pub use workload_api::{AgentError, X509SvidResponse};
