//! A list from a server, and a health document from a sidecar. What we write of it, we must read back.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outrigger_mcp::catalog::{Catalog, ListPage};
use outrigger_mcp::catalog_kind::Kind;

fuzz_target!(|data: &[u8]| {
    let data = Bytes::copy_from_slice(data);
    for kind in Kind::ALL {
        let _ = ListPage::parse(kind, &data);
    }
    let Ok(catalog) = Catalog::from_health_json(&data) else { return };
    let written = Bytes::from(catalog.to_health_json());
    let again = Catalog::from_health_json(&written).expect("we cannot read what we wrote");
    assert_eq!(again.to_health_json(), written, "reading and writing changed a catalog");
});
