//! `outrigger ca token`: what workloads prove themselves with to `ca serve`.

use std::time::{Duration, SystemTime};

use anyhow::bail;
use serde_json::json;

use super::ca::load;
use crate::args::{CaDir, TokenCommand};
use crate::authority::tokens::{self, Token, seconds};
use crate::output;

/// Runs one of the commands.
pub(super) fn main(command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create { service, uses, ttl, dir } => create(&service, uses, ttl, &dir),
        TokenCommand::List { dir, json } => list(&dir, json),
        TokenCommand::Revoke { id, dir } => {
            load(&dir)?;
            if !tokens::revoke(&dir.dir, &id)? {
                bail!("there is no token {id}; see outrigger ca token list");
            }
            output::say(
                "It is useless from now on. Certificates that were given for it stay good: see outrigger ca revoke.",
            );
            Ok(())
        }
    }
}

fn create(service: &str, uses: u32, ttl: Duration, dir: &CaDir) -> anyhow::Result<()> {
    let authority = load(dir)?;
    let id = authority.trust_domain().service(service)?;
    if id == authority.id()? {
        bail!("`{service}` is the name of the authority itself");
    }
    let (token, text) = tokens::create(&dir.dir, service, uses, ttl)?;
    output::result(&text);
    output::say(&format!(
        "For {id}, {uses} time{}, within {} minutes. It is not shown again; its id is {}.",
        if uses == 1 { "" } else { "s" },
        ttl.as_secs().div_ceil(60),
        token.id
    ));
    Ok(())
}

fn list(dir: &CaDir, as_json: bool) -> anyhow::Result<()> {
    load(dir)?;
    let all = tokens::list(&dir.dir)?;
    if as_json {
        let one = |token: &Token| {
            json!({
                "id": token.id, "service": token.service, "created": token.created, "expires": token.expires,
                "uses": token.uses, "used": token.used_by.len(),
            })
        };
        return Ok(output::json(&json!(all.iter().map(one).collect::<Vec<_>>()))?);
    }
    let now = seconds(SystemTime::now());
    for token in all {
        let left = token.expires.saturating_sub(now);
        let state = match left {
            0 => "expired".to_owned(),
            left => format!("{} minutes left", left.div_ceil(60)),
        };
        let used = format!("{}/{} used", token.used_by.len(), token.uses);
        output::result(&format!("{}  {:<20}  {used:<12}  {state}", token.id, token.service));
    }
    Ok(())
}
