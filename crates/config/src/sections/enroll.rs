//! The authority that is asked for a certificate: where it is, how it is known, what proves us.

use std::path::PathBuf;
use std::time::Duration;

use crate::fields::{Fields, doc};
use crate::kinds::{self, HostPort, Kind, Mistake, Scheme};
use crate::secret::Secret;

/// The shortest and the longest life that can be asked for.
const LIVES: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(365 * 24 * 3600);

/// Where the authority listens.
pub type Authority = HostPort;

/// How a workload gets its certificate from an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enroll {
    /// Where the authority is.
    pub authority: Authority,
    /// How it is known.
    pub known_by: Anchor,
    /// What proves us.
    pub proof: JoinProof,
    /// How long a certificate should live; the authority decides unless set.
    pub life: Option<Duration>,
    /// Where key and certificate are kept over restarts; nowhere unless set.
    pub dir: Option<PathBuf>,
}

/// How the authority is known at the first contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anchor {
    /// By its roots in a file.
    File(PathBuf),
    /// By the SHA-256 of a root's public key.
    Digest([u8; 32]),
}

/// What proves a workload that has no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinProof {
    /// A join token.
    Token(Secret),
    /// A file with one, read at each attempt.
    TokenFile(PathBuf),
    /// A file with a service-account token, read at each attempt.
    KubernetesTokenFile(PathBuf),
}

/// What the section says.
pub(super) enum Choice {
    /// Nothing: certificates are in files.
    None,
    /// Something that is not complete; the mistakes are recorded.
    Wrong,
    /// All that is needed.
    Enroll(Enroll),
}

impl Enroll {
    /// For logs and readiness.
    pub fn url(&self) -> String {
        format!("https://{}", self.authority)
    }
}

/// Reads the `enroll` section.
pub(super) fn read(f: &mut Fields<'_>) -> Choice {
    let text = doc("Where the authority listens; with it, no files are needed.").env("OUTRIGGER_CA_URL");
    let url = f.optional("url", text.example("https://ca.example:8440"), kinds::url());
    let text = doc(
        "A join token, made with `outrigger ca token create`. It shows in the environment of the process; a file does not.",
    );
    let token = f.optional("token", text.env("OUTRIGGER_JOIN_TOKEN"), kinds::secret());
    let text = doc("A file with a join token, read at each attempt.").env("OUTRIGGER_JOIN_TOKEN_FILE");
    let token_file = f.optional("token_file", text.example("/run/secrets/join-token"), kinds::path());
    let text =
        doc("A file with the service-account token that Kubernetes projects for the authority, read at each attempt.");
    let text = text.env("OUTRIGGER_KUBERNETES_TOKEN_FILE").example("/var/run/secrets/outrigger/token");
    let kubernetes = f.optional("kubernetes_token_file", text, kinds::path());
    let text = doc("The authority's roots (PEM), for the first contact; later it says itself which they are.");
    let ca = f.optional("ca", text.env("OUTRIGGER_ENROLL_CA").example("/etc/outrigger/ca.pem"), kinds::path());
    let text = doc("Instead of `ca`: the SHA-256 of a root's public key, from `outrigger ca show`.");
    let digest = f.optional("ca_sha256", text.env("OUTRIGGER_CA_SHA256"), key_digest());
    let text = doc("How long certificates should live; the authority has a default and a bound.").example("1h");
    let life = f.optional("life", text, kinds::duration(LIVES));
    let text = doc(
        "Where key and certificate are kept over restarts, for the owner alone. Without it the key never leaves memory.",
    );
    let dir = f.optional("dir", text.env("OUTRIGGER_IDENTITY_DIR").example("/var/lib/outrigger"), kinds::path());

    let proofs = [
        token.map(JoinProof::Token),
        token_file.map(JoinProof::TokenFile),
        kubernetes.map(JoinProof::KubernetesTokenFile),
    ];
    let anchors = [ca.map(Anchor::File), digest.map(Anchor::Digest)];
    let Some(url) = url else {
        if proofs.iter().any(Option::is_some) || anchors.iter().any(Option::is_some) {
            f.mistake(
                "url",
                "this setting is missing",
                "for example `url: https://ca.example:8440`, or set OUTRIGGER_CA_URL",
            );
            return Choice::Wrong;
        }
        return Choice::None;
    };
    if url.scheme != Scheme::Https || url.path != "/" {
        f.mistake("url", "an authority is asked over TLS, at a path of its own", "write https://host:port");
    }
    let proof = only(f, "token_file", "`token`, `token_file` and `kubernetes_token_file`", proofs);
    let known_by = only(f, "ca", "`ca` and `ca_sha256`", anchors);
    match (proof, known_by) {
        (Some(proof), Some(known_by)) => {
            Choice::Enroll(Enroll { authority: url.authority, known_by, proof, life, dir })
        }
        _ => Choice::Wrong,
    }
}

/// The one that was given.
fn only<T, const N: usize>(f: &mut Fields<'_>, name: &str, names: &str, given: [Option<T>; N]) -> Option<T> {
    let mut given: Vec<T> = given.into_iter().flatten().collect();
    if given.len() == 1 {
        return given.pop();
    }
    let what = if given.is_empty() { "none is given" } else { "several are given" };
    f.mistake(name, format!("of {names} {what}"), "give exactly one of them");
    None
}

/// SHA-256 of a public key, as `outrigger ca show` prints it; no secret.
pub fn key_digest() -> Kind<[u8; 32]> {
    let parse = |text: &str| {
        let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        bytes
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or_else(|| Mistake::new("not a SHA-256", "64 hexadecimal digits, from `outrigger ca show`"))
    };
    let show = |digest: &[u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let schema = serde_json::json!({"type": "string", "pattern": "^(sha256:)?[0-9a-fA-F]{64}$"});
    Kind::scalar("SHA-256 in hexadecimal", schema, parse, show)
}
