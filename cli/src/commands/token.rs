//! `outrigger token`: a bearer token for a client of an ingress, and what the ingress has to know of it.

use anyhow::{anyhow, bail};
use data_encoding::HEXLOWER;
use outrigger_ingress::config::tokens_from_file;
use outrigger_policy::Principal;
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
    let there = tokens_from_file(&path.display().to_string(), &files::read(path)?)?;
    let wanted = Principal::user(&args.subject)?.with_grants(&args.roles, &args.scopes)?;
    match there.lookup(&bytes_of(&digest)?) {
        None => bail!("{} has other tokens: add this one to it:\n  - {entry}", path.display()),
        // Nothing of the file is taken back or granted unseen: somebody may have written it by hand.
        Some(granted) if !same(granted, &wanted) => bail!(
            "{} has this token for {}, with roles [{}] and scopes [{}]; to have it as asked now, replace its entry by:\n  - {entry}",
            path.display(),
            granted.id(),
            granted.roles().join(", "),
            granted.scopes().join(", "),
        ),
        Some(_) => Ok(Exit::Clean),
    }
}

fn bytes_of(digest: &str) -> anyhow::Result<[u8; 32]> {
    let bytes = HEXLOWER.decode(digest.as_bytes())?;
    <[u8; 32]>::try_from(bytes).map_err(|_| anyhow!("a digest of another length"))
}

/// Whether both are the same person with the same grants, which have an order of their own.
fn same(one: &Principal, other: &Principal) -> bool {
    one.id() == other.id() && one.roles() == other.roles() && one.scopes() == other.scopes()
}
