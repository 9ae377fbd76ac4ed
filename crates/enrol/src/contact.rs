//! One question to the authority and its answer, bounded in time and size.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use outrigger_identity::{KeyError, server_name};
use outrigger_proxy::body::OutBody;
use outrigger_proxy::dial::{ClientTls, ClientTlsProvider, Endpoint};
use outrigger_proxy::pool::{Pool, PoolSettings};

use crate::protocol::{self, Bundle, Grant, Query, Refusal};

/// For a certificate, from the first packet to the last byte.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the authority is asked to wait for news.
const POLL: Duration = Duration::from_secs(50);
/// Most bytes of an answer: the largest revocation list that is read, and what goes with it.
const MAX_ANSWER: usize = 12 << 20;
/// Most bytes of a refusal's text that are repeated in a log.
const MAX_TEXT: usize = 512;

/// Why there is no certificate (yet).
#[derive(Debug, thiserror::Error)]
pub enum ContactError {
    /// Nobody answers, or not the one who should.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("it did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// It says no.
    #[error("it refuses ({}): {}", .0.reason, .0.message)]
    Refused(Refusal),
    /// What it says is no answer.
    #[error("its answer cannot be used: {0}")]
    Answer(String),
    /// Something here is missing.
    #[error("{0}")]
    Own(String),
}

impl From<KeyError> for ContactError {
    fn from(error: KeyError) -> Self {
        Self::Own(error.to_string())
    }
}

/// A connection to the authority, opened when it is first used.
pub(crate) struct Contact {
    pool: Pool,
}

impl Contact {
    /// Shows and believes what the configuration of the moment says.
    pub(crate) fn new(endpoint: &Endpoint, tls: ClientTlsProvider) -> Self {
        // Keeps tickets apart, nothing else: who answers is told by its SPIFFE id.
        let name = server_name(IpAddr::from([0, 0, 0, 0]));
        let endpoint = endpoint.clone().with_tls(ClientTls { provider: tls, server_name: name });
        let settings = PoolSettings { max_open: 4, h2_max_connections: 1, ..PoolSettings::default() };
        Self { pool: Pool::new(endpoint, settings) }
    }

    /// Further requests use a new connection.
    pub(crate) fn renew(&self) {
        self.pool.retire();
    }

    /// Asks for a certificate.
    pub(crate) async fn certificate(&self, query: &Query) -> Result<Grant, ContactError> {
        let body = serde_json::to_vec(query).map_err(|error| ContactError::Own(error.to_string()))?;
        let mut request = request(Method::POST, protocol::CERTIFICATES, OutBody::full(body))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let (status, _, body) = self.send(request, PATIENCE).await?;
        if status != StatusCode::OK {
            return Err(refusal(status, &body));
        }
        serde_json::from_slice(&body).map_err(|error| ContactError::Answer(error.to_string()))
    }

    /// Asks what is believed, and waits until it is something else than `known`. None when nothing changed.
    pub(crate) async fn bundle(&self, known: &str) -> Result<Option<Bundle>, ContactError> {
        let path = format!("{}?wait={}s", protocol::BUNDLE, POLL.as_secs());
        let mut request = request(Method::GET, &path, OutBody::empty())?;
        if let Ok(value) = HeaderValue::from_str(&format!("\"{known}\"")) {
            request.headers_mut().insert(IF_NONE_MATCH, value);
        }
        let (status, _, body) = self.send(request, POLL + PATIENCE).await?;
        match status {
            StatusCode::NOT_MODIFIED => Ok(None),
            StatusCode::OK => {
                serde_json::from_slice(&body).map(Some).map_err(|error| ContactError::Answer(error.to_string()))
            }
            status => Err(refusal(status, &body)),
        }
    }

    async fn send(
        &self,
        request: Request<OutBody>,
        patience: Duration,
    ) -> Result<(StatusCode, Option<HeaderValue>, Bytes), ContactError> {
        let exchange = async {
            let unreachable =
                |error: outrigger_proxy::pool::SendError| ContactError::Unreachable(error.source.to_string());
            let response = self.pool.send(request).await.map_err(unreachable)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|error| ContactError::Answer(error.to_string()))?;
            Ok((head.status, head.headers.get(ETAG).cloned(), body.to_bytes()))
        };
        tokio::time::timeout(patience, exchange).await.unwrap_or(Err(ContactError::Timeout(patience)))
    }
}

/// Of a TLS configuration that stays as it is.
pub(crate) fn always(config: Arc<rustls::ClientConfig>) -> ClientTlsProvider {
    Arc::new(move || Arc::clone(&config))
}

fn request(method: Method, path: &str, body: OutBody) -> Result<Request<OutBody>, ContactError> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse::<Uri>().map_err(|error| ContactError::Own(error.to_string()))?;
    Ok(request)
}

/// What the authority says, cut: it goes into logs.
fn refusal(status: StatusCode, body: &[u8]) -> ContactError {
    let said = serde_json::from_slice::<Refusal>(body);
    let said = said.unwrap_or_else(|_| Refusal {
        reason: "http_status".to_owned(),
        message: format!("HTTP status {}; is this the URL of an authority?", status.as_u16()),
    });
    let cut = |text: String| text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
    ContactError::Refused(Refusal { reason: cut(said.reason), message: cut(said.message) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_repeated_as_far_as_it_is_fit_for_a_log() {
        let shown = |body: &[u8]| refusal(StatusCode::FORBIDDEN, body).to_string();
        assert_eq!(
            shown(br#"{"reason":"token_used","message":"make another"}"#),
            "it refuses (token_used): make another"
        );
        assert!(shown(b"<html>").contains("403"));
        let long = format!(r#"{{"reason":"x","message":"a\nb{}"}}"#, "c".repeat(9000));
        assert!(shown(long.as_bytes()).len() < 600 && !shown(long.as_bytes()).contains('\n'));
    }
}
