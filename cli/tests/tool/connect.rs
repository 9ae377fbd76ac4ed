//! `outrigger connect` in front of a real mesh, as a desktop client runs it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::support::{EXAMPLES, META, Mesh, run, stderr, tool};

/// A client that started `outrigger connect`.
struct Client {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Client {
    /// Without --url: the mesh of this directory.
    fn start(mesh: &Mesh) -> Self {
        Self::with(mesh, &[])
    }

    fn with(mesh: &Mesh, args: &[&str]) -> Self {
        let mut command = tool(mesh.dir.path(), &[&["connect"], args].concat());
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    fn ask(&mut self, message: &Value) -> Value {
        self.say(message);
        let mut line = String::new();
        // Notifications may come in between.
        loop {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the connection ended");
            let answer: Value = serde_json::from_str(&line).unwrap();
            if answer["id"] == message["id"] {
                return answer;
            }
        }
    }

    /// Says `initialize`, and `initialized` after the answer.
    fn greet(&mut self, revision: &str) -> Value {
        let info = json!({"name": "test", "version": "1"});
        let params = json!({"protocolVersion": revision, "capabilities": {}, "clientInfo": info});
        let greeted = self.ask(&json!({"jsonrpc": "2.0", "id": "greeting", "method": "initialize", "params": params}));
        self.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        greeted
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{message}").unwrap();
    }

    /// Ends its input and waits: what it said on stderr, and its exit code.
    fn leave(mut self) -> (String, Option<i32>) {
        drop(self.process.stdin.take());
        let output = self.process.wait_with_output().unwrap();
        (stderr(&output), output.status.code())
    }
}

fn read(id: u32) -> Value {
    let params = json!({"name": "fs__readFileText", "arguments": {"path": "hello.txt"}});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

#[test]
fn clients_of_every_revision_use_the_mesh_over_stdio() {
    let mesh = Mesh::start(EXAMPLES, &[]);
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let mut client = Client::start(&mesh);
        let greeted = client.greet(revision);
        assert_eq!(greeted["result"]["protocolVersion"], revision, "{greeted}");
        let listed = client.ask(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}));
        let tools = listed["result"]["tools"].as_array().unwrap_or_else(|| panic!("{revision}: {listed}"));
        let names: Vec<_> = tools.iter().map(|tool| &tool["name"]).collect();
        assert!(names.contains(&&json!("fs__listDir")) && names.contains(&&json!("vector__search")), "{names:?}");
        let answer = client.ask(&read(3));
        assert_eq!(answer["result"]["content"][0]["text"], "hello from a file", "{revision}: {answer}");
        assert!(answer["result"].get("resultType").is_none(), "{revision}: {answer}");
        assert_eq!(client.ask(&json!({"jsonrpc": "2.0", "id": 4, "method": "ping"}))["result"], json!({}));
        let unknown = client.ask(&json!({"jsonrpc": "2.0", "id": 5, "method": "no/such"}));
        assert_eq!(unknown["error"]["code"], -32601, "{revision}: {unknown}");
        if revision == "2025-03-26" {
            client.say(&json!([read(6), {"jsonrpc": "2.0", "id": 7, "method": "ping"}]));
            let pong = client.ask(&json!({"jsonrpc": "2.0", "id": 8, "method": "ping"}));
            assert_eq!(pong["result"], json!({}), "a batch does not end the connection");
        }
        assert_eq!(client.leave(), (String::new(), Some(0)), "{revision}");
    }

    let mut modern = Client::start(&mesh);
    let mut call = read(4);
    call["params"]["_meta"] = serde_json::from_str(META).unwrap();
    let answer = modern.ask(&call);
    assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    assert_eq!(answer["result"]["content"][0]["text"], "hello from a file");
    let mut discover = json!({"jsonrpc": "2.0", "id": 5, "method": "server/discover", "params": {}});
    discover["params"]["_meta"] = serde_json::from_str(META).unwrap();
    let discovered = modern.ask(&discover);
    assert!(discovered["result"]["supportedVersions"].as_array().is_some_and(|all| all.len() == 5), "{discovered}");
    assert_eq!(modern.leave(), (String::new(), Some(0)));
}

/// A certificate for an address of this machine, of an authority that nobody else knows.
fn own_certificate(dir: &Path) {
    let made = run(dir, &["ca", "init", "--trust-domain", "own.example", "--dir", "own"]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let issued = run(dir, &["ca", "issue", "edge", "--dir", "own", "--out", "edge", "--host", "127.0.0.1"]);
    assert_eq!(issued.status.code(), Some(0), "{}", stderr(&issued));
}

#[test]
fn a_mesh_behind_tls_of_an_own_authority_is_reached_with_its_certificate() {
    let certificates = tempfile::tempdir().unwrap();
    own_certificate(certificates.path());
    let at = |name: &str| certificates.path().join(name).display().to_string();
    let tls = format!("listen: 127.0.0.1:0, tls: {{ cert: {}, key: {} }}", at("edge/edge.pem"), at("edge/edge.key"));
    let mesh = Mesh::start(&EXAMPLES.replace("listen: 127.0.0.1:0", &tls), &[]);
    let up = mesh.up();
    let (url, token) = (up["mcp"].as_str().unwrap(), up["token_file"].as_str().unwrap());
    assert!(url.starts_with("https://127.0.0.1:"), "{up}");
    let target = ["--url", url, "--token-file", token];

    let ca = at("own/ca.pem");
    for (revision, args) in
        [("2025-06-18", [&target[..], &["--ca-file", &ca]].concat()), ("2024-11-05", vec!["--ca-file", &ca])]
    {
        let mut client = Client::with(&mesh, &args);
        let greeted = client.greet(revision);
        assert_eq!(greeted["result"]["protocolVersion"], revision, "{greeted}");
        assert_eq!(client.ask(&read(1))["result"]["content"][0]["text"], "hello from a file");
        assert_eq!(client.leave(), (String::new(), Some(0)));
    }
    // Without it, or with the authority of the mesh, which is another one, nothing is believed.
    let mesh_ca = up["ca_file"].as_str().unwrap();
    for args in [target.to_vec(), [&target[..], &["--ca-file", mesh_ca]].concat()] {
        let mut client = Client::with(&mesh, &args);
        let refused = client.greet("2025-06-18");
        assert!(refused["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{refused}");
        client.leave();
    }
}

#[test]
fn without_a_mesh_it_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["connect"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("start it with `outrigger up`"), "{}", stderr(&output));
}
