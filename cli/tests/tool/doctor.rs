//! `outrigger doctor` in front of real programs, good and bad.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::support::{run, stderr, stdout, tool};

/// A server of 2025-06-18 with every bad habit: a banner on stdout, an exit on what it does not know, broken tools.
const BAD: &str = r##"
import json, sys
print("Welcome!", flush=True)
tools = [
    {"name": "read file", "description": "x", "inputSchema": {"type": "object"}},
    {"name": "get_it", "description": "x", "inputSchema": {"type": "object", "properties": {"a": {"type": "text"}}}},
    {"name": "get-it", "description": "x", "inputSchema": {"type": "object", "anyOf": [{}]}},
    {"name": "dangling", "inputSchema": {"type": "object", "properties": {"a b": {"$ref": "#/$defs/none"}}}},
    {"name": "none"},
]
for line in sys.stdin:
    message = json.loads(line)
    if message["method"] == "initialize":
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}, "prompts": {}},
                  "serverInfo": {"name": "bad", "version": "0"}}
    elif message["method"] == "tools/list":
        result = {"tools": tools}
    elif "id" in message and message["method"] != "server/discover":
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "no"}}), flush=True)
        continue
    elif "id" in message:
        sys.exit(1)
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"##;

fn spoken(report: &Value) -> Vec<(&str, &str)> {
    let tried = report["tried"].as_array().unwrap().iter();
    let spoken = tried.filter(|tried| tried["spoken"] == true);
    spoken.map(|tried| (tried["transport"].as_str().unwrap(), tried["revision"].as_str().unwrap())).collect()
}

fn found(report: &Value, code: &str) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap().iter().filter(|finding| finding["code"] == code);
    let subjects = findings.flat_map(|finding| finding["subjects"].as_array().unwrap().clone());
    subjects.map(|subject| subject.as_str().unwrap().to_owned()).collect()
}

#[test]
fn everything_wrong_with_a_server_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.py"), BAD).unwrap();
    let output = run(dir.path(), &["doctor", "--json", "python3", "bad.py"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(spoken(&report), [("stdio", "2025-06-18")]);
    assert_eq!(report["tried"][0]["died"], true);
    assert_eq!(report["server"]["name"], "bad");
    assert_eq!(report["catalog"]["tools"].as_array().unwrap().len(), 5);
    for (code, subjects) in [
        ("noise", &["stdout"][..]),
        ("dies", &["server"]),
        ("list", &["prompts/list"]),
        ("tool-name", &["read file"]),
        ("look-alike", &["get-it"]),
        ("schema-invalid", &["get_it"]),
        ("schema-combinator", &["get-it"]),
        ("schema-reference", &["dangling"]),
        ("argument-name", &["dangling"]),
        ("description", &["dangling", "none"]),
        ("schema-missing", &["none"]),
    ] {
        assert_eq!(found(&report, code), subjects, "{code}: {report:#}");
    }
    let text = stdout(&run(dir.path(), &["doctor", "python3", "bad.py"]));
    assert!(text.contains("2025-06-18  stdio  yes"), "{text}");
    assert!(text.contains("error: inputSchema at /properties/a/type"), "{text}");
}

#[test]
fn a_good_server_gives_no_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["doctor", "--json", env!("CARGO_BIN_EXE_outrigger"), "example", "vector"]);
    let told: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(told["sandbox"]["landlock"].is_number() && told["sandbox"]["missing"].is_array(), "{told}");
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert!(spoken(&report).contains(&("stdio", "2026-07-28")), "{report:#}");
    assert_eq!(report["catalog"]["tools"].as_array().unwrap().len(), 2);
    assert!(report["findings"].as_array().unwrap().iter().all(|finding| finding["level"] == "note"), "{report:#}");
}

#[test]
fn servers_at_a_url_are_asked_over_both_transports() {
    let dir = tempfile::tempdir().unwrap();
    let server = HttpExample::start(dir.path());
    let output = run(dir.path(), &["doctor", "--json", &server.url]);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert!(spoken(&report).contains(&("streamable-http", "2026-07-28")), "{report:#}");
    let refused = report["tried"].as_array().unwrap().iter().find(|tried| tried["transport"] == "http+sse").unwrap();
    assert!(refused["trouble"].as_str().unwrap().contains("no stream"), "{report:#}");
}

#[test]
fn what_cannot_be_reached_is_told_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    for (args, reason) in [
        (&["doctor", "no-such-program-anywhere"][..], "cannot start \"no-such-program-anywhere\""),
        (&["doctor", "http://127.0.0.1:1/mcp"], "127.0.0.1:1 cannot be reached"),
        (&["doctor", "python3", "-c", "pass"], "the program ended"),
    ] {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(1));
        assert!(stdout(&output).contains(reason), "{}", stdout(&output));
    }
    for args in [&["doctor", "http://127.0.0.1:1/mcp", "more"][..], &["doctor", "--service", "A_B", "x"]] {
        let output = run(dir.path(), args);
        assert_ne!(output.status.code(), Some(0));
        assert!(stdout(&output).is_empty() && !stderr(&output).is_empty());
    }
}

/// A bundled service over Streamable HTTP.
struct HttpExample {
    process: Child,
    url: String,
}

impl HttpExample {
    fn start(dir: &std::path::Path) -> Self {
        let args = ["example", "vector", "--transport", "http", "--listen", "127.0.0.1:0"];
        let mut process = tool(dir, &args).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let url = lines.map_while(Result::ok).find_map(|line| {
            let start = line.find("http://")?;
            Some(line[start..].split(['"', ' ']).next()?.to_owned())
        });
        Self { process, url: url.expect("it says where it listens") }
    }
}

impl Drop for HttpExample {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_server_that_says_nothing_is_given_up_soon_and_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["doctor", "--timeout", "1s", "sleep", "60"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let (told, report) = (stderr(&output), stdout(&output));
    assert!(told.contains("asking in 2026-07-28 over stdio, for 1s at most"), "{told}");
    assert!(told.contains("  no answer to initialize within 1s"), "{told}");
    assert_eq!(told.matches("asking in").count(), 2, "once in each era: {told}");
    assert!(report.contains("error: it says nothing: no answer to server/discover within 1s"), "{report}");
}

#[test]
fn a_url_of_another_scheme_is_no_program() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["doctor", "ftp://example.com/mcp"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("begins with http:// or https://"), "{}", stderr(&output));
}
