//! What clients are told: the metadata of each endpoint (RFC 9728), and the challenge that leads to it.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use outrigger_proxy::body::OutBody;
use outrigger_proxy::reply;
use serde_json::json;

use crate::entrance;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
/// How long clients may keep the metadata, in seconds.
const CACHE: &str = "public, max-age=3600";

/// Names our endpoints and says who issues tokens for them.
#[derive(Debug)]
pub(crate) struct Resource {
    /// Without a slash at the end.
    base: String,
    issuers: Vec<String>,
    scopes: Vec<String>,
    /// Further ones that callers may learn of when they need them.
    step_up: Vec<String>,
}

impl Resource {
    pub(crate) fn new(public_url: &str, issuers: Vec<String>, scopes: &[String], step_up: &[String]) -> Self {
        let base = public_url.trim_end_matches('/').to_owned();
        Self { base, issuers, scopes: scopes.to_vec(), step_up: step_up.to_vec() }
    }

    /// The canonical URL of an endpoint, which tokens have as `aud`.
    pub(crate) fn url(&self, path: &str) -> String {
        // Both doors of HTTP+SSE belong to the endpoint beside them.
        let base = path.strip_suffix("/sse").or_else(|| path.strip_suffix("/messages"));
        match base {
            Some(base) => format!("{}{base}/mcp", self.base),
            None => format!("{}{path}", self.base),
        }
    }

    /// The answer to a request for metadata; none for other paths. The endpoint need not exist: what exists is not for
    /// those to know who have no token.
    pub(crate) fn answer(&self, method: &Method, path: &str) -> Option<Response<OutBody>> {
        let endpoint = match path.strip_prefix(WELL_KNOWN)? {
            "" | "/" => "/mcp",
            endpoint => endpoint,
        };
        entrance::endpoint(endpoint).ok().filter(|(_, door)| door.is_none())?;
        if method != Method::GET && method != Method::OPTIONS {
            return None;
        }
        let mut document = json!({
            "resource": self.url(endpoint),
            "authorization_servers": self.issuers,
            "bearer_methods_supported": ["header"],
            "resource_name": "Outrigger",
        });
        if let (Some(document), false) = (document.as_object_mut(), self.scopes.is_empty()) {
            document.insert("scopes_supported".to_owned(), json!(self.scopes));
        }
        let body = if method == Method::OPTIONS { String::new() } else { document.to_string() };
        let mut response = reply::json(StatusCode::OK, Bytes::from(body));
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE));
        // Public, and read by pages that are clients.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("mcp-protocol-version"));
        Some(response)
    }

    /// Whether callers may learn that something needs this scope.
    pub(crate) fn may_tell(&self, scope: &str) -> bool {
        self.scopes.iter().chain(&self.step_up).any(|told| told == scope)
    }

    /// The challenge for somebody whose token does not go far enough, which says by itself how far it should.
    pub(crate) fn step_up(&self, path: &str, plain: &str) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{plain}, resource_metadata=\"{}\"", self.metadata_url(path))).ok()
    }

    /// Where the metadata of the endpoint of this path is.
    fn metadata_url(&self, path: &str) -> String {
        let endpoint = self.url(path);
        let path = endpoint.strip_prefix(&self.base).unwrap_or_default();
        format!("{}{WELL_KNOWN}{path}", self.base)
    }

    /// The challenge for somebody without a good token. `error` is one of RFC 6750 section 3.1.
    pub(crate) fn challenge(&self, path: &str, error: Option<&str>) -> Option<HeaderValue> {
        let mut challenge = format!("Bearer resource_metadata=\"{}\"", self.metadata_url(path));
        if !self.scopes.is_empty() {
            challenge.push_str(&format!(", scope=\"{}\"", self.scopes.join(" ")));
        }
        if let Some(error) = error {
            challenge.push_str(&format!(", error=\"{error}\""));
        }
        HeaderValue::try_from(challenge).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource() -> Resource {
        Resource::new(
            "https://mcp.example.com/",
            vec!["https://id.example.com".into()],
            &["read".into()],
            &["write".into()],
        )
    }

    #[test]
    fn endpoints_have_one_url_each() {
        for (path, url) in [
            ("/mcp", "https://mcp.example.com/mcp"),
            ("/s/fs/mcp", "https://mcp.example.com/s/fs/mcp"),
            ("/sse", "https://mcp.example.com/mcp"),
            ("/s/fs/messages", "https://mcp.example.com/s/fs/mcp"),
        ] {
            assert_eq!(resource().url(path), url);
        }
    }

    #[test]
    fn the_challenge_leads_to_the_metadata_of_the_endpoint() {
        let challenge = resource().challenge("/s/fs/mcp", Some("invalid_token")).unwrap();
        assert_eq!(
            challenge.to_str().unwrap(),
            "Bearer resource_metadata=\"https://mcp.example.com/.well-known/oauth-protected-resource/s/fs/mcp\", \
             scope=\"read\", error=\"invalid_token\""
        );
    }

    #[test]
    fn a_step_up_leads_there_too_and_names_only_what_may_be_told() {
        let plain = "Bearer error=\"insufficient_scope\", scope=\"write\"";
        assert_eq!(
            resource().step_up("/mcp", plain).unwrap().to_str().unwrap(),
            format!("{plain}, resource_metadata=\"https://mcp.example.com/.well-known/oauth-protected-resource/mcp\"")
        );
        assert!(resource().may_tell("read") && resource().may_tell("write") && !resource().may_tell("admin"));
    }

    #[test]
    fn metadata_is_there_for_endpoints_only() {
        let resource = resource();
        for path in ["", "/", "/mcp", "/s/fs/mcp", "/s/nobody/mcp"] {
            assert!(resource.answer(&Method::GET, &format!("{WELL_KNOWN}{path}")).is_some(), "{path}");
        }
        for path in ["/mcp/", "/x", "/sse", "mcp", "/s/a/b/mcp"] {
            assert!(resource.answer(&Method::GET, &format!("{WELL_KNOWN}{path}")).is_none(), "{path}");
        }
        assert!(resource.answer(&Method::POST, WELL_KNOWN).is_none());
        assert!(resource.answer(&Method::GET, "/mcp").is_none());
    }
}
