//! Asking the API server of a cluster, as a pod does: over TLS, with the token of its service account. Files are read at each
//! question, because the cluster rotates them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use outrigger_config::kinds::Url;
use outrigger_proxy::body::OutBody;
use outrigger_proxy::dial::{ClientTls, Endpoint};
use outrigger_proxy::pool::{Pool, PoolSettings};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

use crate::files;

/// For an answer of the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer: an object has at most 1.5 MiB.
const MAX_ANSWER: usize = 2 * 1024 * 1024;

/// Where the API server is, and as whom it is asked.
#[derive(Debug, Clone)]
pub(crate) struct ApiServer {
    pub(crate) url: Url,
    /// Certificates of its authority.
    pub(crate) ca: PathBuf,
    pub(crate) token_file: PathBuf,
}

/// What is sent along.
pub(crate) struct Content {
    /// `application/json`, or a kind of patch.
    pub(crate) kind: &'static str,
    pub(crate) value: Value,
}

/// It answered, and not with a success.
#[derive(Debug, thiserror::Error)]
#[error("it answers with HTTP status {}{why}", status.as_u16())]
pub(crate) struct Unsuccessful {
    pub(crate) status: StatusCode,
    why: String,
}

impl ApiServer {
    /// Asks, and gives what it said if that was a success. Errors name no content: it may repeat a token.
    pub(crate) async fn ask(&self, method: Method, path: &str, content: Option<Content>) -> anyhow::Result<Value> {
        let asked = tokio::time::timeout(PATIENCE, self.exchange(method, path, content)).await;
        let (status, value) = asked.map_err(|_| anyhow::anyhow!("no answer in time"))??;
        let why = value["message"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
        if !status.is_success() {
            return Err(Unsuccessful { status, why }.into());
        }
        Ok(value)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        content: Option<Content>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let (kind, body) = match content {
            Some(content) => (Some(content.kind), OutBody::full(content.value.to_string())),
            None => (None, OutBody::empty()),
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.url.path.trim_end_matches('/')).parse()?;
        let own = files::read(&self.token_file)?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", own.trim()))?;
        bearer.set_sensitive(true);
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(kind) = kind {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        let response = Pool::new(self.endpoint()?, PoolSettings::default()).send(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("its answer: {error}"))?.to_bytes();
        let value = serde_json::from_slice(&body);
        if head.status.is_success() {
            return Ok((head.status, value.map_err(|_| anyhow::anyhow!("its answer is no JSON"))?));
        }
        Ok((head.status, value.unwrap_or_default()))
    }

    fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let authority = &self.url.authority;
        let config = tls(&self.ca)?;
        let server_name = match authority.host.parse::<IpAddr>() {
            Ok(address) => ServerName::IpAddress(address.into()),
            Err(_) => ServerName::try_from(authority.host.clone())?,
        };
        let endpoint = Endpoint::tcp(authority.host.clone(), authority.port);
        Ok(endpoint.with_tls(ClientTls { provider: Arc::new(move || Arc::clone(&config)), server_name }))
    }
}

fn tls(ca: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    outrigger_identity::add_roots(&mut roots, ca)?;
    let provider = Arc::new(outrigger_identity::provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
