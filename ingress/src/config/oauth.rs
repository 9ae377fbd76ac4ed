//! Identity providers whose tokens clients may present (OAuth 2.1; we are the resource server).

use std::path::PathBuf;
use std::time::Duration;

use outrigger_config::kinds::{self, Checked, Kind};
use outrigger_config::sections::{MINUTE, SECOND};
use outrigger_config::{Fields, doc};
use outrigger_policy::MAX_CLAIMS;

/// The `oauth` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuth {
    /// Who issues tokens.
    pub issuers: Vec<Issuer>,
    /// Scopes that metadata and challenges name.
    pub scopes: Vec<String>,
    /// Further scopes that a call may ask for.
    pub step_up: Vec<String>,
}

/// One identity provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its identifier, compared exactly with `iss` and with its own metadata.
    pub issuer: String,
    /// Where its keys are; found by its metadata when absent.
    pub jwks_uri: Option<String>,
    /// Values of `aud` of which a token must have one; the URL of the endpoint when empty.
    pub audiences: Vec<String>,
    /// Signature algorithms that are accepted.
    pub algorithms: Vec<Signature>,
    /// Authorities of its TLS certificate; those of the system when absent.
    pub ca: Option<PathBuf>,
    /// How far its clock may be from ours.
    pub clock_skew: Duration,
    /// The claim with the subject.
    pub subject: String,
    /// Stands before every subject of this provider.
    pub subject_prefix: String,
    /// The claim with the roles, `.` between the names of nested ones.
    pub roles: Option<String>,
    /// The claim with the scopes: a list, or words in a text.
    pub scope: String,
    /// Who tells about its opaque tokens, and how to ask.
    pub introspection: Option<Introspection>,
    /// Further claims that policy sees: the name there, and where the token has it.
    pub claims: Vec<(String, String)>,
}

/// How to ask a provider about opaque tokens (RFC 7662).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introspection {
    /// Where; found by its metadata when absent.
    pub url: Option<String>,
    /// Who we are there.
    pub client_id: String,
    /// A file with our secret there.
    pub client_secret_file: PathBuf,
    /// How long an answer counts.
    pub cache: Duration,
    /// How long to wait for an answer.
    pub timeout: Duration,
}

/// A signature algorithm of RFC 7518 or RFC 8037. None of them has a shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the RFCs")]
pub enum Signature {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

const SIGNATURES: &[(&str, Signature)] = &[
    ("RS256", Signature::Rs256),
    ("RS384", Signature::Rs384),
    ("RS512", Signature::Rs512),
    ("PS256", Signature::Ps256),
    ("PS384", Signature::Ps384),
    ("PS512", Signature::Ps512),
    ("ES256", Signature::Es256),
    ("ES384", Signature::Es384),
    ("EdDSA", Signature::EdDsa),
];

/// Reads the `oauth` section.
pub fn read(f: &mut Fields<'_>) -> Option<OAuth> {
    let text = doc("Scopes that clients should ask for: named in the metadata and in challenges.");
    let text = text.because("without any, clients ask for what their provider gives by default");
    let scopes = f.with_default("scopes", text.example("[mcp:read, mcp:write]"), kinds::list_of(scope()), Vec::new());
    let text = doc(
        "Further scopes: a call that lacks nothing but these, or `scopes`, is answered with 403 and their names, so that the client asks for them. Whoever has a token may learn them.",
    );
    let text = text.because("what a caller may not use looks as if it did not exist");
    let text = text.example("[mcp:admin]");
    let step_up = f.with_default("step_up", text, kinds::list_of(scope()), Vec::new());
    let mut issuers: Vec<Issuer> = Vec::new();
    f.list("issuers", "Identity providers, whose tokens (JWT) are accepted.", |f| {
        let read = read_issuer(f)?;
        let same = |known: &&Issuer| known.issuer == read.issuer || known.subject_prefix == read.subject_prefix;
        if let Some(known) = issuers.iter().find(same) {
            let message = format!("{} has the same subjects as {}", read.issuer, known.issuer);
            f.mistake("issuer", message, "name each provider once, and give one of them a `subject_prefix`");
        }
        issuers.push(read);
        Some(())
    });
    if issuers.is_empty() && !f.is_describing() {
        f.mistake("issuers", "no identity provider is named", "add one: `issuers: [ { issuer: https://... } ]`");
    }
    Some(OAuth { issuers, scopes, step_up })
}

fn read_issuer(f: &mut Fields<'_>) -> Option<Issuer> {
    let text = doc("Its identifier: tokens have exactly this as `iss`, and its metadata is found below this URL.");
    let issuer = f.required("issuer", text.example("https://id.example.com/realms/demo"), web_url());
    let text = doc("Where its keys are (JWKS). Without it, found by its metadata (RFC 8414, OpenID discovery).");
    let jwks_uri = f.optional("jwks_uri", text, web_url());
    let text = doc("Values of `aud` of which a token must have one.");
    let text = text.because("a token is good for the endpoint whose URL it names, as RFC 8707 has it");
    let audiences = f.with_default("audiences", text, kinds::list_of(kinds::text()), Vec::new());
    let text = doc("Signature algorithms that are accepted.").because("what providers sign with");
    let usual = vec![Signature::Rs256, Signature::Ps256, Signature::Es256, Signature::EdDsa];
    let algorithms = f.with_default("algorithms", text, kinds::list_of(kinds::choice(SIGNATURES)), usual);
    let text = doc("Authorities (PEM) of its TLS certificate. Without it, those of the system.");
    let ca = f.optional("ca", text, kinds::path());
    let text = doc("How far its clock may be from ours.").because("servers that keep time agree within seconds");
    let clock_skew = f.with_default("clock_skew", text, kinds::duration(Duration::ZERO..=5 * MINUTE), 30 * SECOND);
    let text = doc("The claim that names the caller in policy, log and audit.");
    let text = text.because("it is the one that every token has and no other user gets later");
    let subject = f.with_default("subject_claim", text, claim(), "sub".to_owned());
    let text = doc("Stands before every subject of this provider in policy, log and audit.").example("staff/");
    let text = text.because("with one provider, names are as they are; of two, one must have a prefix, or a name of the one could pass for one of the other");
    let subject_prefix = f.with_default("subject_prefix", text, prefix(), String::new());
    let text = doc("The claim with the roles, a list; `.` leads into objects.");
    let roles = f.optional("roles_claim", text.example("realm_access.roles"), claim());
    let text = doc("The claim with the scopes: words in a text, or a list.").because("RFC 9068 has it there");
    let scope = f.with_default("scope_claim", text, claim(), "scope".to_owned());
    let text =
        "Opaque tokens of this provider: whether they are good is asked there (RFC 7662). Without it, only JWTs count.";
    let introspection = f.optional_section("introspection", text, read_introspection);
    let text = doc("Further claims that policy sees: the name there, and the claim; `.` leads into objects.");
    let text = text.because("what no rule asks for need not be kept").example("{ department: org.department }");
    let claims = f.with_default("claims", text, kinds::map_of(claim_name(), claim()), Vec::new());
    if claims.len() > MAX_CLAIMS {
        f.mistake(
            "claims",
            format!("{} claims", claims.len()),
            format!("at most {MAX_CLAIMS}: those that rules ask for"),
        );
    }
    let issuer = issuer?;
    Some(Issuer {
        issuer,
        jwks_uri,
        audiences,
        algorithms,
        ca,
        clock_skew,
        subject,
        subject_prefix,
        roles,
        scope,
        introspection,
        claims,
    })
}

fn read_introspection(f: &mut Fields<'_>) -> Option<Introspection> {
    let text = doc("Where to ask. Without it, found by the provider's metadata (`introspection_endpoint`).");
    let url = f.optional("url", text, web_url());
    let client_id = f.required("client_id", doc("Who we are at the provider.").example("outrigger"), kinds::text());
    let text = doc("A file with our secret at the provider. Read again when the provider refuses us.");
    let client_secret_file =
        f.required("client_secret_file", text.example("/run/secrets/introspection"), kinds::path());
    let text = doc("How long an answer counts; never longer than the token lives.");
    let text = text.because("a token that is taken back ends this soon, and a busy client asks no more often");
    let cache = f.with_default("cache", text, kinds::duration(Duration::ZERO..=10 * MINUTE), 30 * SECOND);
    let text = doc("How long to wait for an answer; then the client is told to come back.");
    let text = text.because("providers answer within milliseconds, and callers wait meanwhile");
    let timeout = f.with_default("timeout", text, kinds::duration(SECOND / 10..=MINUTE), 5 * SECOND);
    Some(Introspection { url, client_id: client_id?, client_secret_file: client_secret_file?, cache, timeout })
}

/// A URL that is dialled: over TLS, or on this machine.
fn web_url() -> Kind<String> {
    kinds::checked(Checked {
        name: "URL",
        pattern: "^https?://[^\\s?#@]+$",
        accepts: |text| {
            let plain = |rest: &str| {
                let host = rest.split('/').next().unwrap_or_default();
                let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
                matches!(host, "localhost" | "[::1]") || host.starts_with("127.")
            };
            let good = !text.contains(['?', '#', '@', ' ']) && text.parse::<http::Uri>().is_ok();
            let secure = text.strip_prefix("https://").is_some_and(|rest| !rest.is_empty());
            good && (secure || text.strip_prefix("http://").is_some_and(plain))
        },
        hint: "https://host/path without query; http only for this machine",
    })
}

/// RFC 6749 section 3.3.
fn scope() -> Kind<String> {
    kinds::checked(Checked {
        name: "scope",
        pattern: "^[\\x21\\x23-\\x5B\\x5D-\\x7E]+$",
        accepts: |text| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
        },
        hint: "visible ASCII without spaces, quotes and backslashes: mcp:read",
    })
}

fn prefix() -> Kind<String> {
    kinds::checked(Checked {
        name: "prefix",
        pattern: "^[!-~]{0,64}$",
        accepts: |text| text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic()),
        hint: "up to 64 visible ASCII characters: staff/",
    })
}

/// How rules name a claim.
fn claim_name() -> Kind<String> {
    kinds::checked(Checked {
        name: "name of a claim",
        pattern: "^[A-Za-z0-9_.:/-]{1,256}$",
        accepts: |text| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:/-".contains(&byte);
            (1..=256).contains(&text.len()) && text.bytes().all(good)
        },
        hint: "letters, digits and `_.:/-`, as rules name it: department",
    })
}

fn claim() -> Kind<String> {
    kinds::checked(Checked {
        name: "claim",
        pattern: "^[^.\\s]+(\\.[^.\\s]+)*$",
        accepts: |text| text.split('.').all(|part| !part.is_empty() && !part.contains(char::is_whitespace)),
        hint: "a claim's name, or names with `.` between them: realm_access.roles",
    })
}
