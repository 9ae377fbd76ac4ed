//! Service-account tokens: the API server says whose one is (TokenReview, authentication.k8s.io/v1), rules say which service
//! that is. Files are read at each question, because the cluster rotates them.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use outrigger_proxy::body::OutBody;
use outrigger_proxy::dial::{ClientTls, Endpoint};
use outrigger_proxy::pool::{Pool, PoolSettings};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde_json::json;

use super::config::{Kubernetes, Rule};
use crate::files;

/// For an answer of the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer: it repeats the token.
const MAX_ANSWER: usize = 256 * 1024;
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// What the name of a service account begins with.
const USER: &str = "system:serviceaccount:";

/// Asks the API server.
pub(crate) struct Reviewer {
    settings: Kubernetes,
}

/// Whose a token is.
pub(crate) struct Account {
    pub(crate) user: String,
    pub(crate) service: String,
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unproven {
    #[error(
        "the API server does not accept the token for the audience `{0}`: it is forged, expired or of a deleted pod"
    )]
    Refused(String),
    #[error("no rule (`kubernetes.rules` of the authority) says which service `{0}` is")]
    NoRule(String),
    #[error("the API server cannot be asked: {0}")]
    Unavailable(String),
}

impl Unproven {
    pub(crate) fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Refused(_) => (StatusCode::UNAUTHORIZED, "kubernetes_refused"),
            Self::NoRule(_) => (StatusCode::FORBIDDEN, "kubernetes_no_rule"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "kubernetes_unavailable"),
        }
    }
}

#[derive(Deserialize)]
struct Review {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    user: User,
    #[serde(default)]
    audiences: Vec<String>,
}

#[derive(Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

impl Reviewer {
    pub(crate) fn new(settings: Kubernetes) -> Self {
        Self { settings }
    }

    /// Whose a token is, and which service.
    pub(crate) async fn review(&self, token: &str) -> Result<Account, Unproven> {
        let asked = tokio::time::timeout(PATIENCE, self.ask(token)).await;
        let unavailable = |error: anyhow::Error| Unproven::Unavailable(format!("{error:#}"));
        let review = asked.map_err(|_| Unproven::Unavailable("no answer in time".to_owned()))?.map_err(unavailable)?;
        let status = review.status;
        // A server that knows no audiences leaves them out; then nobody vouches that the token was meant for us.
        if !status.authenticated || !status.audiences.contains(&self.settings.audience) {
            return Err(Unproven::Refused(self.settings.audience.clone()));
        }
        let user = status.user.username;
        match service_of(&self.settings.rules, &user) {
            Some(service) => Ok(Account { service, user }),
            None => Err(Unproven::NoRule(user)),
        }
    }

    async fn ask(&self, token: &str) -> anyhow::Result<Review> {
        let spec = json!({"token": token, "audiences": [self.settings.audience]});
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
        let mut request = Request::new(OutBody::full(body.to_string()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("{}{PATH}", self.settings.url.path.trim_end_matches('/')).parse()?;
        let own = files::read(&self.settings.token_file)?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", own.trim()))?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let response = Pool::new(self.endpoint()?, PoolSettings::default()).send(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("its answer: {error}"))?.to_bytes();
        anyhow::ensure!(head.status.is_success(), "it answers with HTTP status {}", head.status.as_u16());
        // Without the text: it repeats the token.
        serde_json::from_slice(&body).map_err(|_| anyhow::anyhow!("its answer is no TokenReview"))
    }

    fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let authority = &self.settings.url.authority;
        let config = tls(&self.settings.ca)?;
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
    for certificate in CertificateDer::pem_slice_iter(files::read(ca)?.as_bytes()) {
        roots.add(certificate.map_err(|_| anyhow::anyhow!("{} holds broken PEM", ca.display()))?)?;
    }
    let provider = Arc::new(outrigger_identity::provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Which service a user is, by the first rule that fits.
fn service_of(rules: &[Rule], user: &str) -> Option<String> {
    let (namespace, account) = user.strip_prefix(USER)?.split_once(':')?;
    let fits =
        |rule: &&Rule| rule.namespace == namespace && (rule.service_account == "*" || rule.service_account == account);
    let rule = rules.iter().find(fits)?;
    Some(rule.service.clone().unwrap_or_else(|| account.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(namespace: &str, service_account: &str, service: Option<&str>) -> Rule {
        let service = service.map(str::to_owned);
        Rule { namespace: namespace.to_owned(), service_account: service_account.to_owned(), service }
    }

    #[test]
    fn the_first_rule_that_fits_names_the_service() {
        let rules = [rule("tools", "files", Some("fs")), rule("tools", "*", None), rule("edge", "ingress", None)];
        let service = |user: &str| service_of(&rules, user);
        assert_eq!(service("system:serviceaccount:tools:files").as_deref(), Some("fs"));
        assert_eq!(service("system:serviceaccount:tools:notes").as_deref(), Some("notes"));
        assert_eq!(service("system:serviceaccount:edge:ingress").as_deref(), Some("ingress"));
        for nobody in ["system:serviceaccount:edge:other", "system:serviceaccount:tools", "admin", "tools:files", ""] {
            assert_eq!(service(nobody), None, "{nobody}");
        }
    }
}
