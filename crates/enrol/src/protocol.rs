//! The messages between a workload and its authority: JSON over HTTPS, version 1.
//!
//! | request | answer |
//! |---|---|
//! | `POST /ca/v1/certificates` with [`Query`] | 200 [`Grant`] |
//! | `GET /ca/v1/bundle?wait=50s`, `If-None-Match` | 200 [`Bundle`] with its `ETag`, 304 when nothing changed meanwhile |
//! | anything that is refused | 4xx or 5xx with [`Refusal`] |

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Where certificates are asked for.
pub const CERTIFICATES: &str = "/ca/v1/certificates";
/// Where it is told what is believed and revoked.
pub const BUNDLE: &str = "/ca/v1/bundle";

/// A request for a certificate. Without a proof, the certificate shown in the TLS handshake is it: a renewal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// The request for the key, PKCS #10 in PEM.
    pub csr: String,
    /// Who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// How many seconds it should live; the authority has a default and a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<u64>,
}

/// What shows who asks.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// A join token.
    Token(Zeroizing<String>),
    /// A service-account token that Kubernetes projected into the pod.
    Kubernetes(Zeroizing<String>),
}

/// A certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Grant {
    /// Whom it names.
    pub id: String,
    /// Its number.
    pub serial: String,
    /// The certificate and those between it and the root, PEM.
    pub certificate: String,
    /// End of its life, seconds since 1970.
    pub not_after: u64,
    /// The authority's clock, seconds since 1970.
    pub now: u64,
    /// What is believed and revoked.
    pub bundle: Bundle,
}

/// What members of a mesh believe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The roots, PEM.
    pub ca: String,
    /// Revocation lists, PEM.
    pub crl: String,
    /// Changes when one of them does.
    pub version: String,
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// In one word, for programs: `token_used`, `rate_limited`, ...
    pub reason: String,
    /// For people, with what to do.
    pub message: String,
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token([redacted])",
            Self::Kubernetes(_) => "Kubernetes([redacted])",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_are_as_documented_and_secrets_are_not_shown() {
        let query: Query = serde_json::from_str(r#"{"csr":"x","proof":{"token":"sesame"}}"#).unwrap();
        assert!(!format!("{query:?}").contains("sesame"));
        assert_eq!(serde_json::to_string(&query).unwrap(), r#"{"csr":"x","proof":{"token":"sesame"}}"#);
        let renewal: Query = serde_json::from_str(r#"{"csr":"x","life":60}"#).unwrap();
        assert!(renewal.proof.is_none() && renewal.life == Some(60));
        for bad in [r#"{"csr":"x","id":"spiffe://a/b"}"#, r#"{"csr":"x","proof":{"magic":"y"}}"#, r#"{"proof":null}"#] {
            assert!(serde_json::from_str::<Query>(bad).is_err(), "{bad}");
        }
    }
}
