//! record: runs once per connection, or per request where requests can be read; metrics and the egress log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_egress::request::{Field, named};
use outrigger_policy::egress::{Host, Request};
use outrigger_telemetry::metrics::{EgressLabels, EgressVerdict, OpenGuard};
use outrigger_telemetry::{EgressRecord, RefusedEgress, TraceContext};
use tokio::time::Instant;

use super::Outbound;
use super::authorize::Permitted;
use super::identify::Behind;
use super::in_force::InForce;
use super::passes::ChildId;
use super::refusal::{Refusal, Why};
use super::target::{Target, Way};

/// One connection or request being measured; written when it is dropped.
pub struct Record {
    outbound: Arc<Outbound>,
    begun: Instant,
    way: Way,
    host: Arc<str>,
    port: u16,
    mixed_scripts: bool,
    method: Option<Arc<str>>,
    behind: Behind,
    /// The span of this connection or request: a child of the call, where that is certain.
    pub span: TraceContext,
    verdict: EgressVerdict,
    reason: Option<&'static str>,
    rule: Option<Arc<str>>,
    label: Option<Arc<str>>,
    in_force: Arc<InForce>,
    /// The address that was dialled.
    pub address: Option<IpAddr>,
    /// Bytes to the destination.
    pub up: u64,
    /// Bytes from it.
    pub down: u64,
    _open: OpenGuard,
}

impl Record {
    /// Begins to measure. What is behind it is looked up now: the call may be over before the connection is.
    pub fn begin(outbound: &Arc<Outbound>, way: Way) -> Self {
        let behind = outbound.calls.behind();
        Self {
            outbound: Arc::clone(outbound),
            begun: Instant::now(),
            way,
            host: Arc::default(),
            port: 0,
            mixed_scripts: false,
            method: None,
            span: behind.trace().map_or_else(|| TraceContext::under(None), |call| call.child()),
            behind,
            verdict: EgressVerdict::Invalid,
            reason: None,
            rule: None,
            label: None,
            in_force: outbound.in_force(),
            address: None,
            up: 0,
            down: 0,
            _open: outbound.metrics.open(),
        }
    }

    /// The calls behind it.
    pub fn behind(&self) -> &Behind {
        &self.behind
    }

    /// The host, as far as it is known.
    pub fn asked_for(&self) -> &str {
        &self.host
    }

    /// The host as it was written, for what cannot be read.
    pub fn wrote(&mut self, host: &str, port: u16) {
        self.host = host.chars().filter(|c| !c.is_control()).take(256).collect::<String>().into();
        self.port = port;
    }

    /// Where it wants to go, and with which request.
    pub fn wants(&mut self, target: &Target, request: Request<'_>) {
        self.host = target.host.to_string().into();
        self.port = target.port;
        self.mixed_scripts = matches!(&target.host, Host::Name(name) if name.mixes_scripts());
        if let Request::Read { method, .. } = request {
            self.method = Some(method.into());
        }
    }

    /// It comes from this child: it belongs to the calls that this one serves.
    pub fn comes_from(&mut self, child: Option<ChildId>) {
        if child != self.behind.child() {
            self.behind = self.outbound.calls.behind_child(child);
            self.span = self.behind.trace().map_or_else(|| TraceContext::under(None), |call| call.child());
        }
    }

    /// Its fields can be read: where they show a trace of a call at work, it belongs to that one.
    pub fn traced(&mut self, fields: &[Field<'_>]) {
        let mut shown = named(fields, "traceparent");
        if let (Some(value), None) = (shown.next(), shown.next())
            && let Some(trace) = TraceContext::parse(value)
        {
            self.behind.narrow(&trace);
            if let Some(call) = self.behind.trace().filter(|call| !call.same_trace(&self.span)) {
                self.span = call.child();
            }
        }
    }

    /// It was let through.
    pub fn permitted(&mut self, permitted: &Permitted) {
        let (tallies, shared) = self.behind.tallies();
        tallies.iter().for_each(|tally| tally.allowed(shared));
        self.in_force = Arc::clone(&permitted.in_force);
        self.verdict = if permitted.observed.is_some() { EgressVerdict::Observed } else { EgressVerdict::Allowed };
        self.reason = permitted.observed.map(|reason| reason.as_str());
        if let Some(over) = permitted.over {
            (self.verdict, self.reason) = (EgressVerdict::Observed, Some(over.as_str()));
        }
        self.rule = permitted.rule.as_ref().map(|rule| rule.as_str().into());
        self.label.clone_from(&permitted.label);
    }

    /// A tunnel was entered, whose requests have records of their own.
    pub fn entered(&mut self) {
        self.verdict = EgressVerdict::Allowed;
    }

    /// It was not, or not to its end.
    pub fn refused(&mut self, refusal: &Refusal) {
        let told = refusal.why.told();
        (self.verdict, self.reason) = (told.verdict, Some(told.reason));
        if matches!(told.verdict, EgressVerdict::Denied | EgressVerdict::Limited) {
            let (tallies, shared) = self.behind.tallies();
            for tally in tallies {
                let rule = refusal.rule.as_ref().map(|rule| rule.as_str().into());
                let (host, port, reason) = (Arc::clone(&self.host), self.port, told.reason);
                tally.refused(RefusedEgress { host, port, reason, rule }, shared);
            }
        }
        if let Some(rule) = &refusal.rule {
            self.rule = Some(rule.as_str().into());
        }
        if let Some(denied) = told.denied {
            self.outbound.denied(denied);
        }
        if told.verdict == EgressVerdict::Limited {
            self.outbound.limited();
        }
    }

    /// It is done: a limit of bytes that it passed on the way cut it off, or would have.
    pub fn sent(&mut self, permitted: &Permitted) {
        let Some(over) = permitted.upload.over() else { return };
        let refusal = Refusal { why: Why::Over(over), rule: permitted.rule.clone() };
        if permitted.upload.enforced() { self.refused(&refusal) } else { self.observed(&refusal) }
    }

    /// It would have been, were the rules enforced.
    pub fn observed(&mut self, refusal: &Refusal) {
        (self.verdict, self.reason) = (EgressVerdict::Observed, Some(refusal.why.told().reason));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let rule = self.in_force.rule_label(self.rule.as_deref());
        let labels = EgressLabels { tools: &self.behind.tools, host: self.label.as_deref(), rule };
        self.outbound.metrics.record(&labels, self.verdict, self.up, self.down);
        if !self.outbound.log.enabled() {
            return;
        }
        self.outbound.log.record(EgressRecord {
            time: SystemTime::now(),
            event: "egress",
            service: Arc::clone(&self.outbound.service),
            way: self.way.as_str(),
            host: Arc::clone(&self.host),
            port: self.port,
            address: self.address,
            method: self.method.take(),
            tools: std::mem::take(&mut self.behind.tools),
            verdict: self.verdict,
            reason: self.reason,
            rule: self.rule.take(),
            mixed_scripts: self.mixed_scripts,
            bytes_up: self.up,
            bytes_down: self.down,
            duration: self.begun.elapsed(),
            trace: self.span,
            span: self.span,
            parent: self.behind.trace(),
        });
    }
}
