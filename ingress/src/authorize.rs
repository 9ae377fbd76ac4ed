//! authorize: policy, rate limits and concurrency. The only maker of [`Permitted`], which forward demands.

use std::sync::Arc;
use std::time::Duration;

use outrigger_mcp::catalog::Item;
use outrigger_mcp::catalog::merge::Merged;
use outrigger_mcp::catalog_kind::Kind;
use outrigger_mcp::envelope::Message;
use outrigger_policy::{Amount, Capability, Charge, Circumstances, Decision, Denial, DenyReason, Limits, Per, RuleId};
use outrigger_proxy::circumstances::{Asked, hints};
use outrigger_proxy::failure::Failure;
use outrigger_telemetry::metrics;
use outrigger_telemetry::metrics::LimitKind;

use crate::config::WhenAway;
use crate::core::Caller;
use crate::places::{Full, Place};
use crate::quota::{Counted, Store};
use crate::record::CallRecord;
use crate::route::{Destination, unknown};
use crate::services::Service;
use crate::snapshot::Snapshot;
use crate::view::policy_kind;

/// When to try again while a service works on as many calls as it may: calls that end make room one by one.
const CONCURRENCY_RETRY: Duration = Duration::from_secs(1);

/// Proof that a message may go to its destination. Holds the place that it takes among the calls of the service.
#[derive(Debug)]
pub(crate) struct Permitted {
    destination: Destination,
    place: Option<Place>,
    /// What is still to be counted where ingresses share that.
    owed: Option<Box<Owed>>,
}

/// What a call counts against.
#[derive(Debug)]
struct Owed {
    charges: Vec<Charge>,
    /// The rule that allows it.
    rule: Option<RuleId>,
}

impl Permitted {
    /// Where to.
    pub(crate) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The place among the calls of the service, to be held until the answer has ended.
    pub(crate) fn take_place(&mut self) -> Option<Place> {
        self.place.take()
    }
}

/// Decides a call, before any byte of it goes anywhere. Notes the decision. Where limits are `shared`, [`count_shared`] counts
/// the call, which has to follow.
///
/// # Errors
/// Denied, which looks as if the thing did not exist; limited; or it could not be recorded.
pub(crate) fn authorize(
    caller: &Caller,
    destination: Destination,
    catalog: &Merged,
    snapshot: &Snapshot,
    message: &Message,
    record: &mut CallRecord,
    shared: bool,
) -> Result<Permitted, Failure> {
    record.auditable()?;
    let service = Arc::clone(&destination.service);
    let mut owed = None;
    match &destination.wanted {
        None if caller.policy.rules.may_use_service(&caller.principal, &service.name) => record.allowed(None),
        None => {
            record.denied(None);
            return Err(Failure::CallerRefused);
        }
        Some(wanted) => {
            let what = Capability { kind: policy_kind(wanted.kind), service: &service.name, name: &wanted.original };
            let asked = Asked {
                call: Some((message, caller.address.ip())),
                hints: || hints(found(catalog, &service.name, wanted.kind, &wanted.original)),
            };
            let allowing;
            match caller.policy.rules.decide_in(&caller.principal, &what, &asked) {
                Decision::Allow { rule, would_deny } => {
                    record.allowed(rule.as_ref().map(RuleId::as_str));
                    record.show(rule.as_ref(), message);
                    allowing = rule;
                    if let Some(denial) = would_deny {
                        let Denial { reason, rule } = &denial;
                        let rule = rule.as_ref().map(tracing::field::display);
                        tracing::info!(principal = %caller.principal, capability = %what, %reason, rule, "would be denied");
                        service.metrics.would_deny(label(*reason));
                        record.would_deny(&denial);
                    }
                }
                Decision::Deny(Denial { reason, rule }) => {
                    record.denied(rule.as_ref().map(RuleId::as_str));
                    record.show(rule.as_ref(), message);
                    service.metrics.denied(label(reason));
                    tracing::debug!(principal = %caller.principal, capability = %what, %reason, "denied");
                    if let Some(scopes) = scopes_wanted(caller, &what, &asked) {
                        return Err(Failure::InsufficientScope(scopes.join(" ")));
                    }
                    return Err(unknown(wanted.kind, &wanted.asked));
                }
            }
            if let Some(checked) = snapshot.checked(destination.at) {
                checked.admit(&service, wanted.kind, &wanted.original).inspect_err(|failure| {
                    record.denied(Some(&format!("lock:{}", failure.reason())));
                })?;
            }
            check_cost(caller, &service, &what)?;
            if shared {
                let cost = || caller.policy.rules.cost_of(&what);
                let charges = caller.policy.limits.charges(&caller.principal, &what, allowing.as_ref(), cost);
                owed = (!charges.is_empty()).then(|| Box::new(Owed { charges, rule: allowing }));
            } else {
                check_rates(caller, &service, &what)?;
                check_rule(caller, &service, allowing.as_ref(), &what)?;
            }
        }
    }
    let place = service.places.take(caller.principal.id()).map_err(|full| {
        let bounds = &service.settings.safety.concurrency;
        let (kind, setting) = match full {
            Full::Service if bounds.adaptive.is_some() => (LimitKind::Concurrency, "concurrency.adaptive"),
            Full::Service if bounds.limit.is_some() => (LimitKind::Concurrency, "concurrency.limit"),
            Full::Service => (LimitKind::Concurrency, "limits.in_flight"),
            Full::Client => (LimitKind::ClientConcurrency, "concurrency.per_client"),
        };
        Failure::over(&service.metrics, kind, setting, CONCURRENCY_RETRY)
    })?;
    Ok(Permitted { destination, place: Some(place), owed })
}

/// The scopes that a caller should get for a call, where they are all that it lacks and it may know of them.
fn scopes_wanted(caller: &Caller, what: &Capability<'_>, asked: &dyn Circumstances) -> Option<Vec<String>> {
    let resource = caller.resource.as_ref()?;
    caller.policy.rules.scopes_wanted(&caller.principal, what, asked, &|scope| resource.may_tell(scope))
}

/// Counts a call in the store that ingresses share; while it is away, as its setting says. Nothing is sent before.
///
/// # Errors
/// Limited, or it cannot be counted and must be.
pub(crate) async fn count_shared(store: &Store, caller: &Caller, permitted: &mut Permitted) -> Result<(), Failure> {
    let Some(owed) = permitted.owed.take() else { return Ok(()) };
    let service = &permitted.destination.service;
    match store.take(&owed.charges).await {
        Counted::Taken => Ok(()),
        Counted::Refused(which, retry_after) => {
            let charge = owed.charges.get(which);
            service.metrics.limited(charge.map_or(LimitKind::RuleRate, |charge| limit_kind(&charge.amount)));
            let limit = charge.map(|charge| charge.limit.clone()).unwrap_or_default();
            Err(Failure::Limited { limit, retry_after, service: Some(service.name.to_string()) })
        }
        Counted::Away => match store.when_away() {
            WhenAway::Open => Ok(()),
            WhenAway::Closed => Err(Failure::Unavailable {
                service: service.name.to_string(),
                reason: "its limits cannot be counted at present".to_owned(),
            }),
            WhenAway::Local => {
                let Some(wanted) = &permitted.destination.wanted else { return Ok(()) };
                let what =
                    Capability { kind: policy_kind(wanted.kind), service: &service.name, name: &wanted.original };
                check_rates(caller, service, &what)?;
                check_rule(caller, service, owed.rule.as_ref(), &what)
            }
        },
    }
}

fn limit_kind(amount: &Amount) -> LimitKind {
    match amount {
        Amount::Call(per, _) => rate_kind(*per),
        Amount::RuleCall(_) => LimitKind::RuleRate,
        Amount::Cost(..) => LimitKind::Budget,
    }
}

fn rate_kind(per: Per) -> LimitKind {
    match per {
        Per::Client => LimitKind::ClientRate,
        Per::Service => LimitKind::ServiceRate,
        Per::Tool => LimitKind::ToolRate,
    }
}

/// The definition of something in a catalog.
pub(crate) fn found<'a>(catalog: &'a Merged, service: &str, kind: Kind, name: &str) -> Option<&'a Item> {
    catalog.services().get(catalog.service(service)?)?.catalog.find(kind, name)
}

/// Decides a subscription to a resource; it takes no place among the calls.
pub(crate) fn may_read(caller: &Caller, service: &str, kind: Kind, name: &str) -> bool {
    let what = Capability { kind: policy_kind(kind), service, name };
    caller.policy.rules.decide(&caller.principal, &what).is_allowed()
}

/// Lets a listen of ours go to a service on behalf of a caller whose resources were checked with [`may_read`].
///
/// # Errors
/// The caller may use nothing of the service.
pub(crate) fn authorize_listen(caller: &Caller, at: usize, service: &Arc<Service>) -> Result<Permitted, Failure> {
    if !caller.policy.rules.may_use_service(&caller.principal, &service.name) {
        return Err(Failure::CallerRefused);
    }
    let destination = Destination { service: Arc::clone(service), at, wanted: None, task: None, rewrite: false };
    Ok(Permitted { destination, place: None, owed: None })
}

/// What the call may cost by its own word (`X-MCPX-Cost-Budget`).
fn check_cost(caller: &Caller, service: &Service, what: &Capability<'_>) -> Result<(), Failure> {
    let Some(most) = caller.cost_budget else { return Ok(()) };
    let cost = caller.policy.rules.cost_of(what);
    if cost <= most {
        return Ok(());
    }
    service.metrics.limited(LimitKind::Budget);
    Err(Failure::InvalidRequest(format!("the call costs {cost}, and X-MCPX-Cost-Budget allows {most}")))
}

/// The limits that stand in the rule that allows the call.
fn check_rule(caller: &Caller, service: &Service, rule: Option<&RuleId>, what: &Capability<'_>) -> Result<(), Failure> {
    let policy = &caller.policy;
    let cost = || policy.rules.cost_of(what);
    policy.limits.check_rule(rule, &caller.principal, cost, policy.now()).map_err(|exceeded| {
        service.metrics.limited(if exceeded.of_budget { LimitKind::Budget } else { LimitKind::RuleRate });
        Failure::Limited {
            limit: exceeded.rule.to_string(),
            retry_after: exceeded.retry_after,
            service: Some(service.name.to_string()),
        }
    })
}

fn check_rates(caller: &Caller, service: &Service, what: &Capability<'_>) -> Result<(), Failure> {
    let policy = &caller.policy;
    if policy.rules.limits().is_empty() {
        return Ok(());
    }
    let now = policy.now();
    let limits = policy.limits.for_capability(what, now);
    Limits::check(&caller.limits, &limits, now).map_err(|limited| {
        service.metrics.limited(rate_kind(limited.per));
        Failure::Limited {
            limit: limited.limit.to_string(),
            retry_after: limited.retry_after,
            service: Some(service.name.to_string()),
        }
    })
}

fn label(reason: DenyReason) -> metrics::DenyReason {
    match reason {
        DenyReason::Forbidden => metrics::DenyReason::Rule,
        DenyReason::NoRule => metrics::DenyReason::NoRule,
        DenyReason::NotAuthenticated => metrics::DenyReason::Identity,
        DenyReason::RequirementNotMet => metrics::DenyReason::Requirement,
        DenyReason::ConditionNotMet => metrics::DenyReason::Condition,
        DenyReason::ConditionFailed => metrics::DenyReason::ConditionFailed,
    }
}
