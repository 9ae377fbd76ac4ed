//! `outrigger up`: a mesh that works, one with a part that does not, and nothing left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::{EXAMPLES, Mesh, call_with, kill, run, stderr, stdout, until};

#[test]
fn a_mesh_serves_its_tools_to_the_token_and_leaves_nothing_behind() {
    let mut mesh = Mesh::start(EXAMPLES, &[]);
    let up = mesh.up();
    for service in ["fs", "http", "vector"] {
        assert_eq!(up["services"][service]["status"], "ready", "{up}");
    }
    let token = mesh.token();
    let mode = fs::metadata(up["token_file"].as_str().unwrap()).unwrap().permissions().mode();
    assert_eq!((token.len(), mode & 0o777), (43, 0o600));
    assert!(up["ca_file"].as_str().is_some_and(|path| fs::exists(path).unwrap()));

    let (status, answer) = mesh.call(Some(&token), "fs__readFileText", json!({"path": "hello.txt"}));
    assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("hello from a file")), "{answer}");
    assert_eq!(mesh.call(None, "fs__readFileText", json!({"path": "hello.txt"})).0, 401);
    assert_eq!(mesh.call(Some("wrong"), "fs__readFileText", json!({"path": "hello.txt"})).0, 401);

    let second = run(mesh.dir.path(), &["up", "-f", "mesh.yaml"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains(&format!("process {}", mesh.process.id())), "{}", stderr(&second));
    assert!(mesh.state().join("up.json").exists(), "the refused one changed nothing");

    assert!(mesh.parts().len() >= 4, "{:?}", mesh.parts());
    mesh.signal("TERM");
    assert_eq!(mesh.wait(), Some(0), "{}", mesh.output());
    assert_eq!(mesh.parts(), [], "processes were left behind");
    assert!(!mesh.state().join("up.json").exists());
    let output = mesh.output();
    assert!(output.contains(r#"{"event":"ready","up":"#) && output.contains(r#"{"event":"stopped"}"#), "{output}");
    assert!(!output.contains(&token), "the token is for terminals only");
}

#[test]
fn a_service_that_does_not_start_is_reported_and_stops_nothing() {
    let manifest = "\
ingress: { listen: 127.0.0.1:0, anonymous: true }
services:
  fs: { example: fs, args: [--root, DIR] }
  bad: { command: [/no/such/program] }
";
    // Far longer than a test waits: what is hopeless must not hold up the rest.
    let mut mesh = Mesh::start(manifest, &["--start-timeout", "1h"]);
    until("fs is ready", || mesh.up()["services"]["fs"]["status"] == "ready");
    let up = mesh.up();
    assert_eq!(up["services"]["bad"]["status"], "failed", "{up}");
    let reason = up["services"]["bad"]["reason"].as_str().unwrap();
    assert!(reason.contains("cannot start \"/no/such/program\": no such program"), "{reason}");
    assert_eq!(up["token_file"], json!(null));
    let (status, answer) = mesh.call(None, "fs__readFileText", json!({"path": "hello.txt"}));
    assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("hello from a file")), "{answer}");
    assert!(mesh.output().contains(r#""part":"bad","state":"failed""#), "{}", mesh.output());
    mesh.signal("INT");
    assert_eq!(mesh.wait(), Some(0));
    assert_eq!(mesh.parts(), []);
}

#[test]
fn a_second_signal_cuts_what_the_first_one_waits_for() {
    let mut mesh = Mesh::start("ingress: { listen: 127.0.0.1:0 }\nservices: { vector: { example: vector } }\n", &[]);
    let up = mesh.up();
    let address = up["mcp"].as_str().unwrap().strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap();
    // A request whose body does not come is at work until the drain is over.
    let mut open = std::net::TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n",
        mesh.token()
    );
    std::io::Write::write_all(&mut open, head.as_bytes()).unwrap();
    let log = mesh.state().join("logs/ingress.log");
    mesh.signal("INT");
    until("the first signal is heard", || fs::read_to_string(&log).unwrap_or_default().contains("draining"));
    assert!(!mesh.output().contains("hurried"), "{}", mesh.output());
    mesh.signal("INT");
    assert_eq!(mesh.wait(), Some(0), "{}", mesh.output());
    assert!(mesh.output().contains(r#"{"event":"stopping","hurried":true}"#), "{}", mesh.output());
    assert_eq!(mesh.parts(), [], "processes were left behind");
}

#[test]
fn the_state_directory_is_not_offered_by_the_bundled_fs() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mesh.yaml"), "services: { fs: { example: fs, args: [--root, .] } }\n").unwrap();
    let output = run(dir.path(), &["up", "-f", "mesh.yaml", "--dir", "state"]);
    assert_eq!(output.status.code(), Some(1));
    let shown = stderr(&output);
    assert!(shown.contains("services.fs") && shown.contains("state directory") && shown.contains("--dir"), "{shown}");
    assert!(!dir.path().join("state").exists(), "nothing was made");
}

#[test]
fn a_killed_sidecar_comes_back_where_it_was() {
    let mesh = Mesh::start("ingress: { listen: 127.0.0.1:0 }\nservices: { vector: { example: vector } }\n", &[]);
    let (token, before) = (mesh.token(), mesh.up());
    let killed = mesh.sidecar("vector").unwrap();
    kill(killed, "KILL");
    until("another one runs", || mesh.sidecar("vector").is_some_and(|pid| pid != killed));
    until("it is ready", || mesh.up()["services"]["vector"]["status"] == "ready");
    assert_eq!(mesh.up()["services"]["vector"]["sidecar"], before["services"]["vector"]["sidecar"]);
    until("the tool works again", || {
        let (status, answer) = mesh.call(Some(&token), "vector__addDocument", json!({"id": "a", "text": "a text"}));
        status == 200 && answer["result"]["isError"] != true && answer.get("error").is_none()
    });
    assert!(mesh.output().contains(r#""part":"vector","state":"restarting""#), "{}", mesh.output());
}

#[test]
fn a_mesh_whose_tool_is_killed_ends_by_itself() {
    let mut mesh = Mesh::start("ingress: { listen: 127.0.0.1:0 }\nservices: { vector: { example: vector } }\n", &[]);
    let [first, ..] = &mesh.parts()[..] else { panic!("nothing runs") };
    assert!(fs::exists(format!("/proc/{}", first.0)).unwrap());
    mesh.signal("KILL");
    mesh.wait();
    until("nothing is left", || mesh.parts().is_empty());
    // What was left in the directory stops nobody.
    assert!(mesh.state().join("up.json").exists());
    let dir = mesh.dir.path().display().to_string();
    let refused = run(mesh.dir.path(), &["up", "-f", "no-such.yaml", "--dir", &dir]);
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn certificates_are_renewed_while_the_mesh_runs() {
    let manifest = "ingress: { listen: 127.0.0.1:0 }\nservices: { vector: { example: vector } }\n";
    let mesh = Mesh::start(manifest, &["--certificate-life", "10s"]);
    for member in ["vector", "ingress"] {
        let path = mesh.state().join(format!("identity/{member}/{member}.pem"));
        let first = fs::read(&path).unwrap();
        until("the certificate is another one", || fs::read(&path).unwrap() != first);
    }
    assert!(!mesh.output().contains("trouble"), "{}", mesh.output());
}

#[test]
fn every_mistake_of_a_manifest_is_told_and_nothing_starts() {
    let dir = tempfile::tempdir().unwrap();
    let text = "ingress: { listen: nowhere }\nservices:\n  ingress: { example: fs }\n  b: { example: fss }\n";
    fs::write(dir.path().join("mesh.yaml"), text).unwrap();
    let output = run(dir.path(), &["up", "-f", "mesh.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    let shown = stderr(&output);
    for expected in
        ["mesh.yaml:1:20: ingress.listen", "mesh.yaml:3:12: services.ingress", "did you mean `fs`?", "3 mistakes"]
    {
        assert!(shown.contains(expected), "missing: {expected}\nin:\n{shown}");
    }
    assert!(!dir.path().join(".outrigger").exists(), "nothing was made");
}

#[test]
fn a_port_that_is_taken_is_told_with_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text =
        format!("ingress: {{ listen: \"{}\" }}\nservices: {{ fs: {{ example: fs }} }}\n", taken.local_addr().unwrap());
    fs::write(dir.path().join("mesh.yaml"), text).unwrap();
    let output = run(dir.path(), &["up", "-f", "mesh.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("process {}", std::process::id())), "{}", stderr(&output));
}

#[test]
fn a_policy_that_is_wrong_starts_nothing_and_one_that_is_right_decides() {
    let dir = tempfile::tempdir().unwrap();
    let mesh = "ingress: { listen: 127.0.0.1:0 }\npolicy: [p.yaml]\nservices: { fs: { example: fs } }\n";
    fs::write(dir.path().join("mesh.yaml"), mesh).unwrap();
    fs::write(dir.path().join("p.yaml"), "apiVersion: mcpx.io/v1\nkind: SecurityPolcy\n").unwrap();
    let output = run(dir.path(), &["up", "-f", "mesh.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("p.yaml:2:7: kind"), "{}", stderr(&output));
    assert!(!dir.path().join(".outrigger").exists());

    let rule = "{ name: r, services: [vector], capabilities: [search], requires: [ { scope: special } ] }";
    let policy = format!(
        "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: {{ name: p }}\nspec: {{ authorization: {{ rules: [ {rule} ] }} }}\n"
    );
    let path = dir.path().join("good.yaml");
    fs::write(&path, policy).unwrap();
    let manifest = format!(
        "ingress: {{ listen: 127.0.0.1:0, token: {{ scopes: [special] }} }}\npolicy: [\"{}\"]\nservices: {{ vector: {{ example: vector }} }}\n",
        path.display()
    );
    let mut mesh = Mesh::start(&manifest, &[]);
    let token = mesh.token();
    let (_, allowed) = mesh.call(Some(&token), "vector__search", json!({"query": "x"}));
    assert!(allowed.get("result").is_some(), "{allowed}");
    let (_, hidden) = mesh.call(Some(&token), "vector__addDocument", json!({"id": "a", "text": "b"}));
    let (_, unknown) = mesh.call(Some(&token), "vector__noSuchTool", json!({}));
    assert_eq!(hidden["error"]["code"], unknown["error"]["code"], "{hidden} {unknown}");

    // What the next version would have answered to the calls that were recorded.
    mesh.signal("TERM");
    assert_eq!(mesh.wait(), Some(0), "{}", mesh.output());
    let next =
        fs::read_to_string(&path).unwrap().replace(rule, "{ name: w, services: [vector], capabilities: [\"add*\"] }");
    let (next_path, audit) = (dir.path().join("next.yaml"), mesh.state().join("logs/ingress.audit.jsonl"));
    fs::write(&next_path, next).unwrap();
    let [old, new, audit] = [&path, &next_path, &audit].map(|path| path.to_str().unwrap());
    let diff = run(dir.path(), &["policy", "diff", old, new, "--audit-log", audit]);
    let told = stdout(&diff);
    assert!(told.contains("gains tool vector.addDocument (asked for once)"), "{told}");
    assert!(told.contains("loses tool vector.search (asked for once)"), "{told}");
    assert!(told.contains("1 gained, 1 lost, 0 undecidable"), "{told}");
}

#[test]
fn an_ingress_that_cannot_run_ends_the_whole_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let tls = "tls: { cert: none.pem, key: none.key }";
    let mesh = format!("ingress: {{ listen: 127.0.0.1:0, {tls} }}\nservices: {{ vector: {{ example: vector }} }}\n");
    fs::write(dir.path().join("mesh.yaml"), mesh).unwrap();
    let output = run(dir.path(), &["up", "-f", "mesh.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let shown = stderr(&output);
    assert!(shown.contains("the ingress does not run") && shown.contains("none.pem"), "{shown}");
}

#[test]
fn its_audit_is_signed_and_every_change_of_it_is_found() {
    let mut mesh = Mesh::start(
        "ingress: { listen: 127.0.0.1:0, anonymous: true }\nservices: { vector: { example: vector } }\n",
        &[],
    );
    mesh.up();
    for _ in 0..3 {
        mesh.call(None, "vector__search", json!({"query": "canoe"}));
    }
    mesh.signal("TERM");
    assert_eq!(mesh.wait(), Some(0), "{}", mesh.output());
    let audit = mesh.state().join("logs/ingress.audit.jsonl");
    let key = mesh.state().join("identity/ingress.audit.key.pub");
    let (file, key) = (audit.to_str().unwrap(), key.to_str().unwrap());
    let verify = |more: &[&str]| run(mesh.dir.path(), &[&["audit", "verify", file, "--key", key], more].concat());

    let whole = verify(&["--json"]);
    let report: Value = serde_json::from_str(&stdout(&whole)).unwrap();
    assert_eq!((whole.status.code(), &report["whole"]), (Some(0), &json!(true)), "{report}");
    let last = report["report"]["last"].as_u64().unwrap();
    assert_eq!(verify(&["--expect", &last.to_string()]).status.code(), Some(0));
    let cut = verify(&["--expect", &(last + 1).to_string()]);
    assert!(cut.status.code() == Some(1) && stdout(&cut).contains("its end was cut off"), "{}", stdout(&cut));

    let query = |conditions: &[&str]| stdout(&run(mesh.dir.path(), &[&["audit", "query", file], conditions].concat()));
    assert_eq!(query(&["--decision", "allow", "--service", "vec*", "--since", "1h"]).lines().count(), 3);
    assert_eq!(query(&["--decision", "deny"]), "");
    assert_eq!(query(&["--until", "2020"]), "");
    let line: Value = serde_json::from_str(query(&["--json", "--who", "anonymous"]).lines().next().unwrap()).unwrap();
    assert_eq!(line["capability"], "search");

    let text = fs::read_to_string(&audit).unwrap();
    fs::write(&audit, text.replacen("anonymous", "user:eve", 1)).unwrap();
    let edited = verify(&[]);
    assert!(edited.status.code() == Some(1) && stdout(&edited).contains("NOT whole"), "{}", stdout(&edited));
    let other = run(mesh.dir.path(), &["audit", "verify", file, "--key", "no.pub"]);
    assert!(!other.status.success() && stderr(&other).contains("no.pub"), "{}", stderr(&other));
}

#[test]
fn the_records_of_ingress_and_sidecar_about_one_call_are_found_by_its_trace() {
    let mesh = Mesh::start(
        "ingress: { listen: 127.0.0.1:0, anonymous: true }\nservices: { fs: { example: fs, args: [--root, DIR] }, vector: { example: vector } }\n",
        &[],
    );
    // What a client says of its own trace is gone on with.
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traced = |tool: &str, arguments: Value, trace: &str| {
        let up = mesh.up();
        let address =
            up["mcp"].as_str().unwrap().strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap().to_owned();
        let header = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n");
        call_with(&address, &header, tool, arguments)
    };
    assert_eq!(traced("fs__readFileText", json!({"path": "hello.txt"}), trace).0, 200);
    assert_eq!(traced("vector__search", json!({"query": "canoe"}), "11111111111111111111111111111111").0, 200);
    // One that has none gets one.
    assert_eq!(mesh.call(None, "fs__readFileText", json!({"path": "hello.txt"})).0, 200);

    let logs = mesh.state().join("logs");
    let files: Vec<_> = ["ingress", "fs", "vector"].map(|name| logs.join(format!("{name}.audit.jsonl"))).to_vec();
    let query = |conditions: &[&str]| -> Vec<Value> {
        let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
        let output = run(mesh.dir.path(), &[&["audit", "query", "--json"][..], &files, conditions].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let joined = |trace: &str| {
        let mut found = Vec::new();
        until("both records are written", || {
            found = query(&["--trace", trace]);
            found.len() >= 2
        });
        assert_eq!(found.len(), 2, "one of each: {found:?}");
        for member in ["service", "capability", "argument_digest", "outcome"] {
            assert_eq!(found[0][member], found[1][member], "{member}: {found:?}");
        }
        // Who called the mesh, and who called the server for them.
        let whom: Vec<_> = found.iter().map(|line| line["who"].as_str().unwrap().to_owned()).collect();
        assert!(whom[0] == "anonymous" && whom[1].ends_with("/ingress"), "{whom:?}");
        found
    };
    assert_eq!(joined(trace)[1]["capability"], "readFileText");
    assert_eq!(joined("11111111111111111111111111111111")[1]["capability"], "search");
    let mut made = None;
    until("its record is written", || {
        let lines = query(&["--service", "fs", "--who", "anonymous"]);
        made = lines.iter().map(|line| line["trace_id"].as_str().unwrap().to_owned()).find(|id| id != trace);
        made.is_some()
    });
    joined(&made.unwrap());
}
