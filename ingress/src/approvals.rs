//! Calls that a person has to approve first (`approval:` of policy rules).
//!
//! ```text
//!  call --gate--> no rule wants it ------------------------------> on, as ever
//!           |---> client's user is to say: `input_required` -----> retry with the answer --> on, once
//!           \---> somebody with the role is to say: waits here --> desk (admin port) says --> on, once
//! ```
//!
//! What is approved is one call: this principal, this capability, these parameters, this policy. The gate stands before
//! everything that a call goes through, so whatever changed while it waited (lock, limits, replicas) is looked at after.

pub(crate) mod desk;
mod question;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use outrigger_mcp::catalog::merge::Merged;
use outrigger_mcp::envelope::{Message, Param};
use outrigger_mcp::method::Method;
use outrigger_policy::{Capability, Circumstances};
use outrigger_proxy::circumstances::{Asked as Asking, hints};
use outrigger_proxy::failure::Failure;
use outrigger_telemetry::metrics::{ApprovalOutcome, DenyReason, LimitKind};
use outrigger_telemetry::{ApprovalNote, ArgumentDigest, AuditRecord, Metrics};
use tokio::time::{Instant, timeout_at};

use crate::authorize::found;
use crate::config;
use crate::core::{Caller, Route};
use crate::gateway::Gateway;
use crate::record::CallRecord;
use crate::route::{Destination, Wanted, route, unknown};
use crate::services::Service;
use crate::snapshot::Snapshot;
use crate::view::policy_kind;
use table::{Asked, Binding, Demand, Found, Full, How, NotCounted, Said, Settled, Table};

/// How long a retry that brings answers to the server's own questions belongs to a call that was approved.
const GOES_ON: Duration = Duration::from_secs(600);
/// Bytes of the name of something that waits: it is kept for as long, and a person has to read it.
const MAX_NAME: usize = 1024;

/// All calls that wait for a person.
pub(crate) struct Approvals {
    table: Mutex<Table>,
    settings: config::Approvals,
    metrics: Arc<Metrics>,
}

/// What becomes of a call.
pub(crate) enum Gate {
    /// Nobody has to approve it.
    Open,
    /// Somebody did.
    Approved(Box<Passed>),
    /// The client's user is asked: this is the whole reply.
    Ask(Bytes),
}

/// A call that somebody approved.
pub(crate) struct Passed {
    /// The message for the service, where it is another one than came.
    pub(crate) message: Option<Message>,
    /// To be told what the service answers.
    pub(crate) watch: Box<Watch>,
}

/// Looks at the answers to an approved call: where its server asks the client something, the retry belongs to it.
pub(crate) struct Watch {
    gateway: Arc<Gateway>,
    call: Binding,
}

impl Watch {
    /// Sees a message of the answer.
    pub(crate) fn see(&self, message: &Message) {
        if let Some(state) = question::asks(message) {
            let now = Instant::now();
            let approvals = &self.gateway.approvals;
            approvals.lock().goes_on(self.call, question::state_digest(&state), now + GOES_ON, now);
        }
    }
}

impl Approvals {
    /// Nothing waits yet.
    pub(crate) fn new(settings: config::Approvals, metrics: &Arc<Metrics>) -> Self {
        let table = Mutex::new(Table::new(settings.most, settings.most_each));
        Self { table, settings, metrics: Arc::clone(metrics) }
    }

    /// Forgets what is over, until the future is dropped.
    pub(crate) async fn sweep(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (unanswered, waiting) = {
                let mut table = self.lock();
                (table.sweep(Instant::now()), table.count())
            };
            (0..unanswered).for_each(|_| self.metrics.approval(ApprovalOutcome::Expired));
            self.metrics.set_approvals_waiting(waiting);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Entries are changed whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counted(&self, outcome: ApprovalOutcome) {
        self.metrics.approval(outcome);
        self.metrics.set_approvals_waiting(self.lock().count());
    }
}

/// One call at the gate.
struct Call<'a> {
    gateway: &'a Arc<Gateway>,
    caller: &'a Caller,
    message: &'a Message,
    destination: &'a Destination,
    name: &'a Arc<str>,
    kind: &'static str,
    binding: Binding,
    demands: Vec<Demand>,
}

/// Lets a call through, or asks, or waits. To be asked only where a policy wants approvals at all.
///
/// # Errors
/// Nobody has approved it, or somebody refused.
pub(crate) async fn gate(
    gateway: &Arc<Gateway>,
    caller: &Caller,
    path: &Route,
    snapshot: &Snapshot,
    message: &Message,
    record: &mut CallRecord,
) -> Result<Gate, Failure> {
    if !may_be_asked(message) {
        return Ok(Gate::Open);
    }
    let Some((catalog, at)) = snapshot.catalog(path) else { return Ok(Gate::Open) };
    // What is wrong with it is told where it is told of every call.
    let Ok(destination) = route(catalog, at, &snapshot.services, caller, path, message) else { return Ok(Gate::Open) };
    let Some(wanted) = &destination.wanted else { return Ok(Gate::Open) };
    let (service, name) = (&destination.service, &wanted.original);
    let asked = circumstances(caller, service, wanted, catalog, message);
    let locked = snapshot.checked(destination.at).is_some_and(|checked| checked.refuses(wanted.kind, name));
    if locked || !caller.policy.rules.decide_in(&caller.principal, &what(service, wanted), &asked).is_allowed() {
        return Ok(Gate::Open);
    }
    let demands = demanded(caller, service, wanted, &asked, message, record)?;
    if demands.is_empty() {
        return Ok(Gate::Open);
    }
    record.auditable()?;
    record.routed(service, Some(name), message);
    let kind = wanted.kind.as_str();
    let binding = bound(caller, service, wanted, message, &demands);
    let call = Call { gateway, caller, message, destination: &destination, name, kind, binding, demands };
    let gone = call.go(record).await;
    gone.inspect_err(|_| service.metrics.denied(DenyReason::Approval))
}

/// Looks once more where a permitted call goes: what there is may have changed while it waited, or since it was found that
/// nobody has to approve it.
///
/// # Errors
/// It is not what was approved, and has to be.
pub(crate) fn confirm(
    caller: &Caller,
    destination: &Destination,
    catalog: &Merged,
    message: &Message,
    passed: Option<&Passed>,
    record: &mut CallRecord,
) -> Result<(), Failure> {
    let Some(wanted) = destination.wanted.as_ref().filter(|_| may_be_asked(message)) else { return Ok(()) };
    let service = &destination.service;
    let asked = circumstances(caller, service, wanted, catalog, message);
    let demands = demanded(caller, service, wanted, &asked, message, record)?;
    let Some(first) = demands.first() else { return Ok(()) };
    if passed.is_some_and(|passed| passed.watch.call == bound(caller, service, wanted, message, &demands)) {
        return Ok(());
    }
    record.denied(Some(first.rule.as_str()));
    service.metrics.denied(DenyReason::Approval);
    let text = "refused: this call leads elsewhere than when it was looked at for approval; call again";
    Err(Failure::Denied { reason: "approval_other_call", text: text.to_owned() })
}

/// Whether a message is of those that rules can hold up.
fn may_be_asked(message: &Message) -> bool {
    matches!(message.method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead)
}

/// What rules are asked about.
fn what<'a>(service: &'a Service, wanted: &'a Wanted) -> Capability<'a> {
    Capability { kind: policy_kind(wanted.kind), service: &service.name, name: &wanted.original }
}

/// What their conditions may look at.
fn circumstances<'a>(
    caller: &Caller,
    service: &'a Service,
    wanted: &'a Wanted,
    catalog: &'a Merged,
    message: &'a Message,
) -> impl Circumstances + 'a {
    let hints = move || hints(found(catalog, &service.name, wanted.kind, &wanted.original));
    Asking { call: Some((message, caller.address.ip())), hints }
}

/// Whose word a call waits for.
fn demanded(
    caller: &Caller,
    service: &Arc<Service>,
    wanted: &Wanted,
    asked: &dyn Circumstances,
    message: &Message,
    record: &mut CallRecord,
) -> Result<Vec<Demand>, Failure> {
    let rules = &caller.policy.rules;
    let demands = rules.approvals_in(&caller.principal, &what(service, wanted), asked).map_err(|rule| {
        record.routed(service, Some(&wanted.original), message);
        record.denied(Some(rule.as_str()));
        service.metrics.denied(DenyReason::ConditionFailed);
        unknown(wanted.kind, &wanted.asked)
    })?;
    Ok(demands.into_iter().map(|(rule, approval)| Demand { rule, approval, met: false }).collect())
}

/// What an approval of a call is bound to.
fn bound(caller: &Caller, service: &Service, wanted: &Wanted, message: &Message, demands: &[Demand]) -> Binding {
    let what = [&*service.name, wanted.kind.as_str(), &*wanted.original];
    let rules = demands.iter().map(|demand| demand.rule.as_str());
    question::binding(caller.principal.id(), what, message, caller.policy.rules.version(), rules)
}

impl Call<'_> {
    async fn go(&self, record: &mut CallRecord) -> Result<Gate, Failure> {
        let mut stripped = None;
        match self.message.text(Param::RequestState) {
            None => {}
            Some(state) => match question::id_of(&state) {
                Some(id) => {
                    self.answered(id, record)?;
                    stripped = question::stripped(self.message);
                }
                // The server's own question, to a call that was approved.
                None if self.lock().went_on(&self.binding, &question::state_digest(&state), Instant::now()) => {
                    record.approved(note("", None));
                    return Ok(Gate::Approved(self.passed(None)));
                }
                None => return Err(self.refused(record, "approval_unknown", UNKNOWN)),
            },
        }
        let able = self.demands.iter().any(|demand| demand.approval.caller()) && question::can_ask(self.message);
        let only_caller = self.demands.iter().find(|demand| demand.approval.role().is_none());
        if let (Some(demand), false) = (only_caller, able) {
            let text = format!(
                "refused: the rule {} wants this approved by the user of this client, and the client cannot ask (elicitation)",
                demand.rule
            );
            return Err(self.refused(record, "approval_needed", &text));
        }
        let hold = Instant::now() + self.gateway.approvals.settings.hold;
        loop {
            // Before anything that was granted is used up.
            if !self.gateway.clients.still(&self.caller.principal, self.caller.until) {
                record.denied(None);
                return Err(Failure::InvalidToken);
            }
            let found = self.lock().take(&self.binding, Instant::now());
            match found {
                Found::Granted { id, said } => return self.granted(&id, &said, stripped, record),
                Found::Refused { id, said } => {
                    record.approved(note(&id, Some(&said)));
                    let text = format!("refused: {} did not approve this call", said.by);
                    return Err(self.refused(record, "approval_refused", &text));
                }
                Found::Waiting { id, asks_caller: true, .. } if able && stripped.is_none() => return Ok(self.ask(&id)),
                Found::Waiting { id, until, news, .. } => self.pause(&id, news, until, hold, record).await?,
                Found::Unknown => self.begin(record)?,
            }
        }
    }

    /// What the user said to our question.
    fn answered(&self, id: &str, record: &mut CallRecord) -> Result<(), Failure> {
        let Some(yes) = question::answer(self.message) else {
            let text = "the answer to the question for approval is missing, or is none";
            return Err(Failure::InvalidParams(text.into()));
        };
        let said = self.lock().answer(id, &self.binding, yes, Instant::now());
        match said {
            Ok(settled) => {
                let (who, granted) = (self.caller.principal.id(), settled.granted);
                self.gateway.approvals.said(self.gateway, id, How::Elicitation, who, yes, settled);
                tracing::debug!(id, yes, granted, "the user of a client answered");
                Ok(())
            }
            Err(NotCounted::OtherCall) => {
                let text =
                    "refused: this is not the call that approval was asked for; call again without `requestState`";
                Err(self.refused(record, "approval_other_call", text))
            }
            // Somebody else was faster; what they said is looked at next.
            Err(NotCounted::Over) => Ok(()),
            Err(_) => Err(self.refused(record, "approval_unknown", UNKNOWN)),
        }
    }

    /// Lets the call wait from now on.
    fn begin(&self, record: &mut CallRecord) -> Result<(), Failure> {
        if self.name.len() > MAX_NAME {
            let text = format!("the name is longer than {MAX_NAME} bytes, and somebody has to approve what it names");
            record.denied(self.demands.first().map(|demand| demand.rule.as_str()));
            return Err(Failure::InvalidParams(text));
        }
        let id = question::fresh_id().ok_or_else(|| Failure::Internal("no random numbers".into()))?;
        let (arguments, whole) = question::shown(self.message);
        let asked = Asked {
            who: Arc::from(self.caller.principal.id()),
            service: Arc::clone(&self.destination.service.name),
            kind: self.kind,
            capability: Arc::clone(self.name),
            arguments: arguments.into(),
            whole,
            trace: record.trace(),
            digest: self.message.params().get(Param::Arguments).map(|at| ArgumentDigest::of(self.message.raw(at))),
            since: SystemTime::now(),
        };
        let waits = self.lock().wait(self.binding, asked, self.demands.clone(), Instant::now(), id);
        let full = match waits {
            Ok(id) => {
                self.gateway.approvals.counted(ApprovalOutcome::Asked);
                let (rule, what) = (&self.demands[0].rule, self.what());
                tracing::info!(id, %rule, principal = %self.caller.principal, what, "a call waits for approval");
                return Ok(());
            }
            Err(full) => full,
        };
        let setting = match full {
            Full::All => "approvals.most",
            Full::Caller => "approvals.most_each",
        };
        Err(Failure::over(&self.destination.service.metrics, LimitKind::Approvals, setting, Duration::from_secs(5)))
    }

    /// Waits for news. A call that is not held any longer still waits: its client calls again.
    async fn pause(
        &self,
        id: &str,
        mut news: tokio::sync::watch::Receiver<()>,
        until: Instant,
        hold: Instant,
        record: &mut CallRecord,
    ) -> Result<(), Failure> {
        let draining = self.gateway.draining();
        let told = tokio::select! {
            // Somebody's word counts, also when it comes as we begin to drain.
            biased;
            told = timeout_at(until.min(hold), news.changed()) => told,
            () = draining.signaled() => return Err(Failure::Draining),
        };
        let over = match told {
            Ok(Ok(())) => return Ok(()),
            // It was swept away before anybody said enough.
            Ok(Err(_)) => true,
            Err(_) => until <= hold,
        };
        record.approved(note(id, None));
        if over {
            let text = "refused: nobody approved this call in time";
            return Err(self.refused(record, "approval_expired", text));
        }
        let role = self.demands.iter().find_map(|demand| demand.approval.role()).unwrap_or_default();
        let text = format!(
            "this call waits for approval by somebody with the role {role} (its id is {id}); call again with the same \
             arguments once it is approved"
        );
        Err(self.refused(record, "approval_pending", &text))
    }

    fn granted(
        &self,
        id: &str,
        said: &Said,
        stripped: Option<Message>,
        record: &mut CallRecord,
    ) -> Result<Gate, Failure> {
        record.approved(note(id, Some(said)));
        if self.gateway.policy().rules.version() != self.caller.policy.rules.version() {
            let text = "refused: the policy has changed since approval was asked for; call again";
            return Err(self.refused(record, "approval_outdated", text));
        }
        self.gateway.approvals.counted(ApprovalOutcome::Used);
        Ok(Gate::Approved(self.passed(stripped)))
    }

    fn passed(&self, message: Option<Message>) -> Box<Passed> {
        let watch = Box::new(Watch { gateway: Arc::clone(self.gateway), call: self.binding });
        Box::new(Passed { message, watch })
    }

    fn ask(&self, id: &str) -> Gate {
        let (arguments, whole) = question::shown(self.message);
        let rule = self.demands.iter().find(|demand| demand.approval.caller()).map(|demand| demand.rule.to_string());
        Gate::Ask(question::ask(self.message, id, &self.what(), &arguments, whole, &rule.unwrap_or_default()))
    }

    /// The capability, for people.
    fn what(&self) -> String {
        let name = outrigger_integrity::visible(self.name, 200);
        format!("{} {}.{name}", self.kind, self.destination.service.name)
    }

    fn refused(&self, record: &mut CallRecord, reason: &'static str, text: &str) -> Failure {
        record.denied(self.demands.first().map(|demand| demand.rule.as_str()));
        Failure::Denied { reason, text: text.to_owned() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.gateway.approvals.lock()
    }
}

/// What the audit says of an approval in the line of its call.
fn note(id: &str, said: Option<&Said>) -> ApprovalNote {
    ApprovalNote {
        id: id.into(),
        of: None,
        by: said.map(|said| Arc::clone(&said.by)),
        how: said.map_or("nobody", |said| said.how.as_str()),
    }
}

const UNKNOWN: &str = "refused: this approval is not known here: it was used, has expired, or was asked for at another \
                       ingress; call again without `requestState`";

impl Approvals {
    /// Notes that somebody said something that counts: a line of the audit of its own.
    fn said(&self, gateway: &Gateway, id: &str, how: How, by: &str, yes: bool, settled: Settled) {
        self.counted(if yes { ApprovalOutcome::Approved } else { ApprovalOutcome::Refused });
        let Settled { asked, rule, .. } = settled;
        tracing::info!(id, by, yes, how = how.as_str(), "somebody said whether a call may go on");
        let of = Some(Arc::clone(&asked.who));
        let note = ApprovalNote { id: id.into(), of, by: Some(by.into()), how: how.as_str() };
        let record = AuditRecord {
            service: Some(asked.service),
            capability: Some(asked.capability),
            rule: rule.map(|rule| rule.as_str().into()),
            trace: asked.trace,
            argument_digest: asked.digest,
            ..AuditRecord::approval(by, yes, note)
        };
        // Lost records are counted by the log.
        let _ = gateway.recorder.audit.record(record);
    }
}

impl std::fmt::Debug for Approvals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Approvals").field("settings", &self.settings).finish_non_exhaustive()
    }
}
