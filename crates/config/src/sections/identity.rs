//! Names in the mesh, and the files that prove them.

use std::path::PathBuf;

use crate::fields::{Fields, doc};
use crate::kinds::{self, Checked, Kind};

/// The longest service name, so that a prefix leaves room for the capability in 64 characters.
const SERVICE_NAME_MAX: usize = 20;

/// The files of a workload's identity. All are PEM and are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The part of a SPIFFE id after `spiffe://`.
    pub trust_domain: String,
    /// Certificate chain, the own certificate first.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Certificates of the authorities whose workloads are believed.
    pub ca: PathBuf,
    /// Revoked certificates.
    pub crl: Option<PathBuf>,
}

/// Reads the `identity` section.
pub fn identity(f: &mut Fields<'_>) -> Option<Identity> {
    let text =
        doc("The mesh that this program belongs to; peers of another one are refused.").env("OUTRIGGER_TRUST_DOMAIN");
    let trust_domain = f.required("trust_domain", text.example("demo.outrigger.local"), trust_domain());
    let text = doc("Certificate chain (PEM), the own certificate first. Read again when the file changes.");
    let cert = f.required("cert", text.env("OUTRIGGER_CERT").example("/identity/cert.pem"), kinds::path());
    let text = doc("Private key (PEM). Read again when the file changes.").env("OUTRIGGER_KEY");
    let key = f.required("key", text.example("/identity/key.pem"), kinds::path());
    let text = doc("Certificates (PEM) of the authorities that peers must come from.").env("OUTRIGGER_CA");
    let ca = f.required("ca", text.example("/identity/ca.pem"), kinds::path());
    let text = doc("Revocation list (PEM): certificates in it are refused.").env("OUTRIGGER_CRL");
    let crl = f.optional("crl", text, kinds::path());
    Some(Identity { trust_domain: trust_domain?, cert: cert?, key: key?, ca: ca?, crl })
}

/// The name of a service: `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, at most 20 characters.
pub fn service_name() -> Kind<String> {
    kinds::checked(Checked {
        name: "service name",
        pattern: "^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$",
        accepts: |name| {
            let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            let ends = [name.bytes().next(), name.bytes().last()];
            name.len() <= SERVICE_NAME_MAX
                && name.bytes().all(|byte| good(byte) || byte == b'-')
                && ends.into_iter().all(|end| end.is_some_and(good))
        },
        hint: "1 to 20 of a-z, 0-9 and `-`, with a letter or digit at both ends",
    })
}

/// A trust domain (SPIFFE-ID section 2.1): lower-case letters, digits, `.`, `-`, `_`.
pub fn trust_domain() -> Kind<String> {
    kinds::checked(Checked {
        name: "trust domain",
        pattern: "^[a-z0-9._-]{1,255}$",
        accepts: is_trust_domain,
        hint: "the part after spiffe://, in lower case: demo.outrigger.local",
    })
}

/// A SPIFFE id with a path, in which `*` may stand for any characters when `globs` is set.
pub fn spiffe_id(globs: bool) -> Kind<String> {
    let (name, pattern, accepts): (_, _, fn(&str) -> bool) = if globs {
        ("SPIFFE id pattern", "^spiffe://[a-z0-9._*-]+/.+$", |text| is_spiffe_id(&text.replace('*', "x")))
    } else {
        ("SPIFFE id", "^spiffe://[a-z0-9._-]+/.+$", is_spiffe_id)
    };
    kinds::checked(Checked { name, pattern, accepts, hint: "spiffe://<trust domain>/<service>" })
}

fn is_trust_domain(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    !text.is_empty() && text.len() <= 255 && text.bytes().all(good)
}

fn is_spiffe_id(text: &str) -> bool {
    let Some((domain, path)) = text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(good);
    text.len() <= 2048 && is_trust_domain(domain) && path.split('/').all(segment)
}
