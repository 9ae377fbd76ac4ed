//! The `outrigger` tool as a library, so that its parts can be tested; `main.rs` only calls it.
//!
//! | module | what |
//! |---|---|
//! | `args` | every command and option, with the help texts |
//! | `up`, `manifest` | a whole mesh on one machine, and the file that describes it |
//! | `authority` | `ca serve`: an authority that signs over the network |
//! | `connect` | the mesh over stdio, for desktop clients |
//! | `doctor` | what an MCP server speaks and offers, and what will give trouble |
//! | `bench` | an MCP endpoint under load |
//! | `approvals` | calls that wait for a person |
//! | `lock` | approving definitions, and looking for what in them deceives |
//! | `inject` | sidecars in pods of Kubernetes, by a webhook or in files |
//! | `commands` | what answers at once: `ca`, `validate`, `policy`, `new`, `docs` |
//! | `parts` | the sidecar, the ingress and the example services that this binary carries |
//! | `kubernetes` | asking the API server of a cluster |
//! | `daemon` | what `ca serve` and `inject serve` have in common |
//! | `files`, `output` | writing files whole, and results to stdout |
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod approvals;
mod args;
mod authority;
mod bench;
mod commands;
mod connect;
pub mod crds;
mod daemon;
pub mod docs;
mod doctor;
mod files;
mod inject;
mod kubernetes;
mod lock;
pub mod manifest;
mod output;
mod parts;
mod up;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use outrigger_config::Diagnostics;
use outrigger_runtime::Exit;

use args::{Args, Command};

/// Runs the command that the arguments (the program's name first) ask for. 0 is success; 1 a failure, or the
/// answer "no" of a command that answers; 2 a mistake in the command line or in a file.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Help goes to stdout with 0, mistakes to stderr with 2. Nobody is left to tell if that fails.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Clean.into() };
        }
    };
    if let Some(parent) = args.parent
        && !parts::follow(parent)
    {
        return Exit::Failed.into();
    }
    match args.command {
        Command::Sidecar { args } => parts::sidecar(args),
        Command::Ingress { args } => parts::ingress(args),
        Command::Example { name, args } => parts::example(&name, args),
        Command::Up(args) => finish(up::main(args)),
        Command::Connect(args) => finish(connect::main(args)),
        Command::Doctor(args) => answer(doctor::main(args)),
        Command::Approvals(command) => answer(approvals::main(command)),
        Command::Bench(args) => answer(bench::main(&args)),
        Command::Lock(args) => answer(lock::main(&args)),
        Command::Scan(args) => answer(lock::scan_main(&args)),
        Command::Inject(args) => answer(inject::main(args)),
        Command::Ca(command) => finish(commands::ca::main(command)),
        Command::Token(args) => finish(commands::token::main(&args)),
        Command::Validate(args) => answer(commands::validate::main(args)),
        Command::Audit(command) => answer(commands::audit::main(command)),
        Command::Egress(command) => answer(commands::egress::main(command)),
        Command::Policy(command) => answer(commands::policy::main(command)),
        Command::New(args) => finish(commands::new::main(&args)),
        Command::Docs { page } => finish(commands::docs::main(page)),
    }
}

/// For commands that answer a question, where 1 is the answer "no": what keeps them from answering is a mistake in what
/// they were given.
fn answer(result: anyhow::Result<Exit>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            finish(Err(error));
            Exit::Usage.into()
        }
    }
}

/// Tells on stderr why a command failed, and chooses the exit code: a mistake in a file is one that a repetition does
/// not cure.
fn finish(result: anyhow::Result<Exit>) -> ExitCode {
    let error = match result {
        Ok(exit) => return exit.into(),
        Err(error) => error,
    };
    let Some(mistakes) = error.downcast_ref::<Diagnostics>() else {
        output::say(&format!("outrigger: {}", output::chain(&error)));
        return Exit::Failed.into();
    };
    output::say(&mistakes.to_string());
    let count = mistakes.0.len();
    output::say(&format!("outrigger: {count} mistake{}; nothing was started", if count == 1 { "" } else { "s" }));
    Exit::Usage.into()
}
