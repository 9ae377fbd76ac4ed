//! `outrigger inject -f`: sidecars in manifests.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use outrigger_inject::workload::{HOLDERS, inject_object, uninject_object};
use outrigger_inject::{Namespace, Refusal, Settings, Verdict};
use outrigger_runtime::Exit;
use serde_json::Value;

use super::config::{Config, Native};
use super::version::Version;
use super::{check, settings, yaml};
use crate::{files, output};

/// The most bytes of standard input, as of a file.
const MAX_INPUT: u64 = 4 << 20;

/// A document of a file.
struct Piece<'a> {
    file: &'a str,
    part: yaml::Part<'a>,
    /// What it says, if it can hold pods or say something of them.
    value: Option<Value>,
}

/// What the command line says.
pub(crate) struct Wanted {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) all: bool,
    pub(crate) config: Option<PathBuf>,
    pub(crate) version: Option<Version>,
}

/// Reads, injects, writes. Nothing is written when one of the pods cannot have what it asks for.
pub(crate) fn main(wanted: &Wanted) -> anyhow::Result<Exit> {
    let config = Config::from_file(wanted.config.as_deref())?;
    let native = match config.native {
        Native::Always => true,
        Native::Never => false,
        Native::Auto => wanted.version.is_none_or(|version| version >= Version::NATIVE_SIDECARS),
    };
    let settings = settings::compile(&config, None, native)?;
    let texts = texts(&wanted.files)?;
    let mut pieces = pieces(&texts)?;
    let namespaces = namespaces(&pieces);
    let mut found = Found::default();
    let out: Vec<_> =
        pieces.iter_mut().map(|piece| piece.injected(&namespaces, wanted.all, &settings, &mut found)).collect();
    found.warnings.iter().for_each(|warning| output::say(&format!("warning: {warning}")));
    if !found.refusals.is_empty() {
        found.refusals.iter().for_each(|refusal| output::say(refusal));
        output::say("nothing was written");
        return Ok(Exit::Failed);
    }
    if found.injected == 0 && found.present == 0 {
        output::say(
            "nothing here asks for a sidecar: annotate pods with `outrigger.dev/inject: \"true\"`, or use --all",
        );
    }
    output::result(&joined(&out));
    Ok(Exit::Clean)
}

/// Reads, takes sidecars out, writes. Nothing is written when that cannot be done for one of the pods.
pub(crate) fn uninject(files: &[PathBuf]) -> anyhow::Result<Exit> {
    let texts = texts(files)?;
    let mut refusals = Vec::new();
    let out: Vec<_> = pieces(&texts)?.iter_mut().map(|piece| piece.uninjected(&mut refusals)).collect();
    if !refusals.is_empty() {
        refusals.iter().for_each(|refusal| output::say(refusal));
        output::say("nothing was written");
        return Ok(Exit::Failed);
    }
    output::result(&joined(&out));
    Ok(Exit::Clean)
}

/// The files, each with the name that mistakes have.
fn texts(files: &[PathBuf]) -> anyhow::Result<Vec<(String, String)>> {
    files.iter().map(|path| Ok((name(path), read(path)?))).collect()
}

fn pieces(texts: &[(String, String)]) -> anyhow::Result<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    for (file, text) in texts {
        for part in yaml::split(text) {
            let value = if may_matter(part.text()) { part.read(file)? } else { None };
            pieces.push(Piece { file, part, value });
        }
    }
    Ok(pieces)
}

/// Documents as one file.
fn joined(documents: &[String]) -> String {
    let mut out = String::new();
    for text in documents {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        if !out.is_empty() && !text.starts_with("---") {
            out.push_str("---\n");
        }
        out.push_str(text);
    }
    out.truncate(out.trim_end_matches('\n').len());
    out
}

/// What came of all pods.
#[derive(Default)]
struct Found {
    injected: usize,
    present: usize,
    warnings: Vec<String>,
    refusals: Vec<String>,
}

impl Piece<'_> {
    /// The document as it is to be written.
    fn injected(
        &mut self,
        namespaces: &BTreeMap<String, Namespace>,
        all: bool,
        settings: &Settings,
        found: &mut Found,
    ) -> String {
        let nothing = Namespace::default();
        let of = |name: &str| namespaces.get(name).unwrap_or(&nothing);
        let Some(value) = &mut self.value else { return self.part.text().to_owned() };
        let before = found.injected;
        for outcome in inject_object(value, &of, all, settings) {
            let place = format!("{}: {}", self.file, outcome.name);
            match outcome.verdict {
                Ok(Verdict::Injected(injection)) => {
                    found.injected += 1;
                    found.refusals.extend(check::mistakes(&injection).iter().map(|text| format!("{place}: {text}")));
                    found.warnings.extend(injection.warnings.iter().map(|text| format!("{place}: {text}")));
                }
                Ok(Verdict::Present) => found.present += 1,
                Ok(Verdict::NotAsked) => {}
                Err(refusal) => found.refusals.push(format!("{place}: {refusal}")),
            }
        }
        if found.injected > before { self.part.replaced(value) } else { self.part.text().to_owned() }
    }

    /// The document without its sidecars.
    fn uninjected(&mut self, refusals: &mut Vec<String>) -> String {
        let Some(value) = &mut self.value else { return self.part.text().to_owned() };
        let mut had = false;
        for outcome in uninject_object(value) {
            match outcome.verdict {
                Ok(one) => had |= one,
                // No pod has no sidecar.
                Err(Refusal::NotAPod(_)) => {}
                Err(refusal) => refusals.push(format!("{}: {}: {refusal}", self.file, outcome.name)),
            }
        }
        if had { self.part.replaced(value) } else { self.part.text().to_owned() }
    }
}

/// The namespaces that the files describe, by name.
fn namespaces(pieces: &[Piece<'_>]) -> BTreeMap<String, Namespace> {
    let objects = pieces.iter().filter_map(|piece| piece.value.as_ref());
    let described = objects.filter(|object| object["kind"].as_str() == Some("Namespace"));
    described.filter_map(|it| Some((it["metadata"]["name"].as_str()?.to_owned(), Namespace::of(it)))).collect()
}

/// Whether a document can hold pods or be a namespace. What cannot is not read: it may be larger or stranger than our reader
/// takes.
fn may_matter(text: &str) -> bool {
    let is_ours = |line: &str| {
        let kind = line.strip_prefix("kind:").map(|kind| kind.split('#').next().unwrap_or_default());
        kind.is_some_and(|kind| {
            let kind = kind.trim().trim_matches(['"', '\'']);
            HOLDERS.contains(&kind) || ["List", "Namespace"].contains(&kind)
        })
    };
    let content = text.strip_prefix("---").unwrap_or(text).trim_start();
    content.starts_with('{') || text.lines().any(is_ours)
}

fn name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path != Path::new("-") {
        return files::read(path);
    }
    let mut text = String::new();
    let bytes = std::io::stdin().take(MAX_INPUT + 1).read_to_string(&mut text).context("cannot read standard input")?;
    anyhow::ensure!(bytes as u64 <= MAX_INPUT, "standard input has more than {MAX_INPUT} bytes");
    Ok(text)
}
