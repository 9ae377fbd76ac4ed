//! Service-account tokens: the API server says whose one is (TokenReview, authentication.k8s.io/v1), rules say which service
//! that is. Files are read at each question, because the cluster rotates them.

use std::collections::HashSet;

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
    /// Services that a rule for `*` gives to nobody.
    held: HashSet<String>,
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
    #[error(
        "no rule (`kubernetes.rules` of the authority) says which service `{0}` is; one for `*` says it of no account whose name is `ingress`, `injector`, that of a service in another rule or one in `hosts`"
    )]
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
    /// `held`: services that nobody becomes by the name of a service account alone, besides those that rules name.
    pub(crate) fn new(settings: Kubernetes, held: &[(String, String)]) -> Self {
        let own = ["ingress", "injector"].map(str::to_owned);
        let named = settings.rules.iter().filter(|rule| rule.service_account != "*").map(Rule::names);
        let held = own.into_iter().chain(named).chain(held.iter().map(|(service, _)| service.clone())).collect();
        Self { settings, held }
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
        match service_of(&self.settings.rules, &self.held, &user) {
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

impl Rule {
    /// The service that a rule for one account names.
    fn names(&self) -> String {
        self.service.as_ref().unwrap_or(&self.service_account).clone()
    }
}

/// Which service a user is, by the first rule that fits. Whoever may make service accounts chooses their names: by a rule
/// for any account nobody becomes what is `held` for somebody else.
fn service_of(rules: &[Rule], held: &HashSet<String>, user: &str) -> Option<String> {
    let (namespace, account) = user.strip_prefix(USER)?.split_once(':')?;
    let any = |rule: &Rule| rule.service_account == "*" && !held.contains(account);
    let fits = |rule: &&Rule| rule.namespace == namespace && (rule.service_account == account || any(rule));
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
        let held = HashSet::from(["ingress".to_owned(), "fs".to_owned()]);
        let service = |user: &str| service_of(&rules, &held, user);
        assert_eq!(service("system:serviceaccount:tools:files").as_deref(), Some("fs"));
        assert_eq!(service("system:serviceaccount:tools:notes").as_deref(), Some("notes"));
        assert_eq!(service("system:serviceaccount:edge:ingress").as_deref(), Some("ingress"));
        // Who makes an account of that name is not that service.
        assert_eq!(service("system:serviceaccount:tools:ingress"), None);
        assert_eq!(service("system:serviceaccount:tools:fs"), None);
        for nobody in ["system:serviceaccount:edge:other", "system:serviceaccount:tools", "admin", "tools:files", ""] {
            assert_eq!(service(nobody), None, "{nobody}");
        }
    }
}
