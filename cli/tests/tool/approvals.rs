//! `outrigger approvals` against a mesh: a call that waits, and somebody who lets it go on.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Mesh, call, run, stderr, stdout, until};

const MANIFEST: &str = "\
ingress: { listen: 127.0.0.1:0, token: { subject: local, roles: [admin] } }
policy: [policy.yaml]
services:
  fs: { example: fs, args: [--root, DIR] }
";

const POLICY: &str = "\
apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: p }
spec:
  authorization:
    rules:
      - { name: all, services: [fs], capabilities: [\"*\"] }
      - { name: reading, services: [fs], capabilities: [readFileText], approval: { role: auditor }, audit: { arguments: [path] } }
";

#[test]
fn a_person_sees_nothing_without_a_role_and_explain_tells_of_approval() {
    let mesh = Mesh::prepared(MANIFEST, &[], |dir| fs::write(dir.join("policy.yaml"), POLICY).unwrap());
    until("fs is ready", || mesh.up()["services"]["fs"]["status"] == "ready");
    let (dir, token) = (mesh.dir.path(), mesh.token());
    let up = mesh.up();
    let file = up["token_file"].as_str().unwrap();
    let address = up["mcp"].as_str().unwrap().strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap().to_owned();
    let waiting = std::thread::spawn({
        let token = token.clone();
        move || call(&address, Some(&token), "fs__readFileText", json!({"path": "hello.txt"}))
    });
    until("it waits", || {
        let page = stdout(&run(dir, &["approvals", "list", "--json", "--token-file", file]));
        serde_json::from_str::<Value>(&page).is_ok_and(|page| page["who"] == "user:local")
    });
    // `local` has another role, so there is nothing for it, and nobody lets the call go on.
    let denied = run(dir, &["approvals", "approve", "0", "--token-file", file]);
    assert_eq!(denied.status.code(), Some(2));
    assert!(stderr(&denied).contains("no such call waits for you"), "{}", stderr(&denied));
    fs::write(dir.join("wrong"), "wrong").unwrap();
    let wrong = run(dir, &["approvals", "list", "--token-file", "wrong"]);
    assert!(wrong.status.code() == Some(2) && stderr(&wrong).contains("token"), "{}", stderr(&wrong));

    let asked = ["policy", "explain", "--policy", "policy.yaml", "--as", "local", "fs.readFileText"];
    let explained = stdout(&run(dir, &asked));
    assert!(
        explained.contains("each call waits for somebody with the role \"auditor\", as rule p/reading says"),
        "{explained}"
    );
    // Whoever may write the policy may let it through.
    drop(mesh);
    let _ = waiting.join();
}
