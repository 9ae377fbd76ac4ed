//! The real binary as a process: whatever ends it, nothing that it started is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use outrigger_identity::{Authority, AuthorityOptions, TrustDomain, write_leaf};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// A stdio server that ignores the end of its input and SIGTERM, with a child that does too. It ends by itself in the
/// end, so that a failing test leaves nothing either.
const STUBBORN: &str = r#"
import os, signal, sys, time, json
signal.signal(signal.SIGTERM, signal.SIG_IGN)
helper = os.fork() == 0
open(sys.argv[1], "a").write(f"{os.getpid()}\n")
if not helper:
    for line in sys.stdin:
        m = json.loads(line)
        if m.get("method") == "initialize":
            r = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
            print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": r}), flush=True)
        elif "id" in m:
            print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "error": {"code": -32601, "message": "no"}}), flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    time.sleep(0.1)
"#;

struct Running {
    dir: TempDir,
    process: Child,
}

impl Running {
    /// Starts the sidecar with a server that does not want to end, and waits until both its processes run.
    async fn start() -> Self {
        let running = Self::serving(|dir| format!("[python3, {dir}/server.py, {dir}/pids]")).await;
        eventually("the server and its helper run", || running.left().len() == 2).await;
        running
    }

    async fn serving(command: impl Fn(&str) -> String) -> Self {
        Self::serving_with(command, |_| String::new()).await
    }

    async fn serving_with(command: impl Fn(&str) -> String, more: impl Fn(&str) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("test.local").unwrap();
        let authority = Authority::init(&dir.path().join("ca"), &domain, &AuthorityOptions::default()).unwrap();
        write_leaf(dir.path(), "fs", &authority.issue("fs", Duration::from_secs(600), &[]).unwrap()).unwrap();
        std::fs::write(dir.path().join("server.py"), STUBBORN).unwrap();
        let root = dir.path().display();
        let command = command(&root.to_string());
        let settings = format!(
            "service: fs\nlisten: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\naudit: off\n\
             identity: {{ trust_domain: test.local, cert: {root}/fs.pem, key: {root}/fs.key, ca: {root}/ca/ca.pem }}\n\
             command: {command}\ntimeouts: {{ child_stop: 500ms, drain: 1s }}\n{}",
            more(&root.to_string())
        );
        std::fs::write(dir.path().join("sidecar.yaml"), settings).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_outrigger-sidecar"))
            .arg("--config")
            .arg(dir.path().join("sidecar.yaml"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { dir, process }
    }

    fn pids(&self) -> PathBuf {
        self.dir.path().join("pids")
    }

    /// The processes of the server that run.
    fn left(&self) -> Vec<u32> {
        let text = std::fs::read_to_string(self.pids()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| runs(*pid)).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(pid(self.process.id()), signal).unwrap();
    }

    async fn ends(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the sidecar does not end");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const PATIENCE: Duration = Duration::from_secs(15);

fn pid(raw: u32) -> Pid {
    Pid::from_raw(i32::try_from(raw).unwrap()).unwrap()
}

fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

async fn eventually(what: &str, mut probe: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !probe() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_sidecar_that_is_killed_takes_its_server_with_it() {
    let mut running = Running::start().await;
    running.signal(Signal::KILL);
    running.ends().await;
    eventually("the server is gone", || running.left().is_empty()).await;
}

#[tokio::test]
async fn sigterm_ends_the_server_however_stubborn_and_the_exit_is_clean() {
    let mut running = Running::start().await;
    running.signal(Signal::TERM);
    let status = running.ends().await;
    assert_eq!(status.code(), Some(0));
    eventually("the server is gone", || running.left().is_empty()).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_real_server_however_the_sidecar_ends() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let subjects = std::env::var_os("OUTRIGGER_SUBJECTS").map_or_else(|| root.join("target/subjects"), PathBuf::from);
    let program = subjects.join("npm/node_modules/.bin/mcp-server-everything");
    assert!(program.exists(), "{} is missing; install it with `make subjects`", program.display());
    for end in [Signal::TERM, Signal::KILL] {
        let mut running = Running::serving(|_| format!("[{}, stdio]", program.display())).await;
        let sidecar = running.process.id();
        let mut started = Vec::new();
        eventually("guard and server run", || {
            started = descendants(sidecar);
            started
                .iter()
                .any(|pid| command_line(*pid).contains("everything") && !command_line(*pid).contains("child-guard"))
        })
        .await;
        running.signal(end);
        running.ends().await;
        eventually("all of them are gone", || !started.iter().any(|pid| runs(*pid))).await;
    }
}

#[tokio::test]
async fn a_guard_that_is_killed_leaves_no_server_to_a_sidecar_that_goes_on() {
    let mut running = Running::start().await;
    let first = running.left();
    let server = *first.iter().min().unwrap();
    let guard = parent(server);
    assert_ne!(guard, running.process.id(), "the guard stands between");
    kill_process(pid(guard), Signal::KILL).unwrap();
    running.signal(Signal::TERM);
    running.ends().await;
    eventually("the server is gone", || running.left().is_empty()).await;
}

fn parent(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap()
}

fn command_line(pid: u32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
}

/// The children of a process, and theirs.
fn descendants(of: u32) -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    let mut next = vec![of];
    while let Some(pid) = next.pop() {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children: Vec<u32> = text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
            found.extend(&children);
            next.extend(children);
        }
    }
    found
}

#[tokio::test]
async fn a_guard_confines_its_server_and_not_itself() {
    let mut running = Running::serving_with(
        |dir| format!("[python3, {dir}/server.py, {dir}/pids]"),
        |dir| {
            std::fs::write(format!("{dir}/pids"), "").unwrap();
            format!("sandbox: strict\nconfine: {{ write: [{dir}/pids] }}\n")
        },
    )
    .await;
    eventually("the server and its helper run", || running.left().len() == 2).await;
    let status = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let server = *running.left().iter().min().unwrap();
    assert!(status(server).contains("Seccomp:\t2") && status(server).contains("NoNewPrivs:\t1"), "{}", status(server));
    assert!(status(parent(server)).contains("Seccomp:\t0"), "the guard is free");
    running.signal(Signal::KILL);
    running.ends().await;
    eventually("the server is gone", || running.left().is_empty()).await;
}
