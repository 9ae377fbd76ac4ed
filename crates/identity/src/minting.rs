//! An authority that lives and dies with the process: it mints certificates for names that somebody else has, so that TLS to
//! them can be read by whoever was told to believe it. Its key never leaves memory.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::authority::AuthorityError;
use crate::revocation::Serial;
use crate::root::{DEFAULT_ROOT_LIFE, life_from_now};
use crate::tls;

/// Life of a minted certificate.
const LEAF_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// A kept certificate is made anew after this, long before its life ends.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Certificates that are kept. A server talks to fewer hosts; past it all are made anew, at a third of a millisecond each.
const MAX_KEPT: usize = 256;

/// Why no certificate can be minted.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The authority or a certificate cannot be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// rustls refused it.
    #[error("cannot configure TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl From<rcgen::Error> for MintError {
    fn from(error: rcgen::Error) -> Self {
        Self::Authority(error.into())
    }
}

/// What is shown for one name.
struct Kept {
    config: Arc<ServerConfig>,
    until: SystemTime,
}

/// The authority.
pub struct Minter {
    provider: Arc<CryptoProvider>,
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    /// One key for all leaves: whoever has it has the process.
    leaf_key: KeyPair,
    signing: Arc<dyn SigningKey>,
    /// Taken once per connection, and for a third of a millisecond when a certificate is made.
    kept: Mutex<HashMap<Box<str>, Kept>>,
}

impl Minter {
    /// Makes the keys and the authority's certificate; `owner` is named in it.
    ///
    /// # Errors
    /// [`MintError`].
    pub fn new(owner: &str) -> Result<Self, MintError> {
        let provider = Arc::new(tls::provider());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let serial = Serial::random()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Outrigger inspection of {owner} {serial}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial.to_rcgen());
        let (not_before, not_after) = life_from_now(DEFAULT_ROOT_LIFE);
        (params.not_before, params.not_after) = (not_before.into(), not_after.into());
        let certificate_pem = params.self_signed(&key)?.pem();
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let signing = provider.key_provider.load_private_key(der)?;
        let issuer = Issuer::new(params, key);
        Ok(Self { provider, issuer, certificate_pem, leaf_key, signing, kept: Mutex::default() })
    }

    /// The authority's certificate, for whoever shall believe it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A server that shows a certificate for this name or address, and speaks HTTP/1.1.
    ///
    /// # Errors
    /// [`MintError`].
    pub fn server_config(&self, host: &str) -> Result<Arc<ServerConfig>, MintError> {
        // A map that is only ever added to or emptied is good after a panic, too.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        if let Some(found) = kept.get(host)
            && now < found.until
        {
            return Ok(Arc::clone(&found.config));
        }
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        let config = Arc::new(self.mint(host)?);
        kept.insert(host.into(), Kept { config: Arc::clone(&config), until: now + KEPT_FOR });
        Ok(config)
    }

    fn mint(&self, host: &str) -> Result<ServerConfig, MintError> {
        let mut params = CertificateParams::default();
        // A name in the subject is limited to 64 characters, and nobody reads it.
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(Serial::random()?.to_rcgen());
        let (not_before, not_after) = life_from_now(LEAF_LIFE);
        (params.not_before, params.not_after) = (not_before.into(), not_after.into());
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into()?),
        });
        let leaf = params.signed_by(&self.leaf_key, &self.issuer)?;
        let pair = Arc::new(CertifiedKey::new(vec![leaf.der().clone()], Arc::clone(&self.signing)));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl fmt::Debug for Minter {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minter").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
    use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConnection};

    use super::*;

    /// A handshake in memory with a client that believes this authority alone.
    fn shake(minter: &Minter, shown: &str, wanted: &str) -> io::Result<()> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(minter.certificate_pem().as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(tls::provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(wanted.to_owned()).unwrap();
        let mut client: Connection = ClientConnection::new(Arc::new(config), name).unwrap().into();
        let mut server: Connection = ServerConnection::new(minter.server_config(shown).unwrap()).unwrap().into();
        while client.is_handshaking() || server.is_handshaking() {
            for turn in [true, false] {
                let (from, to) = if turn { (&mut client, &mut server) } else { (&mut server, &mut client) };
                let mut bytes = Vec::new();
                while from.wants_write() {
                    from.write_tls(&mut bytes)?;
                }
                let mut bytes = bytes.as_slice();
                while !bytes.is_empty() {
                    to.read_tls(&mut bytes)?;
                    to.process_new_packets().map_err(io::Error::other)?;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn names_and_addresses_are_believed_and_no_others() {
        let minter = Minter::new("fs").unwrap();
        shake(&minter, "api.example.com", "api.example.com").unwrap();
        shake(&minter, "192.0.2.7", "192.0.2.7").unwrap();
        assert!(shake(&minter, "api.example.com", "other.example.com").is_err());
        let long = format!("{}.example.com", ["a".repeat(60), "b".repeat(60)].join("."));
        shake(&minter, &long, &long).unwrap();
    }

    #[test]
    fn certificates_are_kept_within_bounds_and_keys_are_not_shown() {
        let minter = Minter::new("fs").unwrap();
        let first = minter.server_config("a.test").unwrap();
        assert!(Arc::ptr_eq(&first, &minter.server_config("a.test").unwrap()));
        for number in 0..MAX_KEPT {
            minter.server_config(&format!("n{number}.test")).unwrap();
        }
        assert!(minter.kept.lock().unwrap().len() <= MAX_KEPT);
        assert!(!format!("{minter:?}").to_lowercase().contains("key"));
    }
}
