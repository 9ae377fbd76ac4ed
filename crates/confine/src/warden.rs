//! Answers `connect` and `listen` of a confined child (and, by `ownership.rs`, what changes files besides their content): reads the address, decides, and does what is allowed itself, on a
//! copy of the child's descriptor and with its own copy of the address. The kernel is never told to go on with the child's
//! arguments, which another thread of the child could have changed in between.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::{Component, Path, PathBuf},
};

use libc::{EACCES, EAFNOSUPPORT, EINVAL};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
    net::{AddressFamily, SocketAddrUnix, connect, getsockname, listen},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use crate::{
    Plan, ownership,
    sys::{self, Question},
};

/// The longest address: `sockaddr_storage`.
const LONGEST_ADDRESS: usize = 128;
/// How many refusals one child can put into the log.
const TOLD: usize = 100;

/// What a child wants to reach.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Tcp(SocketAddr),
    File(PathBuf),
    /// A socket with a name that is no file; what it is called matters to nobody.
    Abstract,
}

/// Answers until nobody is left who could ask.
pub(crate) fn serve(listener: &OwnedFd, plan: &Plan, tell: &dyn Fn(&str)) {
    let mut told = 0;
    let write: Vec<PathBuf> = plan.write.iter().filter_map(|path| path.canonicalize().ok()).collect();
    while waits(listener) {
        // Who asked may have died before we looked.
        let Ok(question) = sys::receive(listener) else { continue };
        let result = decide(listener, plan, &write, &question);
        if let Err(refusal) = &result
            && told < TOLD
            && let Some(what) = &refusal.what
        {
            told += 1;
            tell(&format!("confined: refused to {what}"));
            if told == TOLD {
                tell("confined: further refusals of this process are not told");
            }
        }
        sys::answer(listener, question.id, result.map_err(|refusal| refusal.error));
    }
}

fn waits(listener: &OwnedFd) -> bool {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
            Ok(_) => {
                let seen = ready.first().map_or(PollFlags::HUP, PollFd::revents);
                return seen.contains(PollFlags::IN) || !seen.intersects(PollFlags::HUP | PollFlags::ERR);
            }
        }
    }
}

/// A call that fails: with which number, and in words when it was our decision.
pub(crate) struct Refusal {
    pub(crate) error: i32,
    pub(crate) what: Option<String>,
}

impl From<rustix::io::Errno> for Refusal {
    fn from(error: rustix::io::Errno) -> Self {
        Self { error: error.raw_os_error(), what: None }
    }
}

fn refuse(what: String) -> Refusal {
    Refusal { error: EACCES, what: Some(what) }
}

/// What the child gets when something about its question is not as it should be.
pub(crate) fn wrong(error: i32) -> Refusal {
    Refusal { error, what: None }
}

fn decide(listener: &OwnedFd, plan: &Plan, write: &[PathBuf], question: &Question) -> Result<(), Refusal> {
    let [descriptor, address, length, ..] = question.arguments;
    match libc::c_long::from(question.call) {
        libc::SYS_connect => {
            let bytes = read(question.thread, address, length).ok_or_else(|| wrong(EACCES))?;
            let wanted = parse(&bytes)?;
            let socket = borrow(listener, question, descriptor)?;
            match wanted {
                Wanted::Tcp(to) if plan.connect.iter().any(|known| same(*known, to)) => Ok(connect(&socket, &to)?),
                Wanted::Tcp(to) => Err(refuse(format!("connect to {to}"))),
                Wanted::File(path) => connect_file(&socket, plan, &path),
                Wanted::Abstract => Err(refuse("connect to an abstract socket".into())),
            }
        }
        libc::SYS_listen => {
            let socket = borrow(listener, question, descriptor)?;
            let bound = getsockname(&socket)?;
            let port = SocketAddr::try_from(bound.clone()).map(|address| address.port());
            if bound.address_family() != AddressFamily::UNIX && !port.is_ok_and(|port| plan.listen.contains(&port)) {
                return Err(refuse("listen for connections".into()));
            }
            #[expect(clippy::cast_possible_truncation, reason = "the argument is an int")]
            let backlog = address as i32;
            Ok(listen(&socket, backlog)?)
        }
        _ => ownership::change(listener, write, question),
    }
}

/// Connects to a socket file that was named, or that lies in the child's own directory.
fn connect_file(socket: &OwnedFd, plan: &Plan, path: &Path) -> Result<(), Refusal> {
    if plan.sockets.iter().any(|known| known == path) {
        return Ok(connect(socket, &SocketAddrUnix::new(path)?)?);
    }
    let refused = || refuse(format!("connect to the socket {}", path.display()));
    let below = plan.own.as_deref().and_then(|own| Some((own, path.strip_prefix(own).ok()?)));
    let Some((own, rest)) = below else { return Err(refused()) };
    if !rest.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(refused());
    }
    // The child can write there: a symbolic link would lead us where it must not go. What was looked at is what is used.
    let open = |at: &OwnedFd, path: &Path| {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(at, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how)
    };
    let directory = openat2(CWD, own, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty())?;
    let file = open(&directory, rest)?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::Socket {
        return Err(refused());
    }
    let held = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    Ok(connect(socket, &SocketAddrUnix::new(held.as_str())?)?)
}

/// One address in its spellings: an IPv4 address inside an IPv6 one is the same.
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.ip().to_canonical() == other.ip().to_canonical()
}

/// A copy of the child's descriptor. The question is checked after its process was taken hold of: until then the number
/// could have come to mean another one.
pub(crate) fn borrow(listener: impl AsFd, question: &Question, descriptor: u64) -> Result<OwnedFd, Refusal> {
    #[expect(clippy::cast_possible_truncation, reason = "the argument is an int")]
    let descriptor = descriptor as i32;
    let process = process_of(question.thread).ok_or_else(|| wrong(EACCES))?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    if !sys::still_valid(listener, question.id) {
        return Err(wrong(EACCES));
    }
    Ok(pidfd_getfd(&process, descriptor, PidfdGetfdFlags::empty())?)
}

/// The process that a thread belongs to (proc_pid_status(5)).
fn process_of(thread: u32) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    Pid::from_raw(line.trim().parse().ok()?)
}

/// Reads an address out of the child's memory.
fn read(thread: u32, address: u64, length: u64) -> Option<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|length| (2..=LONGEST_ADDRESS).contains(length))?;
    let mut bytes = vec![0; length];
    File::open(format!("/proc/{thread}/mem")).ok()?.read_exact_at(&mut bytes, address).ok()?;
    Some(bytes)
}

/// Understands a `sockaddr` of one of the three families.
fn parse(bytes: &[u8]) -> Result<Wanted, Refusal> {
    let short = || wrong(EINVAL);
    let family = bytes.first_chunk().map(|two| i32::from(u16::from_ne_bytes(*two))).ok_or_else(short)?;
    let port = || bytes.get(2..4).and_then(|two| two.first_chunk()).map(|two| u16::from_be_bytes(*two));
    match family {
        libc::AF_INET if bytes.len() >= 16 => {
            let ip = bytes.get(4..8).and_then(|ip| ip.first_chunk::<4>()).ok_or_else(short)?;
            Ok(Wanted::Tcp((IpAddr::from(Ipv4Addr::from(*ip)), port().ok_or_else(short)?).into()))
        }
        libc::AF_INET6 if bytes.len() >= 24 => {
            let ip = bytes.get(8..24).and_then(|ip| ip.first_chunk::<16>()).ok_or_else(short)?;
            Ok(Wanted::Tcp((IpAddr::from(Ipv6Addr::from(*ip)), port().ok_or_else(short)?).into()))
        }
        libc::AF_INET | libc::AF_INET6 => Err(short()),
        libc::AF_UNIX => {
            let name = bytes.get(2..).unwrap_or_default();
            let path = name.split(|byte| *byte == 0).next().unwrap_or_default();
            if path.is_empty() {
                return Ok(Wanted::Abstract);
            }
            Ok(Wanted::File(std::ffi::OsStr::from_bytes(path).into()))
        }
        _ => Err(wrong(EAFNOSUPPORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Result<Wanted, i32> {
        parse(bytes).map_err(|refusal| refusal.error)
    }

    fn address(family: i32, rest: &[u8]) -> Vec<u8> {
        [&u16::try_from(family).unwrap().to_ne_bytes()[..], rest].concat()
    }

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        let v4 = address(libc::AF_INET, &[0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parsed(&v4), Ok(Wanted::Tcp("127.0.0.1:80".parse().unwrap())));
        let mut v6 = address(libc::AF_INET6, &[1, 187, 0, 0, 0, 0]);
        v6.extend("fd00::7".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(parsed(&v6), Ok(Wanted::Tcp("[fd00::7]:443".parse().unwrap())));
        assert_eq!(parsed(&v6[..20]), Err(EINVAL), "cut short");
        assert_eq!(parsed(&address(libc::AF_INET, &[0, 80])), Err(EINVAL));
        assert_eq!(parsed(&address(libc::AF_UNSPEC, &[0; 14])), Err(EAFNOSUPPORT));
        assert_eq!(parsed(&[1]), Err(EINVAL));
        assert_eq!(parsed(&address(libc::AF_UNIX, b"/run/a.sock\0junk")), Ok(Wanted::File("/run/a.sock".into())));
        assert_eq!(parsed(&address(libc::AF_UNIX, b"\0abstract")), Ok(Wanted::Abstract));
        assert_eq!(parsed(&address(libc::AF_UNIX, b"")), Ok(Wanted::Abstract));
    }

    #[test]
    fn an_address_is_the_same_in_both_families() {
        let known: SocketAddr = "127.0.0.1:15001".parse().unwrap();
        assert!(same(known, "[::ffff:127.0.0.1]:15001".parse().unwrap()));
        assert!(!same(known, "127.0.0.2:15001".parse().unwrap()));
        assert!(!same(known, "127.0.0.1:15002".parse().unwrap()));
        assert!(!same(known, "[::1]:15001".parse().unwrap()));
    }
}
