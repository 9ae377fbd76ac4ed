//! authorize: policy, rate limits and concurrency, in this order; the only maker of [`Permitted`].
//!
//! The ingress decided already, by the user. The sidecar decides again, by the user for whom the ingress says that it calls,
//! or by the workload that calls: whoever gets past the ingress, or never went there, meets the same rules here.

use std::{borrow::Cow, sync::Arc};

use arc_swap::ArcSwap;
use outrigger_mcp::{
    envelope::{Message, Param},
    json::{decode_string, member},
    method::Method,
};
use outrigger_policy::{
    Annotations, Capability, CapabilityKind, Concurrency, Decision, Denial, Limited, Limits, Nanos, PolicySet,
    Principal, PrincipalKind, glob::Glob,
};
use outrigger_proxy::{circumstances::Asked, failure::Failure};
use outrigger_telemetry::{
    Decision as AuditDecision, ServiceMetrics,
    metrics::{DenyReason, LimitKind},
};
use tokio::time::Instant;

use crate::record::Record;

/// The rules of one moment.
pub struct Rules {
    /// Who may do what.
    pub policy: PolicySet,
    /// How often.
    pub limits: Limits,
}

/// Decides.
pub struct Gate {
    /// Swapped whole by a reload.
    pub rules: ArcSwap<Rules>,
    /// Calls at once.
    pub concurrency: Arc<Concurrency>,
    service: Arc<str>,
    metrics: Arc<ServiceMetrics>,
    hints: Hints,
    /// Callers that ask persons themselves, where a rule wants that.
    ask_persons: Vec<Glob>,
    started: Instant,
}

/// Finds the hints of a tool.
pub type Hints = Box<dyn Fn(CapabilityKind, &str) -> Annotations + Send + Sync>;

/// Proof that a message was allowed; forwarding asks for it.
#[derive(Debug)]
pub struct Permitted<'m>(&'m Message);

impl<'m> Permitted<'m> {
    /// The message that was allowed.
    pub fn message(&self) -> &'m Message {
        self.0
    }
}

impl Gate {
    /// A gate with its first rules.
    pub fn new(service: &str, rules: Rules, in_flight: usize, metrics: Arc<ServiceMetrics>, hints: Hints) -> Self {
        Self {
            rules: ArcSwap::from_pointee(rules),
            concurrency: Concurrency::new(in_flight),
            service: service.into(),
            metrics,
            hints,
            ask_persons: Vec::new(),
            started: Instant::now(),
        }
    }

    /// The same, with callers (ingresses) that ask persons themselves where a rule wants approval.
    #[must_use]
    pub fn with_ingresses(self, ask_persons: Vec<Glob>) -> Self {
        Self { ask_persons, ..self }
    }

    /// The time that limits count in.
    pub fn now(&self) -> Nanos {
        Nanos::since_start(self.started.elapsed())
    }

    /// Whether a capability may be used, without counting anything: for lists.
    pub fn visible(&self, who: &Principal, kind: CapabilityKind, name: &str) -> bool {
        let asked = Asked { call: None, hints: || (self.hints)(kind, name) };
        let what = Capability { kind, service: &self.service, name };
        self.rules.load().policy.allows_in(who, &what, &asked)
    }

    /// Whether somebody may use anything here: for what is no request.
    ///
    /// # Errors
    /// [`Failure::CallerRefused`].
    pub fn admit(&self, who: &Principal) -> Result<(), Failure> {
        if self.rules.load().policy.may_use_service(who, &self.service) { Ok(()) } else { Err(Failure::CallerRefused) }
    }

    /// Decides about one message and notes the decision.
    ///
    /// # Errors
    /// [`Failure::UnknownCapability`] when it is not allowed, the same as for something that does not exist;
    /// [`Failure::Limited`] when it is too much; [`Failure::Unaudited`] when it could not be recorded.
    pub fn permit<'m>(
        &self,
        who: &Principal,
        message: &'m Message,
        record: &mut Record,
    ) -> Result<Permitted<'m>, Failure> {
        record.auditable()?;
        let rules = self.rules.load();
        let target = target(message)?;
        let Some((kind, name)) = &target else {
            // Nothing is named: whoever may use anything of this service may ask.
            if !rules.policy.may_use_service(who, &self.service) {
                record.decision = Some((AuditDecision::Deny, None));
                self.metrics.denied(DenyReason::NoRule);
                return Err(Failure::UnknownMethod(message.method_name().into_owned()));
            }
            self.limit(
                &rules,
                who,
                &Capability { kind: CapabilityKind::Tool, service: &self.service, name: "" },
                record,
            )?;
            return Ok(Permitted(message));
        };
        let capability = Capability { kind: *kind, service: &self.service, name };
        let asked = Asked { call: Some((message, record.client().ip())), hints: || (self.hints)(*kind, name) };
        let allowing;
        match rules.policy.decide_in(who, &capability, &asked) {
            Decision::Allow { rule, would_deny } => {
                allowing = rule.clone();
                record.decision = Some((AuditDecision::Allow, rule));
                if let Some(denial) = would_deny {
                    let Denial { reason, rule } = &denial;
                    let rule = rule.as_ref().map(tracing::field::display);
                    tracing::info!(principal = %who, capability = %capability, %reason, rule, "would be denied");
                    self.metrics.would_deny(deny_reason(*reason));
                    record.would_deny = Some(denial);
                }
            }
            Decision::Deny(Denial { reason, rule }) => {
                record.decision = Some((AuditDecision::Deny, rule));
                self.metrics.denied(deny_reason(reason));
                return Err(unknown(*kind, name));
            }
        }
        // Only an ingress can ask a person, and has done so where its policy holds the same rule (docs/POLICY.md).
        let asks = || self.ask_persons.iter().any(|glob| glob.matches(who.id()));
        let direct = rules.policy.asks_approval() && matches!(who.kind(), PrincipalKind::Workload { .. }) && !asks();
        if direct && !rules.policy.approvals_in(who, &capability, &asked).is_ok_and(|wanted| wanted.is_empty()) {
            record.decision = Some((AuditDecision::Deny, allowing));
            self.metrics.denied(DenyReason::Approval);
            let text = "a rule wants a person to approve this, and only an ingress can ask one: call through it";
            return Err(Failure::Denied { reason: "approval_needed", text: text.to_owned() });
        }
        let cost = || rules.policy.cost_of(&capability);
        rules.limits.check_rule(allowing.as_ref(), who, cost, self.now()).map_err(|exceeded| {
            self.metrics.limited(if exceeded.of_budget { LimitKind::Budget } else { LimitKind::RuleRate });
            Failure::Limited {
                limit: exceeded.rule.to_string(),
                retry_after: exceeded.retry_after,
                service: Some(self.service.to_string()),
            }
        })?;
        self.limit(&rules, who, &capability, record)?;
        Ok(Permitted(message))
    }

    fn limit(&self, rules: &Rules, who: &Principal, what: &Capability<'_>, record: &mut Record) -> Result<(), Failure> {
        let now = self.now();
        let client = rules.limits.for_client(who, now);
        let capability = rules.limits.for_capability(what, now);
        Limits::check(&client, &capability, now).map_err(|limited| self.limited(&limited))?;
        match self.concurrency.try_acquire() {
            Some(permit) => record.permit = Some(permit),
            None => {
                let retry = std::time::Duration::from_secs(1);
                return Err(Failure::over(&self.metrics, LimitKind::Concurrency, "limits.in_flight", retry));
            }
        }
        Ok(())
    }

    fn limited(&self, limited: &Limited) -> Failure {
        self.metrics.limited(match limited.per {
            outrigger_policy::limit::Per::Client => LimitKind::ClientRate,
            outrigger_policy::limit::Per::Service => LimitKind::ServiceRate,
            outrigger_policy::limit::Per::Tool => LimitKind::ToolRate,
        });
        Failure::Limited {
            limit: limited.limit.to_string(),
            retry_after: limited.retry_after,
            service: Some(self.service.to_string()),
        }
    }
}

/// The answer for something that does not exist, and for something that the caller may not know of.
pub fn unknown(kind: CapabilityKind, name: &str) -> Failure {
    let kind = match kind {
        CapabilityKind::Tool => "tool",
        CapabilityKind::Prompt => "prompt",
        CapabilityKind::Resource | CapabilityKind::Template => "resource",
    };
    Failure::UnknownCapability { kind, name: name.to_owned() }
}

fn deny_reason(reason: outrigger_policy::DenyReason) -> DenyReason {
    match reason {
        outrigger_policy::DenyReason::Forbidden => DenyReason::Rule,
        outrigger_policy::DenyReason::NoRule => DenyReason::NoRule,
        outrigger_policy::DenyReason::NotAuthenticated => DenyReason::Identity,
        outrigger_policy::DenyReason::RequirementNotMet => DenyReason::Requirement,
        outrigger_policy::DenyReason::ConditionNotMet => DenyReason::Condition,
        outrigger_policy::DenyReason::ConditionFailed => DenyReason::ConditionFailed,
    }
}

/// What a message wants to use.
fn target(message: &Message) -> Result<Option<(CapabilityKind, Cow<'_, str>)>, Failure> {
    let missing =
        |what: &str| Failure::InvalidParams(format!("{} needs `params.{what}`, a string", message.method_name()));
    Ok(match message.method {
        Method::ToolsCall => Some((CapabilityKind::Tool, message.target().ok_or_else(|| missing("name"))?)),
        Method::PromptsGet => Some((CapabilityKind::Prompt, message.target().ok_or_else(|| missing("name"))?)),
        Method::ResourcesRead | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => {
            Some((CapabilityKind::Resource, message.target().ok_or_else(|| missing("uri"))?))
        }
        Method::CompletionComplete => Some(completion_target(message).ok_or_else(|| missing("ref"))?),
        _ => None,
    })
}

fn completion_target(message: &Message) -> Option<(CapabilityKind, Cow<'_, str>)> {
    let reference = message.params().get(Param::Ref)?;
    let text = |name| member(message.body(), reference, name).and_then(|span| decode_string(message.raw(span)));
    match text("type")?.as_ref() {
        "ref/prompt" => Some((CapabilityKind::Prompt, text("name")?)),
        "ref/resource" => Some((CapabilityKind::Template, text("uri")?)),
        _ => None,
    }
}
