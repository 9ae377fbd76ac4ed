//! `outrigger ca serve`: an authority that signs over the network.
//!
//! ```text
//!  workload --TLS--> api: route, bound, rate --> issue: who is it? -> is the request for it? -> sign -> audit -> answer
//!                                                 tokens | kubernetes | its present certificate
//!  directory --watch--> state: the signer, what is believed and revoked --> those who wait for news
//! ```
//!
//! | module | what |
//! |---|---|
//! | `config` | the settings |
//! | `serve` | from settings to a running process, and to its end |
//! | `api` | the HTTP side: paths, bounds, refusals |
//! | `join` | a join token for each service, kept fresh in a directory of its own |
//! | `issue` | from a question to a certificate or a reason |
//! | `state` | the authority as it is in its directory now |
//! | `tokens` | join tokens, as digests in a file |
//! | `kubernetes` | service-account tokens, by asking the API server |
//! | `audit` | a line for everything that was issued or refused |
//! | `rate` | how often one address may ask |

mod api;
mod audit;
pub(crate) mod config;
mod issue;
mod join;
mod kubernetes;
mod rate;
mod serve;
mod state;
pub(crate) mod tokens;

pub(crate) use serve::{health, main};
