//! identify: makes a principal from a bearer token or a client certificate; nothing else can.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use http::{HeaderMap, header};
use outrigger_identity::Credentials;
use outrigger_policy::{Principal, PrincipalKind, TokenTable};
use outrigger_proxy::failure::Failure;
use outrigger_proxy::handshake::ConnInfo;

use crate::oauth::{OAuth, Proven};

/// Of `p.` and half a digest.
const TAG_LEN: usize = 2 + 32;

/// How clients prove who they are.
#[derive(Debug)]
pub(crate) struct Clients {
    /// Tokens in force; swapped on reload.
    pub(crate) tokens: ArcSwap<TokenTable>,
    /// A caller that proves nothing is let in; only on loopback.
    pub(crate) anonymous: bool,
    /// Identity providers.
    pub(crate) oauth: Option<OAuth>,
    /// Present when the listener asks for client certificates.
    pub(crate) members: Option<Arc<Credentials>>,
    /// Our own certificate is from an authority that also says what is revoked.
    pub(crate) enrolled: bool,
}

impl Clients {
    /// Who calls the endpoint of this path, and until when that holds where it ends by itself. A credential that is shown
    /// must be good, also where none is needed.
    ///
    /// # Errors
    /// [`Failure::Unauthenticated`], [`Failure::InvalidToken`]; [`Failure::NoTokenKeys`] when nobody can say.
    pub(crate) async fn identify(&self, headers: &HeaderMap, path: &str, conn: &ConnInfo) -> Result<Proven, Failure> {
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        match (shown.next(), shown.next()) {
            (Some(_), Some(_)) => return Err(Failure::Unauthenticated("several Authorization headers")),
            (Some(value), None) => return self.by_token(value.as_bytes(), path).await,
            (None, _) => {}
        }
        if let (Some(members), Some(certificates)) = (&self.members, conn.peer_certs()) {
            // The listener has no revocation list then; the authority's is asked once for a connection, and again for those
            // that are open whenever it changes.
            let unchecked = self.enrolled && conn.principal.get().is_none();
            let proven = if unchecked { members.recheck(Some(certificates)) } else { members.peer(Some(certificates)) };
            let id = proven.map_err(|error| {
                tracing::debug!(peer = %conn.peer_addr, %error, "client certificate refused");
                Failure::Unauthenticated("the client certificate is not acceptable")
            })?;
            let refused = Failure::Unauthenticated("the client certificate names nobody");
            let principal = Principal::workload(id.as_str()).map_err(|_| refused)?;
            // Two requests at once may both have looked; they found the same.
            let _ = conn.principal.set(principal.clone());
            return Ok(Proven::lasting(principal));
        }
        if self.anonymous && conn.local_addr.ip().is_loopback() {
            return Ok(Proven::lasting(Principal::anonymous()));
        }
        Err(Failure::Unauthenticated("send a token: `Authorization: Bearer <token>`"))
    }

    /// Who shows this bearer token; nothing else counts.
    ///
    /// # Errors
    /// As [`Clients::identify`].
    pub(crate) async fn bearer(&self, headers: &HeaderMap, path: &str) -> Result<Proven, Failure> {
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        match (shown.next(), shown.next()) {
            (Some(value), None) => self.by_token(value.as_bytes(), path).await,
            (Some(_), Some(_)) => Err(Failure::Unauthenticated("several Authorization headers")),
            (None, _) => Err(Failure::Unauthenticated("send a token: `Authorization: Bearer <token>`")),
        }
    }

    /// Whether somebody who proved this earlier could still do so: a token that was taken away, or has ended, ends what was
    /// begun with it.
    pub(crate) fn still(&self, principal: &Principal, until: Option<SystemTime>) -> bool {
        match until {
            Some(until) => SystemTime::now() < until,
            None => !matches!(principal.kind(), PrincipalKind::User { .. }) || self.tokens.load().names(principal),
        }
    }

    async fn by_token(&self, value: &[u8], path: &str) -> Result<Proven, Failure> {
        let token = match value.split_at_checked(7) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest.trim_ascii(),
            _ => return Err(Failure::Unauthenticated("only `Authorization: Bearer <token>` is accepted")),
        };
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token).as_ref());
        if let Some(principal) = self.tokens.load().lookup(&hash) {
            return Ok(Proven::lasting(principal.clone()));
        }
        let oauth = self.oauth.as_ref().ok_or(Failure::InvalidToken)?;
        oauth.verify(token, &hash, path).await.map_err(|refused| {
            tracing::debug!(%refused, "a token was refused");
            refused.into()
        })
    }
}

/// What stateful servers tell the sessions of modern clients apart by: one per principal. A hash, because servers may
/// log it and need not learn who it is.
pub(crate) fn session_tag(principal: &Principal) -> Arc<str> {
    let hash = digest(&SHA256, principal.id().as_bytes());
    let mut text = String::with_capacity(TAG_LEN);
    text.push_str("p.");
    HEXLOWER.encode_append(hash.as_ref().first_chunk::<16>().map_or(&[][..], |half| half), &mut text);
    Arc::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(anonymous: bool) -> Clients {
        let mut tokens = TokenTable::default();
        let hash = HEXLOWER.encode(digest(&SHA256, b"secret").as_ref());
        let token =
            outrigger_policy::StaticToken { subject: "ada".into(), sha256: hash, roles: vec![], scopes: vec![] };
        tokens.insert(&token).unwrap();
        let tokens = ArcSwap::from_pointee(tokens);
        Clients { tokens, anonymous, oauth: None, members: None, enrolled: false }
    }

    async fn identify(clients: &Clients, values: &[&str], local: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("authorization", value.parse().unwrap());
        }
        let conn = ConnInfo::new("192.0.2.1:1".parse().unwrap(), local.parse().unwrap(), None);
        clients.identify(&headers, "/mcp", &conn).await.ok().map(|proven| proven.principal.id().to_owned())
    }

    #[tokio::test]
    async fn a_token_names_its_subject() {
        for good in ["Bearer secret", "bearer secret", "Bearer   secret "] {
            assert_eq!(identify(&clients(false), &[good], "127.0.0.1:1").await.as_deref(), Some("user:ada"), "{good}");
        }
    }

    #[tokio::test]
    async fn bad_credentials_are_refused_even_where_none_is_needed() {
        for bad in
            [&["Bearer other"][..], &["Bearer "], &["Basic secret"], &["secret"], &["Bearer secret", "Bearer secret"]]
        {
            assert_eq!(identify(&clients(true), bad, "127.0.0.1:1").await, None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn anonymous_callers_come_from_this_machine_only() {
        assert_eq!(identify(&clients(true), &[], "127.0.0.1:1").await.as_deref(), Some("anonymous"));
        assert_eq!(identify(&clients(true), &[], "192.0.2.7:1").await, None);
        assert_eq!(identify(&clients(false), &[], "127.0.0.1:1").await, None);
    }

    #[test]
    fn tags_tell_principals_apart_without_naming_them() {
        let (ada, bob) = (Principal::user("ada").unwrap(), Principal::user("bob").unwrap());
        assert_ne!(session_tag(&ada), session_tag(&bob));
        assert_eq!(session_tag(&ada), session_tag(&Principal::user("ada").unwrap()));
        assert!(!session_tag(&ada).contains("ada"));
    }
}
