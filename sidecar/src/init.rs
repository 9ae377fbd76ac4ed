//! The first process of a container. The kernel gives it every process whose parent is gone, and keeps those that end until it has
//! asked for them: a stdio server that starts programs of its own would leave some behind with every child. So the first process does
//! nothing else, and the sidecar is its child.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use outrigger_runtime::start::{Exit, run};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

/// Whether this process is the first one of its container.
pub(crate) fn is_first() -> bool {
    getpid() == Pid::INIT
}

/// Starts the sidecar, hands signals on to it and asks for whatever ends. Its exit code is the sidecar's.
pub(crate) fn become_init(program: &[OsString], arguments: &[OsString]) -> ExitCode {
    let mut code = Exit::Failed.code();
    // What the runtime makes of it says less.
    let _ = run(1, async {
        match stand(program, arguments).await {
            Ok(ended) => code = ended,
            Err(error) => {
                use std::io::Write;
                let _ = writeln!(std::io::stderr(), "cannot start the sidecar below the first process: {error}");
            }
        }
        Exit::Failed
    });
    ExitCode::from(code)
}

async fn stand(program: &[OsString], arguments: &[OsString]) -> std::io::Result<u8> {
    let mut ended = signal(SignalKind::child())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (first, leading) = program.split_first().ok_or(std::io::ErrorKind::NotFound)?;
    let child = Command::new(first).args(leading).args(arguments).spawn()?;
    let child = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(std::io::ErrorKind::InvalidData)?;
    loop {
        let signal = tokio::select! {
            _ = ended.recv() => None,
            _ = term.recv() => Some(Signal::TERM),
            _ = int.recv() => Some(Signal::INT),
            _ = hangup.recv() => Some(Signal::HUP),
        };
        if let Some(signal) = signal {
            // It may have ended; that is told next.
            let _ = kill_process(child, signal);
        }
        // One signal may stand for several that ended.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == child {
                let killed = || status.terminating_signal().map(|signal| 128 + signal);
                return Ok(status.exit_status().or_else(killed).and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
            }
        }
    }
}
