//! From `main` to a running process: the tokio runtime and the exit code.

use std::future::Future;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// How long blocking work (a file read, a name lookup) may hold up the end of the process.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// How a process ends. The codes are part of the interface: service managers act on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or drained in time: 0.
    Clean,
    /// Something failed that a restart may cure: 1.
    Failed,
    /// The configuration or the command line is wrong; a restart does not help: 2.
    Usage,
    /// Stopped, but calls were cut at the drain's deadline: 3.
    Forced,
}

impl Exit {
    /// The number that the parent process sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Forced => 3,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Runs `main` to its end on a new runtime. One thread means no worker threads at all, which is what a sidecar
/// with little traffic wants; 0 means one per processor.
pub fn run(threads: usize, main: impl Future<Output = Exit>) -> Exit {
    match build(threads) {
        Ok(runtime) => {
            let exit = runtime.block_on(main);
            runtime.shutdown_timeout(LAST_WAIT);
            exit
        }
        Err(error) => {
            tracing::error!(%error, threads, "cannot start the runtime; try fewer threads");
            Exit::Failed
        }
    }
}

fn build(threads: usize) -> io::Result<Runtime> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().thread_name("outrigger").build()
}

#[cfg(test)]
mod tests {
    use tokio::runtime::{Handle, RuntimeFlavor};

    use super::*;

    #[test]
    fn one_thread_has_no_workers_and_more_have() {
        for (threads, flavor) in
            [(1, RuntimeFlavor::CurrentThread), (2, RuntimeFlavor::MultiThread), (0, RuntimeFlavor::MultiThread)]
        {
            let exit = run(threads, async move {
                if Handle::current().runtime_flavor() == flavor { Exit::Clean } else { Exit::Failed }
            });
            assert_eq!(exit, Exit::Clean, "{threads} threads");
        }
    }

    #[test]
    fn codes_are_what_service_managers_know() {
        let codes = [Exit::Clean, Exit::Failed, Exit::Usage, Exit::Forced].map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3]);
    }

    #[test]
    fn the_end_of_main_does_not_wait_for_tasks() {
        let exit = run(2, async {
            tokio::spawn(std::future::pending::<()>());
            Exit::Forced
        });
        assert_eq!(exit, Exit::Forced);
    }
}
