//! Entry point of `outrigger-ingress`.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger_ingress::command::main(std::env::args_os().skip(1).collect())
}
