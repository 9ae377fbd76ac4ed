//! `outrigger up`: a whole mesh on one machine.
//!
//! ```text
//!  manifest + state directory --plan--> settings of every part
//!  supervise (one per process) --events--> board --> screen, up.json
//!  signal --> wishes --> supervise: drain, hurry, kill
//! ```
//!
//! Sidecars take free ports and report them; the ingress is started when they are known. Addresses then stay, also
//! when a part is started again.

mod announce;
mod board;
mod event;
mod exposed;
mod identity;
mod log;
mod mesh;
mod plan;
mod port;
mod probe;
mod screen;
mod session_keys;
mod state;
mod supervise;
pub(crate) mod token;
mod yaml;

use std::path::{Path, PathBuf};

use outrigger_conditions::Cel;
use outrigger_policy::Reader;
use outrigger_runtime::{Exit, ShutdownSignals};

use crate::args::UpArgs;
use crate::manifest::Manifest;
use crate::{files, output};

use announce::Facts;
use identity::Identities;
use mesh::Mesh;
use plan::Plan;
use state::StateDir;

/// The name of the ingress in the mesh. No service can have it.
pub(crate) const INGRESS: &str = "ingress";

const WELCOME: &str = "\
# Welcome

This file is served by `fs`, one of the example services of `outrigger up`, which can read this directory and nothing
else. Put your own files here, or write a mesh.yaml with your own services and run `outrigger up -f mesh.yaml`.
";

/// Runs a mesh until a signal ends it.
pub(crate) fn main(args: UpArgs) -> anyhow::Result<Exit> {
    let manifest = manifest(&args)?;
    for warning in &manifest.warnings {
        output::say(&format!("warning: {warning}"));
    }
    check_policies(&manifest)?;
    exposed::check(&manifest, &args.dir)?;
    let state = StateDir::open(&args.dir)?;
    port::check(manifest.ingress.listen)?;
    let (mut result, args, manifest, state) = (Ok(Exit::Clean), &args, &manifest, &state);
    // One thread: parts are tied to the life of the thread that starts them.
    let exit = outrigger_runtime::run(1, async {
        let outcome = run(args, manifest, state).await;
        let exit = *outcome.as_ref().unwrap_or(&Exit::Failed);
        result = outcome;
        exit
    });
    // The runtime itself may have failed before anything ran.
    result.map(|_| exit)
}

fn manifest(args: &UpArgs) -> anyhow::Result<Manifest> {
    let Some(path) = &args.file else {
        return Ok(Manifest::bundled(&files::absolute(&args.dir)?));
    };
    let text = files::read(path)?;
    Ok(Manifest::from_sources(Some((&path.display().to_string(), &text)), &|_| None)?)
}

/// The ingress would refuse to start, and later.
fn check_policies(manifest: &Manifest) -> anyhow::Result<()> {
    let read = |path: &PathBuf| Ok((path.display().to_string(), files::read(path)?));
    let texts: Vec<(String, String)> = manifest.policy.iter().map(read).collect::<anyhow::Result<_>>()?;
    let named: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    Reader { engine: Some(&Cel), service: None }.compile(&named)?;
    Ok(())
}

async fn run(args: &UpArgs, manifest: &Manifest, state: &StateDir) -> anyhow::Result<Exit> {
    // First, so that a signal finds us ready for it.
    let signals = ShutdownSignals::install()?;
    if args.file.is_none() {
        write_welcome(&state.data())?;
    }
    let names = manifest.services.iter().map(|service| service.name.clone()).chain([INGRESS.to_owned()]);
    let identities = Identities::prepare(state, &manifest.trust_domain(), names, args.certificate_life)?;
    let token = match manifest.ingress.anonymous {
        true => None,
        false => Some((token::load_or_make(&state.token())?, state.token())),
    };
    let digest = token.as_ref().map(|(token, _)| token::digest(token)).transpose()?;
    let program = crate::parts::own_program()?;
    let plan = Plan { manifest, file: args.file.as_deref(), state, program: &program };
    session_keys::make_if_missing(&state.session_keys())?;
    files::write(&state.inside_policy(), plan.inside_policy().as_bytes(), files::PUBLIC)?;
    if manifest.policy.is_empty() {
        files::write(&state.policy(), plan.default_policy().as_bytes(), files::PUBLIC)?;
    }
    let facts = Facts {
        mesh: manifest.mesh.clone(),
        tls: manifest.ingress.tls.is_some(),
        token,
        ca_file: identities.ca_file(),
        program: program.clone(),
    };
    Mesh::new(&plan, facts, digest, args)?.run(identities, signals).await
}

fn write_welcome(dir: &Path) -> anyhow::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    files::make_dir(dir)?;
    files::write(&dir.join("welcome.md"), WELCOME.as_bytes(), files::PUBLIC)
}
