//! Mode, owner and times of files, which Landlock does not look after: the warden changes those that lie where the child may write, on the
//! very file that it looked at, and no others.

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::FileExt},
    },
    path::{Path, PathBuf},
};

use libc::{EFAULT, ENAMETOOLONG, ENOENT, EPERM, c_long};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chmod, chownat, openat2, utimensat,
};

use crate::{
    sys::{self, Question},
    warden::{Refusal, borrow, wrong},
};

/// Linux 6.6.
pub(crate) const FCHMODAT2: c_long = 452;
/// What is asked about.
pub(crate) const CALLS: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
];
/// Their forerunners, which no C library uses any more.
pub(crate) const FORERUNNERS: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
];

/// The longest path, and its end (`PATH_MAX`).
const LONGEST_PATH: usize = 4096;
/// The working directory, as an argument.
const HERE: u64 = libc::AT_FDCWD as u64;
const NO_FOLLOW: u64 = libc::AT_SYMLINK_NOFOLLOW as u64;
const EMPTY_PATH: u64 = libc::AT_EMPTY_PATH as u64;

/// What is to become of a file.
enum Change {
    Mode(u64),
    Owner(u64, u64),
    /// Where the times are; 0 is now.
    Times(u64),
}

/// Does what the question asks for to a file below one of `write`, which are paths without links.
pub(crate) fn change(listener: &OwnedFd, write: &[PathBuf], question: &Question) -> Result<(), Refusal> {
    let [a, b, c, d, e, _] = question.arguments;
    let (at, path, flags, change) = match c_long::from(question.call) {
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => (HERE, a, 0, Change::Mode(b)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chown => (HERE, a, 0, Change::Owner(b, c)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lchown => (HERE, a, NO_FOLLOW, Change::Owner(b, c)),
        libc::SYS_fchmod => (a, 0, 0, Change::Mode(b)),
        libc::SYS_fchmodat => (a, b, 0, Change::Mode(c)),
        FCHMODAT2 => (a, b, d, Change::Mode(c)),
        libc::SYS_fchown => (a, 0, 0, Change::Owner(b, c)),
        libc::SYS_fchownat => (a, b, e, Change::Owner(c, d)),
        libc::SYS_utimensat => (a, b, d, Change::Times(c)),
        _ => return Err(wrong(EPERM)),
    };
    let file = find(listener, question, at, path, flags)?;
    let held = format!("/proc/self/fd/{}", file.as_raw_fd());
    let place = fs::read_link(&held).map_err(|_| wrong(EPERM))?;
    if !write.iter().any(|open| place.starts_with(open)) {
        return Err(Refusal {
            error: EPERM,
            what: Some(format!("change mode, owner or times of {}", place.display())),
        });
    }
    apply(&file, Path::new(&held), question, &change)
}

#[expect(clippy::cast_possible_truncation, reason = "modes, users and groups are 32 bits")]
fn apply(file: &OwnedFd, held: &Path, question: &Question, change: &Change) -> Result<(), Refusal> {
    match *change {
        // The filter has refused set-user-id and set-group-id.
        Change::Mode(mode) => Ok(chmod(held, Mode::from_raw_mode(mode as u32 & 0o1777))?),
        Change::Owner(user, group) => {
            let id = |id: u64| Some(id as u32).filter(|id| *id != u32::MAX);
            let (user, group) = (id(user).map(Uid::from_raw), id(group).map(Gid::from_raw));
            Ok(chownat(file, "", user, group, AtFlags::EMPTY_PATH)?)
        }
        Change::Times(at) => {
            let now = Timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW };
            let mut times = Timestamps { last_access: now, last_modification: now };
            if at != 0 {
                let mut words = [0; 32];
                memory(question)?.read_exact_at(&mut words, at).map_err(|_| wrong(EFAULT))?;
                let (words, _) = words.as_chunks::<8>();
                let words: Vec<i64> = words.iter().map(|word| i64::from_ne_bytes(*word)).collect();
                if let [access, access_part, change, change_part] = *words {
                    times.last_access = Timespec { tv_sec: access, tv_nsec: access_part };
                    times.last_modification = Timespec { tv_sec: change, tv_nsec: change_part };
                }
            }
            Ok(utimensat(CWD, held, &times, AtFlags::empty())?)
        }
    }
}

/// The descriptor that a path of `/proc` stands for: C libraries without `fchmodat2` go this way.
fn descriptor(path: &Path) -> Option<u64> {
    let number = path.to_str()?.strip_prefix("/proc/self/fd/")?;
    number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The file that is meant, held without being opened. Links of `/proc`, which would lead to files of ours, are not followed.
fn find(listener: &OwnedFd, question: &Question, at: u64, path: u64, flags: u64) -> Result<OwnedFd, Refusal> {
    let path = if path == 0 { None } else { Some(text(question, path)?) };
    let (at, path) = match path.as_deref().and_then(descriptor) {
        Some(descriptor) if flags & NO_FOLLOW == 0 => (descriptor, None),
        _ => (at, path),
    };
    let how = |flags: OFlags| flags | OFlags::PATH | OFlags::CLOEXEC;
    let open = |path: &str| openat2(CWD, path, how(OFlags::empty()), Mode::empty(), ResolveFlags::empty());
    // Compared as an `int`, which it is.
    #[expect(clippy::cast_possible_truncation, reason = "the argument is an int")]
    let from = if path.as_ref().is_some_and(|path| path.is_absolute()) {
        open("/")?
    } else if at as i32 == libc::AT_FDCWD {
        open(&format!("/proc/{}/cwd", question.thread))?
    } else {
        borrow(listener, question, at)?
    };
    // Until here the number of the thread could have come to mean another one.
    if !sys::still_valid(listener, question.id) {
        return Err(wrong(EPERM));
    }
    match path {
        None => Ok(from),
        Some(path) if path.as_os_str().is_empty() && flags & EMPTY_PATH != 0 => Ok(from),
        Some(path) if path.as_os_str().is_empty() => Err(wrong(ENOENT)),
        Some(path) => {
            let last = if flags & NO_FOLLOW == 0 { OFlags::empty() } else { OFlags::NOFOLLOW };
            Ok(openat2(from, path, how(last), Mode::empty(), ResolveFlags::NO_MAGICLINKS)?)
        }
    }
}

fn memory(question: &Question) -> Result<fs::File, Refusal> {
    fs::File::open(format!("/proc/{}/mem", question.thread)).map_err(|_| wrong(EFAULT))
}

/// A path out of the child's memory.
fn text(question: &Question, address: u64) -> Result<PathBuf, Refusal> {
    let (memory, mut text) = (memory(question)?, vec![0; LONGEST_PATH]);
    let mut read = 0;
    loop {
        let rest = text.get_mut(read..).unwrap_or_default();
        if rest.is_empty() {
            return Err(wrong(ENAMETOOLONG));
        }
        // What lies behind its end may be nobody's memory.
        let more = memory.read_at(rest, address + read as u64).ok().filter(|more| *more > 0);
        let more = more.ok_or_else(|| wrong(EFAULT))?;
        if let Some(end) = rest.get(..more).unwrap_or_default().iter().position(|byte| *byte == 0) {
            text.truncate(read + end);
            return Ok(std::ffi::OsString::from_vec(text).into());
        }
        read += more;
    }
}
