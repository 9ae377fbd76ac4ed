//! What an agent of the SPIFFE Workload API handed to this process: certificate, key, and whom to believe. In memory alone.

use std::fmt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::files::{FileRole, Key, Loaded};
use crate::pem;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::watch::{Contents, Foreign};
use crate::workload_api::AgentError;

/// Stands in errors for the path of what never was a file.
const FROM_AGENT: &str = "(from the agent)";

/// The roots of another trust domain, in DER.
pub(crate) type ForeignRoots<'a> = (TrustDomain, Vec<&'a [u8]>);

/// An identity as an agent gave it. All parts are PEM, because that is what the files are that they stand for.
pub struct Svid {
    id: SpiffeId,
    chain: String,
    key: Zeroizing<String>,
    bundle: String,
    crls: String,
    federated: Vec<(TrustDomain, String)>,
    left_out: Vec<AgentError>,
}

impl Svid {
    /// Of the chain (leaf first) and its key, in DER as all the other parts.
    pub(crate) fn new(
        id: SpiffeId,
        (chain, key): (Vec<&[u8]>, &[u8]),
        bundle: &[&[u8]],
        crls: &[&[u8]],
        federated: &[ForeignRoots<'_>],
    ) -> Self {
        let joined = |label, parts: &[&[u8]]| parts.iter().map(|der| pem::encode(label, der)).collect::<String>();
        let foreign = |(domain, roots): &ForeignRoots<'_>| (domain.clone(), joined("CERTIFICATE", roots));
        Self {
            id,
            chain: joined("CERTIFICATE", &chain),
            key: Zeroizing::new(pem::encode("PRIVATE KEY", key)),
            bundle: joined("CERTIFICATE", bundle),
            crls: joined("X509 CRL", crls),
            federated: federated.iter().map(foreign).collect(),
            left_out: Vec::new(),
        }
    }

    /// With reasons why some trust domains are not in it.
    pub(crate) fn without(self, left_out: Vec<AgentError>) -> Self {
        Self { left_out, ..self }
    }

    /// Why trust domains that the agent named are not among the federated ones. Nobody of them is believed.
    pub fn left_out(&self) -> &[AgentError] {
        &self.left_out
    }

    /// Whom it says that we are. The certificate has the last word.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The roots of our own trust domain. PEM.
    pub(crate) fn roots(&self) -> &str {
        &self.bundle
    }

    /// The trust domains that the agent has roots of, beside our own.
    pub fn federated(&self) -> impl Iterator<Item = &TrustDomain> {
        self.federated.iter().map(|(domain, _)| domain)
    }

    /// With trust domains of the settings, which count more than what the agent says of the same ones.
    pub(crate) fn contents(&self, configured: Vec<Foreign>) -> Contents {
        let part = |role, text: &str| Loaded::from_memory(role, Path::new(FROM_AGENT), text.as_bytes().to_vec());
        let mut federation = configured;
        for (domain, bundle) in &self.federated {
            if federation.iter().all(|known| known.trust_domain != *domain) {
                let bundle = part(FileRole::Ca, bundle);
                federation.push(Foreign { trust_domain: domain.clone(), bundle, crl: None });
            }
        }
        Contents {
            cert: part(FileRole::Cert, &self.chain),
            key: Key::File(part(FileRole::Key, &self.key)),
            ca: Some(part(FileRole::Ca, &self.bundle)),
            crl: (!self.crls.is_empty()).then(|| part(FileRole::Crl, &self.crls)),
            federation,
        }
    }
}

impl fmt::Debug for Svid {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("id", &self.id).finish_non_exhaustive()
    }
}
