//! Packs the relocations of release builds: 370 KiB of 12 MiB. Such a binary needs glibc 2.36 or musl 1.2.4, or none where
//! it is linked statically, as in the images.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("PROFILE", "release") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
