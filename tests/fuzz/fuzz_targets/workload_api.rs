//! Messages of an agent of the SPIFFE Workload API, from anybody: nothing panics, and what is read can be used or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_identity::{CredentialOptions, Credentials, SpiffeId, X509SvidResponse};

fuzz_target!(|data: &[u8]| {
    let Ok(message) = X509SvidResponse::parse(data) else { return };
    let wanted = SpiffeId::parse("spiffe://fuzz/fs").ok();
    let _ = message.identity(wanted.as_ref());
    let Ok(svid) = message.identity(None) else { return };
    assert!(svid.federated().count() <= 256);
    let _ = Credentials::enrolled(svid, &CredentialOptions::default());
});
