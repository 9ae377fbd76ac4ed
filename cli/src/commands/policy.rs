//! `outrigger policy explain`: who may do what, and by which rule.

use std::path::PathBuf;

use anyhow::{Context, bail};
use outrigger_policy::{Capability, PolicySet, Principal};
use outrigger_runtime::Exit;

use crate::args::{ExplainArgs, PolicyCommand};
use crate::{files, output};

/// Where `outrigger up` writes its policy, unless told otherwise.
const OWN_POLICY: &str = ".outrigger/policy.yaml";

/// Runs one of the commands.
pub(crate) fn main(command: PolicyCommand) -> anyhow::Result<Exit> {
    match command {
        PolicyCommand::Explain(args) => explain(args),
    }
}

fn explain(args: ExplainArgs) -> anyhow::Result<Exit> {
    let policies = read(&args.policies)?;
    let named: Vec<(&str, &str)> = policies.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let set = PolicySet::compile(&named)?;
    let who = principal(&args)?;
    let (service, name) = split(&args.capability)?;
    let explanation = set.explain(&who, &Capability { kind: args.kind.into(), service, name });
    if args.json {
        output::json(&explanation)?;
    } else {
        output::result(&explanation.to_string());
    }
    Ok(if explanation.allowed { Exit::Clean } else { Exit::Failed })
}

/// The policy files with their names.
fn read(policies: &[PathBuf]) -> anyhow::Result<Vec<(String, String)>> {
    let own = [PathBuf::from(OWN_POLICY)];
    let paths = if policies.is_empty() { &own } else { policies };
    let named = |path: &PathBuf| Ok((path.display().to_string(), files::read(path)?));
    let read: anyhow::Result<_> = paths.iter().map(named).collect();
    if policies.is_empty() { read.context("no policy was named; give one with --policy FILE") } else { read }
}

fn principal(args: &ExplainArgs) -> anyhow::Result<Principal> {
    let granted = !args.scopes.is_empty() || !args.roles.is_empty();
    let principal = match args.principal.as_str() {
        "anonymous" if granted => bail!("an anonymous caller has no scopes and no roles; remove --scope and --role"),
        "anonymous" => Principal::anonymous(),
        workload if workload.starts_with("spiffe://") => Principal::workload(workload)?,
        user => Principal::user(user.strip_prefix("user:").unwrap_or(user))?,
    };
    Ok(principal.with_grants(&args.roles, &args.scopes)?)
}

/// `fs.readFileText`, or as clients see it, `fs__readFileText`. A service's name has neither `.` nor `_`.
fn split(capability: &str) -> anyhow::Result<(&str, &str)> {
    let at = capability.find(['.', '_']).unwrap_or(capability.len());
    let (service, rest) = capability.split_at(at);
    let name = rest.strip_prefix("__").or_else(|| rest.strip_prefix('.')).unwrap_or_default();
    outrigger_mcp::names::check_service(service).with_context(|| format!("{capability}: expected SERVICE.NAME"))?;
    if name.is_empty() {
        bail!("{capability}: expected SERVICE.NAME, such as fs.readFileText");
    }
    Ok((service, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_in_either_spelling() {
        assert_eq!(split("fs.readFileText").unwrap(), ("fs", "readFileText"));
        assert_eq!(split("fs__read.file").unwrap(), ("fs", "read.file"));
        assert_eq!(split("my-fs.file:///a.txt").unwrap(), ("my-fs", "file:///a.txt"));
        for bad in ["fs", "fs.", ".x", "fs_x", "FS.x", ""] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
