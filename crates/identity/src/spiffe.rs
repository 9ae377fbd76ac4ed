//! The names of the mesh: trust domains and SPIFFE ids.
//!
//! Rules: SPIFFE-ID specification, section 2. They are stricter than those of a URI on purpose: two ids are the same
//! exactly when their bytes are, so nothing needs to be normalised before it is compared.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest SPIFFE id, in bytes (SPIFFE-ID, section 2.3).
pub const MAX_SPIFFE_ID: usize = 2048;
/// Longest trust domain, in bytes (SPIFFE-ID, section 2.1).
pub const MAX_TRUST_DOMAIN: usize = 255;
/// Longest service name, in bytes: it prefixes capability names, which LLM APIs limit to 64.
pub const MAX_SERVICE_NAME: usize = 20;

const SCHEME: &str = "spiffe://";

/// Why a text is not a SPIFFE id, trust domain or service name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Longer than the specification allows.
    #[error("a SPIFFE id has at most {MAX_SPIFFE_ID} bytes, this one has {0}")]
    TooLong(usize),
    /// Another scheme, or the right one in other letters.
    #[error("a SPIFFE id starts with `spiffe://`")]
    Scheme,
    /// Nothing between `spiffe://` and the path.
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// Longer than [`MAX_TRUST_DOMAIN`].
    #[error("a trust domain has at most {MAX_TRUST_DOMAIN} bytes, this one has {0}")]
    TrustDomainTooLong(usize),
    /// A port, user, upper-case letter or anything else that is not `[a-z0-9._-]`.
    #[error("{0:?} is not allowed in a trust domain; use a-z, 0-9, `.`, `-` and `_` (no port, no user)")]
    TrustDomainCharacter(char),
    /// `//` or a slash at the end.
    #[error("the path has an empty segment; remove the doubled or trailing slash")]
    EmptySegment,
    /// `.` or `..` as a segment.
    #[error("the path has a `.` or `..` segment")]
    DotSegment,
    /// A query, fragment, percent escape or anything else that is not `[A-Za-z0-9._-]`.
    #[error(
        "{0:?} is not allowed in the path; use letters, digits, `.`, `-` and `_` (no query, no fragment, no escapes)"
    )]
    PathCharacter(char),
    /// Not `[a-z0-9]([a-z0-9-]*[a-z0-9])?` of at most [`MAX_SERVICE_NAME`] bytes.
    #[error(
        "`{0}` is not a service name; use a-z, 0-9 and `-` (not first or last), at most {MAX_SERVICE_NAME} characters"
    )]
    ServiceName(String),
}

/// The domain whose authority everyone in a mesh trusts, such as `demo.outrigger.local`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Takes a bare name, without `spiffe://`.
    ///
    /// # Errors
    /// When it is empty, too long, or holds a character outside `[a-z0-9._-]`.
    pub fn parse(name: &str) -> Result<Self, SpiffeError> {
        if name.is_empty() {
            return Err(SpiffeError::EmptyTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN {
            return Err(SpiffeError::TrustDomainTooLong(name.len()));
        }
        let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        match name.chars().find(|c| !allowed(c)) {
            Some(c) => Err(SpiffeError::TrustDomainCharacter(c)),
            None => Ok(Self(name.into())),
        }
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the trust domain itself, which its authority carries: no path.
    pub fn id(&self) -> SpiffeId {
        SpiffeId { text: format!("{SCHEME}{}", self.0).into(), trust_domain: self.clone() }
    }

    /// The id of a service in this trust domain.
    ///
    /// # Errors
    /// [`SpiffeError::ServiceName`] when the name breaks the naming contract, [`SpiffeError::TooLong`] never in practice.
    pub fn service(&self, service: &str) -> Result<SpiffeId, SpiffeError> {
        if !is_service_name(service) {
            return Err(SpiffeError::ServiceName(service.chars().take(64).collect()));
        }
        Ok(SpiffeId { text: format!("{SCHEME}{}/{service}", self.0).into(), trust_domain: self.clone() })
    }
}

/// Who a workload is: `spiffe://<trust domain>/<path>`. Cheap to clone; equal exactly when the text is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Parses and checks every rule of the specification.
    ///
    /// # Errors
    /// Names the first rule that is broken.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MAX_SPIFFE_ID {
            return Err(SpiffeError::TooLong(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = TrustDomain::parse(domain)?;
        check_path(path)?;
        Ok(Self { text: text.into(), trust_domain })
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whose authority speaks for it.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash; empty for a trust domain's own id.
    pub fn path(&self) -> &str {
        self.text.get(SCHEME.len() + self.trust_domain.0.len()..).unwrap_or("")
    }

    /// The service, when the path is exactly one segment; ids of other issuers may have longer paths.
    pub fn service(&self) -> Option<&str> {
        self.path().strip_prefix('/').filter(|segment| !segment.contains('/'))
    }
}

fn check_path(path: &str) -> Result<(), SpiffeError> {
    let Some(segments) = path.strip_prefix('/') else {
        return Ok(()); // empty: the id of the trust domain itself
    };
    for segment in segments.split('/') {
        match segment {
            "" => return Err(SpiffeError::EmptySegment),
            "." | ".." => return Err(SpiffeError::DotSegment),
            _ => {}
        }
        let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if let Some(c) = segment.chars().find(|c| !allowed(c)) {
            return Err(SpiffeError::PathCharacter(c));
        }
    }
    Ok(())
}

fn is_service_name(name: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty()
        && name.len() <= MAX_SERVICE_NAME
        && name.bytes().all(inside)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;
    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        Self::parse(text)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;
    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        Self::parse(text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_id() {
        let id = SpiffeId::parse("spiffe://demo.outrigger.local/fs").unwrap();
        assert_eq!(id.trust_domain().as_str(), "demo.outrigger.local");
        assert_eq!((id.path(), id.service()), ("/fs", Some("fs")));
        let long = SpiffeId::parse("spiffe://demo/ns/Default/sa/x_y.z").unwrap();
        assert_eq!((long.path(), long.service()), ("/ns/Default/sa/x_y.z", None));
        let domain = SpiffeId::parse("spiffe://demo").unwrap();
        assert_eq!((domain.path(), domain.service()), ("", None));
        assert_eq!(domain, TrustDomain::parse("demo").unwrap().id());
    }

    #[test]
    fn each_rule_has_its_error() {
        let cases = [
            ("https://demo/fs", SpiffeError::Scheme),
            ("SPIFFE://demo/fs", SpiffeError::Scheme),
            ("spiffe:///fs", SpiffeError::EmptyTrustDomain),
            ("spiffe://", SpiffeError::EmptyTrustDomain),
            ("spiffe://Demo/fs", SpiffeError::TrustDomainCharacter('D')),
            ("spiffe://demo:8443/fs", SpiffeError::TrustDomainCharacter(':')),
            ("spiffe://me@demo/fs", SpiffeError::TrustDomainCharacter('@')),
            ("spiffe://demo?x", SpiffeError::TrustDomainCharacter('?')),
            ("spiffe://d\u{e9}mo/fs", SpiffeError::TrustDomainCharacter('\u{e9}')),
            ("spiffe://demo/", SpiffeError::EmptySegment),
            ("spiffe://demo/a//b", SpiffeError::EmptySegment),
            ("spiffe://demo/a/", SpiffeError::EmptySegment),
            ("spiffe://demo/a/../b", SpiffeError::DotSegment),
            ("spiffe://demo/.", SpiffeError::DotSegment),
            ("spiffe://demo/a?b", SpiffeError::PathCharacter('?')),
            ("spiffe://demo/a#b", SpiffeError::PathCharacter('#')),
            ("spiffe://demo/a%20b", SpiffeError::PathCharacter('%')),
            ("spiffe://demo/a\nb", SpiffeError::PathCharacter('\n')),
        ];
        for (text, error) in cases {
            assert_eq!(SpiffeId::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn lengths_are_bounded_and_the_limit_itself_is_allowed() {
        let fits = format!("spiffe://demo/{}", "a".repeat(MAX_SPIFFE_ID - "spiffe://demo/".len()));
        assert!(SpiffeId::parse(&fits).is_ok());
        assert_eq!(SpiffeId::parse(&format!("{fits}a")), Err(SpiffeError::TooLong(MAX_SPIFFE_ID + 1)));
        assert!(TrustDomain::parse(&"a".repeat(MAX_TRUST_DOMAIN)).is_ok());
        assert!(TrustDomain::parse(&"a".repeat(MAX_TRUST_DOMAIN + 1)).is_err());
    }

    #[test]
    fn service_names_follow_the_naming_contract() {
        let domain = TrustDomain::parse("demo").unwrap();
        for good in ["a", "fs", "web-2", "0", "abcdefghijklmnopqrst"] {
            assert_eq!(domain.service(good).unwrap().service(), Some(good));
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "abcdefghijklmnopqrstu"] {
            assert_eq!(domain.service(bad), Err(SpiffeError::ServiceName(bad.to_owned())), "{bad}");
        }
    }
}
