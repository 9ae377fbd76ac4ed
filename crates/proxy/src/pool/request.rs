//! Puts a request into the form that each HTTP version wants: where the authority goes, and the shape of the target.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, Version, header};

use crate::body::OutBody;
use crate::dial::{Endpoint, Target};

/// The authority of requests that name none.
pub(super) struct DefaultAuthority {
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
}

impl DefaultAuthority {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        let default_port = if endpoint.tls.is_some() { 443 } else { 80 };
        let text = match &endpoint.target {
            Target::Unix(_) => "localhost".to_owned(),
            Target::Tcp { host, port } if *port == default_port && !host.contains(':') => host.clone(),
            tcp @ Target::Tcp { .. } => tcp.to_string(),
        };
        // A host that is no authority fails at the lookup, with a better message than any here.
        let authority = Authority::try_from(text).unwrap_or_else(|_| Authority::from_static("localhost"));
        let host = HeaderValue::from_str(authority.as_str()).unwrap_or_else(|_| HeaderValue::from_static("localhost"));
        let scheme = if endpoint.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        Self { scheme, authority, host }
    }

    /// Origin-form target and a `Host` header (RFC 9112 section 3.2.1).
    pub(super) fn prepare_h1(&self, request: &mut Request<OutBody>) {
        if !request.headers().contains_key(header::HOST) {
            let named = request.uri().authority().and_then(|name| HeaderValue::from_str(name.as_str()).ok());
            let host = named.unwrap_or_else(|| self.host.clone());
            request.headers_mut().insert(header::HOST, host);
        }
        if request.uri().authority().is_some() {
            *request.uri_mut() = Uri::from(path_of(request.uri()));
        }
        *request.version_mut() = Version::HTTP_11;
    }

    /// `:scheme` and `:authority` from the URI, and no `Host` that could contradict them (RFC 9113 section 8.3.1).
    pub(super) fn prepare_h2(&self, request: &mut Request<OutBody>) {
        let host = request.headers_mut().remove(header::HOST);
        let authority = host
            .and_then(|host| Authority::try_from(host.as_bytes()).ok())
            .or_else(|| request.uri().authority().cloned())
            .unwrap_or_else(|| self.authority.clone());
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(authority);
        parts.path_and_query = Some(path_of(request.uri()));
        // Cannot fail: all three parts are present and each is valid by its type.
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        *request.version_mut() = Version::HTTP_2;
    }
}

fn path_of(uri: &Uri) -> PathAndQuery {
    uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}
