//! Privileges that a child of a privileged sidecar loses. In containers programs often run as root; with its network
//! privileges a child could take redirection rules away, and with its changes of user it could become the exempt one.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities,
};

/// What root needs to work with files as usual, where Landlock lets it. Not what Landlock does not look after: giving files away,
/// and changing modes and times of those of others.
const KEPT: CapabilitySet = CapabilitySet::DAC_OVERRIDE;

/// Drops all others from this thread alone, which could take none back. For the warden: what it does for a child it does with
/// no more than the child has.
pub(crate) fn keep_as_a_child() -> io::Result<()> {
    let now = capabilities(None)?;
    let kept = CapabilitySets {
        effective: now.effective.intersection(KEPT),
        permitted: now.permitted.intersection(KEPT),
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, kept)?)
}

/// Drops all others from this thread, and from whatever it starts.
pub(crate) fn drop_dangerous() -> io::Result<()> {
    let now = capabilities(None)?;
    if now.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(KEPT).iter() {
            match remove_capability_from_bounding_set(capability) {
                // A kernel that does not know it cannot give it either.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    // Kernels before 4.3 have no such set.
    let _ = clear_ambient_capability_set();
    keep_as_a_child()
}
