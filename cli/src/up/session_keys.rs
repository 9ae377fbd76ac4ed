//! The key that seals session ids: made once, so that clients keep their sessions when the mesh is started again.

use std::path::Path;

use anyhow::anyhow;
use data_encoding::HEXLOWER;

use crate::files;

/// Bytes of the key.
const KEY: usize = 32;

/// Makes the file of keys, unless it is there: somebody may have put another key into it.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn make_if_missing(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut key = [0; KEY];
    aws_lc_rs::rand::fill(&mut key).map_err(|_| anyhow!("the system gives no random numbers"))?;
    let text = HEXLOWER.encode(&key);
    files::write(path, format!("{text}\n").as_bytes(), files::PRIVATE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session.keys");
        make_if_missing(&path).unwrap();
        let key = std::fs::read_to_string(&path).unwrap();
        assert!(key.trim().len() == 64 && key.trim().bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        make_if_missing(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), key);
    }
}
