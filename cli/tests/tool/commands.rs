//! The commands that answer at once: results on stdout, everything else on stderr, exit codes.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{run, stderr, stdout};

const POLICY: &str = "\
apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: demo }
spec:
  authorization:
    rules:
      - name: readers
        services: [fs]
        capabilities: [\"read*\"]
        requires: [ { scope: read } ]
";

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

#[test]
fn validate_tells_every_mistake_of_every_kind_of_file() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "mesh.yaml", "services: { fs: { example: fss } }\n");
    write(dir.path(), "sidecar.yaml", "service: FS\nupstream: http://a:1/\n");
    write(dir.path(), "ingress.yaml", "services: { fs: { addresses: [fs] } }\n");
    write(dir.path(), "policy.yaml", &POLICY.replace("services:", "service:"));
    let files = ["mesh.yaml", "sidecar.yaml", "ingress.yaml", "policy.yaml"];
    let output = run(dir.path(), &[&["validate"][..], &files].concat());
    assert_eq!(output.status.code(), Some(1));
    let shown = stdout(&output);
    for expected in ["mesh.yaml:1:28:", "sidecar.yaml:1:10:", "ingress.yaml:1:31:", "policy.yaml:8:9:"] {
        assert!(shown.contains(expected), "missing: {expected}\nin:\n{shown}");
    }
    let output = run(dir.path(), &["validate", "--json", "policy.yaml"]);
    let json: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["valid"], false);
    assert!(json["mistakes"].as_array().is_some_and(|all| all.iter().any(|one| one["line"] == 8)), "{json}");

    write(dir.path(), "policy.yaml", POLICY);
    let output = run(dir.path(), &["validate", "policy.yaml"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), ""));
    assert!(stderr(&output).contains("1 file without mistakes"));
}

#[test]
fn validate_goes_on_after_a_file_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "mesh.yaml", "services: { fs: { example: fss } }\n");
    fs::write(dir.path().join("binary.yaml"), b"\xff\xfe").unwrap();
    let files = ["missing.yaml", "mesh.yaml", "binary.yaml", "gone.yaml"];
    let output = run(dir.path(), &[&["validate"][..], &files].concat());
    assert_eq!(output.status.code(), Some(1));
    let shown = stdout(&output);
    for expected in ["missing.yaml: ", "mesh.yaml:1:28:", "binary.yaml: ", "gone.yaml: ", "No such file"] {
        assert!(shown.contains(expected), "missing: {expected}\nin:\n{shown}");
    }
    assert_eq!(shown.matches("No such file").count(), 2, "each reason is said once: {shown}");
    assert!(stderr(&output).contains("4 mistakes"), "{}", stderr(&output));
    let output = run(dir.path(), &["validate", "--json", "missing.yaml", "mesh.yaml"]);
    let json: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let files: Vec<_> = json["mistakes"].as_array().unwrap().iter().map(|one| one["file"].clone()).collect();
    assert_eq!((&json["valid"], files), (&Value::from(false), vec!["missing.yaml".into(), "mesh.yaml".into()]));
}

#[test]
fn validate_completes_files_from_the_environment_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "sidecar.yaml", "upstream: http://a:1/\nidentity: { trust_domain: t, cert: c, key: k, ca: a }\n");
    let with = |args: &[&str]| {
        let mut command = crate::support::tool(dir.path(), args);
        command.env("OUTRIGGER_SERVICE", "fs").output().unwrap().status.code()
    };
    assert_eq!(with(&["validate", "sidecar.yaml"]), Some(1));
    assert_eq!(with(&["validate", "--environment", "sidecar.yaml"]), Some(0));
}

#[test]
fn schemas_are_printed_for_editors() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["mesh", "sidecar", "ingress", "policy"] {
        let schema: Value = serde_json::from_str(&stdout(&run(dir.path(), &["validate", "--schema", kind]))).unwrap();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    }
    assert_eq!(run(dir.path(), &["validate"]).status.code(), Some(2));
}

#[test]
fn policy_explain_names_the_rule_and_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "policy.yaml", POLICY);
    let explain =
        |more: &[&str]| run(dir.path(), &[&["policy", "explain", "--policy", "policy.yaml"][..], more].concat());
    let allowed = explain(&["--as", "alice", "--scope", "read", "fs.readFileText"]);
    assert_eq!(allowed.status.code(), Some(0));
    assert!(stdout(&allowed).starts_with("allowed: user:alice") && stdout(&allowed).contains("by rule demo/readers"));
    let denied = explain(&["--as", "alice", "fs.readFileText"]);
    assert_eq!(denied.status.code(), Some(1));
    assert!(stdout(&denied).contains("demo/readers: needs"), "{}", stdout(&denied));
    let json = explain(&["--as", "spiffe://demo/indexer", "--json", "fs__listDir"]);
    let json: Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!((json["allowed"].as_bool(), json["reason"].as_str()), (Some(false), Some("no_rule")));
    let unnamed = run(dir.path(), &["policy", "explain", "--as", "alice", "fs.x"]);
    assert!(stderr(&unnamed).contains("--policy"), "{}", stderr(&unnamed));
}

/// The examples of docs/POLICY.md that begin so.
fn example(begins: &str) -> &'static str {
    let page = include_str!("../../../docs/POLICY.md");
    let mut examples = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    examples.find(|example| example.contains(begins)).unwrap_or_else(|| panic!("docs/POLICY.md lost {begins}"))
}

#[test]
fn policy_test_compares_with_what_is_expected() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "policy.yaml", example("name: careful"));
    write(dir.path(), "expectations.yaml", example("# expectations.yaml"));
    let passed = run(dir.path(), &["policy", "test", "expectations.yaml"]);
    assert_eq!(stdout(&passed), "2 expectations hold, 0 do not\n", "{}", stderr(&passed));
    assert_eq!(passed.status.code(), Some(0));
    let night = example("# expectations.yaml").replace("T09:30", "T03:30");
    write(dir.path(), "night.yaml", &night);
    let failed = run(dir.path(), &["policy", "test", "night.yaml"]);
    assert_eq!(failed.status.code(), Some(1));
    let told = stdout(&failed);
    assert!(
        told.contains("night.yaml:4: editors write to data by day: expected allow, the policy says deny"),
        "{told}"
    );
    assert!(told.contains("when time.getHours('Europe/Berlin') >= 8: false"), "{told}");
    let json = run(dir.path(), &["policy", "test", "--json", "night.yaml"]);
    let json: Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!((json["failed"].as_u64(), json["cases"][0]["passed"].as_bool()), (Some(1), Some(false)));
    write(
        dir.path(),
        "wrong.yaml",
        "policy: [policy.yaml]\nexpect:\n  - { as: user:ada, capability: fs, decision: allow }\n",
    );
    let wrong = run(dir.path(), &["policy", "test", "wrong.yaml"]);
    assert!(stderr(&wrong).contains("wrong.yaml:3:"), "{}", stderr(&wrong));
}

#[test]
fn policy_test_tells_calls_that_wait_for_a_person_from_others() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "release.yaml", example("name: release"));
    write(dir.path(), "approvals.yaml", example("# approvals.yaml"));
    let passed = run(dir.path(), &["policy", "test", "approvals.yaml"]);
    assert_eq!(stdout(&passed), "3 expectations hold, 0 do not\n", "{}", stderr(&passed));
    for (expectation, wanted) in [
        ("capability: bank.pay, decision: allow", "expected allow, the policy says approval"),
        ("capability: bank.pay, decision: deny", "expected deny, the policy says approval"),
        ("capability: bank.other, decision: approval", "expected approval, the policy says deny"),
        ("capability: bank.pay, listed: true, decision: approval", "expected approval, the policy says allow"),
        (
            "capability: bank.pay, decision: approval, approval: { role: boss }",
            "expected that it waits for somebody with the role \"boss\", it waits for the caller's own user (release/payments)",
        ),
    ] {
        let text = format!("policy: [release.yaml]\nexpect:\n  - {{ as: user:ada, {expectation} }}\n");
        write(dir.path(), "wrong.yaml", &text);
        let failed = run(dir.path(), &["policy", "test", "wrong.yaml"]);
        assert_eq!(failed.status.code(), Some(1));
        assert!(stdout(&failed).contains(wanted), "{expectation}: {}", stdout(&failed));
    }
    for (expectation, wanted) in [
        ("decision: allow, approval: { caller: true }", "nothing waits for anybody"),
        ("decision: approval, approval: {}", "this names nobody"),
    ] {
        let text =
            format!("policy: [release.yaml]\nexpect:\n  - {{ as: user:ada, capability: bank.pay, {expectation} }}\n");
        write(dir.path(), "wrong.yaml", &text);
        let wrong = run(dir.path(), &["policy", "test", "wrong.yaml"]);
        assert!(stderr(&wrong).contains(wanted), "{expectation}: {}", stderr(&wrong));
    }
}

#[test]
fn policy_explain_shows_what_became_of_a_condition() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "policy.yaml", example("name: careful"));
    let explain = |more: &[&str]| {
        stdout(&run(dir.path(), &[&["policy", "explain", "--policy", "policy.yaml", "--as", "ada"][..], more].concat()))
    };
    let writing = ["--role", "editor", "fs.writeFile"];
    let listed = explain(&writing);
    assert!(listed.starts_with("allowed") && listed.contains("startsWith('/data/'): depends on the call"), "{listed}");
    let up = r#"{"path":"/data/../etc"}"#;
    let denied = explain(&[&writing[..], &["--arguments", up, "--time", "2026-11-20T09:30:00Z"]].concat());
    assert!(denied.contains("by rule careful/no-way-up, which denies it"), "{denied}");
    assert!(denied.contains("careful/no-way-up: denies\n      when has(arguments.path): true"), "{denied}");
}

#[test]
fn policy_diff_tells_who_gains_and_who_loses() {
    let dir = tempfile::tempdir().unwrap();
    let rule = |name: &str, capability: &str, requires: &str| {
        format!(
            "      - {{ name: {name}, services: [fs], capabilities: [\"{capability}\"], requires: [ {requires} ] }}\n"
        )
    };
    let policy = |rules: &[String]| {
        let head = "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: { name: p }\nspec:\n  authorization:\n    rules:\n";
        format!("{head}{}", rules.concat())
    };
    let (readers, bob) = (rule("readers", "read*", "{ scope: read }"), rule("bob", "write", "{ subject: bob }"));
    write(dir.path(), "old.yaml", &policy(&[readers.clone(), rule("eve", "*", "{ subject: eve }")]));
    write(dir.path(), "new.yaml", &policy(&[readers, bob, rule("admins", "wipe", "{ role: admin }")]));
    let line = |who: &str, tool: &str, decision: &str, rule: &str| {
        format!(
            r#"{{"who":"user:{who}","action":"tools/call","service":"fs","capability":"{tool}","decision":"{decision}","rule":{rule}}}"#
        )
    };
    let log = [
        line("ada", "readFile", "allow", "\"p/readers\""),
        line("bob", "write", "deny", "null"),
        line("bob", "write", "deny", "null"),
        line("eve", "wipe", "allow", "\"p/eve\""),
        line("eve", "other", "allow", "\"p/eve\""),
        "no record".to_owned(),
    ];
    write(dir.path(), "audit.jsonl", &log.join("\n"));
    let diff = run(dir.path(), &["policy", "diff", "old.yaml", "new.yaml", "--audit-log", "audit.jsonl"]);
    let told = stdout(&diff);
    assert!(told.contains("user:bob gains tool fs.write (asked for 2 times)"), "{told}");
    assert!(told.contains("user:eve loses tool fs.other (asked for once)\n    before: allowed by p/eve"), "{told}");
    assert!(told.contains("user:eve may or may not use tool fs.wipe"), "perhaps an admin: {told}");
    assert!(told.contains("1 gained, 1 lost, 1 undecidable; 1 calls unchanged, 1 lines skipped"), "{told}");
    assert_eq!(diff.status.code(), Some(1));
    let same = run(dir.path(), &["policy", "diff", "old.yaml", "old.yaml", "--audit-log", "audit.jsonl", "--json"]);
    let json: Value = serde_json::from_str(&stdout(&same)).unwrap();
    assert_eq!((same.status.code(), json["unchanged"].as_u64()), (Some(0), Some(5)));
}

#[test]
fn an_authority_is_made_used_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let ca = |args: &[&str]| run(dir.path(), &[&["ca"][..], args, &["--dir", "ca"]].concat());
    assert_eq!(stdout(&ca(&["init", "--trust-domain", "demo.example"])), "ca/ca.pem\n");
    let again = ca(&["init", "--trust-domain", "demo.example"]);
    assert!(again.status.code() == Some(1) && stderr(&again).contains("never overwritten"), "{}", stderr(&again));
    let issued = ca(&["issue", "fs", "--out", "id", "--host", "localhost"]);
    assert_eq!(stdout(&issued), "id/fs.pem\nid/fs.key\n");
    assert!(stderr(&issued).contains("spiffe://demo.example/fs"), "{}", stderr(&issued));
    assert_eq!(ca(&["issue", "Not A Service"]).status.code(), Some(1));
    let revoked = ca(&["revoke", "id/fs.pem"]);
    let serial = stdout(&revoked);
    assert!(stderr(&revoked).contains("It is revoked"));
    assert!(stderr(&ca(&["revoke", serial.trim()])).contains("before"));
    let shown: Value = serde_json::from_str(&stdout(&ca(&["show", "--json"]))).unwrap();
    assert_eq!(
        (shown["trust_domain"].as_str(), shown["revoked"][0].as_str()),
        (Some("demo.example"), Some(serial.trim()))
    );
}

#[test]
fn an_authority_below_a_root_is_made_and_replaced_step_by_step() {
    let dir = tempfile::tempdir().unwrap();
    let ca = |args: &[&str]| run(dir.path(), &[&["ca"][..], args].concat());
    let shown = || -> Value { serde_json::from_str(&stdout(&ca(&["show", "--json", "--dir", "online"]))).unwrap() };
    assert!(ca(&["init", "--root", "--trust-domain", "demo", "--dir", "offline"]).status.success());
    assert!(ca(&["intermediate", "--root", "offline", "--dir", "online"]).status.success());
    assert!(ca(&["issue", "fs", "--dir", "online"]).status.success());
    let pem = fs::read_to_string(dir.path().join("online/fs.pem")).unwrap();
    assert_eq!(pem.matches("BEGIN").count(), 2, "its own and that of its issuer");
    assert_eq!(shown()["rotation"], "none");
    assert_eq!(shown()["ca_sha256"][0].as_str().unwrap().len(), 64);

    let early = ca(&["rotate", "switch", "--dir", "online"]);
    assert!(!early.status.success() && stderr(&early).contains("rotate begin"), "{}", stderr(&early));
    assert!(ca(&["intermediate", "--root", "offline", "--dir", "online"]).status.success());
    assert_eq!(shown()["rotation"], "begun");
    assert!(ca(&["rotate", "switch", "--dir", "online"]).status.success());
    assert_eq!(shown()["rotation"], "switched");
    let early = ca(&["rotate", "finish", "--dir", "online"]);
    assert!(!early.status.success() && stderr(&early).contains("--after"), "{}", stderr(&early));
    std::thread::sleep(std::time::Duration::from_secs(1)); // the shortest life that there is
    assert!(ca(&["rotate", "finish", "--after", "1s", "--dir", "online"]).status.success());
    assert_eq!(shown()["rotation"], "none");
}

#[test]
fn an_authority_that_is_there_in_part_is_not_to_be_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let ca = |args: &[&str]| stderr(&run(dir.path(), &[&["ca"][..], args, &["--dir", "ca"]].concat()));
    assert!(ca(&["show"]).contains("make one: outrigger ca init"), "{}", ca(&["show"]));
    ca(&["init", "--trust-domain", "demo.example"]);
    let key = fs::read(dir.path().join("ca/ca.key")).unwrap();
    let broken = |name: &str, why: &str| {
        let said = ca(&["issue", "fs"]);
        assert!(said.contains("restore ca.key and ca.pem") && said.contains(name) && said.contains(why), "{said}");
        assert!(!said.contains("make one:") && said.matches(why).count() == 1, "{said}");
    };
    write(dir.path(), "ca/ca.key", "no key");
    broken("ca/ca.key", "holds no private key in PEM");
    fs::remove_file(dir.path().join("ca/ca.key")).unwrap();
    broken("ca/ca.key", "No such file");
    fs::create_dir(dir.path().join("ca/ca.key")).unwrap();
    broken("ca/ca.key", "Is a directory");
    fs::remove_dir(dir.path().join("ca/ca.key")).unwrap();
    fs::write(dir.path().join("ca/ca.key"), key).unwrap();
    fs::remove_file(dir.path().join("ca/ca.pem")).unwrap();
    broken("ca/ca.pem", "No such file");
}

#[test]
fn a_starter_is_copied_out_and_never_over_anything() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["new", "--lang", "python", "notes"]);
    assert!(stdout(&output).contains("notes/server.py\n"), "{}", stdout(&output));
    assert!(dir.path().join("notes/README.md").exists());
    let again = run(dir.path(), &["new", "--lang", "typescript", "notes"]);
    assert_eq!(again.status.code(), Some(1), "README.md is there");
    assert!(!dir.path().join("notes/package.json").exists());
}

#[test]
fn a_token_keeps_its_grants_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let token = |more: &[&str]| {
        let kept =
            ["token", "--token-file", "t/token", "--tokens-file", "tokens.yaml", "--role", "reader", "--role", "b"];
        run(dir.path(), &[&kept[..], more].concat())
    };
    assert!(token(&[]).status.success());
    let kept = || fs::read_to_string(dir.path().join("tokens.yaml")).unwrap();
    let (before, of_client) = (kept(), fs::read_to_string(dir.path().join("t/token")).unwrap());
    assert!(before.contains("\"roles\":[\"reader\",\"b\"]"), "{before}");
    assert!(token(&["--role", "b"]).status.success(), "the same again changes nothing");
    for other in [["--role", "admin"], ["--scope", "write"], ["--subject", "ada"]] {
        let refused = token(&other);
        let told = stderr(&refused);
        assert!(
            !refused.status.success() && told.contains("has this token for user:local, with roles [b, reader]"),
            "{told}"
        );
        assert!(told.contains(other[1]) && !told.contains(of_client.trim()), "{told}");
    }
    fs::remove_file(dir.path().join("t/token")).unwrap();
    let refused = token(&[]);
    assert!(stderr(&refused).contains("has other tokens: add this one"), "{}", stderr(&refused));
    assert_eq!(kept(), before);
}

#[test]
fn help_and_mistakes_go_where_they_belong() {
    let dir = tempfile::tempdir().unwrap();
    let help = run(dir.path(), &["--help"]);
    assert!(help.status.code() == Some(0) && stdout(&help).contains("outrigger up"), "{}", stdout(&help));
    let wrong = run(dir.path(), &["upp"]);
    assert!(wrong.status.code() == Some(2) && stdout(&wrong).is_empty() && stderr(&wrong).contains("'up'"));
    for part in [&["sidecar", "--help"][..], &["ingress", "--help"], &["example", "fs", "--help"]] {
        let help = run(dir.path(), part);
        assert!(help.status.code() == Some(0) && stdout(&help).contains("--"), "{part:?}: {}", stderr(&help));
    }
    assert_eq!(run(dir.path(), &["example", "ftp"]).status.code(), Some(1));
    assert!(stdout(&run(dir.path(), &["docs", "configuration"])).starts_with("# Configuration\n"));
}
