//! The rules of the kernel, in network namespaces, with the real binary: IPv4 and IPv6, nftables and iptables.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::{path::Path, process::Command};

fn redirect(backend: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/redirect.py");
    let sidecar = env!("CARGO_BIN_EXE_outrigger-sidecar");
    let output = Command::new("python3").arg(script).args([sidecar, backend]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nftables_sends_everything_to_the_sidecar_and_nothing_else_out() {
    redirect("nft");
}

#[test]
fn iptables_does_the_same() {
    redirect("iptables");
}

#[test]
fn what_would_be_installed_can_be_read() {
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger-sidecar"))
        .args(["redirect", "install", "--print", "--uid", "4242", "--dns-port", "15053"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("meta skuid 4242 return") && text.contains("udp dport 53 redirect to :15053"), "{text}");
}

#[test]
fn without_the_privilege_the_error_says_which() {
    let output = Command::new("unshare")
        .args(["--user", env!("CARGO_BIN_EXE_outrigger-sidecar"), "redirect", "install", "--backend", "nft"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("NET_ADMIN"), "{said}");
}
