//! `outrigger connect`.

use outrigger_runtime::Exit;

use crate::args::ConnectArgs;

/// Runs.
pub(crate) fn main(args: ConnectArgs) -> anyhow::Result<Exit> {
    let _ = args;
    Ok(Exit::Clean)
}
