//! Which system calls a confined child may make. Runtimes need most of them; refused are other ways out (socket families,
//! UDP, io_uring), other ways in (tracing, namespaces), and what administers the machine.

use libc::{EACCES, ENOSYS, EPERM, c_long};

use crate::{
    Plan,
    ownership::{self, FCHMODAT2},
    program::{Rule, Test, Verdict},
};

/// The address families and types of sockets that stay.
const ANY: u32 = u32::MAX;
const TYPE: u32 = 0xf;
const UNIX: u32 = libc::AF_UNIX as u32;
const STREAM: u32 = libc::SOCK_STREAM as u32;
const SEQPACKET: u32 = libc::SOCK_SEQPACKET as u32;
/// Connects by sending, past what looks at connections.
const FAST_OPEN: u32 = libc::MSG_FASTOPEN as u32;
/// Every namespace of its own that a process can ask for, that of time (0x80, clone3 and unshare only) included.
const NAMESPACES: u32 = 0x7e02_0080;
/// `open_tree_attr`, of Linux 6.15, which the C library's list does not have everywhere yet; one number on all machines.
const OPEN_TREE_ATTR: c_long = 467;
/// Of `ioprio_set` and `setpriority`: one process.
const IO_PROCESS: u32 = 1;
const PRIORITY_PROCESS: u32 = 0;
/// Options of a socket by which packets go elsewhere first than to the address that it is connected to: source routes.
const ROUTES: [(i32, i32); 3] = [
    (libc::IPPROTO_IP, libc::IP_OPTIONS),
    (libc::IPPROTO_IPV6, IPV6_2292PKTOPTIONS),
    (libc::IPPROTO_IPV6, libc::IPV6_RTHDR),
];
const IPV6_2292PKTOPTIONS: i32 = 6;
/// As above; below 0x100 the flags of `clone` are a signal.
const CLONED_NAMESPACES: u32 = 0x7e02_0000;

/// Calls that fail with "not permitted".
const FORBIDDEN: &[c_long] = &[
    // Looking into, or acting as, other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_setns,
    // Large parts of the kernel that servers have no use for.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_fanotify_init,
    libc::SYS_open_by_handle_at,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    // File systems.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // The machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Calls that are answered as by a kernel without them, because programs then do without: io_uring opens sockets past any
/// filter, and the flags of clone3 lie where a filter cannot read them.
const ABSENT: &[c_long] =
    &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_clone3];

/// As above: what users share beside files (System V, message queues), with whoever runs as the same user; and `openat2`, whose mode
/// lies where a filter cannot read it.
const SHARED: &[c_long] = &[
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_openat2,
];

/// Extended attributes, which Landlock does not look after: answered as by a file system without them. The last three are of Linux 6.13
/// and 6.17.
const ATTRIBUTES: &[c_long] = &[
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SETXATTRAT,
    REMOVEXATTRAT,
    FILE_SETATTR,
];
const SETXATTRAT: c_long = 463;
const REMOVEXATTRAT: c_long = 466;
const FILE_SETATTR: c_long = 469;
/// `FS_IOC_SETFLAGS` and `FS_IOC_FSSETXATTR`: the same by another way.
const ATTRIBUTES_BY_IOCTL: [u32; 2] = [0x4008_6602, 0x401c_5820];

/// Set-user-id and set-group-id: a program of the child would run as its user for everybody else on the machine.
const SET_ID: u32 = 0o6000;
/// `openat` with a mode: O_CREAT and O_TMPFILE.
const MAKES: u32 = libc::O_CREAT as u32 | 0o20_000_000;

/// The rules of a plan. Without a warden (`asks`) no socket files are reached, and `listen` is by configuration alone.
pub(crate) fn rules(plan: &Plan, asks: bool) -> Vec<Rule> {
    let mut rules = sockets(asks);
    rules.extend(others());
    rules.extend(FORBIDDEN.iter().map(|&call| rule(call, &[], Verdict::Refuse(EPERM))));
    rules.extend(files());
    rules.extend(ABSENT.iter().chain(SHARED).map(|&call| rule(call, &[], Verdict::Refuse(ENOSYS))));
    rules.push(rule(libc::SYS_clone, &[Test::Any(0, CLONED_NAMESPACES)], Verdict::Refuse(EPERM)));
    rules.push(rule(libc::SYS_unshare, &[Test::Any(0, NAMESPACES)], Verdict::Refuse(EPERM)));
    if asks {
        rules.push(rule(libc::SYS_connect, &[], Verdict::Ask));
        rules.push(rule(libc::SYS_listen, &[], Verdict::Ask));
        rules.extend(ownership::CALLS.iter().map(|&call| rule(call, &[], Verdict::Ask)));
        rules.extend(ownership::FORERUNNERS.iter().map(|&call| rule(call, &[], Verdict::Refuse(ENOSYS))));
    } else if plan.listen.is_empty() {
        rules.push(rule(libc::SYS_listen, &[], Verdict::Refuse(EACCES)));
    }
    rules
}

fn sockets(asks: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in [libc::AF_INET as u32, libc::AF_INET6 as u32] {
        // Protocols are named: MPTCP and SCTP have streams too, and Landlock does not know them.
        for protocol in [0, libc::IPPROTO_TCP as u32] {
            let tests = [Test::Is(0, ANY, family), Test::Is(1, TYPE, STREAM), Test::Is(2, ANY, protocol)];
            rules.push(rule(libc::SYS_socket, &tests, Verdict::Allow));
        }
    }
    // Which interfaces there are: `getaddrinfo` and `os.networkInterfaces()` ask; to change them takes privileges.
    let route = [Test::Is(0, ANY, libc::AF_NETLINK as u32), Test::Is(2, ANY, libc::NETLINK_ROUTE as u32)];
    rules.push(rule(libc::SYS_socket, &route, Verdict::Allow));
    // No datagrams: they are sent to any address without `connect`.
    for kind in [STREAM, SEQPACKET] {
        let unix = [Test::Is(0, ANY, UNIX), Test::Is(1, TYPE, kind)];
        if asks {
            rules.push(rule(libc::SYS_socket, &unix, Verdict::Allow));
        }
        rules.push(rule(libc::SYS_socketpair, &unix, Verdict::Allow));
    }
    rules.push(rule(libc::SYS_socket, &[], Verdict::Refuse(EACCES)));
    rules.push(rule(libc::SYS_socketpair, &[], Verdict::Refuse(EACCES)));
    for (level, option) in ROUTES {
        let tests = [Test::Is(1, ANY, level.cast_unsigned()), Test::Is(2, ANY, option.cast_unsigned())];
        rules.push(rule(libc::SYS_setsockopt, &tests, Verdict::Refuse(EPERM)));
    }
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        rules.push(rule(call, &[Test::Any(flags, FAST_OPEN)], Verdict::Refuse(EACCES)));
    }
    rules
}

/// What changes another process, such as the sidecar, without a signal: its limits could end it, its priority starve it. Landlock
/// knows neither. Zero is whoever asks.
fn others() -> Vec<Rule> {
    let mut rules = Vec::new();
    for call in [
        libc::SYS_prlimit64,
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setattr,
        libc::SYS_sched_setaffinity,
        libc::SYS_migrate_pages,
        libc::SYS_move_pages,
    ] {
        rules.push(rule(call, &[Test::Is(0, ANY, 0)], Verdict::Allow));
        rules.push(rule(call, &[], Verdict::Refuse(EPERM)));
    }
    for (call, process) in [(libc::SYS_setpriority, PRIORITY_PROCESS), (libc::SYS_ioprio_set, IO_PROCESS)] {
        rules.push(rule(call, &[Test::Is(0, ANY, process), Test::Is(1, ANY, 0)], Verdict::Allow));
        rules.push(rule(call, &[], Verdict::Refuse(EPERM)));
    }
    rules
}

/// What Landlock does not know about files.
fn files() -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        ATTRIBUTES.iter().map(|&call| rule(call, &[], Verdict::Refuse(libc::EOPNOTSUPP))).collect();
    for request in ATTRIBUTES_BY_IOCTL {
        rules.push(rule(libc::SYS_ioctl, &[Test::Is(1, ANY, request)], Verdict::Refuse(libc::ENOTTY)));
    }
    for (call, mode) in [
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_chmod, 1),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_creat, 1),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_mknod, 1),
        (libc::SYS_fchmod, 1),
        (libc::SYS_fchmodat, 2),
        (FCHMODAT2, 2),
        (libc::SYS_mknodat, 2),
    ] {
        rules.push(rule(call, &[Test::Any(mode, SET_ID)], Verdict::Refuse(EPERM)));
    }
    for (call, flags) in [
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, 1),
        (libc::SYS_openat, 2),
    ] {
        rules.push(rule(call, &[Test::Any(flags, MAKES), Test::Any(flags + 1, SET_ID)], Verdict::Refuse(EPERM)));
    }
    rules
}

fn rule(call: c_long, tests: &[Test], verdict: Verdict) -> Rule {
    Rule { call, tests: tests.to_vec(), verdict }
}
