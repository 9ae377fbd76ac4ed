//! One part of the mesh as a child process: started, watched, started again when it dies, and ended in order.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use outrigger_runtime::Exit;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::event::{Event, What};
use super::{log, probe};
use crate::files;

/// The wait before the first restart; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest wait: a person who repairs something sees the effect soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A process that lived this long begins with the first wait again.
const STABLE: Duration = Duration::from_secs(30);

/// What a part should do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    /// Run, and start again after an end.
    Run,
    /// Finish what is being done, then end.
    Drain,
    /// End without finishing.
    Hurry,
    /// Be gone.
    Kill,
}

/// What is needed to run one part.
pub(crate) struct Part {
    /// Its place on the board.
    pub(crate) index: usize,
    /// This program.
    pub(crate) program: PathBuf,
    /// Which role it plays: `sidecar` or `ingress`.
    pub(crate) role: &'static str,
    /// Its settings.
    pub(crate) config: PathBuf,
    /// Where its output goes.
    pub(crate) log: PathBuf,
    /// Where it tells its addresses.
    pub(crate) report: PathBuf,
    /// Variables that must not reach it, because they would override its settings.
    pub(crate) hidden: Arc<[&'static str]>,
    /// Where it listens for its callers, once that is settled: the same after a restart, because others know it.
    pub(crate) address: Arc<OnceLock<SocketAddr>>,
    /// Who hears of it.
    pub(crate) events: mpsc::Sender<Event>,
    /// What it should do.
    pub(crate) wish: watch::Receiver<Wish>,
}

/// How one process came to its end.
enum End {
    /// It ended by itself.
    Itself(ExitStatus),
    /// It was asked to.
    Asked,
    /// It listens elsewhere than it must.
    Elsewhere,
}

impl Part {
    /// Runs the part until it is wished away, or until it ends in a way that a restart does not cure.
    pub(crate) async fn supervise(mut self) {
        let mut pause = FIRST_PAUSE;
        while *self.wish.borrow() == Wish::Run {
            let started = Instant::now();
            let reason = match self.start() {
                Ok(child) => match self.watch(child).await {
                    End::Asked => return,
                    End::Elsewhere => "it listens on another address than the ingress knows".to_owned(),
                    End::Itself(status) if status.code() == Some(Exit::Usage.code().into()) => {
                        return self.tell(What::GaveUp(self.last_words(status))).await;
                    }
                    End::Itself(status) => self.last_words(status),
                },
                Err(error) => format!("it cannot be started: {error}"),
            };
            self.tell(What::Ended(reason)).await;
            if started.elapsed() >= STABLE {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                _ = self.wish.changed() => {}
            }
        }
    }

    fn start(&self) -> io::Result<Child> {
        match fs::remove_file(&self.report) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let log = File::options().create(true).append(true).mode(files::PRIVATE).open(&self.log)?;
        let mut command = Command::new(&self.program);
        for variable in self.hidden.iter() {
            command.env_remove(variable);
        }
        if let Some(address) = self.address.get() {
            command.env("OUTRIGGER_LISTEN", address.to_string());
        }
        command
            .arg("--parent")
            .arg(std::process::id().to_string())
            .args([self.role, "--config"])
            .arg(&self.config)
            .env("OUTRIGGER_REPORT", &self.report)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C reaches only us: we end the parts in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    /// Stays with a process to its end.
    async fn watch(&mut self, mut child: Child) -> End {
        let mut wish = self.wish.clone();
        let observed = async {
            let addresses = probe::reported(&self.report).await;
            if *self.address.get_or_init(|| addresses.mesh) == addresses.mesh {
                self.tell(What::Bound(addresses)).await;
                probe::follow(addresses.admin, |what| self.tell(what)).await;
            }
        };
        let end = tokio::select! {
            status = child.wait() => status.map_or(End::Elsewhere, End::Itself),
            () = observed => End::Elsewhere,
            _ = wish.wait_for(|wish| *wish > Wish::Run) => End::Asked,
        };
        match end {
            End::Itself(_) => {}
            End::Asked => self.end(&mut child).await,
            End::Elsewhere => kill(&mut child).await,
        }
        end
    }

    /// Ends a process as it is wished, ever more urgently, and stays until it is gone.
    async fn end(&mut self, child: &mut Child) {
        loop {
            let wish = *self.wish.borrow_and_update();
            match wish {
                Wish::Run => {}
                // The second SIGTERM means now.
                Wish::Drain | Wish::Hurry => terminate(child),
                Wish::Kill => return kill(child).await,
            }
            tokio::select! {
                _ = child.wait() => return,
                changed = self.wish.changed() => if changed.is_err() {
                    return kill(child).await;
                },
            }
        }
    }

    async fn tell(&self, what: What) {
        // Nobody hears us any more only at the very end.
        let _ = self.events.send(Event { part: Some(self.index), what }).await;
    }

    /// Why a process ended, as far as its log says.
    fn last_words(&self, status: ExitStatus) -> String {
        match (log::last_complaint(&self.log), status.signal()) {
            // Whoever is killed has no time to say so: what stands in its log is about something else.
            (_, Some(signal @ (9 | 15))) => format!("somebody ended it (signal {signal})"),
            (Some(line), _) => probe::short(&format!("{line} ({status})")),
            (None, _) => format!("it ended without a word ({status})"),
        }
    }
}

fn terminate(child: &Child) {
    if let Some(pid) = pid(child) {
        // Gone already: then there is nothing to end.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Kills a process with its group.
async fn kill(child: &mut Child) {
    if let Some(pid) = pid(child) {
        // As above.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.kill().await;
}

/// The number of a process that has not been waited for, so that it cannot be another one's by now.
fn pid(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()?).ok()?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn part(program: &str, dir: &Path) -> (Part, mpsc::Receiver<Event>, watch::Sender<Wish>) {
        let (events, heard) = mpsc::channel(16);
        let (wishes, wish) = watch::channel(Wish::Run);
        let script = dir.join("program");
        fs::write(&script, format!("#!/bin/sh\n{program}\n")).unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let part = Part {
            index: 0,
            program: script,
            role: "sidecar",
            config: dir.join("config"),
            log: dir.join("log"),
            report: dir.join("report"),
            hidden: ["HOME"].into(),
            address: Arc::default(),
            events,
            wish,
        };
        (part, heard, wishes)
    }

    #[tokio::test]
    async fn a_process_that_dies_is_started_again_and_one_with_a_mistake_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let once = dir.path().join("once");
        let program = format!(
            "test -e {0} && echo wrong settings >&2 && exit 2; touch {0}; echo oops $HOME; exit 1",
            once.display()
        );
        let (part, mut heard, _wishes) = part(&program, dir.path());
        part.supervise().await;
        let What::Ended(reason) = heard.recv().await.unwrap().what else { panic!("the first end") };
        assert!(reason.starts_with("oops (") && reason.contains('1'), "{reason}");
        let What::GaveUp(reason) = heard.recv().await.unwrap().what else { panic!("the second end") };
        assert!(reason.starts_with("wrong settings ("), "{reason}");
    }

    #[tokio::test]
    async fn a_process_that_ignores_the_drain_is_killed_with_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let ready = dir.path().join("ready");
        let program =
            format!("trap '' TERM; sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait; wait", ready.display());
        let (part, _heard, wishes) = part(&program, dir.path());
        let running = tokio::spawn(part.supervise());
        while !ready.exists() {
            sleep(Duration::from_millis(5)).await;
        }
        let grandchild = fs::read_to_string(&ready).unwrap();
        wishes.send_replace(Wish::Drain);
        assert!(
            tokio::time::timeout(Duration::from_millis(200), async {
                while !running.is_finished() {
                    sleep(Duration::from_millis(5)).await
                }
            })
            .await
            .is_err()
        );
        wishes.send_replace(Wish::Kill);
        running.await.unwrap();
        // A zombie has nothing left in this file.
        let cmdline = || fs::read(format!("/proc/{}/cmdline", grandchild.trim())).unwrap_or_default();
        while !cmdline().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    }
}
