//! Counts what happens to connections before any request.

use std::sync::{Arc, Mutex, PoisonError};

use outrigger_proxy::accept::ConnObserver;
use outrigger_proxy::handshake::{HandshakeError, TlsInfo};
use outrigger_proxy::serve::ConnEnd;
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::{BadRequestReason, ConnectionOutcome, HandshakeOutcome, Listener, OpenGuard};
use rustls::{CertificateError, Error};

/// The connections of the client listener.
pub(crate) struct Connections {
    metrics: Arc<Metrics>,
    /// One per open connection. Which one goes does not matter, only how many are left.
    open: Mutex<Vec<OpenGuard>>,
}

impl Connections {
    pub(crate) fn new(metrics: &Arc<Metrics>) -> Self {
        Self { metrics: Arc::clone(metrics), open: Mutex::default() }
    }
}

impl ConnObserver for Connections {
    fn opened(&self) {
        let guard = self.metrics.connection_accepted(Listener::Public);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(guard);
    }

    fn refused(&self) {
        self.metrics.connection(Listener::Public, ConnectionOutcome::Limited);
    }

    fn handshake(&self, outcome: Result<&TlsInfo, &HandshakeError>) {
        self.metrics.handshake(outcome.map_or_else(handshake_outcome, |_| HandshakeOutcome::Ok));
    }

    fn closed(&self, end: Option<ConnEnd>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match end {
            None => self.metrics.connection(Listener::Public, ConnectionOutcome::Failed),
            // hyper answers by itself and no request comes of it.
            Some(ConnEnd::Malformed) => self.metrics.bad_request(BadRequestReason::Http),
            Some(_) => {}
        }
    }
}

/// The closed word for a failed handshake. rustls wraps its reasons in an io error.
fn handshake_outcome(error: &HandshakeError) -> HandshakeOutcome {
    let HandshakeError::Tls(io) = error else { return HandshakeOutcome::Timeout };
    match io.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
        None => HandshakeOutcome::Closed,
        Some(Error::InvalidCertificate(CertificateError::Revoked)) => HandshakeOutcome::Revoked,
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => HandshakeOutcome::UnknownAuthority,
        Some(Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => HandshakeOutcome::Expired,
        Some(Error::InvalidCertificate(_)) => HandshakeOutcome::WrongIdentity,
        Some(_) => HandshakeOutcome::Protocol,
    }
}
