//! A running mesh: starts its parts, keeps the books, and ends the parts in order.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use outrigger_runtime::{Exit, ShutdownSignals};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::announce::Facts;
use super::board::{Board, State};
use super::event::{Event, What};
use super::identity::Identities;
use super::plan::Plan;
use super::screen::Screen;
use super::supervise::{Part, Wish};
use super::{INGRESS, log, probe};
use crate::args::UpArgs;
use crate::{files, output};

/// The ingress finishes calls for 10 s (see `plan`), and needs a moment to end.
const INGRESS_END: Duration = Duration::from_secs(13);
/// So do sidecars, which then wait for their children twice 5 s (`timeouts.child_stop`).
const SIDECARS_END: Duration = Duration::from_secs(23);
/// After a second signal.
const HURRIED_END: Duration = Duration::from_secs(3);
/// Events on their way: parts change seldom.
const EVENTS: usize = 256;

/// What can be told to a group of parts that end together.
struct Group {
    wishes: watch::Sender<Wish>,
    running: JoinSet<()>,
}

/// A mesh with its parts.
pub(crate) struct Mesh<'a> {
    plan: &'a Plan<'a>,
    facts: Facts,
    digest: Option<String>,
    /// A part that is not ready by then is reported as failed; it may become ready later.
    start_timeout: Duration,
    board: Board,
    screen: Screen,
    /// Where each sidecar listens, once settled.
    addresses: Vec<Arc<OnceLock<SocketAddr>>>,
    hidden: Arc<[&'static str]>,
    sidecars: Group,
    ingress: Group,
    ingress_started: bool,
    announced: bool,
    events: mpsc::Sender<Event>,
    heard: mpsc::Receiver<Event>,
}

impl<'a> Mesh<'a> {
    /// Writes the settings of the sidecars. Nothing runs yet.
    pub(crate) fn new(plan: &'a Plan<'a>, facts: Facts, digest: Option<String>, args: &UpArgs) -> anyhow::Result<Self> {
        for service in &plan.manifest.services {
            write_private(&plan.state.config(&service.name), &plan.sidecar(service)?)?;
        }
        let names = plan.manifest.services.iter().map(|service| service.name.clone());
        let board = Board::new(names.chain([INGRESS.to_owned()]));
        let addresses = plan.manifest.services.iter().map(|_| Arc::default()).collect();
        let (events, heard) = mpsc::channel(EVENTS);
        let (sidecars, ingress) = (Group::new(), Group::new());
        let (hidden, screen) = (hidden_variables(), Screen::choose(args.json));
        let [ingress_started, announced] = [false; 2];
        Ok(Self {
            plan,
            facts,
            digest,
            start_timeout: args.start_timeout,
            board,
            screen,
            addresses,
            hidden,
            sidecars,
            ingress,
            ingress_started,
            announced,
            events,
            heard,
        })
    }

    /// Runs until a signal, then ends everything. An error when the ingress cannot run at all.
    pub(crate) async fn run(mut self, identities: Identities, mut signals: ShutdownSignals) -> anyhow::Result<Exit> {
        let events = self.events.clone();
        let renewal = tokio::spawn(identities.keep(move |trouble| {
            // Never more than one per certificate and second; one that is lost comes again.
            let _ = events.try_send(Event { part: None, what: What::Trouble(trouble) });
        }));
        let outcome = self.serve(&mut signals).await;
        let removed = self.plan.state.remove_up();
        self.stop(&mut signals).await;
        renewal.abort();
        self.screen.event(&self.board, &json!({"event": "stopped"}), "stopped", false);
        outcome.and(removed).map(|()| Exit::Clean)
    }

    /// Starts everything and keeps the books until a signal comes.
    async fn serve(&mut self, signals: &mut ShutdownSignals) -> anyhow::Result<()> {
        self.screen.begin(&self.board);
        for index in 0..self.addresses.len() {
            self.start(index);
        }
        let mut deadline = Instant::now() + self.start_timeout;
        loop {
            let failing = self.board.next_failing();
            tokio::select! {
                // What parts have said comes before what is held against them for not having said it.
                biased;
                signal = signals.next() => {
                    let event = json!({"event": "stopping", "signal": signal});
                    self.screen.fold();
                    self.screen.event(&self.board, &event, &format!("{signal}: stopping; once more to stop at once"), false);
                    return Ok(());
                }
                Some(event) = self.heard.recv() => self.hear(event),
                () = sleep_until(deadline), if self.starting() => self.expire(),
                () = sleep_until(failing.unwrap_or(deadline)), if failing.is_some() => {
                    let failed = self.board.fail_failing(Instant::now());
                    self.explain(failed);
                }
            }
            if !self.ingress_started && self.board.addresses_settled() {
                self.start_ingress()?;
                deadline = Instant::now() + self.start_timeout;
            }
            self.publish()?;
        }
    }

    /// Whether somebody is still waited for.
    fn starting(&self) -> bool {
        self.board.entries.iter().any(|entry| entry.state == State::Starting)
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event { part: Some(part), what } => {
                let what = match what {
                    // What keeps the ingress from starting (a file, the port) does not go away while a person waits.
                    What::Ended(reason) if part == self.addresses.len() && !self.announced => What::GaveUp(reason),
                    other => other,
                };
                if self.board.note(part, what) {
                    self.screen.changed(&self.board, part);
                }
            }
            Event { part: None, what: What::Trouble(trouble) } => {
                let event = json!({"event": "trouble", "message": trouble});
                self.screen.event(&self.board, &event, &trouble, false);
            }
            Event { part: None, .. } => {}
        }
    }

    /// Gives up on what is not ready.
    fn expire(&mut self) {
        let patience = format!("{} s", self.start_timeout.as_secs());
        let expired = self.board.expire(!self.ingress_started, &patience);
        self.explain(expired);
    }

    /// Shows parts that have failed, with the last words of their servers where there are any.
    fn explain(&mut self, failed: Vec<usize>) {
        for part in failed {
            if let Some(entry) = self.board.entries.get_mut(part)
                && let Some(said) = log::last_words_of_server(&self.plan.state.log(&entry.name))
            {
                let reason = entry.reason.take().unwrap_or_default();
                // What kept it from starting is in its log too.
                let told = reason.contains(&said) || said.contains(reason.trim_start_matches("server: "));
                let all = if told { reason } else { format!("{reason}; the server says: {said}") };
                entry.reason = Some(probe::short(&all));
            }
            self.screen.changed(&self.board, part);
        }
    }

    fn start(&mut self, index: usize) {
        let (Some(service), Some(address)) = (self.plan.manifest.services.get(index), self.addresses.get(index)) else {
            return;
        };
        let (name, address, wish) = (service.name.clone(), Arc::clone(address), self.sidecars.wishes.subscribe());
        let part = self.part(index, "sidecar", &name, address, wish);
        self.sidecars.running.spawn(part.supervise());
    }

    /// Starts the ingress, now that every sidecar's address is known. One that has none yet gets one.
    fn start_ingress(&mut self) -> anyhow::Result<()> {
        self.ingress_started = true;
        let mut services = Vec::new();
        for (service, settled) in self.plan.manifest.services.iter().zip(&self.addresses) {
            let address = match settled.get() {
                Some(address) => *address,
                None => {
                    let free = free_address()?;
                    *settled.get_or_init(|| free)
                }
            };
            services.push((service.name.clone(), address));
        }
        let listed: BTreeMap<_, _> = services.iter().map(|(name, address)| (name, address)).collect();
        files::write(&self.plan.state.services(), json!(listed).to_string().as_bytes(), files::PUBLIC)?;
        let settings = self.plan.ingress(&services, self.digest.as_deref())?;
        write_private(&self.plan.state.config(INGRESS), &settings)?;
        let wish = self.ingress.wishes.subscribe();
        let part = self.part(self.addresses.len(), "ingress", INGRESS, Arc::default(), wish);
        self.ingress.running.spawn(part.supervise());
        Ok(())
    }

    fn part(
        &self,
        index: usize,
        role: &'static str,
        name: &str,
        address: Arc<OnceLock<SocketAddr>>,
        wish: watch::Receiver<Wish>,
    ) -> Part {
        let state = self.plan.state;
        let log = state.log(name);
        // Only the log of this run tells about this run; the one before stays beside it. None there: nothing to keep.
        let _ = std::fs::rename(&log, log.with_extension("log.old"));
        Part {
            index,
            program: self.plan.program.to_owned(),
            role,
            config: state.config(name),
            log,
            report: state.report(name),
            hidden: Arc::clone(&self.hidden),
            address,
            events: self.events.clone(),
            wish,
        }
    }

    /// Writes `up.json` once every part has settled, and again whenever something changed; tells people the first time.
    fn publish(&mut self) -> anyhow::Result<()> {
        let Some(ingress) = self.board.ingress() else {
            return Ok(());
        };
        let ready = ingress.state == State::Ready;
        if ingress.state == State::Failed && !self.announced {
            let reason = ingress.reason.as_deref().unwrap_or_default();
            bail!("the ingress does not run: {reason}\nIts log: {}", self.plan.state.log(INGRESS).display());
        }
        let complete = ready && self.board.services_settled();
        if !complete && !self.announced {
            return Ok(());
        }
        let (Some(up), Some(address)) = (self.facts.up(&self.board), self.board.clients()) else {
            return Ok(());
        };
        let path = self.plan.state.up();
        let text = serde_json::to_string_pretty(&up).context("cannot write up.json")?;
        files::write(&path, text.as_bytes(), files::PUBLIC)?;
        if !self.announced {
            self.announced = true;
            let event = json!({"event": "ready", "up": path, "mcp": up.get("mcp")});
            self.screen.event(&self.board, &event, &self.facts.text(address, &path), true);
        }
        Ok(())
    }

    /// Ends the parts: first the ingress, whose calls need the sidecars, then those.
    async fn stop(&mut self, signals: &mut ShutdownSignals) {
        let mut hurried = false;
        for (group, patience) in [(&mut self.ingress, INGRESS_END), (&mut self.sidecars, SIDECARS_END)] {
            group.wishes.send_replace(if hurried { Wish::Hurry } else { Wish::Drain });
            let limit = if hurried { HURRIED_END } else { patience };
            hurried |= tokio::select! {
                () = group.gone(&mut self.heard) => continue,
                () = sleep(limit) => false,
                _ = signals.next() => true,
            };
            if hurried {
                let event = json!({"event": "stopping", "hurried": true});
                self.screen.event(&self.board, &event, "stopping at once", false);
                group.wishes.send_replace(Wish::Hurry);
                tokio::select! {
                    () = group.gone(&mut self.heard) => continue,
                    () = sleep(HURRIED_END) => {}
                }
            }
            output::say("some parts do not end; they are killed");
            group.wishes.send_replace(Wish::Kill);
            group.gone(&mut self.heard).await;
        }
    }
}

impl Group {
    fn new() -> Self {
        Self { wishes: watch::Sender::new(Wish::Run), running: JoinSet::new() }
    }

    /// Waits until every part is gone. Nobody cares any more what is heard meanwhile, but the queue must not fill.
    async fn gone(&mut self, heard: &mut mpsc::Receiver<Event>) {
        loop {
            tokio::select! {
                ended = self.running.join_next() => if ended.is_none() {
                    return;
                },
                Some(_) = heard.recv() => {}
            }
        }
    }
}

/// A port of this machine that is free now.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}

/// Settings may hold secrets of the services' environments.
fn write_private(path: &std::path::Path, text: &str) -> anyhow::Result<()> {
    files::write(path, text.as_bytes(), files::PRIVATE)
}

/// Every variable that would override the settings of a part, except those for its log.
fn hidden_variables() -> Arc<[&'static str]> {
    let described = [outrigger_sidecar::config::Config::describe(), outrigger_ingress::config::Config::describe()];
    let variables = described.iter().flat_map(|settings| settings.variables());
    variables.filter(|name| !name.starts_with("OUTRIGGER_LOG")).chain(["OUTRIGGER_CONFIG"]).collect()
}

#[cfg(test)]
mod tests {
    use super::hidden_variables;

    #[test]
    fn parts_are_configured_by_their_files_and_not_by_our_environment() {
        let hidden = hidden_variables();
        assert!(hidden.contains(&"OUTRIGGER_LISTEN") && hidden.contains(&"OUTRIGGER_POLICY"));
        assert!(!hidden.contains(&"OUTRIGGER_LOG"), "the log level can be chosen from outside");
    }
}
