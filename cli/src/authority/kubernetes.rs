//! Service-account tokens: the API server says whose one is (TokenReview, authentication.k8s.io/v1), rules say which service
//! that is. Files are read at each question, because the cluster rotates them.

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::config::{Kubernetes, Rule};
use crate::kubernetes::Content;

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
        let unavailable = |error: anyhow::Error| Unproven::Unavailable(format!("{error:#}"));
        let review = self.ask(token).await.map_err(unavailable)?;
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
        let content = Content { kind: "application/json", value: body };
        let answer = self.settings.server.ask(Method::POST, PATH, Some(content)).await?;
        // Without the text: it repeats the token.
        Review::deserialize(answer).map_err(|_| anyhow::anyhow!("its answer is no TokenReview"))
    }
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
