//! Serial numbers and the authority's revocation list, as read back from `crl.pem`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::authority::AuthorityError;
use crate::files::{FileRole, Loaded};
use crate::peer::{self, PeerError};

/// Longest serial number, in bytes (RFC 5280, section 4.1.2.2).
const MAX_SERIAL: usize = 20;
/// Bytes of a random serial: unguessable, and short enough to read out.
const RANDOM_SERIAL: usize = 16;
/// Most entries on our own list; about 40 bytes each keeps the file well under what readers accept.
const MAX_REVOKED: usize = 100_000;

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

impl Revocations {
    /// Reads our own list back.
    pub(crate) fn read(path: &Path) -> Result<Self, AuthorityError> {
        let file = Loaded::read(FileRole::Crl, path)?;
        let malformed = || file.malformed("not one revocation list in DER");
        let lists = file.crls()?;
        let [der] = lists.as_slice() else {
            return Err(malformed().into());
        };
        let (_, list) = CertificateRevocationList::from_der(der).map_err(|_| malformed())?;
        let number = list.crl_number().and_then(|n| u64::try_from(n).ok()).ok_or_else(malformed)?;
        let entries = list
            .iter_revoked_certificates()
            .map(|entry| (Serial::from_bytes(entry.raw_serial()), peer::system_time(&entry.revocation_date)))
            .collect();
        Ok(Self { number, entries })
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
