//! Starting and stopping a stdio server, so that no process is ever left behind.
//!
//! The server runs in a process group of its own. Stopping closes its stdin, then sends SIGTERM, then SIGKILL to the
//! group. Against the sidecar itself being killed there is the guard: a copy of our own binary between us and the
//! server that asks the kernel for a signal when its parent dies and then takes the group down. The guard leads that
//! group and the server is in it, so that what we send reaches the server even when the guard is gone.

use std::{
    collections::BTreeMap, ffi::OsString, io::ErrorKind, path::PathBuf, process::Stdio, sync::Arc, time::Duration,
};

use outrigger_confine::{ConfineError, Plan, inside};
use rustix::process::{
    Pid, Signal, getpgrp, getpid, getppid, kill_process_group, set_parent_process_death_signal, setpgid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    signal::unix::{SignalKind, signal},
};

use crate::outbound::child_env::proxy_variables;
use crate::outbound::passes::{ChildId, Pass, Passes, WayOut};
use crate::own_directory::OwnDirectory;
use crate::sandbox::{Confinement, HOMES, variables};

/// The hidden subcommand under which our binaries act as the guard.
pub const GUARD_COMMAND: &str = "child-guard";

/// Longest stderr line that reaches the log; the rest of it is cut.
const STDERR_LINE: usize = 8 * 1024;

/// Exit codes by which the guard says that the server could not be started, as a shell does: there is no such program, or
/// it cannot be executed. When the server did start, the guard ends by a signal, so no server can say this.
pub(crate) const NO_SUCH_PROGRAM: u8 = 127;
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// It was not started, because it could not be confined.
pub(crate) const NOT_CONFINED: u8 = 125;

/// How long a guard whose pipes are closed may take to be gone.
const GUARD_END: Duration = Duration::from_secs(1);

/// What to start.
#[derive(Debug, Clone)]
pub struct ChildSpec {
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// Variables added to our own environment.
    pub env: BTreeMap<String, String>,
    /// Where it finds its proxy, if there is one.
    pub way_out: Option<WayOut>,
    /// Variables of ours that it does not get.
    pub without: Vec<String>,
    /// Working directory; ours when absent.
    pub cwd: Option<PathBuf>,
    /// What it may do; without this, whatever we may.
    pub confinement: Option<Arc<Confinement>>,
    /// How to call ourselves as the guard (program and leading arguments); without it the server is started directly.
    pub guard: Option<Vec<OsString>>,
    /// How long each step of stopping may take.
    pub stop: Duration,
}

/// A running server.
#[derive(Debug)]
pub struct RunningChild {
    /// What it runs, for messages.
    program: String,
    child: Child,
    group: Option<Pid>,
    guarded: bool,
    stop: Duration,
    /// Where a confined one keeps its files; goes away with it.
    _own: Option<OwnDirectory>,
    /// Its credentials for the proxy, where it is one of several; worth nothing once it is gone.
    pass: Option<Pass>,
}

/// The pipes of a server that was just started.
#[derive(Debug)]
pub struct Pipes {
    /// Where requests are written.
    pub stdin: ChildStdin,
    /// Where replies come from.
    pub stdout: ChildStdout,
}

/// Starts a server; its stderr goes to the log line by line.
///
/// # Errors
/// What the operating system says, with the command it was about.
pub fn start(spec: &ChildSpec, service: &str) -> Result<(RunningChild, Pipes), String> {
    let Some((program, args)) = spec.command.split_first() else { return Err("the command is empty".into()) };
    let (plan, own) = match &spec.confinement {
        Some(confinement) => {
            let (plan, own) = own_plan(confinement).map_err(|e| format!("cannot confine {program:?}: {e}"))?;
            (Some(plan), Some(own))
        }
        None => (None, None),
    };
    let mut command = match spec.guard.as_deref().and_then(<[OsString]>::split_first) {
        Some((guard, leading)) => {
            let mut command = Command::new(guard);
            command.args(leading).arg(GUARD_COMMAND);
            if let Some(plan) = &plan {
                command.arg("--confine").arg(serde_json::to_string(plan).map_err(|e| e.to_string())?);
            }
            command.arg("--").arg(program);
            command
        }
        None => Command::new(program),
    };
    if let (Some(own), Some(confinement)) = (&own, &spec.confinement) {
        for name in HOMES {
            command.env_remove(name);
        }
        command.envs(variables(own.path(), confinement.home.as_deref()));
    }
    for name in &spec.without {
        command.env_remove(name);
    }
    let (env, pass) = environment(spec).map_err(|e| format!("cannot start {program:?}: {e}"))?;
    command.args(args).envs(&env).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A guard that is killed could not stop its server any more; it is sent SIGTERM instead.
    command.process_group(0).kill_on_drop(spec.guard.is_none());
    if let Some(cwd) = &spec.cwd {
        if !cwd.is_dir() {
            return Err(format!(
                "cannot start {program:?}: its directory {} does not exist; correct `cwd`",
                cwd.display()
            ));
        }
        command.current_dir(cwd);
    }
    let tell = {
        let service = service.to_owned();
        move |line: &str| tracing::info!(target: "child", service, "{line}")
    };
    // A guard confines its server, and is itself free to end it.
    let started = match plan.filter(|_| spec.guard.is_none()) {
        Some(plan) => {
            spawn_inside(&plan, tell, &mut command).map_err(|e| format!("cannot confine {program:?}: {e}"))?
        }
        None => command.spawn(),
    };
    let mut child = started.map_err(|e| cannot_start(program, &e.kind(), &e))?;
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(format!("{program:?} started without pipes"));
    };
    tokio::spawn(log_stderr(stderr, service.to_owned()));
    if let (Some(pass), Some(id)) = (&pass, child.id()) {
        pass.started(id);
    }
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let program = program.clone();
    Ok((
        RunningChild { program, child, group, guarded: spec.guard.is_some(), stop: spec.stop, _own: own, pass },
        Pipes { stdin, stdout },
    ))
}

/// The variables of one child, with what is its own alone.
fn environment(spec: &ChildSpec) -> std::io::Result<(BTreeMap<String, String>, Option<Pass>)> {
    let mut env = spec.env.clone();
    let Some(WayOut { proxy, passes }) = &spec.way_out else { return Ok((env, None)) };
    let pass = passes.as_ref().map(Passes::issue).transpose()?;
    let url = pass.as_ref().map_or_else(|| format!("http://{proxy}"), |pass| pass.url(*proxy));
    proxy_variables(&url, &mut env);
    Ok((env, pass))
}

/// The plan of one child, with a directory of its own in it.
fn own_plan(confinement: &Confinement) -> std::io::Result<(Plan, OwnDirectory)> {
    let own = OwnDirectory::make(0o700)?;
    let mut plan = confinement.plan.clone();
    plan.write.push(own.path().to_owned());
    plan.own = Some(own.path().to_owned());
    Ok((plan, own))
}

/// Starts a program inside a plan. The runtime is entered there too: it watches the child.
fn spawn_inside(
    plan: &Plan,
    tell: impl Fn(&str) + Send + 'static,
    command: &mut Command,
) -> Result<std::io::Result<Child>, ConfineError> {
    let runtime = tokio::runtime::Handle::current();
    inside(plan, tell, move || {
        let _entered = runtime.enter();
        command.spawn()
    })
}

/// In words for people, with what to do where that is clear.
fn cannot_start(program: &str, kind: &ErrorKind, error: &dyn std::fmt::Display) -> String {
    match kind {
        ErrorKind::NotFound => {
            format!("cannot start {program:?}: no such program; install it, or correct `command` or PATH")
        }
        ErrorKind::PermissionDenied => format!("cannot start {program:?}: it is not executable"),
        _ => format!("cannot start {program:?}: {error}"),
    }
}

impl RunningChild {
    /// How the outbound half calls it, where children are told apart.
    pub fn id(&self) -> Option<ChildId> {
        self.pass.as_ref().map(Pass::child)
    }

    /// Why there never was a server, for a child whose pipes are closed; `None` when there was one.
    pub async fn never_started(&mut self) -> Option<String> {
        if !self.guarded {
            return None;
        }
        let status = tokio::time::timeout(GUARD_END, self.child.wait()).await.ok()?.ok()?;
        let kind = match u8::try_from(status.code()?).ok()? {
            NO_SUCH_PROGRAM => ErrorKind::NotFound,
            NOT_EXECUTABLE => ErrorKind::PermissionDenied,
            NOT_CONFINED => return Some(format!("cannot confine {:?}: the log says why", self.program)),
            _ => return None,
        };
        Some(cannot_start(&self.program, &kind, &kind))
    }

    /// Stops the server. Its stdin must have been closed already: a polite server ends by itself.
    pub async fn stop(mut self) {
        for signal in [None, Some(Signal::TERM), Some(Signal::KILL)] {
            if let (Some(signal), Some(group)) = (signal, self.group) {
                // The group may be gone already; that is what we want.
                let _ = kill_process_group(group, signal);
            }
            if tokio::time::timeout(self.stop, self.child.wait()).await.is_ok() {
                break;
            }
        }
        if let Some(group) = self.group.take() {
            // What the server started and left running, or the server of a guard that was killed.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for RunningChild {
    fn drop(&mut self) {
        let Some(group) = self.group else { return };
        let ended = !matches!(self.child.try_wait(), Ok(None));
        // A guard that lives takes its own steps after SIGTERM; without one the group dies at once.
        let signal = if self.guarded && !ended { Signal::TERM } else { Signal::KILL };
        let _ = kill_process_group(group, signal);
    }
}

async fn log_stderr(stderr: ChildStderr, service: String) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match read_line(&mut reader, &mut line).await {
            Ok(true) => {
                let text = String::from_utf8_lossy(&line);
                tracing::info!(target: "child", service, "{}", text.trim_end());
            }
            Ok(false) | Err(_) => return,
        }
    }
}

/// Reads one line, keeping at most [`STDERR_LINE`] bytes of it. `false` at the end.
async fn read_line(reader: &mut BufReader<ChildStderr>, line: &mut Vec<u8>) -> std::io::Result<bool> {
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = available.iter().position(|&b| b == b'\n');
        let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
        let room = STDERR_LINE.saturating_sub(line.len());
        line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
        let consumed = part.len() + usize::from(end.is_some());
        reader.consume(consumed);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Why a guard ends by itself.
#[derive(Debug)]
pub struct GuardError {
    /// The code that tells the sidecar.
    code: u8,
    text: String,
}

impl GuardError {
    /// The code that tells the sidecar.
    pub fn exit_code(&self) -> u8 {
        self.code
    }
}

impl std::fmt::Display for GuardError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<String> for GuardError {
    fn from(text: String) -> Self {
        Self { code: outrigger_runtime::Exit::Failed.code(), text }
    }
}

impl From<ConfineError> for GuardError {
    fn from(error: ConfineError) -> Self {
        Self { code: NOT_CONFINED, text: format!("cannot confine the server: {error}") }
    }
}

/// The guard: runs the server, confined to `plan` if there is one, with our own pipes and in our own process group, and takes the group down, ourselves
/// included, when the server has ended or the sidecar has died. Returns only when the server cannot be started.
///
/// # Errors
/// When the server cannot be started.
pub async fn guard(plan: Option<&Plan>, command: &[String]) -> Result<std::convert::Infallible, GuardError> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let (program, args) = command.split_first().ok_or_else(|| "usage: child-guard -- COMMAND [ARGS...]".to_owned())?;
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(|e| format!("cannot watch the parent: {e}"))?;
    if getppid() != parent {
        return Err("the parent died before the server was started".to_owned().into());
    }
    if getpgrp() != getpid() {
        // Started by hand: what is killed in the end must not be the group of somebody's script.
        setpgid(None, None).map_err(|e| format!("cannot lead a process group: {e}"))?;
    }
    let mut term = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut int = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let mut server = Command::new(program);
    server.args(args);
    let started = match plan {
        Some(plan) => spawn_inside(plan, report, &mut server)?,
        None => server.spawn(),
    };
    let mut child = started.map_err(|e| {
        let code = if e.kind() == ErrorKind::NotFound { NO_SUCH_PROGRAM } else { NOT_EXECUTABLE };
        GuardError { code, text: cannot_start(program, &e.kind(), &e) }
    })?;
    let ended = tokio::select! {
        status = child.wait() => Some(status),
        _ = term.recv() => None,
        _ = int.recv() => None,
    };
    match ended {
        // Our stderr is the server's: this line ends up in the log of the sidecar.
        Some(Ok(status)) => report(&format!("the server ended: {status}")),
        Some(Err(error)) => report(&format!("the server is lost: {error}")),
        None => {
            let _ = kill_process_group(getpgrp(), Signal::TERM);
            let _ = tokio::time::timeout(PATIENCE, child.wait()).await;
        }
    }
    kill_process_group(getpgrp(), Signal::KILL).map_err(|e| format!("cannot end the process group: {e}"))?;
    // Our own SIGKILL is on its way.
    std::future::pending().await
}

fn report(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}
