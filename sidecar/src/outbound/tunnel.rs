//! A tunnel: what CONNECT, SOCKS and redirected TLS become. Its first words are held against what it was opened for.

use std::sync::Arc;
use std::time::Duration;

use outrigger_egress::client_hello::{self, BadHello, ClientHello};
use outrigger_policy::egress::Host;

use super::authorize::Permitted;
use super::io::{read_into, write_all};
use super::record::Record;
use super::refusal::{Refusal, Why};
use super::relay::{Moved, relay};
use super::wire::Wire;
use super::{Outbound, target::Target};

/// A fatal TLS alert, `access_denied` (RFC 8446 section 6): the best that can be said inside a tunnel.
pub(super) const ACCESS_DENIED: [u8; 7] = [21, 3, 1, 0, 2, 2, 49];

impl Outbound {
    /// Checks the first words of a tunnel that is open on both sides, then relays. `buffer` holds what was read already.
    pub(super) async fn tunnel(
        self: &Arc<Self>,
        (client, origin): (&Wire, &Wire),
        mut buffer: Vec<u8>,
        target: &Target,
        permitted: &Permitted,
        record: &mut Record,
    ) {
        if (!permitted.raw || permitted.observed.is_some())
            && let Err(why) = self.check_hello(client, &mut buffer, target, permitted).await
        {
            let refusal = Refusal { why, rule: permitted.rule.clone() };
            if permitted.observed.is_none() {
                record.refused(&refusal);
                if !matches!(refusal.why, Why::NotTls | Why::Silent) {
                    // The client may be gone; there is nobody else to tell.
                    let _ = write_all(client, &ACCESS_DENIED).await;
                }
                return;
            }
            record.observed(&refusal);
        }
        let moved = Moved::new();
        if permitted.upload.may_send(buffer.len()).is_ok() && write_all(origin, &buffer).await.is_ok() {
            moved.count_up(buffer.len());
            drop(buffer);
            let times = &self.settings.timeouts;
            let behind = record.behind().clone();
            tokio::select! {
                () = relay((client, origin), &moved, &permitted.upload, (times.idle, times.total)) => {}
                refusal = self.revoked(permitted, &behind) => record.refused(&refusal),
            }
        }
        (record.up, record.down) = moved.bytes();
        record.sent(permitted);
    }

    /// TLS with the client of a tunnel that is to be read inside, after its first words were checked.
    pub(super) async fn inside(
        &self,
        client: Wire,
        buffer: &mut Vec<u8>,
        target: &Target,
        permitted: &Permitted,
    ) -> Result<Wire, Why> {
        let inspection = self.inspection.as_ref().ok_or(Why::NotInspecting)?;
        if let Err(why) = self.check_hello(&client, buffer, target, permitted).await {
            if !matches!(why, Why::NotTls | Why::Silent) {
                // The client may be gone; there is nobody else to tell.
                let _ = write_all(&client, &ACCESS_DENIED).await;
            }
            return Err(why);
        }
        let accepting = inspection.accept(client, buffer, target);
        match tokio::time::timeout(self.settings.timeouts.hello, accepting).await {
            Ok(accepted) => accepted.map_err(|error| {
                let said = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
                let only_http2 = said.is_some_and(|error| *error == rustls::Error::NoApplicationProtocol);
                if only_http2 { Why::OnlyHttp2 } else { Why::ClientTls(error) }
            }),
            Err(_elapsed) => Err(Why::Silent),
        }
    }

    async fn check_hello(
        &self,
        client: &Wire,
        buffer: &mut Vec<u8>,
        target: &Target,
        permitted: &Permitted,
    ) -> Result<(), Why> {
        let hello = read_hello(client, buffer, self.settings.timeouts.hello).await?;
        match &hello.name {
            Some(name) if Host::parse(name).as_ref() != Ok(&target.host) => return Err(Why::Sni(name.clone())),
            None if matches!(target.host, Host::Name(_)) => return Err(Why::NoSni),
            Some(_) | None => {}
        }
        // What is only observed may hide its name too, and is to be told.
        let may_hide = permitted.ech && permitted.observed.is_none();
        if hello.hidden && !may_hide { Err(Why::HiddenSni) } else { Ok(()) }
    }
}

/// Reads up to and with the ClientHello.
pub(super) async fn read_hello(client: &Wire, buffer: &mut Vec<u8>, within: Duration) -> Result<ClientHello, Why> {
    let reading = async {
        loop {
            match client_hello::parse(buffer) {
                Ok(Some(hello)) => return Ok(hello),
                Ok(None) => {}
                Err(BadHello::NotTls | BadHello::Malformed) => return Err(Why::NotTls),
            }
            if !matches!(read_into(client, buffer).await, Ok(read) if read > 0) {
                return Err(Why::Silent);
            }
        }
    };
    tokio::time::timeout(within, reading).await.unwrap_or(Err(Why::Silent))
}
