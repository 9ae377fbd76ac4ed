//! The starters that `outrigger new` copies out, embedded in the binary.
//!
//! The files are those of `examples-services/python` and `examples-services/typescript`; `{{name}}` in them stands
//! for the name of the new service.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

/// What stands for the service's name in the files.
const PLACEHOLDER: &str = "{{name}}";
/// Longest service name; the same limit that the mesh sets.
const MAX_NAME: usize = 20;

/// A language that there is a starter for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lang {
    /// Python with the official SDK.
    Python,
    /// TypeScript on Node with the official SDK.
    #[value(name = "typescript")]
    TypeScript,
}

macro_rules! embed {
    ($folder:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../", $folder, "/", $path)))),+]
    };
}

const PYTHON: &[(&str, &str)] =
    embed!("python": ".gitignore", "README.md", "pyproject.toml", "requirements.lock", "server.py", "test_server.py");

const TYPESCRIPT: &[(&str, &str)] = embed!(
    "typescript": ".gitignore", "README.md", "package-lock.json", "package.json", "src/server.ts",
    "test/server.test.ts", "tsconfig.json",
);

/// The files of a starter: path inside the new folder, and contents with the placeholder.
#[must_use]
pub fn template(lang: Lang) -> &'static [(&'static str, &'static str)] {
    match lang {
        Lang::Python => PYTHON,
        Lang::TypeScript => TYPESCRIPT,
    }
}

/// Writes a new service called `name` into `dest_dir` (made if missing) and returns the files written.
///
/// # Errors
/// `InvalidInput` if `name` is not a service name (`[a-z0-9]([a-z0-9-]*[a-z0-9])?`, at most 20), `AlreadyExists` if
/// any of the files is there already (then nothing is written), or what the file system says.
pub fn instantiate(lang: Lang, name: &str, dest_dir: &Path) -> io::Result<Vec<PathBuf>> {
    check_name(name)?;
    let files: Vec<(PathBuf, String)> = template(lang)
        .iter()
        .map(|(path, contents)| (dest_dir.join(path), contents.replace(PLACEHOLDER, name)))
        .collect();
    // `symlink_metadata` also sees a dangling link, which `exists` would call free.
    if let Some((taken, _)) = files.iter().find(|(path, _)| fs::symlink_metadata(path).is_ok()) {
        let message = format!("{} exists already; nothing was written", taken.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    for (path, contents) in &files {
        write_new(path, contents)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

fn write_new(path: &Path, contents: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(contents.as_bytes())
}

fn check_name(name: &str) -> io::Result<()> {
    let plain = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let edges = !name.starts_with('-') && !name.ends_with('-');
    if plain && edges && (1..=MAX_NAME).contains(&name.len()) {
        return Ok(());
    }
    let message = format!("{name:?} is not a service name: use 1 to {MAX_NAME} of a-z, 0-9 and inner \"-\"");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every file below `dir`, relative, without what builds and installs leave there.
    fn files_below(dir: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if ["node_modules", "dist", "__pycache__", ".venv"].contains(&name.as_str()) {
                continue;
            }
            let path = format!("{prefix}{name}");
            if entry.file_type().unwrap().is_dir() {
                files_below(&entry.path(), &format!("{path}/"), found);
            } else {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_file_of_the_folders_is_embedded() {
        for (lang, folder) in [(Lang::Python, "python"), (Lang::TypeScript, "typescript")] {
            let mut found = Vec::new();
            files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), "", &mut found);
            found.sort();
            let mut embedded: Vec<&str> = template(lang).iter().map(|(path, _)| *path).collect();
            embedded.sort_unstable();
            assert_eq!(embedded, found, "{folder}");
        }
    }

    #[test]
    fn lock_files_pin_versions_and_name_no_registry() {
        for lang in [Lang::Python, Lang::TypeScript] {
            let locked = template(lang).iter().find(|(path, _)| path.contains("lock")).unwrap().1;
            assert!(!locked.contains("\"resolved\"") && !locked.contains("index-url"), "{lang:?}");
        }
        assert!(PYTHON.iter().any(|(path, text)| *path == "requirements.lock" && text.contains("\nmcp==2.")));
    }

    #[test]
    fn instantiating_fills_in_the_name_everywhere() {
        for lang in [Lang::Python, Lang::TypeScript] {
            let base = tempfile::tempdir().unwrap();
            let dest = base.path().join("new/notes");
            let written = instantiate(lang, "notes", &dest).unwrap();
            assert_eq!(written.len(), template(lang).len());
            for path in &written {
                assert!(!fs::read_to_string(path).unwrap().contains(PLACEHOLDER), "{}", path.display());
            }
            assert!(fs::read_to_string(dest.join("README.md")).unwrap().starts_with("# notes\n"));
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("README.md"), "mine").unwrap();
        let error = instantiate(Lang::Python, "notes", base.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(error.to_string().contains("README.md"), "{error}");
        assert_eq!(fs::read_to_string(base.path().join("README.md")).unwrap(), "mine");
        assert!(!base.path().join("server.py").exists(), "nothing is written when one file is taken");
    }

    #[test]
    fn only_service_names_are_accepted() {
        let base = tempfile::tempdir().unwrap();
        for bad in ["", "-a", "a-", "A", "a b", "a/b", "..", "a_b", &"x".repeat(21)] {
            let error = instantiate(Lang::Python, bad, &base.path().join("d")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad}");
        }
        assert!(!base.path().join("d").exists());
        instantiate(Lang::Python, "4-a", &base.path().join("d")).unwrap();
    }
}
