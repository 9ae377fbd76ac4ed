//! `outrigger new`: copies a starter out.

use std::path::PathBuf;

use outrigger_examples::templates::instantiate;
use outrigger_runtime::Exit;

use crate::args::NewArgs;
use crate::output;

/// Writes the files and names them.
pub(crate) fn main(args: &NewArgs) -> anyhow::Result<Exit> {
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    for path in instantiate(args.lang, &args.name, &dir)? {
        output::result(&path.display().to_string());
    }
    let readme = dir.join("README.md");
    output::say(&format!("{} says how to install it, try it and add it to a mesh.", readme.display()));
    Ok(Exit::Clean)
}
