//! The signals that end a process: the first begins the drain, the second means now.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, taken over from their default of killing the process.
#[derive(Debug)]
pub struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl ShutdownSignals {
    /// Takes the signals over. Call it first thing: a signal before it kills the process without a drain.
    pub fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal and names it. Safe to cancel. Signals of one kind that arrive together count as one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    // One test: signals go to the whole process, and tests of one process may run at once.
    #[tokio::test]
    async fn each_signal_is_named_and_a_second_one_is_seen() {
        let mut signals = ShutdownSignals::install().unwrap();
        for (sent, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
            kill_process(getpid(), sent).unwrap();
            assert_eq!(signals.next().await, name);
        }
    }
}
