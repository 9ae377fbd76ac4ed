//! Serial numbers and the authority's revocation list, as read back from `crl.pem`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::authority::AuthorityError;
use crate::files::{FileRole, Loaded};
use crate::peer::{self, PeerError};
use crate::pem;
use crate::root::Root;

/// Longest serial number, in bytes (RFC 5280, section 4.1.2.2).
const MAX_SERIAL: usize = 20;
/// Bytes of a random serial: unguessable, and short enough to read out.
const RANDOM_SERIAL: usize = 16;
/// Most entries on our own list; about 40 bytes each keeps the file well under what readers accept.
const MAX_REVOKED: usize = 100_000;
const NOT_A_LIST: &str = "not revocation lists in DER";

/// The number of a certificate, unique within its authority. Shown and read as hexadecimal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Serial(Box<[u8]>);

impl Serial {
    /// The serial of a certificate in DER.
    ///
    /// # Errors
    /// [`PeerError::Malformed`] when it is not a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, PeerError> {
        peer::raw_serial(certificate).map(Self::from_bytes)
    }

    pub(crate) fn random() -> Result<Self, AuthorityError> {
        let mut bytes = [0; RANDOM_SERIAL];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
        // Positive and always of the same length, so that every tool shows the same digits.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Ok(Self(bytes.into()))
    }

    pub(crate) fn to_rcgen(&self) -> rcgen::SerialNumber {
        rcgen::SerialNumber::from_slice(&self.0)
    }

    /// DER puts a zero in front when the first bit is set; it is not part of the number.
    fn from_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        Self(bytes.get(zeros..).unwrap_or_default().into())
    }
}

impl FromStr for Serial {
    type Err = AuthorityError;

    /// Accepts digits as this crate prints them and with the colons that openssl prints.
    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        let bad = || AuthorityError::Serial(text.chars().take(64).collect());
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').take(2 * MAX_SERIAL + 1).collect();
        if digits.is_empty() || digits.len() % 2 == 1 || digits.len() > 2 * MAX_SERIAL {
            return Err(bad());
        }
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let pair = |p: &[u8]| Some(digit(*p.first()?)? << 4 | digit(*p.get(1)?)?);
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(pair).collect();
        Ok(Self::from_bytes(&bytes.ok_or_else(bad)?))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The content of a revocation list.
pub(crate) struct Revocations {
    /// Grows by one with each list (RFC 5280, section 5.2.3).
    pub(crate) number: u64,
    /// What is revoked, and since when.
    pub(crate) entries: Vec<(Serial, SystemTime)>,
}

impl Default for Revocations {
    fn default() -> Self {
        Self { number: 1, entries: Vec::new() }
    }
}

/// The lists of one file, each with its issuer: our own, and that of a root above us.
pub(crate) struct CrlFile {
    file: Loaded,
    /// Issuer in DER, and the list in DER.
    lists: Vec<(Vec<u8>, Vec<u8>)>,
}

impl CrlFile {
    /// Reads the lists back.
    pub(crate) fn read(path: &Path) -> Result<Self, AuthorityError> {
        let file = Loaded::read(FileRole::Crl, path)?;
        let mut lists = Vec::new();
        for der in file.crls()? {
            let issuer = issuer_of(&der).ok_or_else(|| file.malformed(NOT_A_LIST))?;
            lists.push((issuer, der.to_vec()));
        }
        Ok(Self { file, lists })
    }

    /// What an authority has revoked. That it has no list is an error: an empty one would pardon everybody.
    pub(crate) fn of(&self, authority: &Root) -> Result<Revocations, AuthorityError> {
        let subject = peer::subject(authority.certificate())?;
        let (_, der) = (self.lists.iter().find(|(issuer, _)| issuer == subject))
            .ok_or_else(|| self.file.malformed("there is no list of this authority in it"))?;
        Revocations::from_der(der).ok_or_else(|| self.file.malformed(NOT_A_LIST).into())
    }

    /// Puts the list of an authority into the place of the one before, or behind the others.
    pub(crate) fn replace(&mut self, authority: &Root, list_pem: &str) -> Result<(), AuthorityError> {
        let der = CertificateRevocationListDer::from_pem_slice(list_pem.as_bytes())
            .map_err(|_| self.file.malformed(NOT_A_LIST))?;
        self.put(peer::subject(authority.certificate())?.to_vec(), der.to_vec());
        Ok(())
    }

    /// Takes over what another file has.
    pub(crate) fn merge(&mut self, other: CrlFile) {
        other.lists.into_iter().for_each(|(issuer, list)| self.put(issuer, list));
    }

    /// Keeps only the lists of these issuers.
    pub(crate) fn retain(&mut self, keep: impl Fn(&[u8]) -> bool) {
        self.lists.retain(|(issuer, _)| keep(issuer));
    }

    pub(crate) fn to_pem(&self) -> String {
        self.lists.iter().map(|(_, der)| pem::encode("X509 CRL", der)).collect()
    }

    fn put(&mut self, issuer: Vec<u8>, list: Vec<u8>) {
        match self.lists.iter_mut().find(|(known, _)| *known == issuer) {
            Some((_, old)) => *old = list,
            None => self.lists.push((issuer, list)),
        }
    }
}

fn issuer_of(der: &[u8]) -> Option<Vec<u8>> {
    let (_, list) = CertificateRevocationList::from_der(der).ok()?;
    Some(list.tbs_cert_list.issuer.as_raw().to_vec())
}

impl Revocations {
    fn from_der(der: &[u8]) -> Option<Self> {
        let (_, list) = CertificateRevocationList::from_der(der).ok()?;
        let number = u64::try_from(list.crl_number()?).ok()?;
        let entries = list
            .iter_revoked_certificates()
            .map(|entry| (Serial::from_bytes(entry.raw_serial()), peer::system_time(&entry.revocation_date)))
            .collect();
        Some(Self { number, entries })
    }

    /// Adds one and counts the list up; false when it is there already.
    pub(crate) fn add(&mut self, serial: &Serial, at: SystemTime) -> Result<bool, AuthorityError> {
        if self.entries.iter().any(|(known, _)| known == serial) {
            return Ok(false);
        }
        if self.entries.len() >= MAX_REVOKED {
            return Err(AuthorityError::CrlFull(self.entries.len()));
        }
        self.entries.push((serial.clone(), at));
        self.number = self.number.saturating_add(1);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_read_as_they_are_shown() {
        let serial = Serial::random().unwrap();
        assert_eq!(serial.to_string().len(), 2 * RANDOM_SERIAL);
        assert_eq!(serial.to_string().parse::<Serial>().unwrap(), serial);
        assert_eq!("00:AB:cd".parse::<Serial>().unwrap().to_string(), "abcd");
        for bad in ["", "a", "xy", "ab c", &"ab".repeat(MAX_SERIAL + 1)] {
            bad.parse::<Serial>().unwrap_err();
        }
    }
}
