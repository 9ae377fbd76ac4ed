//! The ingress as an OAuth 2.1 resource server: which tokens count, and what clients are told who have none
//! (RFC 6750, RFC 9068, RFC 9728; MCP "Authorization").
//!
//! ```text
//!  request without a token --> 401, WWW-Authenticate: resource_metadata="..."
//!  GET /.well-known/oauth-protected-resource/mcp --> who issues tokens for this endpoint
//!  request with a token --> issuer by `iss`, key by `kid`, signature, aud, exp --> principal, until exp
//! ```
//!
//! | file | what |
//! |---|---|
//! | `token` | one token: what must hold, and who it names |
//! | `introspect` | opaque tokens: what their provider says of them |
//! | `discover` | the metadata of a provider |
//! | `keys` | the keys of a provider: fetched, kept, fetched again |
//! | `fetch` | one small JSON document over HTTPS |
//! | `seen` | tokens that were checked already, on this thread |
//! | `metadata` | what clients are told |

mod discover;
mod fetch;
mod introspect;
mod keys;
mod metadata;
mod seen;
mod token;

use std::sync::Arc;
use std::time::SystemTime;

use outrigger_policy::Principal;
use outrigger_proxy::failure::Failure;
use outrigger_telemetry::Metrics;

pub(crate) use keys::Provider;
pub(crate) use metadata::Resource;

use crate::config;
use crate::oauth::seen::{Mark, Seen};

/// A token cannot be believed, or nobody can say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenRefused {
    /// It is not good; why is for the log.
    #[error("{0}")]
    Invalid(String),
    /// Its provider, or the keys of it, would have to say, and cannot be asked.
    #[error("{issuer} cannot be asked: {cause}")]
    Unknown {
        /// Which provider.
        issuer: String,
        /// What went wrong.
        cause: String,
    },
}

impl From<TokenRefused> for Failure {
    fn from(refused: TokenRefused) -> Self {
        match refused {
            TokenRefused::Invalid(_) => Failure::InvalidToken,
            TokenRefused::Unknown { .. } => Failure::NoTokenKeys,
        }
    }
}

/// Who somebody is, proven, and how long.
#[derive(Debug, Clone)]
pub(crate) struct Proven {
    pub(crate) principal: Principal,
    /// When it ends; none for what ends by being taken away.
    pub(crate) until: Option<SystemTime>,
}

impl Proven {
    /// By something that does not end by itself.
    pub(crate) fn lasting(principal: Principal) -> Self {
        Self { principal, until: None }
    }
}

/// The identity providers in force.
pub(crate) struct OAuth {
    seen: Seen,
    providers: Vec<Arc<Provider>>,
    resource: Arc<Resource>,
}

impl OAuth {
    /// As configured; `public_url` is what endpoints are named by.
    ///
    /// # Errors
    /// An authority file that cannot be read.
    pub(crate) fn new(config: &config::OAuth, public_url: &str, metrics: &Metrics) -> Result<Self, String> {
        let providers: Result<Vec<_>, String> =
            config.issuers.iter().map(|issuer| Provider::new(issuer, metrics).map(Arc::new)).collect();
        let issuers = config.issuers.iter().map(|issuer| issuer.issuer.clone()).collect();
        Ok(Self {
            seen: Seen::default(),
            providers: providers?,
            resource: Arc::new(Resource::new(public_url, issuers, &config.scopes, &config.step_up)),
        })
    }

    /// What clients are told.
    pub(crate) fn resource(&self) -> &Arc<Resource> {
        &self.resource
    }

    /// Each provider, whose keys are to be kept fresh.
    pub(crate) fn providers(&self) -> &[Arc<Provider>] {
        &self.providers
    }

    /// Who presents this token, of this SHA-256 digest, at the endpoint of this path.
    ///
    /// # Errors
    /// [`TokenRefused`].
    pub(crate) async fn verify(&self, token: &[u8], digest: &[u8; 32], path: &str) -> Result<Proven, TokenRefused> {
        let mark = self.seen.mark(digest, path);
        if let Some(proven) = self.seen.find(&mark) {
            return Ok(proven);
        }
        let text = str::from_utf8(token).map_err(|_| TokenRefused::Invalid("not text".to_owned()))?;
        if token.iter().filter(|byte| **byte == b'.').count() != 2 {
            // Boxed: every request would carry its size.
            return Box::pin(self.introspected(text, digest, mark, path)).await;
        }
        let claimed = token::claimed(text)?;
        let provider = self.providers.iter().find(|provider| provider.issuer() == claimed.issuer);
        let provider =
            provider.ok_or_else(|| TokenRefused::Invalid(format!("the issuer {:?} is not ours", claimed.issuer)))?;
        let key = provider.key(claimed.kid.as_deref(), claimed.algorithm).await?;
        let proven = token::verify(text, claimed.algorithm, &key, provider.config(), &self.resource.url(path))?;
        self.seen.keep(mark, &proven, None);
        Ok(proven)
    }

    /// Who presents a token that says nothing by itself: whichever provider knows it says so.
    async fn introspected(
        &self,
        token: &str,
        digest: &[u8; 32],
        mark: Mark,
        path: &str,
    ) -> Result<Proven, TokenRefused> {
        let mut refused = TokenRefused::Invalid("no provider knows it".to_owned());
        for provider in &self.providers {
            let Some(introspection) = provider.introspection() else { continue };
            match introspection.ask(token, digest).await {
                Ok(Some((told, fresh))) => {
                    let proven = told.at(provider.config(), &self.resource.url(path))?;
                    self.seen.keep(mark, &proven, Some(fresh));
                    return Ok(proven);
                }
                Ok(None) => {}
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

impl std::fmt::Debug for OAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.providers.iter().map(|provider| provider.issuer())).finish()
    }
}
