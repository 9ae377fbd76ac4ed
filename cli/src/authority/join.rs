//! A join token for each service, kept fresh in a directory of its own, so that a compose file needs nothing written by hand: the
//! directory is a volume that this authority writes and that service reads.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use outrigger_identity::Authority;
use outrigger_mcp::names::check_service;

use super::config::Join;
use super::tokens::{self, seconds};
use crate::{files, output};

/// What a service finds.
const TOKEN: &str = "join-token";
const ROOTS: &str = "ca.pem";
/// For the service's user, or for its group where that is another.
const MODE: u32 = 0o640;
/// How often the directories are looked at: a workload that finds a used-up token asks again about as often.
const LOOK: Duration = Duration::from_secs(2);

/// Makes what is missing or worn out. `authority` is the authority's directory.
///
/// # Errors
/// What cannot be read or written, with the services that it is for; the others have theirs.
pub(crate) fn keep(authority: &Path, join: &Join) -> anyhow::Result<()> {
    let roots = Authority::load(authority)?.trust()?.ca_pem;
    let mut wrong = Vec::new();
    for service in &services(join)? {
        let dir = join.dir.join(service);
        if let Err(error) = keep_one(authority, join, service, &dir, &roots) {
            let user = rustix::process::getuid().as_raw();
            wrong.push(format!(
                "the join token of {service} cannot be kept in {}, which user {user} must be able to write: {}",
                dir.display(),
                output::chain(&error)
            ));
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("; ")) }
}

/// Those of the settings, or those that have a directory, as a volume is one. Other names there are none of services, and passed over.
fn services(join: &Join) -> anyhow::Result<Vec<String>> {
    if !join.services.is_empty() {
        return Ok(join.services.clone());
    }
    let entries = std::fs::read_dir(&join.dir);
    let entries = entries.with_context(|| format!("cannot read the directory {} (`join.dir`)", join.dir.display()))?;
    let directories = entries.flatten().filter(|entry| entry.path().is_dir());
    let names = directories.filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| check_service(name).is_ok()).collect())
}

fn keep_one(authority: &Path, join: &Join, service: &str, dir: &Path, roots: &str) -> anyhow::Result<()> {
    files::make_dir(dir)?;
    let (token, believed) = (dir.join(TOKEN), dir.join(ROOTS));
    if !is_there(&believed)? || files::read(&believed)? != roots {
        files::write(&believed, roots.as_bytes(), files::PUBLIC)?;
    }
    if is_there(&token)? && is_fresh(authority, join, service, files::read(&token)?.trim())? {
        return Ok(());
    }
    let (made, text) = tokens::create_kept(authority, service, join.uses, join.ttl)?;
    files::write(&token, text.as_bytes(), MODE)?;
    tracing::info!(service, id = made.id, "keeps a new join token");
    Ok(())
}

/// Whether there is a file. Of other things a pipe is the worst: who opens it waits until somebody writes, and all services with it.
/// Not by a link, either: whoever mounts the directory may not choose which of our files is read.
fn is_there(path: &Path) -> anyhow::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(what) if what.is_file() => Ok(true),
        Ok(_) => bail!("{} is no regular file; remove it", path.display()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
    }
}

/// Whether a token is this service's, and not half used up or half over.
fn is_fresh(authority: &Path, join: &Join, service: &str, text: &str) -> anyhow::Result<bool> {
    let now = SystemTime::now();
    let Some(token) = tokens::find(authority, text, now)? else { return Ok(false) };
    let left = token.expires.saturating_sub(seconds(now));
    Ok(token.service == service
        && left > join.ttl.as_secs() / 2
        && token.used_by.len() < join.uses.div_ceil(2) as usize)
}

/// Keeps them for ever. A trouble is told once, until it is another.
pub(crate) async fn follow(authority: PathBuf, join: Join) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let (authority, join) = (authority.clone(), join.clone());
        let kept = tokio::task::spawn_blocking(move || keep(&authority, &join)).await;
        // A panic in there has been reported.
        let why = match kept {
            Ok(Err(error)) => output::chain(&error),
            _ => String::new(),
        };
        if !why.is_empty() && why != told {
            tracing::error!("{why}");
        }
        told = why;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use outrigger_identity::{AuthorityOptions, TrustDomain};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    struct Bed {
        dir: tempfile::TempDir,
        join: Join,
    }

    fn bed(uses: u32) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("demo.outrigger.local").unwrap();
        Authority::init(&dir.path().join("ca"), &domain, &AuthorityOptions::default()).unwrap();
        let join = Join { dir: dir.path().join("join"), services: vec!["fs".into(), "notes".into()], uses, ttl: HOUR };
        Bed { dir, join }
    }

    impl Bed {
        fn keep(&self) -> String {
            keep(&self.dir.path().join("ca"), &self.join).unwrap();
            std::fs::read_to_string(self.join.dir.join("fs/join-token")).unwrap()
        }

        fn redeem(&self, text: &str, key: u8) -> bool {
            tokens::redeem(&self.dir.path().join("ca"), text, &[key], SystemTime::now(), |_| Ok(())).is_ok()
        }
    }

    #[test]
    fn each_service_finds_its_token_and_the_roots_in_a_directory_of_its_own() {
        let bed = bed(10);
        let token = bed.keep();
        assert_eq!(bed.keep(), token, "a good one stays");
        let other = std::fs::read_to_string(bed.join.dir.join("notes/join-token")).unwrap();
        assert_ne!(token, other);
        assert!(bed.redeem(&token, 1));
        let file = bed.join.dir.join("fs/join-token");
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, MODE);
        let roots = std::fs::read_to_string(bed.join.dir.join("fs/ca.pem")).unwrap();
        assert_eq!(roots, std::fs::read_to_string(bed.dir.path().join("ca/ca.pem")).unwrap());
    }

    #[test]
    fn a_token_that_is_half_used_up_or_lost_gives_way_and_is_worth_nothing() {
        let bed = bed(4);
        let first = bed.keep();
        assert!(bed.redeem(&first, 1) && bed.redeem(&first, 2));
        let second = bed.keep();
        assert_ne!(first, second);
        assert!(!bed.redeem(&first, 3), "the one before is gone");
        std::fs::remove_file(bed.join.dir.join("fs/join-token")).unwrap();
        let third = bed.keep();
        assert!(!bed.redeem(&second, 3) && bed.redeem(&third, 3));
        assert_eq!(tokens::list(&bed.dir.path().join("ca")).unwrap().len(), 2, "one for each service");
    }

    #[test]
    fn without_names_each_directory_that_is_there_is_a_service() {
        let mut bed = bed(1);
        bed.join.services.clear();
        for name in ["fs", "Not.A-Service"] {
            std::fs::create_dir_all(bed.join.dir.join(name)).unwrap();
        }
        std::fs::write(bed.join.dir.join("notes"), "a file").unwrap();
        assert!(bed.redeem(&bed.keep(), 1));
        assert!(!bed.join.dir.join("Not.A-Service/join-token").exists());
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named_with_its_service() {
        let bed = bed(1);
        std::fs::write(&bed.join.dir, "a file").unwrap();
        let why = output::chain(&keep(&bed.dir.path().join("ca"), &bed.join).unwrap_err());
        assert!(why.contains("the join token of fs") && why.contains("join/fs"), "{why}");
    }

    #[test]
    fn the_trouble_of_one_service_is_not_that_of_others() {
        let mut bed = bed(1);
        bed.join.services = ["a", "b", "fs"].map(str::to_owned).to_vec();
        std::fs::create_dir_all(bed.join.dir.join("b")).unwrap();
        std::fs::write(bed.join.dir.join("a"), "a file").unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let pipe = bed.join.dir.join("b/join-token");
        rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let why = output::chain(&keep(&bed.dir.path().join("ca"), &bed.join).unwrap_err());
        assert!(why.contains("token of a cannot") && why.contains("b/join-token is no regular file"), "{why}");
        let text = std::fs::read_to_string(bed.join.dir.join("fs/join-token")).unwrap();
        assert!(bed.redeem(&text, 1));
    }
}
