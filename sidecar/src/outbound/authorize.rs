//! authorize: the rules, one look-up, the guard over every address; the only maker of [`Permitted`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrigger_policy::egress::{Ask, Denied, Host, Over, Reason, Request, Tools, address};
use outrigger_policy::{ConcurrencyPermit, RuleId};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::credentials::Watch;
use super::identify::Behind;
use super::in_force::InForce;
use super::mesh;
use super::refusal::{Refusal, Why};
use super::upload::Upload;
use super::wire::Wire;
use super::{Outbound, target::Target};
use crate::config::Mode;

/// The port of services of the mesh, whose names stand for plain requests.
const PLAIN_HTTP: u16 = 80;

/// Proof that a destination was allowed, with the addresses that were checked. Dialling asks for it.
#[derive(Debug)]
pub struct Permitted {
    pub(super) addresses: Arc<[IpAddr]>,
    pub(super) target: Target,
    /// The rules that allowed it.
    pub(super) in_force: Arc<InForce>,
    /// Whether its rule is for some tools.
    pub(super) for_tools: bool,
    /// The bytes that it may send.
    pub upload: Upload,
    /// Its place among those of its rule that are open.
    _place: Option<ConcurrencyPermit>,
    /// The limit that it is over, were limits enforced.
    pub over: Option<Over>,
    /// The rule that allowed it, or came nearest.
    pub rule: Option<RuleId>,
    /// The destination as the rule writes it, for metrics.
    pub label: Option<Arc<str>>,
    /// Why it would have been refused, were the rules enforced.
    pub observed: Option<Reason>,
    /// Whether anything but TLS may go through a tunnel.
    pub raw: bool,
    /// Whether TLS may hide its name.
    pub ech: bool,
    /// Whether a tunnel is read inside.
    pub inspect: bool,
    /// Whether its rule asks for methods or paths.
    pub(super) reads_requests: bool,
}

impl Permitted {
    /// The rule that allowed it, where one did.
    pub(super) fn own_rule(&self) -> Option<&RuleId> {
        self.rule.as_ref().filter(|_| self.observed.is_none())
    }

    /// The watch over placeholders in what goes there.
    pub(super) fn watch(&self) -> Watch<'_> {
        Watch::new(&self.in_force, self.own_rule())
    }
}

impl Outbound {
    /// Decides about a destination.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was dialled then, and nothing looked up that no rule names.
    pub async fn admit(&self, target: &Target, behind: &Behind, request: Request<'_>) -> Result<Permitted, Refusal> {
        let names = behind.names();
        let tools = behind.as_tools(&names);
        let known: &[IpAddr] = match &target.host {
            Host::Address(address) => std::slice::from_ref(address),
            Host::Name(_) => &[],
        };
        let ask = Ask { host: &target.host, port: target.port, tools, request, addresses: known };
        let in_force = self.in_force();
        let enforced = in_force.mode == Mode::Enforce;
        let before = in_force.rules.decide(&ask);
        if let Err(denied) = &before
            && (enforced || matches!(denied.reason, Reason::Address(..)))
        {
            return Err(refused(denied, behind));
        }
        let addresses = match &target.host {
            // Its sidecar is found by settings, and proves who it is.
            _ if mesh::service(target).is_some() => [].into(),
            Host::Address(address) => [*address].into(),
            Host::Name(name) => {
                let rule = before.as_ref().map_or_else(|denied| denied.nearest, |allowed| Some(&allowed.rule.id));
                let refused = |why| Refusal { why, rule: rule.cloned() };
                Watch::over_name(&in_force, name).map_err(refused)?;
                if let (Ok(allowed), true) = (&before, enforced) {
                    self.resolver.permit(allowed.destination, name).map_err(|limit| refused(Why::Below(limit)))?;
                }
                let found = self.resolver.lookup(name).await;
                found.map_err(|error| refused(Why::Resolve(error)))?.addresses
            }
        };
        if addresses.iter().any(|address| SocketAddr::new(*address, target.port) == self.address) {
            return Err(Why::Ourselves.into());
        }
        match in_force.rules.decide(&Ask { addresses: &addresses, ..ask }) {
            Ok(allowed) => {
                let meter = in_force.meter(&allowed);
                let entered = meter.as_ref().map_or(Ok(None), |meter| meter.enter(self.now()));
                let (place, over) = match entered {
                    Ok(place) => (place, None),
                    Err(over) if enforced => {
                        return Err(Refusal { why: Why::Over(over), rule: Some(allowed.rule.id.clone()) });
                    }
                    Err(over) => (None, Some(over)),
                };
                Ok(Permitted {
                    addresses,
                    target: target.clone(),
                    in_force: Arc::clone(&in_force),
                    for_tools: !allowed.rule.tools.is_empty(),
                    upload: Upload::new(meter, enforced, self.started),
                    _place: place,
                    over,
                    rule: Some(allowed.rule.id.clone()),
                    label: in_force.label(&allowed),
                    observed: None,
                    raw: allowed.rule.raw,
                    ech: allowed.rule.ech,
                    inspect: allowed.rule.inspect && request == Request::Sealed,
                    reads_requests: allowed.rule.reads_requests(),
                })
            }
            Err(denied) if !enforced => self.observed(&denied, addresses, target, &in_force),
            Err(denied) => Err(refused(&denied, behind)),
        }
    }

    /// What is let through although no rule allows it. The guard over addresses is never only observed.
    fn observed(
        &self,
        denied: &Denied<'_>,
        addresses: Arc<[IpAddr]>,
        target: &Target,
        in_force: &Arc<InForce>,
    ) -> Result<Permitted, Refusal> {
        for address in &*addresses {
            if let Err(special) = address::check(*address, std::iter::empty()) {
                let why = Why::Rules(Reason::Address(*address, special), false);
                return Err(Refusal { why, rule: denied.nearest.cloned() });
            }
        }
        Ok(Permitted {
            addresses,
            target: target.clone(),
            in_force: Arc::clone(in_force),
            for_tools: false,
            upload: Upload::new(None, false, self.started),
            _place: None,
            over: None,
            rule: denied.nearest.cloned(),
            label: None,
            observed: Some(denied.reason),
            raw: true,
            ech: true,
            inspect: false,
            reads_requests: false,
        })
    }

    /// Whether requests inside a tunnel to this target will be read one by one, each to be decided by itself: in the clear, to
    /// a service that some rule names.
    pub(super) fn is_open_inside(&self, target: &Target) -> bool {
        let Host::Name(name) = &target.host else { return false };
        let in_force = self.in_force();
        let named = !matches!(in_force.rules.names(name, Tools::Outside), Err(Reason::Host));
        let may_be = in_force.mode == Mode::Observe || named;
        name.in_mesh().is_some() && target.port == PLAIN_HTTP && may_be
    }

    /// forward, first half: connects to the destination of a request that was read, a service of the mesh or an address that
    /// was checked.
    pub(super) async fn open(
        &self,
        target: &Target,
        permitted: &Permitted,
        tls: bool,
    ) -> Result<(Wire, Option<IpAddr>), Refusal> {
        let Some(service) = mesh::service(target) else {
            let (wire, address) = self.dial(permitted).await?;
            let wire = if tls { self.secure(wire, target, permitted).await? } else { wire };
            return Ok((wire, Some(address)));
        };
        let dialled = match &self.services {
            Some(services) => services.dial(service, self.settings.timeouts.connect, &self.metrics).await,
            None => Err(Why::NoService(service.to_owned())),
        };
        let wire = dialled.map_err(|why| Refusal { why, rule: permitted.rule.clone() })?;
        Ok((wire, None))
    }

    async fn secure(&self, wire: Wire, target: &Target, permitted: &Permitted) -> Result<Wire, Refusal> {
        let refused = |why| Refusal { why, rule: permitted.rule.clone() };
        let inspection = self.inspection.as_ref().ok_or_else(|| refused(Why::NotInspecting))?;
        let begun = Instant::now();
        let secured = tokio::time::timeout(self.settings.timeouts.connect, inspection.connect(wire, target)).await;
        let secured = secured
            .map_err(|_elapsed| refused(Why::Connect(io::ErrorKind::TimedOut.into())))?
            .map_err(|error| refused(Why::Tls(error)))?;
        self.metrics.shook_hands(begun.elapsed());
        Ok(secured)
    }

    /// Connects to an address that was checked.
    ///
    /// # Errors
    /// [`Why::Connect`], [`Why::Resting`].
    pub(super) async fn dial(&self, permitted: &Permitted) -> Result<(Wire, IpAddr), Refusal> {
        let refused = |why| Refusal { why, rule: permitted.rule.clone() };
        self.breakers.admit(&permitted.target, self.now()).map_err(|wait| refused(Why::Resting(wait)))?;
        let connected = self.connect(permitted).await;
        match &connected {
            Ok(_) => self.breakers.succeeded(&permitted.target),
            Err(_) => self.breakers.failed(&permitted.target, self.now()),
        }
        connected.map_err(|error| refused(Why::Connect(error)))
    }

    async fn connect(&self, permitted: &Permitted) -> io::Result<(Wire, IpAddr)> {
        let begun = Instant::now();
        let within = self.settings.timeouts.connect;
        // A dead address must leave time for the next one.
        let each = within / u32::try_from(permitted.addresses.len().clamp(1, 3)).unwrap_or(1);
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for address in &*permitted.addresses {
            let left = within.saturating_sub(begun.elapsed());
            if left == Duration::ZERO {
                break;
            }
            match tokio::time::timeout(each.min(left), TcpStream::connect((*address, permitted.target.port))).await {
                Ok(Ok(stream)) => {
                    // Fails only on a connection that is dead already.
                    let _ = stream.set_nodelay(true);
                    self.metrics.connected(begun.elapsed());
                    return Ok((stream.into(), *address));
                }
                Ok(Err(error)) => last = error,
                Err(_elapsed) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }
}

/// Why the rules said no.
pub(super) fn refused(denied: &Denied<'_>, behind: &Behind) -> Refusal {
    if denied.reason == Reason::Tool && behind.uncertain() {
        return Refusal { why: Why::Uncertain, rule: denied.nearest.cloned() };
    }
    Refusal { why: Why::Rules(denied.reason, denied.apex), rule: denied.nearest.cloned() }
}
