//! Who clients may be, and from where: TLS, tokens, anonymous access, Origin and Host.

use std::net::SocketAddr;
use std::path::PathBuf;

use outrigger_config::kinds::{self, Checked, Kind};
use outrigger_config::{Diagnostics, Fields, doc, load};
use outrigger_policy::{StaticToken, TokenTable};

/// Files for TLS on the client listener, PEM, read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificate chain, the own certificate first.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Authorities of client certificates. With it a client may present one, and must not.
    pub client_ca: Option<PathBuf>,
}

/// Who clients may be, and from where.
#[derive(Debug, Clone)]
pub struct Clients {
    /// A client without a token or certificate is the anonymous principal. Only on a loopback address.
    pub anonymous: bool,
    /// Tokens of the settings themselves.
    pub tokens: TokenTable,
    /// A file with more of the same, read again when it changes.
    pub tokens_file: Option<PathBuf>,
    /// Values of `Origin` that are accepted besides our own host's and loopback ones.
    pub allowed_origins: Vec<String>,
    /// Values of `Host` that are accepted besides the public URL's, the listen address and loopback ones.
    pub allowed_hosts: Vec<String>,
}

/// Reads a `tls` section for clients.
pub fn client_tls(f: &mut Fields<'_>) -> Option<Tls> {
    let text = doc("Certificate chain (PEM) for clients. Read again when the file changes.");
    let cert = f.required("cert", text, kinds::path());
    let key = f.required("key", doc("Its private key (PEM)."), kinds::path());
    let text = doc(
        "Authorities (PEM) of client certificates. With it a client may present one instead of a token; none is required.",
    );
    let client_ca = f.optional("client_ca", text, kinds::path());
    Some(Tls { cert: cert?, key: key?, client_ca })
}

/// Reads a file of tokens: `tokens:` as in the settings, and nothing else.
///
/// # Errors
/// Every mistake in it.
pub fn tokens_from_file(name: &str, text: &str) -> Result<TokenTable, Diagnostics> {
    load(Some((name, text)), &|_| None, |f| Some(read_tokens(f))).map(|loaded| loaded.value)
}

pub(super) fn read(f: &mut Fields<'_>, listen: SocketAddr, tls: Option<&Tls>) -> Option<Clients> {
    let text = doc(
        "A client without a token or certificate is let in as the anonymous principal. Only on a loopback address.",
    );
    let text = text.because("whoever calls must be known").env("OUTRIGGER_ANONYMOUS");
    let anonymous = f.with_default("anonymous", text, kinds::boolean(), false);
    let text = doc("A file with `tokens:` as below, read again when it changes.").env("OUTRIGGER_TOKENS_FILE");
    let tokens_file = f.optional("tokens_file", text, kinds::path());
    let tokens = read_tokens(f);
    let text = doc("Web pages that may call, as browsers name them in `Origin`.").example("[https://app.example.com]");
    let text = text.because("only pages under our own address and port; others are an attack by DNS rebinding");
    let text = text.env("OUTRIGGER_ALLOWED_ORIGINS");
    let allowed_origins = f.with_default("allowed_origins", text, kinds::list_of(origin()), Vec::new());
    let text = doc("Further names of this ingress that may stand in `Host`.")
        .env("OUTRIGGER_ALLOWED_HOSTS")
        .example("[mcp.example.com]");
    let text = text.because("the public URL's host, the listen address and loopback names are accepted anyway");
    let allowed_hosts = f.with_default("allowed_hosts", text, kinds::list_of(host_pattern()), Vec::new());
    let clients = Clients { anonymous, tokens, tokens_file, allowed_origins, allowed_hosts };
    check(f, &clients, listen, tls);
    Some(clients)
}

/// Rules between settings.
fn check(f: &mut Fields<'_>, clients: &Clients, listen: SocketAddr, tls: Option<&Tls>) {
    if clients.anonymous && !listen.ip().is_loopback() {
        let message = format!("anonymous access on {listen}, which other machines reach");
        f.mistake("anonymous", message, "listen on 127.0.0.1, or give clients tokens");
    }
    if f.has("tokens") && clients.tokens_file.is_some() {
        f.mistake("tokens", "both `tokens` and `tokens_file` are given", "keep all tokens in one place");
    }
    let certificates = tls.is_some_and(|tls| tls.client_ca.is_some());
    let tokens = !clients.tokens.is_empty() || clients.tokens_file.is_some();
    if !clients.anonymous && !certificates && !tokens && !f.has("oauth") {
        let hint =
            "add `tokens` or `tokens_file`, `oauth`, `tls.client_ca`, or on a loopback address `anonymous: true`";
        f.mistake("", "no client could authenticate", hint);
    }
    if tls.is_none() && !f.has("tls") && !listen.ip().is_loopback() {
        let hint = "add `tls`, unless a proxy in front of this ingress ends TLS";
        f.warn("listen", "clients of other machines send their tokens unencrypted", hint);
    }
}

fn read_tokens(f: &mut Fields<'_>) -> TokenTable {
    let mut table = TokenTable::default();
    f.list("tokens", "Static bearer tokens, known only by their hash.", |f| {
        let subject = f.required("subject", doc("Who presents it.").example("alice"), kinds::text());
        let text = doc("SHA-256 of the token, in hexadecimal: `printf %s \"$TOKEN\" | sha256sum`.");
        let sha256 = f.required("sha256", text, kinds::sha256());
        let text = doc("Roles granted, for policy.").because("nothing is granted by itself");
        let roles = f.with_default("roles", text, kinds::list_of(kinds::text()), Vec::new());
        let text = doc("Scopes granted, for policy.").because("nothing is granted by itself");
        let scopes = f.with_default("scopes", text, kinds::list_of(kinds::text()), Vec::new());
        let token = StaticToken { subject: subject?, sha256: sha256?, roles, scopes };
        if let Err(wrong) = table.insert(&token) {
            f.mistake("subject", wrong.to_string(), "each subject needs a token of its own");
        }
        Some(())
    });
    table
}

/// An origin as browsers send it (RFC 6454 section 6.1): scheme, host, and a port that is not the scheme's own.
pub fn origin() -> Kind<String> {
    kinds::checked(Checked {
        name: "origin",
        pattern: "^[a-z][a-z0-9+.-]*://[^/?#@\\s]+$",
        accepts: |text| {
            text.split_once("://").is_some_and(|(scheme, host)| {
                let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+.-".contains(c);
                !scheme.is_empty() && scheme.chars().all(good) && is_host(host)
            })
        },
        hint: "scheme and host as browsers send them, without a path: https://app.example.com",
    })
}

/// A host, with a port when it is to count.
pub fn host_pattern() -> Kind<String> {
    kinds::checked(Checked {
        name: "host",
        pattern: "^[^/?#@\\s]+$",
        accepts: is_host,
        hint: "a host, or host:port, without scheme and path: mcp.example.com",
    })
}

fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 260
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
}
