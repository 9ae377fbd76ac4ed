//! Gives memory back to the system that was needed once.
//!
//! The allocator of glibc keeps what is freed, for the thread that needed it. A large policy is read by whatever thread is at hand, and
//! takes many times its size for a moment: without this a process holds on to that, once for each such thread.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Until then what was replaced is out of use: calls that began under it are over, or nearly all of them.
const REST: Duration = Duration::from_secs(10);

/// When to give back what is free.
#[derive(Debug, Default)]
pub struct Heap {
    due: Option<Instant>,
}

impl Heap {
    /// Something large was replaced.
    pub fn replaced(&mut self) {
        // Not put off by what follows: it would never be done where replacing never ends.
        self.due.get_or_insert_with(|| Instant::now() + REST);
    }

    /// Resolves when it is time to call [`give_back`]; never before something was replaced. Cancelling the future loses nothing.
    pub async fn due(&mut self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
        self.due = None;
    }
}

/// Gives back what is free. It looks through the whole heap: not for a thread that serves.
pub fn give_back() {
    let began = Instant::now();
    trim();
    tracing::debug!(took = ?began.elapsed(), "gave free memory back");
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "no safe function offers it")]
fn trim() {
    // SAFETY: it takes no pointers, and locks what it works on as malloc and free do.
    unsafe { libc::malloc_trim(0) };
}

/// Others give back what they can by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_due_once_for_all_that_was_replaced_meanwhile() {
        let (mut heap, began) = (Heap::default(), Instant::now());
        heap.replaced();
        tokio::time::advance(REST / 2).await;
        heap.replaced();
        heap.due().await;
        assert_eq!(began.elapsed(), REST);
        assert!(tokio::time::timeout(REST * 2, heap.due()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_can_be_broken_off() {
        let (mut heap, began) = (Heap::default(), Instant::now());
        heap.replaced();
        assert!(tokio::time::timeout(REST / 2, heap.due()).await.is_err());
        heap.due().await;
        assert_eq!(began.elapsed(), REST);
    }

    /// As a policy does: much in small pieces that one thread frees, below a few that stay.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn what_is_free_below_something_that_stays_goes_back() {
        let (before, with, after) = std::thread::spawn(|| {
            let before = resident();
            let pieces: Vec<Vec<u8>> = (0..400_000).map(|_| vec![1; 100]).collect();
            let stays = vec![1_u8; 100];
            let with = resident();
            drop(pieces);
            give_back();
            (before, with, (resident(), stays).0)
        })
        .join()
        .unwrap();
        let grown = with - before;
        assert!(after - before < grown / 4, "{before} KiB before, {with} with, {after} after");
    }

    /// In KiB. May be less than it was before.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn resident() -> i64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}
