//! `outrigger ca`: the embedded authority by hand. docs/IDENTITY.md says what it promises.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use data_encoding::HEXLOWER;
use outrigger_identity::{Authority, AuthorityOptions, Rotation, Serial, TrustDomain, write_leaf};
use outrigger_runtime::Exit;
use serde_json::json;

use crate::args::{CaCommand, CaDir, RotateCommand};
use crate::authority;
use crate::output;

/// Runs one of the commands.
pub(crate) fn main(command: CaCommand) -> anyhow::Result<Exit> {
    match command {
        CaCommand::Init { trust_domain, root, dir } => init(&trust_domain, root, &dir.dir)?,
        CaCommand::Intermediate { root, dir, life } => intermediate(&root, &dir, life)?,
        CaCommand::Rotate(step) => rotate(step)?,
        CaCommand::Token(command) => super::ca_token::main(command)?,
        CaCommand::Serve { config, dir } => return authority::main(config, dir),
        CaCommand::Health { config } => return authority::health(config.as_deref()),
        CaCommand::Issue { service, dir, out, life, hosts } => issue(&service, &dir, out, life, &hosts)?,
        CaCommand::Revoke { what, dir } => revoke(&what, &dir)?,
        CaCommand::Show { dir, json } => show(&dir, json)?,
    }
    Ok(Exit::Clean)
}

fn init(trust_domain: &str, offline: bool, dir: &Path) -> anyhow::Result<()> {
    let trust_domain = TrustDomain::parse(trust_domain)?;
    let options = AuthorityOptions { offline, ..AuthorityOptions::default() };
    let authority = Authority::init(dir, &trust_domain, &options)?;
    output::result(&authority.certificate_path().display().to_string());
    output::say(&format!(
        "An authority for {trust_domain}. Whoever has {} can be anybody in this mesh: keep it on this machine, and in a backup.",
        dir.join("ca.key").display(),
    ));
    Ok(())
}

fn intermediate(root: &Path, dir: &CaDir, life: Duration) -> anyhow::Result<()> {
    let above = Authority::load(root).with_context(|| unusable(root))?;
    let successor = dir.dir.join("ca.pem").exists();
    above.init_below(&dir.dir, life)?;
    output::result(&load(dir)?.certificate_path().display().to_string());
    output::say(if successor {
        "The successor is believed beside the present authority. When every member has the new ca.pem and crl.pem: outrigger ca rotate switch."
    } else {
        "An authority below the root. The root's directory is not needed until it is replaced: take it offline."
    });
    Ok(())
}

fn rotate(step: RotateCommand) -> anyhow::Result<()> {
    match step {
        RotateCommand::Begin { dir } => {
            load(&dir)?.begin(&AuthorityOptions::default())?;
            output::say(
                "The successor is believed beside the present authority. When every member has the new ca.pem and crl.pem: outrigger ca rotate switch.",
            );
        }
        RotateCommand::Switch { dir } => {
            load(&dir)?.switch()?;
            output::say("The successor signs. When every member has a certificate of it: outrigger ca rotate finish.");
        }
        RotateCommand::Finish { dir, after } => {
            load(&dir)?.finish(after)?;
            output::say("The old authority is believed no more, as soon as members have the new ca.pem and crl.pem.");
        }
    }
    Ok(())
}

fn issue(service: &str, dir: &CaDir, out: Option<PathBuf>, life: Duration, hosts: &[String]) -> anyhow::Result<()> {
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let issued = load(dir)?.issue(service, life, &hosts)?;
    let out = out.unwrap_or_else(|| dir.dir.clone());
    write_leaf(&out, service, &issued)?;
    for suffix in ["pem", "key"] {
        output::result(&out.join(format!("{service}.{suffix}")).display().to_string());
    }
    output::say(&format!("{}, serial {}, {}", issued.id, issued.serial, ends(issued.not_after)));
    Ok(())
}

fn revoke(what: &str, dir: &CaDir) -> anyhow::Result<()> {
    let authority = load(dir)?;
    let path = Path::new(what);
    let (serial, new) = if path.exists() {
        authority.revoke_file(path)?
    } else {
        let serial: Serial = what.parse().with_context(|| format!("there is no file {what}"))?;
        let new = authority.revoke(&serial)?;
        (serial, new)
    };
    output::result(&serial.to_string());
    output::say(if new {
        "It is revoked. Give the new crl.pem to every member; those on this machine read it by themselves."
    } else {
        "It was revoked before."
    });
    Ok(())
}

fn show(dir: &CaDir, json: bool) -> anyhow::Result<()> {
    let authority = load(dir)?;
    let revoked: Vec<String> = authority.revoked()?.iter().map(ToString::to_string).collect();
    let not_after = authority.not_after();
    let digests: Vec<String> = authority.fingerprints()?.iter().map(|digest| HEXLOWER.encode(digest)).collect();
    let rotation = match authority.rotation() {
        Rotation::None => "none",
        Rotation::Begun => "begun",
        Rotation::Switched => "switched",
    };
    if json {
        let since_epoch = not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        return Ok(output::json(&json!({
            "trust_domain": authority.trust_domain().as_str(),
            "certificate": authority.certificate_path(),
            "not_after_unix": since_epoch.as_secs(),
            "ca_sha256": digests,
            "rotation": rotation,
            "revoked": revoked,
        }))?);
    }
    output::result(&format!("trust domain  {}", authority.trust_domain()));
    output::result(&format!("certificate   {}", authority.certificate_path().display()));
    output::result(&format!("              {}", ends(not_after)));
    digests.iter().for_each(|digest| output::result(&format!("ca_sha256     {digest}")));
    output::result(&format!("rotation      {rotation}"));
    output::result(&format!("revoked       {}", revoked.len()));
    for serial in revoked {
        output::result(&format!("              {serial}"));
    }
    Ok(())
}

pub(super) fn load(dir: &CaDir) -> anyhow::Result<Authority> {
    Authority::load(&dir.dir).with_context(|| unusable(&dir.dir))
}

/// What to do about an authority that cannot be used: one that is there in part is precious.
pub(crate) fn unusable(dir: &Path) -> String {
    let there = ["ca.key", "ca.pem"].iter().any(|name| dir.join(name).symlink_metadata().is_ok());
    if !there {
        return format!("no authority in {} (make one: outrigger ca init)", dir.display());
    }
    let what = "restore ca.key and ca.pem from a backup and see that you may read them";
    format!(
        "the authority in {} cannot be used ({what}; or move the directory away and make a new one, whose certificates every member then needs)",
        dir.display()
    )
}

/// When something ends, as a person counts.
fn ends(at: SystemTime) -> String {
    let Ok(left) = at.duration_since(SystemTime::now()) else {
        return "has expired".to_owned();
    };
    let minutes = left.as_secs() / 60;
    match minutes {
        0..120 => format!("ends in {minutes} minutes"),
        120..2880 => format!("ends in {} hours", minutes / 60),
        _ => format!("ends in {} days", minutes / 1440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_the_unit_that_a_person_counts_in() {
        let now = SystemTime::now();
        assert_eq!(ends(now - Duration::from_secs(1)), "has expired");
        assert_eq!(ends(now + Duration::from_secs(24 * 3600 + 60)), "ends in 24 hours");
        assert_eq!(ends(now + Duration::from_secs(3650 * 86_400 + 60)), "ends in 3650 days");
    }
}
