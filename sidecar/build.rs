//! How release builds are linked for Linux:
//!
//! - Relocations are packed: 370 KiB of 12 MiB. Such a binary needs glibc 2.36 or musl 1.2.4, or none where it is linked
//!   statically, as in the images.
//! - Functions that run lie together (`used.ld`, made by `tests/bench/used.py`): the kernel maps programs in pieces of 64 KiB, and those
//!   of an idle sidecar are 3 MiB fewer. A function that is not in the list is only somewhere else.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=used.ld");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("PROFILE", "release") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        if let Ok(here) = std::env::var("CARGO_MANIFEST_DIR") {
            println!("cargo:rustc-link-arg-bins=-T");
            println!("cargo:rustc-link-arg-bins={here}/used.ld");
        }
    }
}
