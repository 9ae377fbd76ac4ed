//! The system calls that no safe function offers: asking which Landlock there is, installing a filter, and the
//! conversation with a filter that asks (seccomp_unotify(2)); and one option of sockets.

#![expect(unsafe_code, reason = "rustix and libc have no safe form of seccomp(2); see each call")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use crate::program::Instruction;

/// `LANDLOCK_CREATE_RULESET_VERSION`
const VERSION: libc::c_ulong = 1;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`: a question that was heard is not asked again because of a signal. Linux 5.19.
const WAIT_KILLABLE: libc::c_ulong = 1 << 5;
/// `_IOWR('!', 0, struct seccomp_notif)`, `_IOWR('!', 1, struct seccomp_notif_resp)`, `_IOW('!', 2, __u64)`
const RECEIVE: libc::c_ulong = 0xC050_2100;
const SEND: libc::c_ulong = 0xC018_2101;
const STILL_VALID: libc::c_ulong = 0x4008_2102;

/// A system call that waits for our answer.
pub(crate) struct Question {
    /// Which question it is.
    pub(crate) id: u64,
    /// The thread that asks.
    pub(crate) thread: u32,
    /// The number of the call.
    pub(crate) call: i32,
    /// Its arguments.
    pub(crate) arguments: [u64; 6],
}

/// The version of Landlock, 0 without it.
pub(crate) fn landlock_version() -> i32 {
    // SAFETY: with this flag the call reads no memory and makes nothing; it returns a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<libc::c_void>(), 0_usize, VERSION) };
    i32::try_from(version).unwrap_or(0).max(0)
}

/// Whether filters exist and may be installed.
pub(crate) fn has_filter() -> bool {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads one `u32`, which lives across the call.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    answer == 0
}

/// Whether filters can ask.
pub(crate) fn has_notifications() -> bool {
    let action = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: as above.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    answer == 0
}

/// Lets the kernel hold connections of a listening socket back until their first bytes are there, or for so many seconds
/// (tcp(7), `TCP_DEFER_ACCEPT`). It confines nobody; it is here because the option has no safe form either.
///
/// # Errors
/// What the kernel says.
pub fn defer_accept(listener: impl AsFd, seconds: u8) -> io::Result<()> {
    let seconds = libc::c_int::from(seconds);
    let (length, fd) = (libc::socklen_t::try_from(size_of_val(&seconds)), listener.as_fd().as_raw_fd());
    let length = length.map_err(io::Error::other)?;
    // SAFETY: the kernel reads one `c_int`, which lives across the call, from a descriptor that is open.
    let done =
        unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, (&raw const seconds).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts a filter over this thread.
pub(crate) fn install(program: &[Instruction]) -> io::Result<()> {
    filter(program, 0).map(drop)
}

/// Puts a filter over this thread that asks whoever has the descriptor.
pub(crate) fn install_asking(program: &[Instruction]) -> io::Result<OwnedFd> {
    let listener = filter(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE)
        .or_else(|_| filter(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER))?;
    // SAFETY: with that flag the call returns a descriptor that it just made and that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

fn filter(program: &[Instruction], flags: libc::c_ulong) -> io::Result<RawFd> {
    let mut filter: Vec<libc::sock_filter> =
        program.iter().map(|i| libc::sock_filter { code: i.code, jt: i.if_true, jf: i.if_false, k: i.value }).collect();
    let len = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let described = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: `described` and the instructions that it points to live across the call, which copies them.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const described) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { RawFd::try_from(answer).map_err(io::Error::other) }
}

/// The next question; fails when whoever asked is gone.
pub(crate) fn receive(listener: impl AsFd) -> io::Result<Question> {
    let nobody = libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] };
    let mut question = libc::seccomp_notif { id: 0, pid: 0, flags: 0, data: nobody };
    // SAFETY: the kernel writes one `struct seccomp_notif`, zeroed before as it demands, which lives across the call.
    let answer = unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), RECEIVE as _, &raw mut question) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Question { id: question.id, thread: question.pid, call: question.data.nr, arguments: question.data.args })
}

/// Whether who asked still waits: until then its thread id means it and nobody else.
pub(crate) fn still_valid(listener: impl AsFd, id: u64) -> bool {
    // SAFETY: the kernel reads one `u64`, which lives across the call.
    unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), STILL_VALID as _, &raw const id) == 0 }
}

/// Answers: the call returns 0, or fails with an error number. Never that the kernel shall go on with it.
pub(crate) fn answer(listener: impl AsFd, id: u64, result: Result<(), i32>) {
    let error = result.err().map_or(0, |number| -number.abs());
    let mut answer = libc::seccomp_notif_resp { id, val: 0, error, flags: 0 };
    // SAFETY: the kernel reads one `struct seccomp_notif_resp`, which lives across the call. Who asked may be gone; then
    // nobody is left to answer.
    let _ = unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), SEND as _, &raw mut answer) };
}
