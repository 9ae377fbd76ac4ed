//! The servers that tests start. One that is missing fails the test with the command that installs it.

use std::path::{Path, PathBuf};

use tokio::io::AsyncBufReadExt;

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The words of a command as a YAML list.
pub fn words(command: &[&str]) -> String {
    serde_json::to_string(command).unwrap()
}

/// The `command:` setting of the scripted server with these options.
pub fn scripted(options: &[&str]) -> String {
    let script = root().join("tests/subjects-local/scripted.py");
    let mut command = vec!["python3", script.to_str().unwrap()];
    command.extend(options);
    format!("command: {}\n", words(&command))
}

/// The `command:` setting of the server whose tools fetch URLs.
pub fn fetching() -> String {
    let script = root().join("tests/subjects-local/fetching.py");
    format!("command: {}\n", words(&["python3", script.to_str().unwrap()]))
}

/// The `command:` setting of the server whose tool calls tools of other servers.
pub fn calling() -> String {
    let script = root().join("tests/subjects-local/calling.py");
    format!("command: {}\n", words(&[&installed("venv/bin/python3"), script.to_str().unwrap()]))
}

/// The `command:` setting of the server whose lists grow in one session alone, made with the Python SDK.
pub fn growing(options: &[&str]) -> String {
    let (python, script) = growing_program();
    let mut command = vec![python.as_str(), script.to_str().unwrap()];
    command.extend(options);
    format!("command: {}\n", words(&command))
}

fn growing_program() -> (String, PathBuf) {
    (installed("venv-v1/bin/python3"), root().join("tests/subjects-local/growing.py"))
}

/// The same over Streamable HTTP.
pub struct GrowingOverHttp {
    /// Ended when dropped.
    _child: tokio::process::Child,
    /// Its MCP endpoint.
    pub url: String,
}

impl GrowingOverHttp {
    /// Starts one.
    pub async fn start() -> Self {
        let (python, script) = growing_program();
        let mut child = tokio::process::Command::new(python)
            .args([script.to_str().unwrap(), "--http"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let port = crate::wait::within("its port", lines.next_line()).await.unwrap().expect("it says its port");
        Self { _child: child, url: format!("http://127.0.0.1:{port}/mcp") }
    }
}

/// The program of the conformance backend.
pub fn conformance_backend() -> PathBuf {
    root().join("tests/conformance/backend.mjs")
}

/// The `command:` setting of the conformance backend over stdio; `era` is `modern`, `legacy` or `dual`.
pub fn backend_stdio(era: &str) -> String {
    let script = conformance_backend();
    format!("command: {}\nenv: {{ ERA: {era} }}\n", words(&["node", script.to_str().unwrap(), "--stdio"]))
}

/// The path of a program among the installed subjects, such as `npm/node_modules/.bin/mcp-server-everything`.
///
/// # Panics
/// When it is not installed.
pub fn installed(program: &str) -> String {
    let subjects = std::env::var_os("OUTRIGGER_SUBJECTS").map_or_else(|| root().join("target/subjects"), PathBuf::from);
    let path = subjects.join(program);
    assert!(path.exists(), "{} is missing; install it with `make subjects`", path.display());
    path.to_str().unwrap().to_owned()
}

/// A running conformance backend over HTTP.
pub struct HttpBackend {
    /// Ended when dropped.
    _child: tokio::process::Child,
    /// Its MCP endpoint.
    pub url: String,
}

impl HttpBackend {
    /// Starts one; `era` is `modern`, `legacy` or `dual`.
    pub async fn start(era: &str) -> Self {
        // Found free a moment ago: the backend takes a fixed port only.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = tokio::process::Command::new("node")
            .arg(conformance_backend())
            .env("ERA", era)
            .env("PORT", port.to_string())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node is needed; see CONTRIBUTING.md");
        crate::eventually("the backend listens", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        Self { _child: child, url: format!("http://127.0.0.1:{port}/mcp") }
    }
}
