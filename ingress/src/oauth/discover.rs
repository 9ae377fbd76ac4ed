//! The metadata of an identity provider: where its keys are, and who tells about its opaque tokens.

use serde::Deserialize;

use crate::oauth::fetch::{FetchError, Fetcher};

/// What a provider says of itself.
pub(super) struct Metadata {
    /// Where it was found.
    url: String,
    said: Said,
}

#[derive(Deserialize)]
struct Said {
    issuer: String,
    jwks_uri: Option<String>,
    introspection_endpoint: Option<String>,
}

impl Metadata {
    /// Where the keys are.
    pub(super) fn jwks_uri(&self) -> Result<String, FetchError> {
        self.named("jwks_uri", self.said.jwks_uri.as_ref())
    }

    /// Who tells about opaque tokens (RFC 8414 section 2).
    pub(super) fn introspection_endpoint(&self) -> Result<String, FetchError> {
        self.named("introspection_endpoint", self.said.introspection_endpoint.as_ref())
    }

    fn named(&self, member: &str, url: Option<&String>) -> Result<String, FetchError> {
        let wrong = |what: String| FetchError::Content(self.url.clone(), what);
        let url = url.ok_or_else(|| wrong(format!("it names no {member}")))?;
        if !url.starts_with("https://") && self.said.issuer.starts_with("https://") {
            return Err(wrong(format!("its {member} is {url:?}, without TLS")));
        }
        Ok(url.clone())
    }
}

/// Reads the metadata, which must be that of this very issuer (RFC 8414 section 3.3).
pub(super) async fn discover(fetcher: &Fetcher, issuer: &str) -> Result<Metadata, FetchError> {
    let mut failed = None;
    for url in metadata_urls(issuer) {
        match fetcher.get(&url).await {
            // The same server is behind all of them: callers who wait for it need not do so three times.
            Err(error @ (FetchError::Connect(..) | FetchError::Slow(..))) => return Err(error),
            Err(error) => failed = failed.or(Some(error)),
            Ok(body) => {
                let said: Said = serde_json::from_slice(&body)
                    .map_err(|error| FetchError::Content(url.clone(), error.to_string()))?;
                if said.issuer != issuer {
                    let what = format!("it is the metadata of {:?}, not of {issuer}", said.issuer);
                    return Err(FetchError::Content(url, what));
                }
                return Ok(Metadata { url, said });
            }
        }
    }
    Err(failed.unwrap_or(FetchError::Url(issuer.to_owned())))
}

/// Where the metadata of an issuer can be, in the order in which MCP clients look.
fn metadata_urls(issuer: &str) -> Vec<String> {
    let issuer = issuer.trim_end_matches('/');
    let after_scheme = issuer.find("://").map_or(0, |at| at + 3);
    let path = issuer.get(after_scheme..).and_then(|rest| rest.find('/')).map_or(issuer.len(), |at| after_scheme + at);
    let (origin, path) = issuer.split_at(path);
    let mut urls = vec![
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
        format!("{origin}/.well-known/openid-configuration{path}"),
    ];
    if !path.is_empty() {
        urls.push(format!("{issuer}/.well-known/openid-configuration"));
    }
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_looked_for_in_the_order_of_the_specification() {
        assert_eq!(
            metadata_urls("https://id.example.com/realms/demo"),
            [
                "https://id.example.com/.well-known/oauth-authorization-server/realms/demo",
                "https://id.example.com/.well-known/openid-configuration/realms/demo",
                "https://id.example.com/realms/demo/.well-known/openid-configuration",
            ]
        );
        assert_eq!(
            metadata_urls("https://id.example.com/"),
            [
                "https://id.example.com/.well-known/oauth-authorization-server",
                "https://id.example.com/.well-known/openid-configuration",
            ]
        );
    }
}
