//! The HTTP proxy: CONNECT, and plain requests in absolute form, one after the other on each connection.

mod exchange;
mod heads;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use outrigger_egress::request::{self, Authority, Framing};
use outrigger_policy::egress::{Host, Reason, Request};

use super::Outbound;
use super::authorize::Permitted;
use super::credentials::{self, Added};
use super::io::{drain, linger, read_into, write_all, write_last};
use super::mesh;
use super::passes::{ChildId, shown};
use super::record::Record;
use super::refusal::{Refusal, Why};
use super::target::{Target, Way};
use super::wire::Wire;

/// The port of a plain request that names none.
const HTTP: u16 = 80;
/// The same inside TLS; nothing is said in the clear there.
const HTTPS: u16 = 443;

/// To whom the client believes it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spoken {
    /// To its proxy.
    ToProxy,
    /// To a server whose port it dialled; the kernel redirected it.
    ToServer(u16, Option<ChildId>),
    /// To a server, through a tunnel; whether that is TLS, read here.
    Inside(Opened, bool),
}

/// A tunnel that is read inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opened {
    /// Where it was opened to.
    pub(super) target: Target,
    pub(super) way: Way,
    /// The child that opened it, where that is known.
    pub(super) child: Option<ChildId>,
}

impl Spoken {
    fn way(&self) -> Way {
        match self {
            Spoken::ToProxy => Way::Forward,
            Spoken::ToServer(..) => Way::Transparent,
            Spoken::Inside(opened, _) => opened.way,
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(outbound: &Arc<Outbound>, client: Wire, mut buffer: Vec<u8>, mut spoken: Spoken) {
    loop {
        let head = match read_head(outbound, &client, &mut buffer).await {
            Ok(Some(head)) => head,
            Ok(None) => return,
            Err(why) => {
                let mut record = Record::begin(outbound, spoken.way());
                return refuse(outbound, &client, &why.into(), &mut record).await;
            }
        };
        let mut conversation = Conversation { outbound, client: &client, buffer: &mut buffer, spoken: &spoken };
        match conversation.request(&head).await {
            Next::Request => {}
            Next::Inside(opened) => spoken = Spoken::Inside(opened, false),
            Next::Inspect(opened, permitted) => {
                return enter(outbound, client, buffer, opened, *permitted).await;
            }
            Next::Close => return linger(&client).await,
            Next::Over => return,
        }
    }
}

/// Goes inside a tunnel that was opened to a target, and whose TLS a rule says to read. `buffer` holds what was read already.
pub(super) async fn enter(
    outbound: &Arc<Outbound>,
    client: Wire,
    mut buffer: Vec<u8>,
    opened: Opened,
    permitted: Permitted,
) {
    let why = match outbound.inside(client, &mut buffer, &opened.target, &permitted).await {
        Ok(inside) => {
            // What it was entered with, it does not need any longer.
            drop((permitted, buffer));
            return Box::pin(serve(outbound, inside, Vec::new(), Spoken::Inside(opened, true))).await;
        }
        Err(why) => why,
    };
    let mut record = Record::begin(outbound, opened.way);
    record.comes_from(opened.child);
    record.wants(&opened.target, Request::Sealed);
    record.refused(&Refusal { why, rule: permitted.rule });
}

/// What comes after a request.
enum Next {
    /// Another one.
    Request,
    /// Requests to this server, in the tunnel that was opened to it.
    Inside(Opened),
    /// TLS to this server, to be read inside.
    Inspect(Opened, Box<Permitted>),
    /// The connection is closed, the last reply being on its way.
    Close,
    /// The connection is over.
    Over,
}

/// One connection of a client.
struct Conversation<'c> {
    outbound: &'c Arc<Outbound>,
    client: &'c Wire,
    /// Read and not understood yet.
    buffer: &'c mut Vec<u8>,
    spoken: &'c Spoken,
}

impl Conversation<'_> {
    async fn request(&mut self, head: &[u8]) -> Next {
        let outbound = self.outbound;
        let connect = head.starts_with(b"CONNECT ") && *self.spoken == Spoken::ToProxy;
        let mut record = Record::begin(outbound, if connect { Way::Connect } else { self.spoken.way() });
        let asked = request::parse(head).map_err(|error| Why::BadRequest(error).into());
        let outcome: Result<Next, Refusal> = match asked {
            Ok(asked) => self.asked(&asked, connect, &mut record).await,
            Err(refusal) => Err(refusal),
        };
        match outcome {
            Ok(next) => next,
            // Who asks for a tunnel waits for the answer, and has sent nothing that a close would turn into a reset.
            Err(refusal) if connect && self.buffer.is_empty() => {
                reply(outbound, self.client, &refusal, &mut record).await;
                Next::Over
            }
            Err(refusal) => {
                refuse(outbound, self.client, &refusal, &mut record).await;
                Next::Over
            }
        }
    }

    async fn asked(
        &mut self,
        asked: &request::Request<'_>,
        connect: bool,
        record: &mut Record,
    ) -> Result<Next, Refusal> {
        let wanted = target(asked, self.spoken, record);
        record.comes_from(self.child(asked).await?);
        let (target, path) = wanted?;
        if connect { self.connect(&target, record).await } else { self.forward(asked, &target, &path, record).await }
    }

    /// identify: the child that sent the request, where children are told apart.
    async fn child(&self, asked: &request::Request<'_>) -> Result<Option<ChildId>, Why> {
        match self.spoken {
            Spoken::ToProxy => {
                let mut decoded = Vec::new();
                self.outbound.child(shown(&asked.fields, &mut decoded), self.client, None).await
            }
            Spoken::ToServer(_, child) => Ok(*child),
            Spoken::Inside(opened, _) => Ok(opened.child),
        }
    }

    fn opened(target: &Target, record: &Record) -> Opened {
        Opened { target: target.clone(), way: Way::Connect, child: record.behind().child() }
    }

    async fn connect(&mut self, target: &Target, record: &mut Record) -> Result<Next, Refusal> {
        let outbound = self.outbound;
        record.wants(target, Request::Sealed);
        if outbound.is_open_inside(target) {
            record.entered();
            let answered = write_all(self.client, heads::CONNECTED).await;
            return Ok(answered.map_or(Next::Over, |()| Next::Inside(Self::opened(target, record))));
        }
        let permitted = outbound.admit(target, record.behind(), Request::Sealed).await?;
        if permitted.inspect {
            record.permitted(&permitted);
            let answered = write_all(self.client, heads::CONNECTED).await;
            return Ok(
                answered.map_or(Next::Over, |()| Next::Inspect(Self::opened(target, record), Box::new(permitted)))
            );
        }
        let (origin, address) = outbound.dial(&permitted).await?;
        record.permitted(&permitted);
        record.address = Some(address);
        if write_all(self.client, heads::CONNECTED).await.is_ok() {
            let said = std::mem::take(self.buffer);
            outbound.tunnel((self.client, &origin), said, target, &permitted, record).await;
        }
        Ok(Next::Over)
    }

    async fn forward(
        &mut self,
        asked: &request::Request<'_>,
        target: &Target,
        path: &str,
        record: &mut Record,
    ) -> Result<Next, Refusal> {
        let outbound = self.outbound;
        let request = Request::Read { method: asked.method, path };
        let tls = matches!(self.spoken, Spoken::Inside(_, true));
        record.wants(target, request);
        record.traced(&asked.fields);
        let mut permitted = outbound.admit(target, record.behind(), request).await?;
        if mesh::service(target).is_some() && !mesh::is_open(path) {
            return Err(Refusal { why: Why::Rules(Reason::Request, false), rule: permitted.rule });
        }
        if target.port == HTTPS && !tls && !permitted.raw && permitted.observed.is_none() {
            return Err(Refusal { why: Why::NotTls, rule: permitted.rule });
        }
        if permitted.reads_requests && heads::means_another(asked) {
            if permitted.upload.enforced() {
                return Err(Refusal { why: Why::Rules(Reason::Request, false), rule: permitted.rule });
            }
            permitted.observed = Some(Reason::Request);
        }
        let added = self.credentials(asked, path, tls, &permitted).await?;
        let (origin, address) = outbound.open(target, &permitted, tls).await?;
        record.permitted(&permitted);
        record.address = address;
        let head = heads::request(asked, target, (path, tls), &record.span, &added);
        let exchange = exchange::Exchange {
            client: self.client,
            origin: &origin,
            method: asked.method,
            framing: asked.framing,
            keep_alive: asked.keep_alive,
            times: &outbound.settings.timeouts,
            permitted: &permitted,
            replying: AtomicBool::new(false),
        };
        let done = exchange.run(&head, self.buffer, record).await;
        if done.is_ok() {
            record.sent(&permitted);
        }
        match done {
            Ok(true) => Ok(Next::Request),
            Ok(false) => Ok(Next::Close),
            Err(why) => Err(Refusal { why, rule: permitted.rule }),
        }
    }
}

impl Conversation<'_> {
    /// What the request gets on its way out; what stands for the secrets of others must not be in it.
    async fn credentials(
        &self,
        asked: &request::Request<'_>,
        path: &str,
        tls: bool,
        permitted: &Permitted,
    ) -> Result<Vec<Added>, Refusal> {
        let refused = |why| Refusal { why, rule: permitted.rule.clone() };
        permitted.watch().over_head(asked, path).map_err(refused)?;
        match permitted.own_rule() {
            // Those of the very rules that permitted it.
            Some(rule) => credentials::added(&permitted.in_force.credentials, rule, tls, asked).await.map_err(refused),
            None => Ok(Vec::new()),
        }
    }
}

/// Where a request wants to go, and its path. `Host` must say the same.
fn target(asked: &request::Request<'_>, spoken: &Spoken, record: &mut Record) -> Result<(Target, String), Refusal> {
    let to_server = match spoken {
        Spoken::ToProxy => None,
        Spoken::ToServer(port, _) | Spoken::Inside(Opened { target: Target { port, .. }, .. }, _) => Some(*port),
    };
    let (authority, path) = match (asked.target, to_server) {
        (request::Target::Connect(authority), None) => (authority, String::new()),
        (request::Target::Absolute { authority, path }, None) => (authority, path.to_owned()),
        (request::Target::Origin { path }, Some(port)) => {
            let host = asked.host.ok_or(Why::BadRequest(request::BadRequest::Host))?;
            // The port that counts is the one that was dialled.
            (Authority { host: host.host, port: Some(port) }, path.to_owned())
        }
        (request::Target::Origin { .. }, None) => return Err(Why::NotProxied.into()),
        (request::Target::Connect(_) | request::Target::Absolute { .. }, Some(_)) => {
            return Err(Why::BadRequest(request::BadRequest::Target).into());
        }
    };
    let port = authority.port.unwrap_or(HTTP);
    record.wrote(authority.host, port);
    let target = Target::parse(authority.host, port).map_err(Why::Host)?;
    if let Spoken::Inside(opened, _) = spoken
        && opened.target != target
    {
        return Err(Why::HostMismatch.into());
    }
    if let Some(host) = asked.host {
        let same_host = Host::parse(host.host).is_ok_and(|host| host == target.host);
        let expected = if authority.port.is_none() { HTTP } else { port };
        // A CONNECT may leave the port out of Host; a request's own port is 80.
        let same_port = host.port.map_or(path.is_empty() || expected == HTTP || to_server.is_some(), |own| own == port);
        if !same_host || !same_port {
            return Err(Why::HostMismatch.into());
        }
    }
    // RFC 9112 section 3.2.1: an empty path is written as `/`.
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    Ok((target, path))
}

/// Reads one head. `None`: the client is done.
async fn read_head(outbound: &Outbound, client: &Wire, buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Why> {
    let times = &outbound.settings.timeouts;
    if buffer.is_empty() {
        match within(times.idle, read_into(client, buffer)).await {
            Some(Ok(read)) if read > 0 => {}
            _ => return Ok(None),
        }
    }
    let most = outbound.settings.limits.header_bytes;
    let reading = async {
        loop {
            if let Some(end) = request::end(buffer) {
                if end > most {
                    return Err(Why::TooLarge);
                }
                let rest = buffer.split_off(end);
                return Ok(Some(std::mem::replace(buffer, rest)));
            }
            if buffer.len() > most {
                return Err(Why::TooLarge);
            }
            match read_into(client, buffer).await {
                Ok(read) if read > 0 => {}
                // In the middle of a head: nobody waits for an answer.
                Ok(_) | Err(_) => return Ok(None),
            }
        }
    };
    within(times.header, reading).await.unwrap_or(Err(Why::TooSlow))
}

async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, work).await.ok()
}

/// reply and record, for what was refused. The connection ends: what follows may be the body of what was refused.
async fn refuse(outbound: &Outbound, client: &Wire, refusal: &Refusal, record: &mut Record) {
    if reply(outbound, client, refusal, record).await {
        drain(client).await;
    }
}

/// Says that it was refused, and why, and nothing after that. `false`: the client is gone.
async fn reply(outbound: &Outbound, client: &Wire, refusal: &Refusal, record: &mut Record) -> bool {
    record.refused(refusal);
    write_last(client, &heads::refusal(&outbound.service, refusal, record)).await.is_ok()
}

/// Whether a request has a body.
fn has_body(framing: Framing) -> bool {
    framing != Framing::Empty
}
