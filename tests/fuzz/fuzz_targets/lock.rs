//! Locks of anybody's making are read or refused; what is read is written as it was. Definitions of anybody's making can be
//! looked through and shown.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outrigger_integrity::scan::scan;
use outrigger_integrity::{Lock, ServiceLock, review};
use outrigger_mcp::catalog::Catalog;
use outrigger_mcp::catalog_kind::Kind;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(lock) = Lock::parse(text)
    {
        assert!(Lock::parse(&lock.text()).is_ok());
    }
    let Ok(catalog) = Catalog::from_health_json(&Bytes::copy_from_slice(data)) else { return };
    let _ = scan(&[("one", &catalog), ("other", &catalog)]);
    let mut lock = Lock::default();
    lock.set("one", ServiceLock::of(&catalog, &Kind::ALL));
    let again = Lock::parse(&lock.text()).expect("what we write we read");
    assert!(review(again.service("one"), &catalog).deviations.is_empty());
});
