//! PEM as the files of an authority have it (RFC 7468), and the digest by which certificates and keys are named.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroize;

/// Characters in a line (RFC 7468, section 2).
const LINE: usize = 64;

/// One section. What is written on the way is zeroed: it may be a key.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let mut body = STANDARD.encode(der);
    // As much as is needed, so that it never moves and leaves a copy behind.
    let mut text = String::with_capacity(body.len() + body.len() / LINE + 2 * label.len() + 40);
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    body.zeroize();
    text
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}
