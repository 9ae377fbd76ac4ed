//! Who calls, proven: made from a verified certificate or token by the identify phase and by nothing else.
//!
//! A [`Principal`] carries no credential, only what the credential proved, so it may be logged. It is one `Arc`:
//! cloning it per request costs a counter.

use crate::rule::{NameKind, claim_key, name_key};
use std::fmt;
use std::sync::Arc;

/// Longest subject accepted, in bytes: it is a log field and a rate limit key, not a document.
pub const MAX_SUBJECT_BYTES: usize = 256;
/// Longest SPIFFE id accepted, in bytes (SPIFFE-ID specification, section 2.4).
pub const MAX_SPIFFE_ID_BYTES: usize = 2048;
/// Most roles, and most scopes, one principal may carry: they are searched for every decision.
pub const MAX_GRANTS: usize = 256;

/// Most claims one principal may carry.
pub const MAX_CLAIMS: usize = 64;
/// Most values of one claim.
pub const MAX_CLAIM_VALUES: usize = 256;
/// Longest name or value of a claim, in bytes.
pub const MAX_CLAIM_BYTES: usize = 1024;

/// Why something cannot be a principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// A user without a name.
    #[error("the subject is empty; give the user a name")]
    EmptySubject,
    /// A subject longer than [`MAX_SUBJECT_BYTES`].
    #[error("the subject has {0} bytes; the limit is {MAX_SUBJECT_BYTES}")]
    SubjectTooLong(usize),
    /// A subject that could forge a line in a log.
    #[error("the subject holds a control character")]
    ControlCharacter,
    /// Not `spiffe://<trust domain>/<service>`.
    #[error("not a SPIFFE id: {0}; expected spiffe://<trust domain>/<service>")]
    NotSpiffe(&'static str),
    /// More than [`MAX_GRANTS`] roles or scopes.
    #[error("{0} roles or scopes on one principal; the limit is {MAX_GRANTS}")]
    TooManyGrants(usize),
    /// More than [`MAX_CLAIMS`] claims.
    #[error("{0} claims on one principal; the limit is {MAX_CLAIMS}")]
    TooManyClaims(usize),
    /// More than [`MAX_CLAIM_VALUES`] values of a claim, or a name or value longer than [`MAX_CLAIM_BYTES`]. Says nothing
    /// of the value, which may be a secret.
    #[error("a claim has more than {MAX_CLAIM_VALUES} values, or a name or value of more than {MAX_CLAIM_BYTES} bytes")]
    ClaimTooLarge,
    /// The same claim twice: which of the two is meant cannot be told.
    #[error("a claim is given twice")]
    ClaimTwice,
}

/// Something else that a token says of its subject, such as a department. Values are text; a claim that is a list has
/// several.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    name: Arc<str>,
    values: Box<[Arc<str>]>,
}

impl Claim {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its values, sorted.
    pub fn values(&self) -> &[Arc<str>] {
        &self.values
    }
}

/// Names the claim only: what it says may be private.
impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=<{} values>", self.name, self.values.len())
    }
}

/// What kind of caller it is, with the name that was proven.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// A member of a mesh, proven by its certificate.
    Workload {
        /// The one URI of the certificate, `spiffe://<trust domain>/<service>`.
        spiffe_id: Arc<str>,
        /// Its authority part.
        trust_domain: Arc<str>,
        /// Its path without the leading slash.
        service: Arc<str>,
    },
    /// A person or program, proven by a token.
    User {
        /// The subject the token was issued to.
        subject: Arc<str>,
    },
    /// Nobody in particular: nothing was presented, on a listener that allows it.
    Anonymous,
}

/// Who calls. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Principal(Arc<Facts>);

/// Roles and scopes.
type Grants = (Box<[Arc<str>]>, Box<[Arc<str>]>);

#[derive(PartialEq, Eq, Hash)]
struct Facts {
    kind: PrincipalKind,
    id: Arc<str>,
    /// Sorted, so that two principals with the same grants are equal and lookups are binary searches.
    roles: Box<[Arc<str>]>,
    scopes: Box<[Arc<str>]>,
    /// Sorted by name.
    claims: Box<[Claim]>,
    /// The workload that says for whom it calls.
    via: Option<Principal>,
    /// What rules that name this caller exactly are found by.
    keys: Box<[u64]>,
}

impl Principal {
    /// A workload with the given SPIFFE id (already verified by the handshake; only its form is checked here).
    ///
    /// # Errors
    /// [`PrincipalError::NotSpiffe`] when the id is not `spiffe://<trust domain>/<path>`.
    pub fn workload(spiffe_id: &str) -> Result<Principal, PrincipalError> {
        let (trust_domain, service) = split_spiffe_id(spiffe_id)?;
        let id: Arc<str> = spiffe_id.into();
        let kind = PrincipalKind::Workload {
            spiffe_id: Arc::clone(&id),
            trust_domain: trust_domain.into(),
            service: service.into(),
        };
        Ok(Principal::from_parts(kind, id))
    }

    /// A user with the subject that a verified token names.
    ///
    /// # Errors
    /// [`PrincipalError`] when the subject is empty, too long or holds control characters.
    pub fn user(subject: &str) -> Result<Principal, PrincipalError> {
        if subject.is_empty() {
            return Err(PrincipalError::EmptySubject);
        }
        if subject.len() > MAX_SUBJECT_BYTES {
            return Err(PrincipalError::SubjectTooLong(subject.len()));
        }
        if subject.chars().any(char::is_control) {
            return Err(PrincipalError::ControlCharacter);
        }
        let id = format!("user:{subject}").into();
        Ok(Principal::from_parts(PrincipalKind::User { subject: subject.into() }, id))
    }

    /// The caller that proved nothing. Carries no roles and no scopes.
    pub fn anonymous() -> Principal {
        Principal::from_parts(PrincipalKind::Anonymous, "anonymous".into())
    }

    /// The same principal with exactly these roles and scopes. An anonymous caller keeps none: there is nobody to
    /// grant them to.
    ///
    /// # Errors
    /// [`PrincipalError::TooManyGrants`] over [`MAX_GRANTS`] of either.
    pub fn with_grants<R, S>(&self, roles: R, scopes: S) -> Result<Principal, PrincipalError>
    where
        R: IntoIterator<Item: AsRef<str>>,
        S: IntoIterator<Item: AsRef<str>>,
    {
        if self.is_anonymous() {
            return Ok(self.clone());
        }
        let (roles, scopes) = (sorted_grants(roles)?, sorted_grants(scopes)?);
        Ok(self.with((roles, scopes), self.0.claims.clone(), self.0.via.clone()))
    }

    /// The same principal with exactly these claims: of each its name and its values (one, or those of a list; numbers
    /// and booleans as JSON writes them). Pick what policy is to see: every claim costs memory for as long as the caller is
    /// known. An anonymous caller keeps none.
    ///
    /// # Errors
    /// [`PrincipalError`] when there are too many, one is too large, or one is given twice.
    pub fn with_claims<N, V>(&self, claims: impl IntoIterator<Item = (N, V)>) -> Result<Principal, PrincipalError>
    where
        N: AsRef<str>,
        V: IntoIterator<Item: AsRef<str>>,
    {
        if self.is_anonymous() {
            return Ok(self.clone());
        }
        let mut sorted = Vec::new();
        for (name, values) in claims {
            let mut values: Vec<Arc<str>> = values.into_iter().map(|value| Arc::from(value.as_ref())).collect();
            let too_long = |text: &str| text.len() > MAX_CLAIM_BYTES;
            if values.len() > MAX_CLAIM_VALUES || too_long(name.as_ref()) || values.iter().any(|value| too_long(value))
            {
                return Err(PrincipalError::ClaimTooLarge);
            }
            values.sort_unstable();
            values.dedup();
            sorted.push(Claim { name: name.as_ref().into(), values: values.into() });
        }
        if sorted.len() > MAX_CLAIMS {
            return Err(PrincipalError::TooManyClaims(sorted.len()));
        }
        sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if sorted.windows(2).any(|pair| matches!(pair, [a, b] if a.name == b.name)) {
            return Err(PrincipalError::ClaimTwice);
        }
        Ok(self.with(self.grants(), sorted.into(), self.0.via.clone()))
    }

    /// The same principal, for whom this workload calls: rules that ask for the workload hold for it, too. What limits and
    /// records know it by is the principal alone.
    #[must_use]
    pub fn through(&self, workload: &Principal) -> Principal {
        self.with(self.grants(), self.0.claims.clone(), Some(workload.clone()))
    }

    /// The workload that calls for it.
    pub fn via(&self) -> Option<&Principal> {
        self.0.via.as_ref()
    }

    /// Whether it is the very same, not only an equal one: cheap, and true of all that were made of one.
    pub fn is_same(&self, other: &Principal) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Where it is kept: another one for as long as this one exists.
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn grants(&self) -> Grants {
        (self.0.roles.clone(), self.0.scopes.clone())
    }

    fn with(&self, grants: Grants, claims: Box<[Claim]>, via: Option<Principal>) -> Principal {
        Principal::of(self.0.kind.clone(), Arc::clone(&self.0.id), grants, claims, via)
    }

    fn from_parts(kind: PrincipalKind, id: Arc<str>) -> Principal {
        Principal::of(kind, id, Grants::default(), Box::default(), None)
    }

    fn of(
        kind: PrincipalKind,
        id: Arc<str>,
        (roles, scopes): Grants,
        claims: Box<[Claim]>,
        via: Option<Principal>,
    ) -> Principal {
        let mut keys: Vec<u64> = match &kind {
            PrincipalKind::Workload { spiffe_id, service, .. } => {
                vec![name_key(NameKind::WorkloadId, spiffe_id), name_key(NameKind::WorkloadService, service)]
            }
            PrincipalKind::User { subject } => vec![name_key(NameKind::Subject, subject)],
            PrincipalKind::Anonymous => Vec::new(),
        };
        keys.extend(roles.iter().map(|role| name_key(NameKind::Role, role)));
        keys.extend(scopes.iter().map(|scope| name_key(NameKind::Scope, scope)));
        for claim in &claims {
            keys.extend(claim.values.iter().map(|value| name_key(NameKind::Claim, &claim_key(&claim.name, value))));
        }
        keys.extend(via.iter().flat_map(|via| via.keys().iter().copied()));
        Principal(Arc::new(Facts { kind, id, roles, scopes, claims, via, keys: keys.into() }))
    }

    /// What rules that name this caller, or a grant of it, exactly are found by.
    pub(crate) fn keys(&self) -> &[u64] {
        &self.0.keys
    }

    /// What kind of caller it is.
    pub fn kind(&self) -> &PrincipalKind {
        &self.0.kind
    }

    /// One name for logs, audit and rate limits: the SPIFFE URI, `user:<subject>` or `anonymous`. The three forms
    /// cannot be mistaken for each other.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The roles, sorted.
    pub fn roles(&self) -> &[Arc<str>] {
        &self.0.roles
    }

    /// The scopes, sorted.
    pub fn scopes(&self) -> &[Arc<str>] {
        &self.0.scopes
    }

    /// Whether the role was granted. Exact, case-sensitive.
    pub fn has_role(&self, role: &str) -> bool {
        self.0.roles.binary_search_by(|held| (**held).cmp(role)).is_ok()
    }

    /// Whether the scope was granted. Exact, case-sensitive.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.0.scopes.binary_search_by(|held| (**held).cmp(scope)).is_ok()
    }

    /// The claims, sorted by name.
    pub fn claims(&self) -> &[Claim] {
        &self.0.claims
    }

    /// The values of a claim; none when the caller does not have it. Exact, case-sensitive.
    pub fn claim(&self, name: &str) -> &[Arc<str>] {
        let found = self.0.claims.binary_search_by(|claim| (*claim.name).cmp(name)).ok();
        found.and_then(|at| self.0.claims.get(at)).map_or(&[], |claim| &claim.values)
    }

    /// Whether nothing was proven about this caller.
    pub fn is_anonymous(&self) -> bool {
        matches!(self.0.kind, PrincipalKind::Anonymous)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("id", &self.0.id)
            .field("roles", &self.0.roles)
            .field("scopes", &self.0.scopes)
            .field("claims", &self.0.claims)
            .field("via", &self.0.via.as_ref().map(Principal::id))
            .finish()
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.id)
    }
}

fn sorted_grants(grants: impl IntoIterator<Item: AsRef<str>>) -> Result<Box<[Arc<str>]>, PrincipalError> {
    let mut grants: Vec<Arc<str>> = grants.into_iter().map(|grant| Arc::from(grant.as_ref())).collect();
    if grants.len() > MAX_GRANTS {
        return Err(PrincipalError::TooManyGrants(grants.len()));
    }
    grants.sort_unstable();
    grants.dedup();
    Ok(grants.into_boxed_slice())
}

/// Splits `spiffe://<trust domain>/<path>` (SPIFFE-ID specification, sections 2.1 and 2.2: no port, no query, no
/// empty or dotted path segment, lower-case trust domain).
fn split_spiffe_id(id: &str) -> Result<(&str, &str), PrincipalError> {
    let fail = |why| Err(PrincipalError::NotSpiffe(why));
    if id.len() > MAX_SPIFFE_ID_BYTES {
        return fail("too long");
    }
    let Some(rest) = id.strip_prefix("spiffe://") else {
        return fail("the scheme is not spiffe://");
    };
    let Some((domain, path)) = rest.split_once('/') else {
        return fail("there is no path");
    };
    let domain_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if domain.is_empty() || !domain.bytes().all(domain_byte) {
        return fail("the trust domain must be lower-case letters, digits, '.', '-' and '_'");
    }
    let segment_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let bad_segment = |s: &str| s.is_empty() || s == "." || s == ".." || !s.bytes().all(segment_byte);
    if path.split('/').any(bad_segment) {
        return fail("the path must be letters, digits, '.', '-' and '_'");
    }
    Ok((domain, path))
}

#[cfg(test)]
mod tests {
    use super::{MAX_GRANTS, Principal, PrincipalError, PrincipalKind};

    #[test]
    fn ids_are_distinct_by_kind() {
        let workload = Principal::workload("spiffe://demo.outrigger.local/fs").unwrap();
        assert_eq!(workload.id(), "spiffe://demo.outrigger.local/fs");
        assert_eq!(Principal::user("ada").unwrap().id(), "user:ada");
        assert_eq!(Principal::anonymous().id(), "anonymous");
        // A token cannot be issued to somebody whose id then reads like a workload or like nobody.
        assert_ne!(Principal::user("anonymous").unwrap().id(), Principal::anonymous().id());
        assert_ne!(Principal::user(workload.id()).unwrap().id(), workload.id());
    }

    #[test]
    fn a_spiffe_id_is_taken_apart() {
        let who = Principal::workload("spiffe://demo/fs").unwrap();
        let PrincipalKind::Workload { trust_domain, service, .. } = who.kind() else { panic!("not a workload") };
        assert_eq!((&**trust_domain, &**service), ("demo", "fs"));
    }

    #[test]
    fn malformed_spiffe_ids_are_refused() {
        for bad in [
            "",
            "demo/fs",
            "SPIFFE://demo/fs",
            "spiffe://demo",
            "spiffe://demo/",
            "spiffe:///fs",
            "spiffe://De/fs",
            "spiffe://demo:1/fs",
            "spiffe://demo/fs/",
            "spiffe://demo//fs",
            "spiffe://demo/../fs",
            "spiffe://demo/f?s",
            "spiffe://u@demo/fs",
            "spiffe://demo/f%2fs",
        ] {
            assert!(matches!(Principal::workload(bad), Err(PrincipalError::NotSpiffe(_))), "{bad}");
        }
    }

    #[test]
    fn subjects_cannot_forge_log_lines() {
        assert_eq!(Principal::user("a\nb"), Err(PrincipalError::ControlCharacter));
        assert_eq!(Principal::user(""), Err(PrincipalError::EmptySubject));
        assert_eq!(Principal::user(&"a".repeat(300)), Err(PrincipalError::SubjectTooLong(300)));
    }

    #[test]
    fn claims_are_exact_bounded_and_not_shown() {
        let ada = Principal::user("ada").unwrap();
        let claims = [("department", vec!["research", "legal"]), ("badge", vec!["4711"])];
        let known = ada.with_claims(claims).unwrap().with_grants(["admin"], [""; 0]).unwrap();
        assert_eq!(known.claim("department").iter().map(|value| &**value).collect::<Vec<_>>(), ["legal", "research"]);
        assert!(known.has_role("admin") && known.claim("Department").is_empty() && known.claim("x").is_empty());
        let shown = format!("{known:?}");
        assert!(shown.contains("department") && !shown.contains("legal") && !shown.contains("4711"), "{shown}");
        assert_ne!(known, ada);
        let none: [(&str, [&str; 0]); 0] = [];
        assert_eq!(known.with_claims(none).unwrap().claims(), []);

        let wrong = |claims: Vec<(String, Vec<String>)>| ada.with_claims(claims).unwrap_err();
        let many = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(wrong(vec![("a".into(), many(1)), ("a".into(), many(2))]), PrincipalError::ClaimTwice);
        assert_eq!(wrong(vec![("a".into(), many(300))]), PrincipalError::ClaimTooLarge);
        assert_eq!(wrong(vec![("a".into(), vec!["x".repeat(2000)])]), PrincipalError::ClaimTooLarge);
        let all = many(65).into_iter().map(|name| (name, vec![String::new()])).collect();
        assert_eq!(wrong(all), PrincipalError::TooManyClaims(65));
        assert_eq!(Principal::anonymous().with_claims([("a", ["b"])]).unwrap().claims(), [], "nobody claims nothing");
    }

    #[test]
    fn a_user_that_a_workload_calls_for_is_itself() {
        let ingress = Principal::workload("spiffe://demo/ingress").unwrap();
        let ada = Principal::user("ada").unwrap().with_grants(["admin"], ["read"]).unwrap();
        let called = ada.through(&ingress);
        assert_eq!((called.id(), called.via().map(Principal::id)), ("user:ada", Some("spiffe://demo/ingress")));
        assert!(called.has_role("admin") && called != ada && called == ada.through(&ingress));
        let more = called.with_grants(["x"], ["y"]).unwrap().with_claims([("a", ["b"])]).unwrap();
        assert!(more.via().is_some() && more.has_role("x"));
        assert!(ada.is_same(&ada.clone()) && !ada.is_same(&called) && ada.address() == ada.clone().address());
    }

    #[test]
    fn grants_are_exact_and_bounded() {
        let ada = Principal::user("ada").unwrap().with_grants(["admin"], ["write", "read", "read"]).unwrap();
        assert!(ada.has_scope("read") && ada.has_scope("write") && ada.has_role("admin"));
        assert!(!ada.has_scope("rea") && !ada.has_scope("READ") && !ada.has_role("read"));
        assert_eq!(ada.scopes().len(), 2);
        let many: Vec<String> = (0..=MAX_GRANTS).map(|n| n.to_string()).collect();
        assert!(matches!(ada.with_grants(&many, [""; 0]), Err(PrincipalError::TooManyGrants(_))));
    }

    #[test]
    fn nobody_can_be_granted_nothing() {
        let nobody = Principal::anonymous().with_grants(["admin"], ["read"]).unwrap();
        assert!(!nobody.has_role("admin") && !nobody.has_scope("read"));
    }
}
