//! Requests for certificates, from anybody: nothing panics, and one whose signature is good asks for the same whatever is
//! around it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_identity::{CertificateRequest, TrustDomain};

fuzz_target!(|data: &[u8]| {
    // As text and as what is inside the text.
    let _ = CertificateRequest::parse(data);
    let Ok(request) = CertificateRequest::from_der(data) else { return };
    let Some(id) = TrustDomain::parse("fuzz").ok().and_then(|domain| domain.service("fs").ok()) else { return };
    let _ = request.is_for(&id);
    assert!(CertificateRequest::from_der(&[data, b"x"].concat()).is_err());
});
