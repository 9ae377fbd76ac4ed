//! A resolver for the server: it answers for names that the rules cover, and says of all others that they do not exist, so
//! that nothing is carried out inside names that are asked for. Only addresses are handed out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrigger_egress::dns::{A, AAAA, Code, Question, Wrong, question};
use outrigger_policy::egress::{Host, Name, Reason, Request, address};
use outrigger_runtime::{ListenOptions, Listener};
use outrigger_telemetry::metrics::DnsLimit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::credentials::Watch;
use super::record::Record;
use super::redirected::other_loopback;
use super::refusal::{Refusal, Why};
use super::resolve::ResolveError;
use super::target::{Target, Way};
use super::{Outbound, mesh};
use crate::config::Mode;
use crate::start::StartError;

/// The longest question that is read; real ones are under 300 bytes.
const LONGEST_QUESTION: usize = 1024;
/// Questions that are looked into at once, and connections that ask. More of the former are dropped, as networks do.
const AT_ONCE: usize = 256;
/// How long a connection may stay silent.
const IDLE: Duration = Duration::from_secs(10);
/// Seconds that the address of a service of the mesh is good: it never changes.
const MESH_TTL: u32 = 300;
/// Of answers over TCP.
const LONGEST_ANSWER: usize = 65_535;

/// The sockets of the resolver.
pub(super) struct Sockets {
    datagrams: Vec<Arc<UdpSocket>>,
    streams: Vec<Listener>,
}

impl Sockets {
    /// Binds UDP and TCP of one port, on both loopback addresses for redirected questions.
    pub(super) fn bind(at: SocketAddr, transparent: bool) -> Result<Self, StartError> {
        let mut sockets = Self { datagrams: Vec::new(), streams: Vec::new() };
        let first = sockets.add(at)?;
        if let Some(twin) = other_loopback(first).filter(|_| transparent)
            && let Err(error) = sockets.add(twin)
        {
            tracing::debug!(%error, "the resolver does not listen on the other loopback address");
        }
        Ok(sockets)
    }

    fn add(&mut self, at: SocketAddr) -> Result<SocketAddr, StartError> {
        const SETTING: &str = "egress.dns.listen";
        let stream = Listener::bind(ListenOptions::new(at, SETTING))?;
        let address = stream.address();
        let datagram = || {
            let socket = std::net::UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        };
        let failed =
            |error: std::io::Error| StartError::Other(format!("{SETTING}: cannot listen on {address}/udp: {error}"));
        self.datagrams.push(Arc::new(datagram().map_err(failed)?));
        self.streams.push(stream);
        Ok(address)
    }

    /// Where it listens first.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.streams.first().map(Listener::address)
    }

    /// Answers until `stop`.
    pub(super) fn serve(self, outbound: &Arc<Outbound>, tasks: &TaskTracker, stop: &CancellationToken) {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        for socket in self.datagrams {
            let asked = by_datagram(Arc::clone(outbound), socket, Arc::clone(&room));
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(asked).await });
        }
        for listener in self.streams {
            let asked = by_stream(Arc::clone(outbound), listener, Arc::clone(&room), stop.clone());
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(asked).await });
        }
    }
}

async fn by_datagram(outbound: Arc<Outbound>, socket: Arc<UdpSocket>, room: Arc<Semaphore>) {
    let mut buffer = [0; LONGEST_QUESTION];
    loop {
        // An error is about a datagram before: its sender is gone.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        if length == LONGEST_QUESTION {
            outbound.metrics.dns_limited(DnsLimit::Question);
            continue;
        }
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            outbound.metrics.dns_limited(DnsLimit::Busy);
            continue;
        };
        let message = buffer.get(..length).unwrap_or_default().to_vec();
        let (outbound, socket) = (Arc::clone(&outbound), Arc::clone(&socket));
        tokio::spawn(async move {
            if let Some(reply) = reply(&outbound, &message, None).await {
                // Lost datagrams are asked for again.
                let _ = socket.send_to(&reply, from).await;
            }
            drop(permit);
        });
    }
}

async fn by_stream(outbound: Arc<Outbound>, listener: Listener, room: Arc<Semaphore>, stop: CancellationToken) {
    loop {
        let (stream, _) = listener.accept().await;
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            outbound.metrics.dns_limited(DnsLimit::Busy);
            continue;
        };
        let (outbound, stop) = (Arc::clone(&outbound), stop.clone());
        tokio::spawn(async move {
            stop.run_until_cancelled(converse(&outbound, stream)).await;
            drop(permit);
        });
    }
}

/// One connection: each message has its length before it (RFC 1035 section 4.2.2).
async fn converse(outbound: &Arc<Outbound>, mut stream: TcpStream) {
    loop {
        let read = async {
            let length = usize::from(stream.read_u16().await.ok()?);
            if length >= LONGEST_QUESTION {
                outbound.metrics.dns_limited(DnsLimit::Question);
                return None;
            }
            let mut message = vec![0; length];
            stream.read_exact(&mut message).await.ok()?;
            Some(message)
        };
        let Ok(Some(message)) = tokio::time::timeout(IDLE, read).await else { return };
        let Some(reply) = reply(outbound, &message, Some(LONGEST_ANSWER)).await else { return };
        let Ok(length) = u16::try_from(reply.len()) else { return };
        let framed = [&length.to_be_bytes()[..], &reply].concat();
        if !matches!(tokio::time::timeout(IDLE, stream.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// The answer to one message; nothing for what deserves none. `limit` is how long it may be, unless the question says.
async fn reply(outbound: &Arc<Outbound>, message: &[u8], limit: Option<usize>) -> Option<Vec<u8>> {
    let question = match question(message) {
        Ok(question) => question,
        Err(Wrong::Silence) => return None,
        Err(Wrong::Answer(reply)) => return Some(reply),
    };
    let limit = limit.unwrap_or(usize::from(question.payload));
    let reply = match answer(outbound, &question).await {
        Ok((addresses, ttl)) => question.addresses(&addresses, ttl, limit),
        Err(code) => question.answer(code),
    };
    Some(reply).filter(|reply| !reply.is_empty())
}

/// The addresses of the name, if it may be asked for, and for how many seconds they are good.
async fn answer(outbound: &Arc<Outbound>, question: &Question) -> Result<(Vec<IpAddr>, u32), Code> {
    // What is no host name is nobody's name.
    let text = question.name.as_deref().ok_or(Code::NoName)?;
    let Ok(Host::Name(name)) = Host::parse(text) else { return Err(Code::NoName) };
    // A service of the mesh is reached through the proxy, and its name is nobody's business outside.
    let in_mesh = name.in_mesh().is_some();
    if in_mesh && !outbound.settings.transparent {
        return Err(Code::NoName);
    }
    let in_force = outbound.in_force();
    let enforced = in_force.mode == Mode::Enforce;
    let behind = outbound.calls.behind();
    let names = behind.names();
    match in_force.rules.names(&name, behind.as_tools(&names)) {
        Ok(_) if in_mesh => {}
        Ok(destination) if enforced => outbound.resolver.permit(destination, &name).map_err(|limit| {
            tell(outbound, &name).refused(&Why::Below(limit).into());
            // It may exist: nobody is to remember that it does not.
            Code::Refused
        })?,
        Ok(_) => {}
        Err(reason) => {
            let refused = Refusal::from(Why::Rules(reason, false));
            if enforced {
                tell(outbound, &name).refused(&refused);
                // What is for other tools exists, later perhaps: nobody is to remember that it does not.
                return Err(if reason == Reason::Host { Code::NoName } else { Code::Refused });
            }
            tell(outbound, &name).observed(&refused);
        }
    }
    if let Err(why) = Watch::over_name(&in_force, &name) {
        tell(outbound, &name).refused(&why.into());
        return Err(Code::Refused);
    }
    // No other types: they carry text, or keys that would hide a name from us.
    if question.kind != A && question.kind != AAAA {
        return Ok((Vec::new(), 0));
    }
    if in_mesh {
        return Ok((vec![mesh::ADDRESS.into()], MESH_TTL));
    }
    match outbound.resolver.lookup(&name).await {
        Ok(found) => {
            let ttl = found.until.saturating_duration_since(Instant::now()).as_secs();
            Ok((guarded(outbound, &name, &found.addresses), u32::try_from(ttl).unwrap_or(u32::MAX)))
        }
        Err(ResolveError::NoAddress) => Err(Code::NoName),
        Err(ResolveError::Failed(_) | ResolveError::Timeout) => Err(Code::Failed),
    }
}

/// Without the addresses that no rule names: a name that leads inside leads nowhere.
fn guarded(outbound: &Arc<Outbound>, name: &Name, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let in_force = outbound.in_force();
    let named = in_force.rules.rules().iter().flat_map(|rule| &rule.addresses);
    let (good, special): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address::check(*address, named.clone()).is_ok());
    if let Some(first) = special.first()
        && let Err(why) = address::check(*first, named)
    {
        tell(outbound, name).refused(&Why::Rules(Reason::Address(*first, why), false).into());
    }
    good
}

fn tell(outbound: &Arc<Outbound>, name: &Name) -> Record {
    let mut record = Record::begin(outbound, Way::Dns);
    record.wants(&Target { host: Host::Name(name.clone()), port: 53 }, Request::Sealed);
    record
}
