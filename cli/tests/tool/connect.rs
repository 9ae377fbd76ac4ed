//! `outrigger connect` in front of a real mesh, as a desktop client runs it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::support::{EXAMPLES, META, Mesh, run, stderr, tool};

/// A client that started `outrigger connect`.
struct Client {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Client {
    fn start(mesh: &Mesh) -> Self {
        // Without --url: the mesh of this directory.
        let mut command = tool(mesh.dir.path(), &["connect"]);
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

#[test]
fn clients_of_both_eras_use_the_mesh_over_stdio() {
    let mesh = Mesh::start(EXAMPLES, &[]);
    let read = |id: u32| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "fs__readFileText", "arguments": {"path": "hello.txt"}}});

    let mut legacy = Client::start(&mesh);
    let info = json!({"name": "test", "version": "1"});
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info});
    let greeted = legacy.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}));
    assert_eq!(greeted["result"]["protocolVersion"], "2025-11-25", "{greeted}");
    legacy.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    let listed = legacy.ask(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}));
    let names: Vec<_> = listed["result"]["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
    assert!(names.contains(&&json!("fs__listDir")) && names.contains(&&json!("vector__search")), "{names:?}");
    let answer = legacy.ask(&read(3));
    assert_eq!(answer["result"]["content"][0]["text"], "hello from a file", "{answer}");
    assert_eq!(legacy.leave(), (String::new(), Some(0)));

    let mut modern = Client::start(&mesh);
    let mut call = read(4);
    call["params"]["_meta"] = serde_json::from_str(META).unwrap();
    let answer = modern.ask(&call);
    assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    assert_eq!(answer["result"]["content"][0]["text"], "hello from a file");
    assert_eq!(modern.leave(), (String::new(), Some(0)));
}

#[test]
fn without_a_mesh_it_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["connect"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("start it with `outrigger up`"), "{}", stderr(&output));
}
