//! Entry point of `outrigger-sidecar`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let myself = std::env::current_exe().map(|path| vec![path.into_os_string()]).unwrap_or_default();
    outrigger_sidecar::command::main(std::env::args_os().skip(1).collect(), myself)
}
