//! Names in the mesh, and the files that prove them.

use std::path::PathBuf;

use crate::fields::{Fields, doc};
use crate::kinds::{self, Checked, Kind};

use super::agent::{self, AgentSocket};
use super::enroll::{self, Anchor, Enroll, JoinProof};

/// The longest service name, so that a prefix leaves room for the capability in 64 characters.
const SERVICE_NAME_MAX: usize = 20;

/// Who a workload is, and whom it believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The part of a SPIFFE id after `spiffe://`.
    pub trust_domain: String,
    /// What the own certificate must say; decided by the program unless set.
    pub spiffe_id: Option<String>,
    /// Where the certificate comes from.
    pub source: IdentitySource,
    /// Other trust domains whose workloads are believed.
    pub federation: Vec<Federated>,
}

/// Where a workload's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// Files that somebody replaces. All are PEM and are read again when they change.
    Files {
        /// Certificate chain, the own certificate first.
        cert: PathBuf,
        /// Private key.
        key: PathBuf,
        /// Certificates of the authorities whose workloads are believed.
        ca: PathBuf,
        /// Revoked certificates.
        crl: Option<PathBuf>,
    },
    /// An authority that is asked for one.
    Enroll(Enroll),
    /// An agent of the SPIFFE Workload API, such as SPIRE's, that hands one out.
    Agent(AgentSocket),
}

/// Another trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federated {
    /// Its name.
    pub trust_domain: String,
    /// Its roots.
    pub bundle: PathBuf,
    /// What it has revoked.
    pub crl: Option<PathBuf>,
}

impl Identity {
    /// The files to be looked at for changes.
    pub fn files(&self) -> Vec<PathBuf> {
        let key = match &self.source {
            IdentitySource::Files { key, .. } => Some(key.clone()),
            IdentitySource::Enroll(_) | IdentitySource::Agent(_) => None,
        };
        key.into_iter().chain(self.trusted_files()).collect()
    }

    /// What nobody else may read: keys and tokens.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        match &self.source {
            IdentitySource::Files { key, .. } => vec![key.clone()],
            IdentitySource::Enroll(enroll) => {
                let token = match &enroll.proof {
                    JoinProof::Token(_) => None,
                    JoinProof::TokenFile(path) | JoinProof::KubernetesTokenFile(path) => Some(path.clone()),
                };
                token.into_iter().chain(enroll.dir.clone()).collect()
            }
            // Whoever reaches it may be given the same identity.
            IdentitySource::Agent(AgentSocket::Unix(path)) => vec![path.clone()],
            IdentitySource::Agent(AgentSocket::Tcp(_)) => Vec::new(),
        }
    }

    /// What nobody else may write: certificates, and whom they are believed by.
    pub fn trusted_files(&self) -> Vec<PathBuf> {
        let own = match &self.source {
            IdentitySource::Files { cert, ca, crl, .. } => vec![Some(cert.clone()), Some(ca.clone()), crl.clone()],
            IdentitySource::Enroll(Enroll { known_by: Anchor::File(ca), .. }) => vec![Some(ca.clone())],
            IdentitySource::Enroll(_) | IdentitySource::Agent(_) => Vec::new(),
        };
        let foreign = self.federation.iter().flat_map(|it| [Some(it.bundle.clone()), it.crl.clone()]);
        own.into_iter().chain(foreign).flatten().collect()
    }
}

/// Reads the `identity` section.
pub fn identity(f: &mut Fields<'_>) -> Option<Identity> {
    let text =
        doc("The mesh that this program belongs to; peers of another one are refused.").env("OUTRIGGER_TRUST_DOMAIN");
    let domain = f.required("trust_domain", text.example("demo.outrigger.local"), trust_domain());
    let text = doc("Certificate chain (PEM), the own certificate first. Read again when the file changes.");
    let cert = f.optional("cert", text.env("OUTRIGGER_CERT").example("/identity/cert.pem"), kinds::path());
    let text = doc("Private key (PEM). Read again when the file changes.").env("OUTRIGGER_KEY");
    let key = f.optional("key", text.example("/identity/key.pem"), kinds::path());
    let text = doc("Certificates (PEM) of the authorities that peers must come from.").env("OUTRIGGER_CA");
    let ca = f.optional("ca", text.example("/identity/ca.pem"), kinds::path());
    let text = doc("Revocation list (PEM): certificates in it are refused.").env("OUTRIGGER_CRL");
    let crl = f.optional("crl", text, kinds::path());
    let text = doc(
        "Where an agent of the SPIFFE Workload API listens, such as SPIRE's, that gives certificate, key and roots instead of files. \
         The variable alone counts only where neither files nor `enroll` are set.",
    );
    let text = text.env("SPIFFE_ENDPOINT_SOCKET").example("unix:///run/spire/agent/public/api.sock");
    let socket = f.optional("spiffe_endpoint_socket", text, agent::agent_socket());
    let text = doc("What the own certificate must say. An agent that has several for this process gives this one.");
    let text =
        text.because("a sidecar is `spiffe://<trust domain>/<service>`, an ingress whatever its certificate says");
    let id = f.optional(
        "spiffe_id",
        text.env("OUTRIGGER_SPIFFE_ID").example("spiffe://demo.outrigger.local/ns/tools/sa/fs"),
        spiffe_id(false),
    );
    let text = "Asks an authority (`outrigger ca serve`) for the certificate, instead of files.";
    let enroll = f.section("enroll", text, |f| Some(enroll::read(f)))?;
    let federation = f.list(
        "federation",
        "Other trust domains whose workloads are believed; policy names them by their id.",
        federated,
    );
    if let Some(own) = &domain
        && federation.iter().any(|it| it.trust_domain == *own)
    {
        f.mistake("federation", format!("`{own}` is the own trust domain"), "its authorities belong into `ca`");
    }
    if let (Some(id), Some(domain)) = (&id, &domain)
        && id.strip_prefix("spiffe://").is_none_or(|rest| rest.split('/').next() != Some(domain))
    {
        f.mistake(
            "spiffe_id",
            format!("this is not a workload of the trust domain `{domain}`"),
            "correct one of the two",
        );
    }
    let others = [&cert, &key, &ca, &crl].into_iter().any(Option::is_some) || !matches!(enroll, enroll::Choice::None);
    // A variable that is there for other programs takes nothing away from what is set for this one.
    let socket = socket.filter(|_| !others || f.has("spiffe_endpoint_socket"));
    let source = match (enroll, socket) {
        (_, Some(socket)) => agent(f, socket, others),
        (enroll, None) => asked_or_files(f, enroll, (cert, key, ca, crl)),
    };
    Some(Identity { trust_domain: domain?, spiffe_id: id, source: source?, federation })
}

/// Where certificate, key, authorities and revoked certificates are.
type Paths = (Option<PathBuf>, Option<PathBuf>, Option<PathBuf>, Option<PathBuf>);

fn agent(f: &mut Fields<'_>, socket: AgentSocket, others: bool) -> Option<IdentitySource> {
    if others {
        let hint = "remove it, or remove `cert`, `key`, `ca`, `crl` and `enroll`; roots come from the agent, too";
        f.mistake("spiffe_endpoint_socket", "certificates come from an agent, or from elsewhere", hint);
    }
    if let AgentSocket::Tcp(address) = socket
        && !address.ip().is_loopback()
    {
        let hint = "use the Unix socket of an agent on the same machine";
        f.warn(
            "spiffe_endpoint_socket",
            "the agent is on another machine, and private keys come from it in the clear",
            hint,
        );
    }
    Some(IdentitySource::Agent(socket))
}

fn asked_or_files(f: &mut Fields<'_>, enroll: enroll::Choice, (cert, key, ca, crl): Paths) -> Option<IdentitySource> {
    match enroll {
        enroll::Choice::None => files(f, cert, key, ca, crl),
        enroll::Choice::Wrong => None,
        enroll::Choice::Enroll(enroll) => {
            for (name, given) in [("cert", &cert), ("key", &key), ("ca", &ca), ("crl", &crl)] {
                if given.is_some() {
                    let hint = "remove it, or remove `enroll`; the roots of the authority are `enroll.ca`";
                    f.mistake(name, "with `enroll`, certificates come from the authority", hint);
                }
            }
            Some(IdentitySource::Enroll(enroll))
        }
    }
}

fn files(
    f: &mut Fields<'_>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
    crl: Option<PathBuf>,
) -> Option<IdentitySource> {
    let needed = [("cert", &cert, "OUTRIGGER_CERT"), ("key", &key, "OUTRIGGER_KEY"), ("ca", &ca, "OUTRIGGER_CA")];
    for (name, given, variable) in needed {
        // A wrong value is a mistake of its own.
        if given.is_none() && !f.has(name) {
            let hint = format!(
                "for example `{name}: /identity/{name}.pem`, or set {variable}; or let an authority give it: `enroll`, or an agent: `spiffe_endpoint_socket`"
            );
            f.mistake(name, "this setting is missing", hint);
        }
    }
    Some(IdentitySource::Files { cert: cert?, key: key?, ca: ca?, crl })
}

fn federated(f: &mut Fields<'_>) -> Option<Federated> {
    let text = doc("Its name. The roots below vouch for workloads of this domain and of no other.");
    let domain = f.required("trust_domain", text.example("partner.example"), trust_domain());
    let text = doc("Its roots (PEM). Read again when the file changes.");
    let bundle = f.required("bundle", text.example("/identity/partner.pem"), kinds::path());
    let text = doc("Its revocation lists (PEM): certificates in them are refused.");
    let crl = f.optional("crl", text, kinds::path());
    Some(Federated { trust_domain: domain?, bundle: bundle?, crl })
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

#[cfg(test)]
mod tests;
