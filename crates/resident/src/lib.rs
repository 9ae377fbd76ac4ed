//! Gives back memory: of code that does not run, and what was needed once ([`heap`]).
//!
//! Reading settings, compiling policy and warming the cryptography touch most of the program once; a request touches a part
//! of it. Those pages stay mapped and count as resident, beside every server, although an idle sidecar runs next to
//! nothing. Unmapped, they stay in the page cache as long as the system has room, and what runs again is mapped again from
//! there: some hundred microseconds, once, for the first request after a pause.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may fail loudly"))]

pub mod heap;

use std::{fs, io, path::Path};

/// Unmaps the pages of our own program's code; they come back when they run. Returns how many bytes that concerned.
/// Meant for a process that has nothing to do.
///
/// # Errors
/// When `/proc` cannot be read or the system refuses; nothing is lost then.
pub fn give_back_code() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    let mut given_back = 0;
    for (start, length) in code_of(&fs::read_to_string("/proc/self/maps")?, &program) {
        // SAFETY: the range is a private mapping of a file, readable and executable and not writable, so that every page
        // in it is what the file has: dropping one changes nothing that can be observed, the next access reads it again.
        // The loader writes relocations elsewhere (position independent code has none in its text).
        #[expect(unsafe_code, reason = "see above; rustix has no safe form of madvise")]
        let given = unsafe { rustix::mm::madvise(start as *mut _, length, rustix::mm::Advice::LinuxDontNeed) };
        given?;
        given_back += length;
    }
    Ok(given_back)
}

/// The executable, unwritable, private mappings of a program, as (address, length), from the text of `/proc/PID/maps`
/// (proc_pid_maps(5)).
fn code_of(maps: &str, program: &Path) -> Vec<(usize, usize)> {
    maps.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let permissions = fields.next()?;
            let path = fields.nth(3)?;
            if permissions != "r-xp" || Path::new(path) != program {
                return None;
            }
            let start = usize::from_str_radix(start, 16).ok()?;
            Some((start, usize::from_str_radix(end, 16).ok()?.checked_sub(start)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_itself_is_found() {
        let maps = "\
55d000000000-55d000001000 r--p 00000000 fe:00 1 /usr/bin/it
55d000001000-55d000004000 r-xp 00001000 fe:00 1 /usr/bin/it
55d000004000-55d000005000 rw-p 00004000 fe:00 1 /usr/bin/it
7f0000000000-7f0000002000 r-xp 00000000 fe:00 2 /usr/lib/libc.so.6
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0 [vdso]
";
        assert_eq!(code_of(maps, Path::new("/usr/bin/it")), [(0x55d0_0000_1000, 0x3000)]);
    }

    #[test]
    fn the_program_goes_on_and_less_of_it_is_resident() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap().to_owned();
            line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
        };
        // Touch all of it, as starting does.
        let program = fs::read_link("/proc/self/exe").unwrap();
        let code = code_of(&fs::read_to_string("/proc/self/maps").unwrap(), &program);
        assert!(!code.is_empty());
        let before = resident();
        let given_back = give_back_code().unwrap();
        assert_eq!(given_back, code.iter().map(|(_, length)| length).sum::<usize>());
        assert!(resident() < before, "{} KiB of {before} KiB are left", resident());
        assert_eq!(format!("{:?}", (1..4).map(|n| n * n).collect::<Vec<_>>()), "[1, 4, 9]");
    }
}
