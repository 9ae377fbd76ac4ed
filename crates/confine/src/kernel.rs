//! What this kernel can enforce.

use std::os::fd::AsRawFd;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::sys;

/// The Landlock version that has everything a strict plan promises: truncation (3), TCP ports (4), devices (5), and signals
/// and abstract sockets (6).
const LANDLOCK: i32 = 6;

/// What this kernel, and whatever container we run in, lets us do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// The version of Landlock; 0 without it.
    pub landlock: i32,
    /// Filters of system calls.
    pub filter: bool,
    /// Filters that ask another process.
    pub notify: bool,
    /// Taking a copy of a child's descriptor.
    pub borrow_descriptors: bool,
}

impl Kernel {
    /// Asks the kernel. Costs a few system calls.
    pub fn look() -> Self {
        Self {
            landlock: sys::landlock_version(),
            filter: sys::has_filter(),
            notify: sys::has_notifications(),
            borrow_descriptors: borrows(),
        }
    }

    /// Whether `connect` and `listen` can be answered by us.
    pub(crate) fn asks(self) -> bool {
        self.filter && self.notify && self.borrow_descriptors
    }

    /// What a strict plan needs and is not here, each with where to get it; empty when nothing is missing.
    pub fn missing(self) -> Vec<String> {
        let mut missing = Vec::new();
        match self.landlock {
            0 => missing.push(
                "Landlock: needs Linux 6.12 with CONFIG_SECURITY_LANDLOCK, and `landlock` in the boot parameter `lsm=`"
                    .to_owned(),
            ),
            version if version < LANDLOCK => missing.push(format!(
                "Landlock version {LANDLOCK}, which is in Linux 6.12 (here: version {version}, without {})",
                lacking(version)
            )),
            _ => {}
        }
        if !self.filter {
            missing
                .push("seccomp filters: needs CONFIG_SECCOMP_FILTER, and a container that permits seccomp(2)".into());
        }
        if !self.notify {
            missing.push("seccomp notifications: needs Linux 5.0, and a container that permits seccomp(2)".into());
        }
        if !self.borrow_descriptors {
            missing.push(
                "pidfd_getfd(2): needs Linux 5.6; Docker permits it with `--cap-add SYS_PTRACE` or a seccomp profile of \
                 your own"
                    .into(),
            );
        }
        missing
    }
}

/// What came with the versions after this one, up to the one we want.
fn lacking(version: i32) -> String {
    let steps = [
        (2, "moving files between directories"),
        (3, "truncating files"),
        (4, "TCP ports"),
        (5, "device controls"),
        (6, "signals and abstract sockets"),
    ];
    let absent: Vec<&str> = steps.iter().filter(|(since, _)| *since > version).map(|(_, what)| *what).collect();
    absent.join(", ")
}

fn borrows() -> bool {
    let Ok(own) = pidfd_open(getpid(), PidfdFlags::empty()) else { return false };
    pidfd_getfd(&own, own.as_raw_fd(), PidfdGetfdFlags::empty()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Kernel = Kernel { landlock: LANDLOCK, filter: true, notify: true, borrow_descriptors: true };

    #[test]
    fn nothing_is_missing_where_all_is_there() {
        assert_eq!(ALL.missing(), Vec::<String>::new());
        assert_eq!(Kernel { landlock: 99, ..ALL }.missing(), Vec::<String>::new());
    }

    #[test]
    fn each_absence_is_named_with_what_to_do() {
        let cases = [
            (Kernel { landlock: 0, ..ALL }, "lsm="),
            (Kernel { landlock: 3, ..ALL }, "without TCP ports, device controls, signals and abstract sockets"),
            (Kernel { landlock: 5, ..ALL }, "without signals and abstract sockets"),
            (Kernel { filter: false, ..ALL }, "CONFIG_SECCOMP_FILTER"),
            (Kernel { notify: false, ..ALL }, "Linux 5.0"),
            (Kernel { borrow_descriptors: false, ..ALL }, "SYS_PTRACE"),
        ];
        for (kernel, said) in cases {
            let missing = kernel.missing();
            assert!(missing.len() == 1 && missing[0].contains(said), "{kernel:?}: {missing:?}");
        }
        let nothing = Kernel { landlock: 0, filter: false, notify: false, borrow_descriptors: false };
        assert_eq!(nothing.missing().len(), 4, "all at once");
    }
}
