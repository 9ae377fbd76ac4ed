//! Entry point of `outrigger`.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger::main(std::env::args_os())
}
