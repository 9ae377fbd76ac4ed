//! Landlock: files, TCP ports, and who may be signalled.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use crate::{ConfineError, Plan};

/// The version whose rights we know; older kernels enforce fewer.
const KNOWN: ABI = ABI::V6;

/// Confines this thread and what it starts.
pub(crate) fn restrict(plan: &Plan) -> Result<(), ConfineError> {
    let status = ruleset(plan).map_err(|e| ConfineError::Landlock(e.to_string()))?;
    if plan.strict && status != RulesetStatus::FullyEnforced {
        return Err(ConfineError::Partial);
    }
    Ok(())
}

fn ruleset(plan: &Plan) -> Result<RulesetStatus, RulesetError> {
    let everything = AccessFs::from_all(KNOWN);
    // Nobody makes devices; controls of devices are for `devices` alone.
    let change = everything & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let (read, listed) = around(&plan.read, &plan.closed);
    let mut ports: Vec<u16> = plan.connect.iter().map(|address| address.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(everything)?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .add_rules(path_beneath_rules(&read, AccessFs::from_read(KNOWN)))?
        .add_rules(path_beneath_rules(&listed, AccessFs::ReadDir))?
        .add_rules(path_beneath_rules(&plan.write, change))?
        .add_rules(path_beneath_rules(&plan.devices, device))?
        .add_rules(tcp(ports, AccessNet::ConnectTcp))?
        .add_rules(tcp(plan.listen.clone(), AccessNet::BindTcp))?
        .restrict_self()?;
    Ok(status.ruleset)
}

fn tcp(ports: Vec<u16>, access: AccessNet) -> impl Iterator<Item = Result<NetPort, RulesetError>> {
    ports.into_iter().map(move |port| Ok(NetPort::new(port, BitFlags::from(access))))
}

/// What to open of `paths` so that `closed` is not, and the directories of which only names can be seen. Landlock opens
/// directories with all that is in them, so what lies beside a closed path is opened piece by piece; what is made there later
/// stays closed.
fn around(paths: &[PathBuf], closed: &[PathBuf]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let closed: Vec<PathBuf> = closed.iter().map(|path| resolved(path)).collect();
    let (mut open, mut listed) = (Vec::new(), Vec::new());
    let mut left = paths.to_vec();
    while let Some(path) = left.pop() {
        let real = resolved(&path);
        if closed.iter().all(|closed| *closed == real || !closed.starts_with(&real)) {
            open.push(path);
            continue;
        }
        let entries = fs::read_dir(&real).into_iter().flatten().flatten();
        // A link is no way in: what it leads to is open where it lies, or not.
        let entries = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()));
        left.extend(entries.map(|entry| entry.path()).filter(|path| !closed.contains(path)));
        listed.push(real);
    }
    (open, listed)
}

/// Without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_is_left_out_and_what_lies_beside_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = resolved(dir.path());
        for made in ["state/ca", "lib/deep"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        fs::write(root.join("server.py"), "").unwrap();
        std::os::unix::fs::symlink(root.join("state"), root.join("link")).unwrap();
        let sorted = |mut paths: Vec<PathBuf>| {
            paths.sort();
            paths
        };
        let (open, listed) = around(std::slice::from_ref(&root), &[root.join("state"), "/elsewhere".into()]);
        assert_eq!((sorted(open), listed), (vec![root.join("lib"), root.join("server.py")], vec![root.clone()]));
        let (open, listed) = around(std::slice::from_ref(&root), &[root.join("state/ca")]);
        assert_eq!(sorted(open), [root.join("lib"), root.join("server.py")]);
        assert_eq!(sorted(listed), [root.clone(), root.join("state")]);
        let named = [root.join("state/ca"), root.join("lib")];
        assert_eq!(
            sorted(around(&named, &[root.join("state")]).0),
            [root.join("lib"), root.join("state/ca")],
            "on purpose"
        );
        assert_eq!(around(&[root.join("state")], &[root.join("state")]).0, [root.join("state")], "on purpose");
    }
}
