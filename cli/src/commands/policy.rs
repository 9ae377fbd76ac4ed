//! `outrigger policy`: who may do what, by which rule, and whether that is what was meant.

mod diff;
mod expectations;
pub(crate) mod request;

use std::path::PathBuf;

use anyhow::Context;
use outrigger_conditions::Cel;
use outrigger_policy::{Annotations, PolicySet, Reader};
use outrigger_runtime::Exit;
use request::{Imagined, Request, capability, claims};

use crate::args::{ExplainArgs, PolicyCommand};
use crate::{files, output};

/// Where `outrigger up` writes its policy, unless told otherwise.
const OWN_POLICY: &str = ".outrigger/policy.yaml";

/// Runs one of the commands.
pub(crate) fn main(command: PolicyCommand) -> anyhow::Result<Exit> {
    match command {
        PolicyCommand::Explain(args) => explain(args),
        PolicyCommand::Diff(args) => diff::main(&args),
        PolicyCommand::Test(args) => expectations::main(&args),
    }
}

fn explain(args: ExplainArgs) -> anyhow::Result<Exit> {
    let set = compile(&args.policies)?;
    let annotations = args.annotations.as_ref().map(|json| Annotations::of(Some(json.as_bytes())));
    let request = Request {
        who: args.principal,
        roles: args.roles,
        scopes: args.scopes,
        claims: claims(&args.claims)?,
        circumstances: Imagined {
            arguments: args.arguments,
            time: args.time,
            source: args.source,
            annotations,
            is_call: false,
        },
    };
    let what = capability(&args.capability, args.kind.into())?;
    let explanation = set.explain_in(&request.principal()?, &what, &request.circumstances);
    if args.json {
        output::json(&explanation)?;
    } else {
        output::result(&explanation.to_string());
    }
    Ok(if explanation.allowed { Exit::Clean } else { Exit::Failed })
}

/// The policy in these files, or in the one that `outrigger up` wrote.
fn compile(policies: &[PathBuf]) -> anyhow::Result<PolicySet> {
    let policies = read(policies)?;
    let named: Vec<(&str, &str)> = policies.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    Ok(Reader { engine: Some(&Cel), service: None }.compile(&named)?)
}

/// The policy files with their names.
fn read(policies: &[PathBuf]) -> anyhow::Result<Vec<(String, String)>> {
    let own = [PathBuf::from(OWN_POLICY)];
    let paths = if policies.is_empty() { &own } else { policies };
    let named = |path: &PathBuf| Ok((path.display().to_string(), files::read(path)?));
    let read: anyhow::Result<_> = paths.iter().map(named).collect();
    if policies.is_empty() { read.context("no policy was named; give one with --policy FILE") } else { read }
}
