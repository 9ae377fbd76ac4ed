//! Running the tool, waiting for its mesh, and asking over plain HTTP/1.1.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A cold start on a loaded machine, debug build.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) const META: &str =
    r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

/// Three bundled services on a port of the system's choice.
pub(crate) const EXAMPLES: &str = "\
ingress: { listen: 127.0.0.1:0 }
services:
  fs: { example: fs, args: [--root, DIR] }
  http: { example: http }
  vector: { example: vector }
";

/// The tool with these arguments, in a directory.
pub(crate) fn tool(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.current_dir(dir).args(args).stdin(Stdio::null());
    command
}

/// Runs the tool to its end.
pub(crate) fn run(dir: &Path, args: &[&str]) -> Output {
    tool(dir, args).output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Waits until something holds.
pub(crate) fn until(what: &str, holds: impl FnMut() -> bool) {
    let mut holds = holds;
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A mesh that runs as a process, in a directory of its own. Killed when dropped.
pub(crate) struct Mesh {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) process: Child,
}

impl Mesh {
    /// Starts `outrigger up` on a manifest (`DIR` in it stands for the directory) and waits for its `up.json`.
    pub(crate) fn start(manifest: &str, more: &[&str]) -> Self {
        Self::prepared(manifest, more, |_| {})
    }

    /// The same, after something was put into its directory.
    pub(crate) fn prepared(manifest: &str, more: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        fs::write(dir.path().join("hello.txt"), "hello from a file").unwrap();
        fs::write(dir.path().join("mesh.yaml"), manifest.replace("DIR", &dir.path().display().to_string())).unwrap();
        let log = fs::File::create(dir.path().join("output")).unwrap();
        let mut args = vec!["up", "-f", "mesh.yaml", "--json"];
        args.extend(more);
        let mut command = tool(dir.path(), &args);
        // Would break every part if it reached them.
        command.env("OUTRIGGER_LISTEN", "192.0.2.1:1");
        let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut mesh = Self { dir, process };
        until("the mesh is ready", || {
            if let Some(status) = mesh.process.try_wait().unwrap() {
                panic!("it ended with {status}: {}", mesh.output());
            }
            mesh.state().join("up.json").exists()
        });
        mesh
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join(".outrigger")
    }

    /// What the tool has said.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.dir.path().join("output")).unwrap()
    }

    pub(crate) fn up(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.state().join("up.json")).unwrap()).unwrap()
    }

    pub(crate) fn token(&self) -> String {
        fs::read_to_string(self.up()["token_file"].as_str().unwrap()).unwrap()
    }

    /// Calls a tool as a client of 2026-07-28: the HTTP status and the message.
    pub(crate) fn call(&self, token: Option<&str>, name: &str, arguments: Value) -> (u16, Value) {
        let up = self.up();
        let address = up["mcp"].as_str().unwrap().strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap();
        call(address, token, name, arguments)
    }

    /// The processes whose command line names something below the state directory, the tool itself left out.
    pub(crate) fn parts(&self) -> Vec<(u32, String)> {
        processes(&self.state().display().to_string())
    }

    /// The process of one sidecar.
    pub(crate) fn sidecar(&self, name: &str) -> Option<u32> {
        let config = format!("config/{name}.yaml");
        self.parts().into_iter().find(|(_, line)| line.contains(&config)).map(|(pid, _)| pid)
    }

    pub(crate) fn signal(&self, signal: &str) {
        kill(self.process.id(), signal);
    }

    /// Waits for the end and gives the exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        until("the tool ends", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // Gone already in most tests.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Calls a tool as a client of 2026-07-28: the HTTP status and the message.
pub(crate) fn call(address: &str, token: Option<&str>, name: &str, arguments: Value) -> (u16, Value) {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    call_with(address, &authorization, name, arguments)
}

/// The same with further header lines, each with its end.
pub(crate) fn call_with(address: &str, headers: &str, name: &str, arguments: Value) -> (u16, Value) {
    let meta: Value = serde_json::from_str(META).unwrap();
    let params = json!({"name": name, "arguments": arguments, "_meta": meta});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Type: application/json\r\nAccept: application/json, \
         text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {name}\r\nConnection: \
         close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    // A stream has its messages in events; the response is the last.
    let message = body.lines().rev().map(|line| line.strip_prefix("data: ").unwrap_or(line));
    (status, message.into_iter().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_default())
}

/// Sends a signal with the system's own program, which takes no unsafe code.
pub(crate) fn kill(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap().success());
}

/// Processes (not zombies: those have no command line) whose command line contains a text.
fn processes(text: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push((pid, line));
        }
    }
    found
}
