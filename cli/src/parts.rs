//! The programs that this binary carries: the sidecar, the ingress and the example services. One `cargo run` then
//! builds all that a mesh needs, and `up` runs the code that is deployed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use outrigger_runtime::Exit;

use crate::output;

/// The program that runs now, to be started again in another role.
pub(crate) fn own_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// Runs the sidecar.
pub(crate) fn sidecar(args: Vec<OsString>) -> ExitCode {
    // The sidecar starts itself again as the guard of its child.
    let program = own_program().map_or_else(|_| OsString::from("outrigger"), PathBuf::into_os_string);
    outrigger_sidecar::main(args, vec![program, "sidecar".into()])
}

/// Runs the ingress.
pub(crate) fn ingress(args: Vec<OsString>) -> ExitCode {
    outrigger_ingress::command::main(args)
}

/// Runs an example service to its end.
pub(crate) fn example(name: &str, args: Vec<OsString>) -> ExitCode {
    let run = async {
        let Err(error) = outrigger_examples::run(name, args).await else {
            return Exit::Clean;
        };
        if let Some(usage) = error.downcast_ref::<clap::Error>() {
            // Nobody is left to tell if that fails.
            let _ = usage.print();
            return Exit::Usage;
        }
        output::say(&format!("outrigger example {name}: {}", output::chain(&error)));
        Exit::Failed
    };
    // Two threads: the service's own work must not keep its protocol waiting.
    outrigger_runtime::run(2, run).into()
}

/// Ties our life to the process that started us: when it dies, however it dies, we are asked to end as by SIGTERM.
/// False when it is gone already.
pub(crate) fn follow(parent: i32) -> bool {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let tied = set_parent_process_death_signal(Some(Signal::TERM));
    // After the call, so that a death in between is not missed.
    tied.is_ok() && getppid().is_some_and(|pid| pid.as_raw_nonzero().get() == parent)
}
