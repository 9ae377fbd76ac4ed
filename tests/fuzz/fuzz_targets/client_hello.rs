//! The first words of TLS clients: nothing panics, and more bytes never change what was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_egress::client_hello;

fuzz_target!(|data: &[u8]| {
    let Ok(Some(hello)) = client_hello::parse(data) else { return };
    let longer = [data, b"\x17\x03\x03\x00\x01x"].concat();
    assert_eq!(client_hello::parse(&longer), Ok(Some(hello)));
});
