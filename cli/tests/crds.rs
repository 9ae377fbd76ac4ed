//! The custom resource definitions are written by the code. This test fails when they are stale; `UPDATE_DOCS=1` rewrites them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

#[test]
fn the_definitions_are_what_the_code_says() {
    for (file, definition) in outrigger::crds::all() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s/base/crds").join(file);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &definition).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == definition,
            "{} is stale; run: UPDATE_DOCS=1 cargo test -p outrigger --test crds",
            path.display()
        );
    }
}
