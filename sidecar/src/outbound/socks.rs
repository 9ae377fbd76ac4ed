//! SOCKS5 on the port of the proxy: a greeting, perhaps a password, a request, and then a tunnel.

use std::sync::Arc;

use outrigger_egress::socks::{self, Address, BadSocks, Code};
use outrigger_policy::egress::{Host, Request};

use super::Outbound;
use super::authorize::Permitted;
use super::http::{self, Opened, Spoken};
use super::io::{drain, linger, read_into, write_all, write_last};
use super::passes::{ChildId, Shown};
use super::record::Record;
use super::refusal::{Refusal, Why};
use super::target::{Target, Way};
use super::wire::Wire;

/// Serves one connection whose first byte is that of SOCKS5. `buffer` holds what was read already.
pub(super) async fn serve(outbound: &Arc<Outbound>, client: Wire, mut buffer: Vec<u8>) {
    let mut record = Record::begin(outbound, Way::Socks);
    let asked =
        tokio::time::timeout(outbound.settings.timeouts.header, asking(outbound, &client, &mut buffer, &mut record))
            .await;
    let refusal = match asked.unwrap_or(Err(Some(Why::TooSlow.into()))) {
        Ok(target) if outbound.is_open_inside(&target) => {
            record.wants(&target, Request::Sealed);
            record.entered();
            let child = record.behind().child();
            drop(record);
            if write_all(&client, &socks::reply(Code::Succeeded)).await.is_ok() {
                let opened = Opened { target, way: Way::Socks, child };
                http::serve(outbound, client, buffer, Spoken::Inside(opened, false)).await;
            }
            return;
        }
        Ok(target) => match open(outbound, &target, &client, &mut buffer, &mut record).await {
            Ok(None) => return,
            Ok(Some(permitted)) => {
                let opened = Opened { target, way: Way::Socks, child: record.behind().child() };
                drop(record);
                return http::enter(outbound, client, buffer, opened, permitted).await;
            }
            Err(refusal) => refusal,
        },
        Err(Some(refusal)) => refusal,
        // Gone before it asked for anything.
        Err(None) => return,
    };
    record.refused(&refusal);
    // RFC 1929 section 2: it has its answer.
    if matches!(refusal.why, Why::WrongPass) {
        return linger(&client).await;
    }
    if write_last(&client, &socks::reply(refusal.why.told().socks)).await.is_ok() {
        drain(&client).await;
    }
}

/// What it wants, and from which child.
async fn asking(
    outbound: &Outbound,
    client: &Wire,
    buffer: &mut Vec<u8>,
    record: &mut Record,
) -> Result<Target, Option<Refusal>> {
    let child = greet(outbound, client, buffer).await?;
    let target = ask(client, buffer, record).await?;
    record.comes_from(child.map_err(|why| Some(why.into()))?);
    Ok(target)
}

/// The greeting, and whose it is. Wrong credentials end it; where there are none but should be, the answer to the request
/// can say so.
async fn greet(
    outbound: &Outbound,
    client: &Wire,
    buffer: &mut Vec<u8>,
) -> Result<Result<Option<ChildId>, Why>, Option<Refusal>> {
    let (methods, used) = loop {
        match socks::greeting(buffer).map_err(bad)? {
            Some(found) => break found,
            None => more(client, buffer).await?,
        }
    };
    buffer.drain(..used);
    if methods.password && outbound.passes.any() {
        write_all(client, &socks::WITH_PASSWORD).await.map_err(|_| None)?;
        return identify(outbound, client, buffer).await.map(Ok);
    }
    let answer = if methods.none { socks::NO_AUTHENTICATION } else { socks::NO_METHOD };
    write_all(client, &answer).await.map_err(|_| None)?;
    if methods.none { Ok(outbound.child(Shown::Nothing, client, None).await) } else { Err(None) }
}

/// The user name and password, and whose they are.
async fn identify(
    outbound: &Outbound,
    client: &Wire,
    buffer: &mut Vec<u8>,
) -> Result<Option<ChildId>, Option<Refusal>> {
    let (child, used) = loop {
        match socks::password(buffer).map_err(bad)? {
            Some(((user, password), used)) => {
                break (outbound.child(Shown::Pair(user, password), client, None).await, used);
            }
            None => more(client, buffer).await?,
        }
    };
    buffer.drain(..used);
    let answer = if child.is_ok() { socks::WELCOME } else { socks::UNWELCOME };
    write_all(client, &answer).await.map_err(|_| None)?;
    child.map_err(|why| Some(why.into()))
}

async fn ask(client: &Wire, buffer: &mut Vec<u8>, record: &mut Record) -> Result<Target, Option<Refusal>> {
    loop {
        let Some(((address, port), used)) = socks::request(buffer).map_err(bad)? else {
            more(client, buffer).await?;
            continue;
        };
        let target = match address {
            Address::Ip(address) => Target { host: Host::Address(address), port },
            Address::Name(name) => {
                record.wrote(name, port);
                Target::parse(name, port).map_err(|error| Some(Why::Host(error).into()))?
            }
        };
        buffer.drain(..used);
        return Ok(target);
    }
}

/// Serves a tunnel; one that is to be read inside is left, answered, to the caller.
async fn open(
    outbound: &Arc<Outbound>,
    target: &Target,
    client: &Wire,
    buffer: &mut Vec<u8>,
    record: &mut Record,
) -> Result<Option<Permitted>, Refusal> {
    record.wants(target, Request::Sealed);
    let permitted = outbound.admit(target, record.behind(), Request::Sealed).await?;
    if permitted.inspect {
        record.permitted(&permitted);
        let answered = write_all(client, &socks::reply(Code::Succeeded)).await;
        return Ok(answered.ok().map(|()| permitted));
    }
    let (origin, address) = outbound.dial(&permitted).await?;
    record.permitted(&permitted);
    record.address = Some(address);
    if write_all(client, &socks::reply(Code::Succeeded)).await.is_ok() {
        outbound.tunnel((client, &origin), std::mem::take(buffer), target, &permitted, record).await;
    }
    Ok(None)
}

async fn more(client: &Wire, buffer: &mut Vec<u8>) -> Result<(), Option<Refusal>> {
    match read_into(client, buffer).await {
        Ok(read) if read > 0 => Ok(()),
        Ok(_) | Err(_) => Err(None),
    }
}

fn bad(error: BadSocks) -> Option<Refusal> {
    let (code, what) = match error {
        BadSocks::Malformed => (Code::Failure, "not SOCKS5"),
        BadSocks::Command => (Code::Command, "only CONNECT is served over SOCKS5"),
        BadSocks::AddressType => (Code::AddressType, "an unknown kind of address"),
    };
    Some(Why::Socks(code, what).into())
}
