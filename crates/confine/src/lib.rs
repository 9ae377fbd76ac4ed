//! Confines a child process without privileges: files and ports by Landlock, system calls by seccomp, capabilities
//! dropped, and every `connect`, `listen` and change of a file's mode, owner or times answered by us.
//!
//! ```text
//!  inside(plan, spawn)
//!     a fresh thread:  capabilities > Landlock > seccomp filter ----> spawn: the child inherits all of it
//!                                                  | connect, listen
//!     the warden, a thread outside: reads the address, decides, does it on the child's socket, answers
//! ```
//!
//! Why the warden: a Landlock rule names a port and no address, so that a child that may connect to the proxy's port here
//! could reach the same port anywhere. A filter cannot read addresses either, and an address that is only looked at can be
//! changed by another thread of the child before the kernel reads it. So the warden connects with its own copy.
//!
//! | file | what |
//! |---|---|
//! | `plan` | what a child may do |
//! | `kernel` | what this kernel can enforce, and what it lacks |
//! | `files`, `calls`, `capabilities` | the three kinds of restriction |
//! | `program` | the instructions of a seccomp filter |
//! | `warden` | the answers to `connect` and `listen` |
//! | `ownership` | the answers to what changes mode, owner and times of files |
//! | `sys` | the system calls; the only `unsafe` |
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may fail loudly"))]

mod calls;
mod capabilities;
mod files;
mod kernel;
mod ownership;
mod plan;
mod program;
mod sys;
mod warden;

use std::{sync::mpsc, thread};

use thiserror::Error;

pub use kernel::Kernel;
pub use plan::Plan;
pub use sys::defer_accept;

/// Why a child could not be confined. It was not started then.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// A file rule cannot be made or enforced.
    #[error("Landlock: {0}")]
    Landlock(String),
    /// The plan is strict, and the kernel enforces less than all of it.
    #[error("this kernel enforces the file, port and scope rules only in part")]
    Partial,
    /// The filter of system calls cannot be installed.
    #[error("seccomp: {0}")]
    Seccomp(std::io::Error),
    /// Capabilities cannot be dropped.
    #[error("capabilities: {0}")]
    Capabilities(std::io::Error),
    /// There is no thread to do it on.
    #[error("no thread: {0}")]
    Thread(std::io::Error),
}

/// Runs `act` on a thread that is confined to `plan`. What it starts inherits the confinement, for good; the caller stays
/// free. `tell` hears a line for each refusal of the warden, a bounded number of them.
///
/// # Errors
/// [`ConfineError`]; `act` did not run then.
pub fn inside<T: Send>(
    plan: &Plan,
    tell: impl Fn(&str) + Send + 'static,
    act: impl FnOnce() -> T + Send,
) -> Result<T, ConfineError> {
    let (hand_over, handed) = mpsc::sync_channel(1);
    thread::scope(|scope| {
        let confined = move || {
            let listener = restrict(plan)?;
            // Taken over before `act` runs, which may wait for what the child asks.
            let _ = hand_over.send(listener);
            Ok(act())
        };
        let running = thread::Builder::new().name("confined".into()).spawn_scoped(scope, confined);
        let running = running.map_err(ConfineError::Thread)?;
        if let Ok(Some(listener)) = handed.recv() {
            let plan = plan.clone();
            let warden = move || match capabilities::keep_as_a_child() {
                Ok(()) => warden::serve(&listener, &plan, &tell),
                // Nobody answers then: what the child asks fails.
                Err(error) => tell(&format!("confined: the warden keeps capabilities and does not serve: {error}")),
            };
            thread::Builder::new().name("warden".into()).spawn(warden).map_err(ConfineError::Thread)?;
        }
        running.join().unwrap_or_else(|_| Err(ConfineError::Thread(std::io::Error::other("it ended unexpectedly"))))
    })
}

/// Confines this thread. The order matters: a filter could forbid the steps before it.
fn restrict(plan: &Plan) -> Result<Option<std::os::fd::OwnedFd>, ConfineError> {
    let kernel = Kernel::look();
    capabilities::drop_dangerous().map_err(ConfineError::Capabilities)?;
    files::restrict(plan)?;
    rustix::thread::set_no_new_privs(true).map_err(|e| ConfineError::Seccomp(e.into()))?;
    if !kernel.filter {
        return Ok(None);
    }
    let filter = program::assemble(&calls::rules(plan, kernel.asks()));
    if kernel.asks() {
        sys::install_asking(&filter).map(Some).map_err(ConfineError::Seccomp)
    } else {
        sys::install(&filter).map(|()| None).map_err(ConfineError::Seccomp)
    }
}
