//! The signing key of a mesh, in memory: makes certificates of authorities, leaves and revocation lists. No files.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    RevokedCertParams, SanType,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::authority::AuthorityError;
use crate::peer;
use crate::pem;
use crate::revocation::{Revocations, Serial};
use crate::spiffe::{SpiffeId, TrustDomain};

/// Life of a workload certificate unless told otherwise: short enough that a stolen one is soon worthless, long enough
/// that a night without renewals harms nobody.
pub const DEFAULT_LEAF_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Life of the authority's own certificate unless told otherwise: ten years.
pub const DEFAULT_ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Longest life of an authority: X.509 dates beyond are handled differently by different libraries.
const MAX_ROOT_LIFE: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// Certificates start this long before they are made, because clocks of machines differ.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// Most names for clients that verify host names, on one certificate.
const MAX_HOST_NAMES: usize = 64;
/// `ub-organization-name` of RFC 5280, appendix A: longer trust domains are left out of the subject.
const MAX_ORGANIZATION: usize = 64;

/// A fresh workload certificate with its key, still only in memory.
#[derive(Clone)]
pub struct Issued {
    /// Whom it names.
    pub id: SpiffeId,
    /// Its number, for revocation.
    pub serial: Serial,
    /// The certificate; chains below the root would follow it.
    pub cert_chain_pem: String,
    /// The private key, PKCS #8. Secret.
    pub key_pem: String,
    /// Start of its life, in whole seconds, a little before it was made.
    pub not_before: SystemTime,
    /// End of its life, in whole seconds.
    pub not_after: SystemTime,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("key_pem", &"[redacted]")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// A fresh certificate for a key that its holder made and kept.
#[derive(Debug, Clone)]
pub struct Signed {
    /// Whom it names.
    pub id: SpiffeId,
    /// Its number, for revocation.
    pub serial: Serial,
    /// The certificate, then those between it and the root. PEM.
    pub cert_chain_pem: String,
    /// Start of its life, in whole seconds, a little before it was made.
    pub not_before: SystemTime,
    /// End of its life, in whole seconds.
    pub not_after: SystemTime,
}

/// What the certificate of an authority is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    /// It signs authorities, which sign workloads: a root that is kept offline.
    Offline,
    /// It signs workloads only.
    Signer,
}

/// The certificate of an authority, a root or one below it, with its key.
pub(crate) struct Root {
    trust_domain: TrustDomain,
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
    /// What goes with each certificate that it signs: those between it and the root, itself first. PEM; empty for a root.
    chain_pem: String,
}

impl Root {
    /// Makes a new key and its self-signed certificate, which is also given as PEM.
    pub(crate) fn generate(
        trust_domain: &TrustDomain,
        life: Duration,
        rank: Rank,
    ) -> Result<(Self, String), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let (params, not_after) = fresh_params(trust_domain, life, rank)?;
        let certificate = params.self_signed(&key)?;
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        let issuer = Issuer::new(params, key);
        let made =
            Self { trust_domain: trust_domain.clone(), certificate: der, not_after, issuer, chain_pem: String::new() };
        Ok((made, pem))
    }

    /// Makes the key and certificate of an authority below this one, which is also given as PEM.
    pub(crate) fn generate_below(&self, life: Duration) -> Result<(Self, String), AuthorityError> {
        if self.not_after <= SystemTime::now() {
            return Err(AuthorityError::Expired);
        }
        if !peer::signs_authorities(&self.certificate)? {
            return Err(AuthorityError::NotARoot);
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let (mut params, wanted) = fresh_params(&self.trust_domain, life, Rank::Signer)?;
        let not_after = wanted.min(self.not_after);
        params.not_after = not_after.into();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        let made = Self {
            trust_domain: self.trust_domain.clone(),
            certificate: der,
            not_after,
            issuer: Issuer::new(params, key),
            chain_pem: pem.clone(),
        };
        Ok((made, pem))
    }

    /// Takes an authority apart that this crate made. `below_root` says that its certificate is no root itself.
    pub(crate) fn from_parts(
        certificate: CertificateDer<'static>,
        key: KeyPair,
        below_root: bool,
    ) -> Result<Self, AuthorityError> {
        let facts = peer::authority_facts(&certificate)?;
        if facts.public_key != rcgen::PublicKeyData::subject_public_key_info(&key) {
            return Err(AuthorityError::KeyMismatch);
        }
        // The issuer name in leaves must be, byte for byte, the subject of the root.
        let params = root_params(&facts.trust_domain, &facts.common_name, Rank::Signer)?;
        let rebuilt = params.self_signed(&key)?;
        if peer::subject(rebuilt.der())? != facts.subject {
            return Err(AuthorityError::ForeignRoot);
        }
        let (trust_domain, not_after) = (facts.trust_domain, facts.not_after);
        let chain_pem = if below_root { pem::encode("CERTIFICATE", &certificate) } else { String::new() };
        Ok(Self { trust_domain, certificate, not_after, issuer: Issuer::new(params, key), chain_pem })
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The signing key, PKCS #8 PEM. Secret.
    pub(crate) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Makes a key and a certificate for a service; see [`crate::Authority::issue`].
    pub(crate) fn issue(&self, service: &str, life: Duration, hosts: &[&str]) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let Signed { id, serial, cert_chain_pem, not_before, not_after } = self.sign(&key, service, life, hosts)?;
        Ok(Issued { id, serial, cert_chain_pem, key_pem: key.serialize_pem(), not_before, not_after })
    }

    /// Makes a certificate for a service and somebody's key.
    pub(crate) fn sign(
        &self,
        key: &impl PublicKeyData,
        service: &str,
        life: Duration,
        hosts: &[&str],
    ) -> Result<Signed, AuthorityError> {
        let id = self.trust_domain.service(service)?;
        let (not_before, wanted) = life_from_now(life);
        let not_after = wanted.min(self.not_after);
        if life.is_zero() {
            return Err(AuthorityError::LeafLife);
        }
        if self.not_after <= SystemTime::now() {
            return Err(AuthorityError::Expired);
        }
        let serial = Serial::random()?;
        let mut params = leaf_params(&id, service, hosts)?;
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.serial_number = Some(serial.to_rcgen());
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Signed { id, serial, cert_chain_pem: certificate.pem() + &self.chain_pem, not_before, not_after })
    }

    /// Signs a revocation list. It stays in force until a newer one replaces it, hence the far `nextUpdate`.
    pub(crate) fn sign_crl(&self, revocations: &Revocations) -> Result<String, AuthorityError> {
        let now = whole_seconds(SystemTime::now());
        if self.not_after <= now {
            return Err(AuthorityError::Expired);
        }
        let revoked = |(serial, at): &(Serial, SystemTime)| RevokedCertParams {
            serial_number: serial.to_rcgen(),
            revocation_time: OffsetDateTime::from(*at),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: self.not_after.into(),
            crl_number: revocations.number.into(),
            issuing_distribution_point: None,
            revoked_certs: revocations.entries.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }
}

/// Everything about the certificate of a new authority, and when it ends.
fn fresh_params(
    trust_domain: &TrustDomain,
    life: Duration,
    rank: Rank,
) -> Result<(CertificateParams, SystemTime), AuthorityError> {
    if life.is_zero() || life > MAX_ROOT_LIFE {
        return Err(AuthorityError::RootLife);
    }
    let serial = Serial::random()?;
    // A name of its own: two authorities of one trust domain live side by side while one replaces the other, and
    // revocation lists are matched to certificates by the issuer's name alone.
    let mut params = root_params(trust_domain, &format!("Outrigger mesh authority {serial}"), rank)?;
    let (not_before, not_after) = life_from_now(life);
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.serial_number = Some(serial.to_rcgen());
    Ok((params, not_after))
}

/// Everything about the certificate of an authority but its dates and serial.
fn root_params(trust_domain: &TrustDomain, common_name: &str, rank: Rank) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if trust_domain.as_str().len() <= MAX_ORGANIZATION {
        params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    // How many authorities may follow below it.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(match rank {
        Rank::Offline => 1,
        Rank::Signer => 0,
    }));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // X509-SVID, section 3: a signing certificate carries the id of its trust domain.
    params.subject_alt_names = vec![SanType::URI(trust_domain.id().as_str().try_into()?)];
    Ok(params)
}

/// X509-SVID, sections 2 to 4: exactly one URI, not an authority, digitalSignature, both TLS usages.
fn leaf_params(id: &SpiffeId, service: &str, hosts: &[&str]) -> Result<CertificateParams, AuthorityError> {
    if hosts.len() > MAX_HOST_NAMES {
        return Err(AuthorityError::TooManyHosts(hosts.len()));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, service);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names.push(SanType::URI(id.as_str().try_into()?));
    for host in hosts {
        params.subject_alt_names.push(host_name(host)?);
    }
    Ok(params)
}

fn host_name(host: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || AuthorityError::HostName(host.chars().take(64).collect());
    // rustls' own idea of a DNS name, except that a certificate may have a wildcard in front.
    let checked = host.strip_prefix("*.").unwrap_or(host);
    rustls_pki_types::DnsName::try_from(checked).map_err(|_| bad())?;
    Ok(SanType::DnsName(host.try_into().map_err(|_| bad())?))
}

/// From a little before now until `life` from now; X.509 counts in whole seconds.
pub(crate) fn life_from_now(life: Duration) -> (SystemTime, SystemTime) {
    let now = whole_seconds(SystemTime::now());
    (now - CLOCK_SKEW, now + life.min(MAX_ROOT_LIFE))
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
