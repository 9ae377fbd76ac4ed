//! Requests over connections that stay open.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use outrigger_bench_tools::Error;
use outrigger_bench_tools::rpc::Asks;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;

use crate::Common;
use crate::target::Target;
use crate::window::{Tally, measure};

/// tokio's own timer is a millisecond coarse, which at 1,000 per second would send requests in pairs.
const FINEST_TICK_NANOS: i64 = 100_000;

/// Runs the workers and reports on them.
///
/// # Errors
/// The certificates cannot be read or no timer is to be had.
pub async fn run(common: Common, asks: Asks, rate: Option<u32>) -> Result<Value, Error> {
    let target = Target::new(&common.target, asks)?;
    let (tally, slots) = (Tally::default(), Slots::default());
    for _ in 0..common.connections {
        spawn_local(worker(target.clone(), tally.clone(), rate.map(|_| slots.clone())));
    }
    if let Some(rate) = rate {
        spawn_local(pace(slots, timer(rate)?, rate));
    }
    Ok(measure(&tally, common.seconds, &common.pid).await)
}

/// Requests that are due and that no connection has taken yet: a stalled proxy cannot hide its queue.
#[derive(Clone)]
struct Slots {
    waiting: Rc<Semaphore>,
    due: Rc<RefCell<VecDeque<Instant>>>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { waiting: Rc::new(Semaphore::new(0)), due: Rc::default() }
    }
}

impl Slots {
    async fn take(&self) -> Instant {
        if let Ok(permit) = self.waiting.acquire().await {
            permit.forget();
        }
        self.due.borrow_mut().pop_front().unwrap_or_else(Instant::now)
    }
}

/// Keeps one connection busy, and opens another when it breaks.
async fn worker(target: Target, tally: Tally, slots: Option<Slots>) {
    loop {
        if let Err(error) = keep_calling(&target, &tally, slots.as_ref()).await {
            tally.failed(&error);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn keep_calling(target: &Target, tally: &Tally, slots: Option<&Slots>) -> io::Result<()> {
    let mut connection = target.open().await?;
    loop {
        let since = match slots {
            Some(slots) => slots.take().await,
            None => Instant::now(),
        };
        let response = connection.call().await?;
        tally.done(since);
        if response.close {
            return Ok(());
        }
    }
}

#[expect(deprecated, reason = "the replacement is unsafe, and an owned descriptor is what makes this one sound")]
fn timer(rate: u32) -> io::Result<AsyncFd<std::os::fd::OwnedFd>> {
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
    let nanos = (1_000_000_000 / i64::from(rate.max(1))).clamp(FINEST_TICK_NANOS, 500_000_000);
    let tick = Timespec { tv_sec: 0, tv_nsec: nanos };
    rustix::time::timerfd_settime(
        &timer,
        TimerfdTimerFlags::empty(),
        &Itimerspec { it_interval: tick, it_value: tick },
    )?;
    AsyncFd::new(timer)
}

/// Releases slots as they fall due.
async fn pace(slots: Slots, timer: AsyncFd<std::os::fd::OwnedFd>, rate: u32) {
    let (began, mut released) = (Instant::now(), 0);
    while let Ok(mut ready) = timer.readable().await {
        let mut ticks = [0; 8];
        // How many ticks were missed does not matter: the clock says what is due.
        let _ = rustix::io::read(timer.get_ref(), &mut ticks);
        ready.clear_ready();
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as usize;
        slots.due.borrow_mut().extend(std::iter::repeat_n(Instant::now(), due - released));
        slots.waiting.add_permits(due - released);
        released = due;
    }
}
