//! authorize: the rules, one look-up, the guard over every address; the only maker of [`Permitted`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrigger_policy::RuleId;
use outrigger_policy::egress::{Ask, Denied, Host, Reason, Request, Tools, address};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::identify::Behind;
use super::refusal::{Refusal, Why};
use super::{Outbound, target::Target};
use crate::config::Mode;

/// Proof that a destination was allowed, with the addresses that were checked. Dialling asks for it.
#[derive(Debug)]
pub struct Permitted {
    addresses: Arc<[IpAddr]>,
    port: u16,
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
}

impl Outbound {
    /// Decides about a destination.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was dialled then, and nothing looked up that no rule names.
    pub async fn admit(&self, target: &Target, behind: &Behind, request: Request<'_>) -> Result<Permitted, Refusal> {
        let names = behind.names();
        let tools = if names.is_empty() { Tools::Outside } else { Tools::Among(&names) };
        let known: &[IpAddr] = match &target.host {
            Host::Address(address) => std::slice::from_ref(address),
            Host::Name(_) => &[],
        };
        let ask = Ask { host: &target.host, port: target.port, tools, request, addresses: known };
        let before = self.settings.rules.decide(&ask);
        if let Err(denied) = &before
            && (self.settings.mode == Mode::Enforce || matches!(denied.reason, Reason::Address(..)))
        {
            return Err(refused(denied));
        }
        let addresses = match &target.host {
            Host::Address(address) => [*address].into(),
            Host::Name(name) => {
                let rule = before.as_ref().map_or_else(|denied| denied.nearest, |allowed| Some(&allowed.rule.id));
                let refused = |why| Refusal { why, rule: rule.cloned() };
                if let (Ok(allowed), Mode::Enforce) = (&before, self.settings.mode) {
                    self.resolver.permit(allowed.destination, name).map_err(|limit| refused(Why::Below(limit)))?;
                }
                let found = self.resolver.lookup(name).await;
                found.map_err(|error| refused(Why::Resolve(error)))?.addresses
            }
        };
        if addresses.iter().any(|address| SocketAddr::new(*address, target.port) == self.address) {
            return Err(Why::Ourselves.into());
        }
        match self.settings.rules.decide(&Ask { addresses: &addresses, ..ask }) {
            Ok(allowed) => Ok(Permitted {
                addresses,
                port: target.port,
                rule: Some(allowed.rule.id.clone()),
                label: self.label(allowed.destination),
                observed: None,
                raw: allowed.rule.raw,
                ech: allowed.rule.ech,
            }),
            Err(denied) if self.settings.mode == Mode::Observe => observed(&denied, addresses, target.port),
            Err(denied) => Err(refused(&denied)),
        }
    }

    /// forward, first half: connects to an address that was checked.
    ///
    /// # Errors
    /// [`Why::Connect`].
    pub async fn dial(&self, permitted: &Permitted) -> Result<(TcpStream, IpAddr), Refusal> {
        let begun = Instant::now();
        let within = self.settings.timeouts.connect;
        // A dead address must leave time for the next one.
        let each = within / u32::try_from(permitted.addresses.len().clamp(1, 3)).unwrap_or(1);
        let mut last = std::io::Error::from(std::io::ErrorKind::TimedOut);
        for address in &*permitted.addresses {
            let left = within.saturating_sub(begun.elapsed());
            if left == Duration::ZERO {
                break;
            }
            match tokio::time::timeout(each.min(left), TcpStream::connect((*address, permitted.port))).await {
                Ok(Ok(stream)) => {
                    // Fails only on a connection that is dead already.
                    let _ = stream.set_nodelay(true);
                    self.metrics.connected(begun.elapsed());
                    return Ok((stream, *address));
                }
                Ok(Err(error)) => last = error,
                Err(_elapsed) => last = std::io::ErrorKind::TimedOut.into(),
            }
        }
        Err(Refusal { why: Why::Connect(last), rule: permitted.rule.clone() })
    }
}

fn refused(denied: &Denied<'_>) -> Refusal {
    Refusal { why: Why::Rules(denied.reason, denied.apex), rule: denied.nearest.cloned() }
}

/// What is let through although no rule allows it. The guard over addresses is never only observed.
fn observed(denied: &Denied<'_>, addresses: Arc<[IpAddr]>, port: u16) -> Result<Permitted, Refusal> {
    for address in &*addresses {
        if let Err(special) = address::check(*address, std::iter::empty()) {
            let why = Why::Rules(Reason::Address(*address, special), false);
            return Err(Refusal { why, rule: denied.nearest.cloned() });
        }
    }
    let (rule, observed) = (denied.nearest.cloned(), Some(denied.reason));
    Ok(Permitted { addresses, port, rule, label: None, observed, raw: true, ech: true })
}
