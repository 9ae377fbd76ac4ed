//! `outrigger token`: a bearer token for a client of an ingress, and what the ingress has to know of it.

use anyhow::bail;
use outrigger_ingress::config::tokens_from_file;
use outrigger_runtime::Exit;
use serde_json::json;

use crate::args::TokenArgs;
use crate::files;
use crate::output;
use crate::up::token;

/// Runs the command.
pub(crate) fn main(args: &TokenArgs) -> anyhow::Result<Exit> {
    if let Some(parent) = args.token_file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        files::make_dir(parent)?;
    }
    let digest = token::digest(&token::load_or_make(&args.token_file)?)?;
    let entry = json!({ "subject": args.subject, "sha256": digest, "roles": args.roles, "scopes": args.scopes });
    let text = format!("tokens:\n  - {entry}\n");
    let Some(path) = &args.tokens_file else {
        output::result(text.trim_end());
        return Ok(Exit::Clean);
    };
    if !path.exists() {
        files::write(path, text.as_bytes(), files::PUBLIC)?;
        output::say(&format!("The token is in {}.", args.token_file.display()));
        return Ok(Exit::Clean);
    }
    let there = files::read(path)?;
    tokens_from_file(&path.display().to_string(), &there)?;
    if !there.contains(&digest) {
        bail!("{} has other tokens: add this one to it:\n  - {entry}", path.display());
    }
    Ok(Exit::Clean)
}
