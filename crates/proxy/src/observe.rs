//! Counts what happens to the connections of a listener, and logs the handshakes that fail.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::{BadRequestReason, ConnectionOutcome, HandshakeOutcome, Listener, OpenGuard};
use rustls::{CertificateError, Error};

use crate::accept::ConnObserver;
use crate::handshake::{HandshakeError, TlsInfo};
use crate::log_bound::LogBound;
use crate::serve::ConnEnd;

/// The observer of one listener.
pub struct Connections {
    metrics: Arc<Metrics>,
    listener: Listener,
    /// One per open connection. Which one goes does not matter, only how many are left.
    open: Mutex<Vec<OpenGuard>>,
    /// Strangers must not be able to fill a disk.
    failures: LogBound,
}

impl Connections {
    /// Counts into these metrics, under the name of this listener.
    pub fn new(metrics: &Arc<Metrics>, listener: Listener) -> Arc<Self> {
        let failures = LogBound::default();
        Arc::new(Self { metrics: Arc::clone(metrics), listener, open: Mutex::default(), failures })
    }

    fn log(&self, peer: SocketAddr, error: &HandshakeError) {
        let Some(left_out) = self.failures.admit() else { return };
        let listener = self.listener.as_str();
        if left_out > 0 {
            tracing::warn!(listener, left_out, "further failed handshakes were counted but not logged");
        }
        tracing::warn!(listener, %peer, %error, "a handshake failed");
    }
}

impl ConnObserver for Connections {
    fn opened(&self) {
        let guard = self.metrics.connection_accepted(self.listener);
        lock(&self.open).push(guard);
    }

    fn refused(&self) {
        self.metrics.connection(self.listener, ConnectionOutcome::Limited);
    }

    fn handshake(&self, peer: SocketAddr, outcome: Result<&TlsInfo, &HandshakeError>) {
        let counted = match outcome {
            Ok(tls) if tls.resumed => HandshakeOutcome::Resumed,
            Ok(_) => HandshakeOutcome::Ok,
            Err(error) => handshake_outcome(error),
        };
        self.metrics.handshake(counted);
        match outcome {
            // Whoever only looks whether somebody listens, as load balancers do all the time.
            Err(error) if counted == HandshakeOutcome::Closed => tracing::debug!(%peer, %error, "a handshake failed"),
            Err(error) => self.log(peer, error),
            Ok(_) => {}
        }
    }

    fn closed(&self, end: Option<ConnEnd>) {
        lock(&self.open).pop();
        match end {
            None => self.metrics.connection(self.listener, ConnectionOutcome::Failed),
            Some(ConnEnd::Untrusted) => self.metrics.connection(self.listener, ConnectionOutcome::Untrusted),
            // hyper answers by itself and no request comes of it.
            Some(ConnEnd::Malformed) => self.metrics.bad_request(BadRequestReason::Http),
            Some(ConnEnd::Closed | ConnEnd::TimedOut | ConnEnd::Broken | ConnEnd::Forced) => {}
        }
    }
}

/// The closed word for a failed handshake. rustls wraps its reasons in an io error.
fn handshake_outcome(error: &HandshakeError) -> HandshakeOutcome {
    let HandshakeError::Tls(io) = error else { return HandshakeOutcome::Timeout };
    let Some(tls) = io.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) else {
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

/// What is behind these locks is whole after every statement, so also after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
