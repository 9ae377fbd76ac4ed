//! From nothing to the first answer.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use outrigger_bench_tools::Error;
use outrigger_bench_tools::process::{cpu_nanos, memory};
use outrigger_bench_tools::rpc::Asks;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::target::{Target, TargetArguments};

/// A program that has not answered by then is not going to.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the program, asks until it answers, and stops it.
///
/// # Errors
/// The program cannot be started, or does not answer.
pub async fn run(target: TargetArguments, command: &[String]) -> Result<Value, Error> {
    let target = Target::new(&target, Asks::Call)?;
    let (program, arguments) = command.split_first().ok_or("no program")?;
    let began = Instant::now();
    let mut child = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let took = first_answer(&target, began).await;
    // Read at once: what is used later is not part of the start.
    let cpu = cpu_nanos(&[child.id()]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let used = memory(&[child.id()]);
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        kill_process(pid, Signal::TERM)?;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    child.kill()?;
    child.wait()?;
    Ok(json!({
        "first_answer_ms": took?.as_secs_f64() * 1e3,
        "cpu_ms": cpu as f64 / 1e6,
        "rss_kib": used.rss,
        "pss_kib": used.pss,
    }))
}

async fn first_answer(target: &Target, began: Instant) -> Result<Duration, Error> {
    loop {
        let attempt = async { target.open().await?.call().await };
        match attempt.await {
            Ok(_) => return Ok(began.elapsed()),
            Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}
