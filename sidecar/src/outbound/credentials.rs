//! Credentials that requests get on their way out, so that the server never holds them; and the watch over the placeholders
//! that it holds instead.

use std::fmt;

use outrigger_egress::placeholder::Search;
use outrigger_egress::request::Request;
use outrigger_policy::RuleId;
use outrigger_policy::egress::Name;
use tokio::io::AsyncReadExt;

use super::in_force::InForce;
use super::refusal::Why;
use crate::config::{Credential, Source};

/// Bytes of a credential at most.
const MAX_BYTES: u64 = 16 * 1024;
/// Methods whose answer repeats the request (RFC 9110 section 9.3.8): it would show the credential.
const ECHOES: [&str; 2] = ["TRACE", "TRACK"];

/// A header as it is added.
pub(super) struct Added {
    pub(super) name: String,
    pub(super) value: Vec<u8>,
}

impl fmt::Debug for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Added").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a request of this rule gets. `inside`: it came inside TLS.
pub(super) async fn added(
    all: &[Credential],
    rule: &RuleId,
    inside: bool,
    request: &Request<'_>,
) -> Result<Vec<Added>, Why> {
    let mut added = Vec::new();
    for credential in all.iter().filter(|credential| credential.rule == *rule && credential.inside == inside) {
        // Methods are not the same in another case, but some servers believe so.
        if ECHOES.iter().any(|echo| echo.eq_ignore_ascii_case(request.method)) {
            return Err(Why::Echo);
        }
        let secret = secret(&credential.source).await.map_err(|error| {
            tracing::warn!(rule = rule.as_str(), header = credential.header, %error, "a credential cannot be read");
            Why::NoCredential(credential.header.clone())
        })?;
        let value = [credential.prefix.as_bytes(), &secret].concat();
        added.push(Added { name: credential.header.clone(), value });
    }
    Ok(added)
}

async fn secret(source: &Source) -> std::io::Result<Vec<u8>> {
    let text = match source {
        Source::Variable(name) => std::env::var_os(name).unwrap_or_default().into_encoded_bytes(),
        Source::File(path) => {
            let mut text = Vec::new();
            tokio::fs::File::open(path).await?.take(MAX_BYTES).read_to_end(&mut text).await?;
            text
        }
    };
    let text = text.trim_ascii().to_vec();
    let fits = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    if text.is_empty() || !text.iter().all(fits) {
        return Err(std::io::Error::other("it is empty, or has a control character inside"));
    }
    Ok(text)
}

/// The watch over what goes to one destination: what stands for a secret goes to nobody but that secret's destination.
pub(super) struct Watch<'w> {
    in_force: &'w InForce,
    /// The rule that lets it go; its own placeholders may.
    rule: Option<&'w RuleId>,
    search: Search,
}

impl<'w> Watch<'w> {
    pub(super) fn new(in_force: &'w InForce, rule: Option<&'w RuleId>) -> Self {
        Self { in_force, rule, search: Search::default() }
    }

    /// Reads on.
    ///
    /// # Errors
    /// [`Why::Placeholder`] when one is complete: these bytes must not leave.
    pub(super) fn over(&mut self, bytes: &[u8]) -> Result<(), Why> {
        let all = &self.in_force.placeholders;
        if all.is_empty() {
            return Ok(());
        }
        let rule_of = |place: usize| self.in_force.credentials.get(place).map(|credential| &credential.rule);
        let found = self.search.find(all, bytes, |place| rule_of(place) != self.rule);
        found.and_then(rule_of).map_or(Ok(()), |rule| Err(Why::Placeholder(rule.clone())))
    }

    /// A name that is asked for, or dialled.
    pub(super) fn over_name(in_force: &InForce, name: &Name) -> Result<(), Why> {
        Watch::new(in_force, None).over(name.as_str().as_bytes())
    }

    /// The head of a request.
    pub(super) fn over_head(&mut self, request: &Request<'_>, path: &str) -> Result<(), Why> {
        let fields = request.fields.iter().flat_map(|field| [field.name.as_bytes(), field.value]);
        for part in [request.method.as_bytes(), path.as_bytes()].into_iter().chain(fields) {
            self.over(part)?;
            // Parts are apart.
            self.over(b"\n")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use outrigger_config::Secret;
    use outrigger_egress::request;
    use outrigger_policy::egress::{EgressRule, Host};

    use super::*;

    fn rule(name: &str) -> RuleId {
        EgressRule::new(name, Vec::new()).id
    }

    fn credential(source: Source) -> Credential {
        Credential {
            rule: rule("api"),
            inside: true,
            header: "Authorization".into(),
            prefix: "Bearer ".into(),
            source,
            placeholder: Some(Secret::new("stand-in-1".to_owned())),
        }
    }

    #[tokio::test]
    async fn a_secret_is_read_anew_for_its_rule_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let all = [credential(Source::File(file.path().to_owned()))];
        let (own, other) = (rule("api"), rule("other"));
        let get = request::parse(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
        assert!(matches!(added(&all, &own, true, &get).await, Err(Why::NoCredential(_))), "it is empty");
        for secret in ["first", "second"] {
            std::fs::write(file.path(), format!("{secret}\n")).unwrap();
            let added = added(&all, &own, true, &get).await.unwrap();
            assert_eq!(added[0].value, format!("Bearer {secret}").as_bytes());
            assert!(!format!("{added:?}{all:?}").contains(secret));
        }
        assert!(added(&all, &other, true, &get).await.unwrap().is_empty());
        assert!(added(&all, &own, false, &get).await.unwrap().is_empty(), "never in the clear");
        for trace in ["TRACE", "trace"] {
            let head = format!("{trace} / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            let trace = request::parse(head.as_bytes()).unwrap();
            assert!(matches!(added(&all, &own, true, &trace).await, Err(Why::Echo)));
        }
    }

    #[test]
    fn placeholders_go_nowhere_else() {
        let settings = "egress: { rules: [ { name: api, hosts: [a.test], inspect: true, credentials: \
                        [ { header: Authorization, env: KEY, placeholder: stand-in-1 } ] } ] }";
        let settings = crate::config::EgressOnly::from_sources(Some(("test", settings)), &|_| None).unwrap();
        let in_force = InForce::new(&settings.egress);
        let own = rule("api");
        for (head, path, leaves) in [
            ("GET / HTTP/1.1\r\nHost: b.test\r\nX-Key: a stand-in-1\r\n\r\n", "/", true),
            ("GET / HTTP/1.1\r\nHost: b.test\r\nAuthorization: basic dTpzdGFuZC1pbi0x\r\n\r\n", "/", true),
            ("GET / HTTP/1.1\r\nHost: b.test\r\nStand-In-1: x\r\n\r\n", "/", true),
            ("STAND-IN-1 / HTTP/1.1\r\nHost: b.test\r\n\r\n", "/", true),
            ("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n", "/?key=stand%2Din-%31", true),
            ("GET / HTTP/1.1\r\nHost: b.test\r\nX-Key: stand-in-2\r\n\r\n", "/", false),
            ("GET / HTTP/1.1\r\nHost: b.test\r\nX-Key: stand-\r\nX-Key: in-1\r\n\r\n", "/", false),
        ] {
            let request = request::parse(head.as_bytes()).unwrap();
            assert_eq!(Watch::new(&in_force, None).over_head(&request, path).is_err(), leaves, "{head}");
            assert!(Watch::new(&in_force, Some(&own)).over_head(&request, path).is_ok(), "{head}");
        }
        for (text, leaves) in [("Stand-In-1.b.test", true), ("stand-in-2.b.test", false)] {
            let Ok(Host::Name(name)) = Host::parse(text) else { panic!("{text}") };
            assert_eq!(Watch::over_name(&in_force, &name).is_err(), leaves, "{text}");
        }
    }
}
