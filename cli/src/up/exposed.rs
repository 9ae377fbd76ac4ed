//! Keeps the bundled `fs` service from offering the state directory, with the token and the authority's key in it.

use std::path::{Component, Path, PathBuf};

use anyhow::bail;

use crate::files;
use crate::manifest::{Example, Manifest, Service, Source};
use crate::up::state::DATA;

/// Refuses a manifest in which an `fs` service could read the state directory `state`.
///
/// # Errors
/// Which service, and what to do.
pub(crate) fn check(manifest: &Manifest, state: &Path) -> anyhow::Result<()> {
    let state = resolved(&files::absolute(state)?);
    for service in &manifest.services {
        let Some(root) = root(service)? else { continue };
        if offers(&root, &state, hidden(service)) {
            bail!(
                "services.{}: `--root {}` would offer the state directory {}, with the token and the key of the authority in it\n  \
                 hint: give `fs` a directory of its own, or the mesh another one with `--dir`",
                service.name,
                root.display(),
                state.display()
            );
        }
    }
    Ok(())
}

/// Names that begin with a dot are hidden by `fs` itself, unless it is told otherwise.
fn offers(root: &Path, state: &Path, hidden: bool) -> bool {
    if let Ok(inside) = root.strip_prefix(state) {
        return !inside.starts_with(DATA);
    }
    let dotted = |part| matches!(part, Component::Normal(name) if name.as_encoded_bytes().starts_with(b"."));
    state.strip_prefix(root).is_ok_and(|way| hidden || !way.components().any(dotted))
}

fn arguments(service: &Service) -> &[String] {
    match &service.source {
        Source::Example(Example::Fs, arguments) => arguments,
        _ => &[],
    }
}

fn hidden(service: &Service) -> bool {
    arguments(service).iter().any(|argument| argument == "--hidden")
}

fn root(service: &Service) -> anyhow::Result<Option<PathBuf>> {
    let mut arguments = arguments(service).iter();
    let spelled = loop {
        let Some(argument) = arguments.next() else { return Ok(None) };
        if argument == "--root" {
            break arguments.next().map(String::as_str);
        }
        if let Some(value) = argument.strip_prefix("--root=") {
            break Some(value);
        }
    };
    let Some(spelled) = spelled else { return Ok(None) };
    let base = files::absolute(service.cwd.as_deref().unwrap_or(Path::new(".")))?;
    Ok(Some(resolved(&base.join(spelled))))
}

/// Without symbolic links, as far as the path exists.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_around_the_state_or_inside_it_is_refused() {
        let offers = |root: &str, state: &str, hidden| offers(Path::new(root), Path::new(state), hidden);
        assert!(offers("/home", "/home/state", false));
        assert!(offers("/home/state", "/home/state", false));
        assert!(offers("/home/.outrigger/ca", "/home/.outrigger", false));
        assert!(offers("/home", "/home/.outrigger", true), "hidden files are offered on demand");
        assert!(!offers("/home", "/home/.outrigger", false), "fs does not offer what is hidden");
        assert!(!offers("/home/.outrigger/data", "/home/.outrigger", false), "the bundled files");
        assert!(!offers("/home/data", "/home/state", false));
    }
}
