//! From a question to a certificate, or to a reason why there is none. Every answer is in the audit before it goes out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use outrigger_enrol::protocol::{Grant, Proof, Query, Refusal};
use outrigger_identity::{AUTHORITY_NAME, CertificateRequest, RequestError, Signed, SpiffeId};
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::{IssueOutcome, ProofKind};
use rustls::pki_types::CertificateDer;

use super::audit::{Audit, Line};
use super::config::Config;
use super::kubernetes::{Reviewer, Unproven};
use super::state::State;
use super::tokens::{self, Useless, seconds};

/// What issues certificates.
pub(crate) struct Issuer {
    pub(crate) state: Arc<State>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) kubernetes: Option<Reviewer>,
    pub(crate) life: Duration,
    pub(crate) max_life: Duration,
    /// Services, and a host name that their certificates have as well.
    pub(crate) hosts: Vec<(String, String)>,
}

/// Who asks, as far as the connection says.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Verified when the connection began; none without a client certificate.
    pub(crate) certificates: Option<Vec<CertificateDer<'static>>>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    #[error("{0}")]
    Request(#[from] RequestError),
    #[error("show a join token, a service-account token, or a certificate of this mesh")]
    NoProof,
    #[error("nobody made this token, or it was revoked; make one: outrigger ca token create --service SERVICE")]
    TokenUnknown,
    #[error("this token has expired; make another: outrigger ca token create --service SERVICE")]
    TokenExpired,
    #[error("this token was used as often as it may be; make another: outrigger ca token create --service SERVICE")]
    TokenUsed,
    #[error("the certificate that was shown is no longer good: {0}; prove it anew with a token")]
    Certificate(String),
    #[error("`{0}` is not a name that this authority gives")]
    NotOurs(SpiffeId),
    #[error("this authority takes no service-account tokens; configure `kubernetes`")]
    NoKubernetes,
    #[error("{0}")]
    Kubernetes(#[from] Unproven),
    #[error("the authority cannot answer now; its log says why")]
    Internal(String),
}

impl Denied {
    /// The HTTP status, and the word for programs.
    pub(crate) fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Request(RequestError::Name { .. }) => (StatusCode::FORBIDDEN, "name_refused"),
            Self::Request(_) => (StatusCode::BAD_REQUEST, "csr_invalid"),
            Self::NoProof => (StatusCode::UNAUTHORIZED, "proof_missing"),
            Self::TokenUnknown => (StatusCode::UNAUTHORIZED, "token_unknown"),
            Self::TokenExpired => (StatusCode::UNAUTHORIZED, "token_expired"),
            Self::TokenUsed => (StatusCode::UNAUTHORIZED, "token_used"),
            Self::Certificate(_) => (StatusCode::UNAUTHORIZED, "certificate_refused"),
            Self::NotOurs(_) => (StatusCode::FORBIDDEN, "name_refused"),
            Self::NoKubernetes => (StatusCode::FORBIDDEN, "kubernetes_off"),
            Self::Kubernetes(unproven) => unproven.kind(),
            Self::Internal(_) => (StatusCode::SERVICE_UNAVAILABLE, "internal"),
        }
    }

    pub(crate) fn refusal(&self) -> Refusal {
        Refusal { reason: self.kind().1.to_owned(), message: self.to_string() }
    }
}

/// Who it is: the service, and what shows it, for the audit.
struct Proven {
    service: String,
    who: String,
}

impl Issuer {
    pub(crate) fn new(config: &Config, state: Arc<State>, audit: Arc<Audit>, metrics: Arc<Metrics>) -> Self {
        let kubernetes = config.kubernetes.clone().map(|settings| Reviewer::new(settings, &config.hosts));
        let (life, max_life, hosts) = (config.life, config.max_life, config.hosts.clone());
        Self { state, audit, metrics, kubernetes, life, max_life, hosts }
    }

    /// Answers a question.
    pub(crate) async fn answer(self: Arc<Self>, query: Query, peer: Peer) -> Result<Grant, Denied> {
        let proof = match &query.proof {
            Some(Proof::Token(_)) => ProofKind::Token,
            Some(Proof::Kubernetes(_)) => ProofKind::Kubernetes,
            None if peer.certificates.is_some() => ProofKind::Certificate,
            None => ProofKind::None,
        };
        let reviewed = match (&query.proof, &self.kubernetes) {
            (Some(Proof::Kubernetes(token)), Some(reviewer)) => Some(
                reviewer
                    .review(token)
                    .await
                    .map_err(Denied::from)
                    .map(|who| Proven { service: who.service, who: who.user }),
            ),
            (Some(Proof::Kubernetes(_)), None) => Some(Err(Denied::NoKubernetes)),
            _ => None,
        };
        let issuer = Arc::clone(&self);
        // Files, signatures and a sync of the disk: not on a thread that serves connections.
        let work = tokio::task::spawn_blocking(move || issuer.decide(&query, reviewed, proof, &peer));
        let decided = work.await.unwrap_or_else(|panic| Err(Denied::Internal(panic.to_string())));
        let outcome = match &decided {
            Ok(_) => IssueOutcome::Issued,
            Err(Denied::Internal(error)) => {
                tracing::error!(error, "a request for a certificate cannot be answered");
                IssueOutcome::Failed
            }
            Err(_) => IssueOutcome::Refused,
        };
        self.metrics.certificate_issued(proof, outcome);
        decided
    }

    fn decide(
        &self,
        query: &Query,
        reviewed: Option<Result<Proven, Denied>>,
        proof: ProofKind,
        peer: &Peer,
    ) -> Result<Grant, Denied> {
        let mut who = None;
        let decided = self.sign(query, reviewed, peer, &mut who);
        let proof = proof.as_str();
        let line = Line { proof, who: who.as_deref(), peer: Some(peer.address), ..Line::default() };
        match decided {
            Ok((signed, grant)) => {
                let not_after = Some(grant.not_after);
                let line = Line {
                    decision: "issued",
                    id: Some(signed.id.as_str()),
                    serial: Some(&grant.serial),
                    not_after,
                    ..line
                };
                self.audit.write(&line).map_err(|error| Denied::Internal(format!("the audit: {error}")))?;
                tracing::info!(id = %signed.id, proof, serial = grant.serial, peer = %peer.address, "issued a certificate");
                Ok(grant)
            }
            Err(denied) => {
                let (detail, reason) = (denied.to_string(), denied.kind().1);
                let line = Line { decision: "refused", reason: Some(reason), detail: Some(&detail), ..line };
                if let Err(error) = self.audit.write(&line) {
                    tracing::error!(%error, "the audit cannot be written");
                }
                tracing::warn!(reason, proof, peer = %peer.address, "refused a certificate");
                Err(denied)
            }
        }
    }

    /// `who` is told as soon as it is known, also when the end is a refusal.
    fn sign(
        &self,
        query: &Query,
        reviewed: Option<Result<Proven, Denied>>,
        peer: &Peer,
        who: &mut Option<String>,
    ) -> Result<(Signed, Grant), Denied> {
        let request = CertificateRequest::parse(query.csr.as_bytes())?;
        let proven = match (reviewed, &query.proof) {
            (Some(reviewed), _) => reviewed?,
            (None, Some(Proof::Token(token))) => self.by_token(token, &request, who)?,
            (None, _) => self.by_certificate(peer, who)?,
        };
        *who = Some(proven.who);
        let authority = self.state.authority.load();
        request.is_for(&self.id(&proven.service)?)?;
        let life = query.life.map_or(self.life, Duration::from_secs).min(self.max_life);
        let hosts = self.hosts.iter().filter(|(service, _)| *service == proven.service);
        let hosts: Vec<&str> = hosts.map(|(_, host)| host.as_str()).collect();
        let signed = authority.sign(&request, &proven.service, life, &hosts);
        let signed = signed.map_err(|error| Denied::Internal(error.to_string()))?;
        let grant = Grant {
            id: signed.id.to_string(),
            serial: signed.serial.to_string(),
            certificate: signed.cert_chain_pem.clone(),
            not_after: seconds(signed.not_after),
            now: seconds(SystemTime::now()),
            bundle: (**self.state.bundle.borrow()).clone(),
        };
        Ok((signed, grant))
    }

    fn by_token(&self, token: &str, request: &CertificateRequest, who: &mut Option<String>) -> Result<Proven, Denied> {
        let fits = |service: &str| match self.id(service) {
            Ok(id) => request.is_for(&id),
            // Said by whoever asks next; the token is of no use either way.
            Err(_) => Ok(()),
        };
        let key = request.fingerprint();
        match tokens::redeem(&self.state.dir, token, &key, SystemTime::now(), fits) {
            Ok((id, service)) => Ok(Proven { service, who: id }),
            Err(Useless::Unknown) => Err(Denied::TokenUnknown),
            Err(Useless::Expired(id)) => {
                *who = Some(id);
                Err(Denied::TokenExpired)
            }
            Err(Useless::Used(id)) => {
                *who = Some(id);
                Err(Denied::TokenUsed)
            }
            Err(Useless::Refused(error)) => Err(error.into()),
            Err(Useless::Broken(error)) => Err(Denied::Internal(format!("{error:#}"))),
        }
    }

    /// A renewal: for whom the certificate names, if it is still good.
    fn by_certificate(&self, peer: &Peer, who: &mut Option<String>) -> Result<Proven, Denied> {
        let chain = peer.certificates.as_deref().ok_or(Denied::NoProof)?;
        let id = self.state.credentials.client(chain).map_err(|error| Denied::Certificate(error.to_string()))?;
        *who = Some(id.to_string());
        let service = id.path().trim_start_matches('/').to_owned();
        if service == AUTHORITY_NAME || self.id(&service).ok().as_ref() != Some(&id) {
            return Err(Denied::NotOurs(id));
        }
        Ok(Proven { service, who: id.to_string() })
    }

    fn id(&self, service: &str) -> Result<SpiffeId, Denied> {
        let authority = self.state.authority.load();
        authority.trust_domain().service(service).map_err(|error| Denied::Internal(error.to_string()))
    }
}
