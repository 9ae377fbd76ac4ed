//! `POST /mesh/v1/register`: a sidecar says that it is there, under the name in its certificate.
//!
//! ```text
//!  sidecar                                         ingress
//!    | POST {"service":"fs","port":8443}              |  certificate > may it? > members > health is watched
//!    |----------------------------------------------->|
//!    |<-- 200, {"registered":"10.0.0.7:8443"} --------|
//!    |        the reply does not end                  |  while it lasts the replica is there; when the connection
//!    |                                                |  breaks it is gone
//! ```
//!
//! So nobody sends signs of life, a sidecar that crashes is gone at once, and one that drains says so on its health endpoint
//! as always.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use outrigger_config::kinds::HostPort;
use outrigger_identity::Credentials;
use outrigger_policy::glob::Glob;
use outrigger_proxy::body::{BodySender, OutBody, read_bounded};
use outrigger_proxy::handshake::ConnInfo;
use outrigger_proxy::log_bound::LogBound;
use outrigger_proxy::reply;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::config::{Registration, Service};
use crate::gateway::Gateway;
use crate::members::{Lease, Origin};

/// A registration is a few words.
const MAX_BODY: usize = 4096;
/// For it to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a sidecar says of itself. Members that this version does not know are ignored.
#[derive(Debug, Deserialize)]
struct Said {
    service: String,
    /// Of its mTLS listener.
    port: u16,
    /// Where that is, if not on the host from which it registers.
    #[serde(default)]
    host: Option<String>,
}

/// Why somebody is not registered.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("only POST /mesh/v1/register is served here")]
    Path,
    #[error("the registration is not valid: {0}")]
    Form(String),
    #[error("{0}")]
    Identity(String),
    #[error("the certificate is for `{found}`, and `{service}` must have `{expected}`")]
    Name { service: String, found: String, expected: String },
    #[error("`{0}` may not register here: `registration.services` does not name it")]
    NotAllowed(String),
    #[error("a sidecar at {from} cannot register `{host}`: that takes `registration.any_address`")]
    Elsewhere { from: std::net::IpAddr, host: String },
    #[error(transparent)]
    Full(#[from] crate::members::Full),
    #[error("the ingress is shutting down")]
    Draining,
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::Path => StatusCode::NOT_FOUND,
            Self::Form(_) => StatusCode::BAD_REQUEST,
            Self::Identity(_) | Self::Name { .. } | Self::NotAllowed(_) | Self::Elsewhere { .. } => {
                StatusCode::FORBIDDEN
            }
            Self::Full(_) | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// The endpoint.
pub(crate) struct Register {
    gateway: Arc<Gateway>,
    credentials: Arc<Credentials>,
    settings: Registration,
    allowed: Vec<Glob>,
    refusals: LogBound,
}

impl Register {
    /// The patterns were checked with the settings.
    pub(crate) fn new(gateway: Arc<Gateway>, credentials: Arc<Credentials>, settings: Registration) -> Self {
        let allowed = settings.services.iter().filter_map(|pattern| Glob::new(pattern).ok()).collect();
        Self { gateway, credentials, settings, allowed, refusals: LogBound::default() }
    }

    /// Serves one request.
    pub(crate) async fn serve(self: Arc<Self>, conn: Arc<ConnInfo>, request: Request<Incoming>) -> Response<OutBody> {
        match self.join(&conn, request).await {
            Ok(response) => response,
            Err(refused) => {
                let reason = refused.to_string();
                if let Some(left_out) = self.refusals.admit() {
                    // Quoted: it repeats what somebody said.
                    tracing::warn!(peer = %conn.peer_addr, reason, left_out, "a registration is refused");
                }
                let body = json!({ "error": reason }).to_string();
                reply::json(refused.status(), body)
            }
        }
    }

    async fn join(self: &Arc<Self>, conn: &ConnInfo, request: Request<Incoming>) -> Result<Response<OutBody>, Refused> {
        if request.uri().path() != "/mesh/v1/register" || request.method() != Method::POST {
            return Err(Refused::Path);
        }
        if self.gateway.draining.draining() {
            return Err(Refused::Draining);
        }
        let certificates = conn.tls.as_ref().map(|tls| &*tls.peer_certs);
        let peer = self.credentials.peer(certificates).map_err(|error| Refused::Identity(error.to_string()))?;
        let body = read_bounded(request.into_body(), MAX_BODY, PATIENCE).await;
        let body = body.map_err(|error| Refused::Form(error.to_string()))?;
        let said: Said = serde_json::from_slice(&body).map_err(|error| Refused::Form(error.to_string()))?;
        let settings = self.may_be(&said, &peer.to_string())?;
        let address = self.address(conn, &said)?;
        let (service, shown) = (settings.name.clone(), address.to_string());
        let lease = self
            .gateway
            .registry
            .change(|members| members.join(settings, address, Origin::Registered, Instant::now()))?;
        tracing::info!(service, replica = shown, "a sidecar has registered");
        let (sender, body) = OutBody::channel(1);
        self.gateway.tasks.spawn(Arc::clone(self).hold(service, shown, lease, sender));
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        Ok(response)
    }

    /// The settings of the service, if the sidecar may stand for it.
    fn may_be(&self, said: &Said, peer: &str) -> Result<Service, Refused> {
        let name = &said.service;
        if outrigger_mcp::names::check_service(name).is_err() {
            return Err(Refused::Form(format!("`{name}` is no name of a service")));
        }
        if !self.allowed.iter().any(|glob| glob.matches(name)) {
            return Err(Refused::NotAllowed(name.clone()));
        }
        let configured = self.gateway.registry.ask(|members| members.configured(name).cloned());
        let usual = || self.gateway.registry.usual(name, self.gateway.header_checks);
        let settings = configured.unwrap_or_else(usual);
        if settings.spiffe_id != peer {
            let (service, found) = (name.clone(), peer.to_owned());
            return Err(Refused::Name { service, found, expected: settings.spiffe_id });
        }
        Ok(settings)
    }

    fn address(&self, conn: &ConnInfo, said: &Said) -> Result<HostPort, Refused> {
        let from = conn.peer_addr.ip().to_canonical();
        let host = match said.host.as_deref() {
            None => from.to_string(),
            Some(host) if host == from.to_string() || self.settings.any_address => host.to_owned(),
            Some(host) => return Err(Refused::Elsewhere { from, host: host.to_owned() }),
        };
        let text = if host.contains(':') { format!("[{host}]:{}", said.port) } else { format!("{host}:{}", said.port) };
        HostPort::parse(&text).ok_or_else(|| Refused::Form(format!("`{text}` is no address")))
    }

    /// The replica is there as long as somebody reads the reply.
    async fn hold(self: Arc<Self>, service: String, replica: String, lease: Lease, sender: BodySender) {
        let line = json!({ "registered": replica }).to_string() + "\n";
        let gone = async {
            let _ = sender.send(line.into()).await;
            sender.gone().await;
        };
        let draining = &self.gateway.draining;
        tokio::select! {
            () = gone => {}
            // It looks for another ingress then; calls that we still have may need it.
            () = draining.signaled() => {
                let _ = sender.finish().await;
                return;
            }
        }
        tracing::info!(service, replica, "a sidecar that had registered is gone");
        self.gateway.registry.change(|members| members.leave(&service, lease, Instant::now()));
    }
}
