//! What an API server sends, of anybody's making: nothing panics, and no replica comes of it that none may be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_ingress::discovery::read_anything;

fuzz_target!(|data: &[u8]| assert!(read_anything(data)));
