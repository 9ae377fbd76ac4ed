//! Counts what happens to connections.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use outrigger_proxy::{
    accept::ConnObserver,
    handshake::{HandshakeError, TlsInfo},
    serve::ConnEnd,
};
use outrigger_telemetry::{
    Metrics,
    metrics::{BadRequestReason, ConnectionOutcome, HandshakeOutcome, Listener, OpenGuard},
};

/// The observer of the mesh listener.
pub struct MeshConnections {
    metrics: Arc<Metrics>,
    /// One guard per open connection; which one is dropped does not matter, only how many are left.
    open: Mutex<VecDeque<OpenGuard>>,
}

impl MeshConnections {
    /// Counts into these metrics.
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { metrics, open: Mutex::default() })
    }
}

impl ConnObserver for MeshConnections {
    fn opened(&self) {
        let guard = self.metrics.connection_accepted(Listener::Mesh);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push_back(guard);
    }

    fn refused(&self) {
        self.metrics.connection(Listener::Mesh, ConnectionOutcome::Limited);
    }

    fn handshake(&self, outcome: Result<&TlsInfo, &HandshakeError>) {
        let outcome = match outcome {
            Ok(_) => HandshakeOutcome::Ok,
            Err(error) => {
                tracing::info!(%error, "a handshake failed");
                handshake_outcome(error)
            }
        };
        self.metrics.handshake(outcome);
    }

    fn closed(&self, end: Option<ConnEnd>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match end {
            None => self.metrics.connection(Listener::Mesh, ConnectionOutcome::Failed),
            // hyper answers by itself and no request comes of it.
            Some(ConnEnd::Malformed) => self.metrics.bad_request(BadRequestReason::Http),
            Some(_) => {}
        }
    }
}

/// The closed word for a failed handshake. rustls wraps its reasons in an io error.
pub fn handshake_outcome(error: &HandshakeError) -> HandshakeOutcome {
    use rustls::{CertificateError, Error};
    let HandshakeError::Tls(io) = error else { return HandshakeOutcome::Timeout };
    let Some(tls) = io.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return HandshakeOutcome::Closed;
    };
    match tls {
        Error::NoCertificatesPresented => HandshakeOutcome::NoCertificate,
        Error::InvalidCertificate(reason) => match reason {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => HandshakeOutcome::Expired,
            CertificateError::Revoked => HandshakeOutcome::Revoked,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => HandshakeOutcome::UnknownAuthority,
            _ => HandshakeOutcome::WrongIdentity,
        },
        _ => HandshakeOutcome::Protocol,
    }
}
