//! Landlock: files, TCP ports, and who may be signalled.

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
    let mut ports: Vec<u16> = plan.connect.iter().map(|address| address.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(everything)?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .add_rules(path_beneath_rules(&plan.read, AccessFs::from_read(KNOWN)))?
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
