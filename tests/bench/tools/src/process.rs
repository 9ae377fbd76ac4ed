//! What a tree of processes has used, from `/proc`.

use std::collections::HashMap;
use std::fs;

/// One clock tick of `/proc/PID/stat`, in nanoseconds. Linux reports them at 100 per second everywhere.
const TICK_NANOS: u64 = 10_000_000;

/// Memory of a process tree, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Resident pages.
    pub rss: u64,
    /// Resident pages, shared ones divided among those that share them.
    pub pss: u64,
}

/// On-CPU time of the processes and all their descendants, in nanoseconds.
///
/// Scheduler statistics are exact and forget threads that ended; tick counts are coarse and remember them. The
/// larger one is nearer to the truth.
pub fn cpu_nanos(roots: &[u32]) -> u64 {
    tree(roots).into_iter().map(|pid| threads_nanos(pid).max(ticks_nanos(pid))).sum()
}

/// The same of each process by itself, in their order, without descendants: that needs no search.
pub fn cpu_nanos_alone(pids: &[u32]) -> Vec<u64> {
    pids.iter().map(|pid| threads_nanos(*pid).max(ticks_nanos(*pid))).collect()
}

/// Memory of the processes and all their descendants.
pub fn memory(roots: &[u32]) -> Memory {
    let mut sum = Memory::default();
    for pid in tree(roots) {
        let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else {
            continue;
        };
        for line in rollup.lines() {
            let mut words = line.split_whitespace();
            let (name, kib) = (words.next(), words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0));
            match name {
                Some("Rss:") => sum.rss += kib,
                Some("Pss:") => sum.pss += kib,
                _ => {}
            }
        }
    }
    sum
}

/// The processes and all their descendants. Empty when there are no roots.
fn tree(roots: &[u32]) -> Vec<u32> {
    if roots.is_empty() {
        return Vec::new();
    }
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        if let Some(parent) = stat_field(pid, 1) {
            children.entry(parent as u32).or_default().push(pid);
        }
    }
    let mut found = roots.to_vec();
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.get(pid).into_iter().flatten());
        next += 1;
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn threads_nanos(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let first_number = |text: String| text.split_whitespace().next()?.parse::<u64>().ok();
    threads.filter_map(|thread| first_number(fs::read_to_string(thread.path().join("schedstat")).ok()?)).sum()
}

fn ticks_nanos(pid: u32) -> u64 {
    let (user, system) = (stat_field(pid, 11).unwrap_or(0), stat_field(pid, 12).unwrap_or(0));
    (user + system) * TICK_NANOS
}

/// A number of `/proc/PID/stat`, counted after the command name, which may hold anything.
fn stat_field(pid: u32, index: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(index)?.parse().ok()
}
