//! Finding out what a server speaks: `server/discover` first, `initialize` when the answer is not a modern one.
//!
//! Any reply that is not unmistakably modern means legacy (protocol versioning, "Backward compatibility"): servers
//! answer an unknown method with all kinds of codes, with 4xx, with garbage or not at all.

use bytes::Bytes;

use crate::{
    envelope::{Field, Message, Shape},
    error::{self, HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION},
    json::{elements, member, quote},
    revision::Revision,
};

use super::meta_keys::{CLIENT_CAPABILITIES, CLIENT_INFO, PROTOCOL_VERSION};

/// Which era to greet a server in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Era {
    /// Probe.
    #[default]
    Auto,
    /// 2026-07-28 and later only.
    Modern,
    /// `initialize` only.
    Legacy,
}

/// What is known of a server after the greeting.
#[derive(Debug, Clone)]
pub struct Greeted {
    /// The revision to speak.
    pub revision: Revision,
    /// The server's capabilities, raw.
    pub capabilities: Bytes,
    /// `serverInfo`, raw.
    pub info: Bytes,
    /// Its instructions, as a raw JSON string.
    pub instructions: Option<Bytes>,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Send this request and wait for its reply.
    Send(Bytes),
    /// The greeting is over; a legacy server must now be sent `notifications/initialized`.
    Done(Greeted),
    /// The server cannot be used, and why.
    Failed(String),
}

/// One greeting. `capabilities` and `info` are what the client behind this session declared.
#[derive(Debug)]
pub struct Handshake {
    era: Era,
    capabilities: Bytes,
    info: Bytes,
    probing: bool,
    /// The probe was not answered in time: the server may have been starting.
    unanswered: bool,
    asked_again: bool,
}

/// The id of every request of the greeting; sessions count from one.
const GREETING_ID: &[u8] = b"0";

impl Handshake {
    /// Prepares a greeting.
    pub fn new(era: Era, capabilities: Bytes, info: Bytes) -> Self {
        Self { era, capabilities, info, probing: era != Era::Legacy, unanswered: false, asked_again: false }
    }

    /// The first request.
    pub fn start(&self) -> Bytes {
        if self.probing { self.discover() } else { self.initialize() }
    }

    /// Whether the next reply answers the probe rather than `initialize`.
    pub fn probing(&self) -> bool {
        self.probing
    }

    fn discover(&self) -> Bytes {
        error::request(GREETING_ID, "server/discover", &modern_params(&self.capabilities, &self.info))
    }

    fn initialize(&self) -> Bytes {
        let mut params =
            format!("{{\"protocolVersion\":\"{}\",\"capabilities\":", Revision::NEWEST_LEGACY.as_str()).into_bytes();
        params.extend_from_slice(&self.capabilities);
        params.extend_from_slice(b",\"clientInfo\":");
        params.extend_from_slice(&self.info);
        params.push(b'}');
        error::request(GREETING_ID, "initialize", &params)
    }

    /// Takes the reply to the last request.
    pub fn on_reply(&mut self, reply: &Message) -> Step {
        if self.probing {
            return self.on_discovered(reply);
        }
        // A modern server that was still starting when it was probed refuses `initialize`: it is asked once more.
        if reply.shape == Shape::Error && std::mem::take(&mut self.unanswered) {
            self.probing = true;
            return Step::Send(self.discover());
        }
        on_initialized(reply)
    }

    /// The probe got no usable reply: silence, an exit, an HTTP error without a JSON-RPC body.
    pub fn on_silence(&mut self, what: &str) -> Step {
        // Asked once more it was there, so a second silence is no sign of a slow start.
        self.unanswered = self.probing && !self.asked_again;
        self.asked_again |= self.probing;
        self.fall_back(what)
    }

    fn fall_back(&mut self, what: &str) -> Step {
        if self.probing && self.era == Era::Auto {
            self.probing = false;
            return Step::Send(self.initialize());
        }
        Step::Failed(what.to_owned())
    }

    fn on_discovered(&mut self, reply: &Message) -> Step {
        match reply.shape {
            Shape::Result if reply.results().get(Field::SupportedVersions).is_some() => {
                let versions = supported(reply);
                if versions.contains(&Revision::MODERN) {
                    return Step::Done(Greeted { revision: Revision::MODERN, ..greeted(reply) });
                }
                self.fall_back("the server speaks no revision that we know")
            }
            // It names the very revision that it was asked in, so asking again is what it wants (2026-07-28, basic/versioning).
            Shape::Error if refused_for_its_version(reply) && !self.asked_again => {
                self.asked_again = true;
                Step::Send(self.discover())
            }
            // The three errors that only modern servers send: it understood the probe but wants something else.
            Shape::Error
                if matches!(reply.error_code(), Some(HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION))
                    && self.era == Era::Modern =>
            {
                Step::Failed(format!("the server refused the probe: {}", reply.error_message().unwrap_or_default()))
            }
            _ => self.fall_back("the server does not answer server/discover"),
        }
    }
}

fn on_initialized(reply: &Message) -> Step {
    match initialized(reply) {
        Ok(greeted) => Step::Done(greeted),
        Err(why) => Step::Failed(why),
    }
}

/// What a server says of itself in its reply to `initialize`.
///
/// # Errors
/// Why it cannot be used: it refused, or speaks a revision that we do not know.
pub fn initialized(reply: &Message) -> Result<Greeted, String> {
    if reply.shape != Shape::Result {
        return Err(format!("initialize failed: {}", reply.error_message().unwrap_or_default()));
    }
    let version = reply.result_text(Field::ProtocolVersion).unwrap_or_default();
    match Revision::parse(&version) {
        Some(revision) if !revision.is_modern() => Ok(Greeted { revision, ..greeted(reply) }),
        _ => Err(format!("the server answered initialize with the unknown revision {version:?}")),
    }
}

fn supported(reply: &Message) -> Vec<Revision> {
    let Some(list) = reply.results().get(Field::SupportedVersions) else { return Vec::new() };
    let spans = elements(reply.body(), list).unwrap_or_default();
    spans.iter().filter_map(|s| Revision::parse(std::str::from_utf8(reply.raw(*s)).ok()?.trim_matches('"'))).collect()
}

/// Whether a server refuses the version of the probe and says in the same breath that it speaks it.
fn refused_for_its_version(reply: &Message) -> bool {
    let body = reply.body();
    let versions = reply
        .error_span()
        .and_then(|error| member(body, error, "data"))
        .and_then(|data| member(body, data, "supported"))
        .and_then(|list| elements(body, list))
        .unwrap_or_default();
    let ours = quote(Revision::MODERN.as_str());
    reply.error_code() == Some(UNSUPPORTED_VERSION) && versions.iter().any(|span| reply.raw(*span) == ours.as_bytes())
}

fn greeted(reply: &Message) -> Greeted {
    let part = |field| reply.results().get(field).map(|span| reply.slice(span));
    let modern_info = reply.meta().get(crate::envelope::Meta::ServerInfo).map(|span| reply.slice(span));
    Greeted {
        revision: Revision::NEWEST_LEGACY,
        capabilities: part(Field::Capabilities).unwrap_or_else(|| Bytes::from_static(b"{}")),
        info: part(Field::ServerInfo).or(modern_info).unwrap_or_else(|| Bytes::from_static(b"{}")),
        instructions: part(Field::Instructions),
    }
}

/// `params` of a modern request that has nothing but the required `_meta`.
pub fn modern_params(capabilities: &[u8], info: &[u8]) -> Vec<u8> {
    let mut out = b"{\"_meta\":{".to_vec();
    out.extend_from_slice(quote(PROTOCOL_VERSION).as_bytes());
    out.extend_from_slice(format!(":\"{}\",", Revision::MODERN.as_str()).as_bytes());
    out.extend_from_slice(quote(CLIENT_INFO).as_bytes());
    out.push(b':');
    out.extend_from_slice(info);
    out.push(b',');
    out.extend_from_slice(quote(CLIENT_CAPABILITIES).as_bytes());
    out.push(b':');
    out.extend_from_slice(capabilities);
    out.extend_from_slice(b"}}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake(era: Era) -> Handshake {
        Handshake::new(era, Bytes::from_static(b"{}"), Bytes::from_static(b"{\"name\":\"t\",\"version\":\"1\"}"))
    }

    fn reply(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    #[test]
    fn modern_servers_are_recognised_by_supported_versions() {
        let mut h = handshake(Era::Auto);
        let probe = Message::parse(h.start()).unwrap();
        assert_eq!(probe.method, crate::method::Method::ServerDiscover);
        let step = h.on_reply(&reply(
            r#"{"jsonrpc":"2.0","id":0,"result":{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}}"#,
        ));
        assert!(
            matches!(step, Step::Done(g) if g.revision == Revision::MODERN && g.capabilities == br#"{"tools":{}}"#[..])
        );
    }

    #[test]
    fn a_server_that_was_starting_during_the_probe_is_asked_once_more() {
        let refused = reply(r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"no"}}"#);
        let mut h = handshake(Era::Auto);
        assert!(matches!(h.on_silence("slow"), Step::Send(_)) && !h.probing());
        assert!(matches!(h.on_reply(&refused), Step::Send(_)) && h.probing());
        // The second refusal is final, whether of the probe or of initialize, and however the probe ends.
        assert!(matches!(h.on_silence("slow"), Step::Send(_)) && !h.probing());
        assert!(matches!(h.on_reply(&refused), Step::Failed(_)));
    }

    #[test]
    fn a_server_that_speaks_what_it_refuses_is_asked_once_more() {
        let refused = reply(
            r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32022,"message":"no","data":{"supported":["2026-07-28"]}}}"#,
        );
        let mut h = handshake(Era::Auto);
        for (again, probing) in
            [(crate::method::Method::ServerDiscover, true), (crate::method::Method::Initialize, false)]
        {
            let Step::Send(next) = h.on_reply(&refused) else { panic!("{again:?}") };
            assert_eq!((Message::parse(next).unwrap().method, h.probing()), (again, probing));
        }
    }

    #[test]
    fn anything_else_means_initialize() {
        for answer in [
            r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32022,"message":"no","data":{"supported":["2027-01-01"]}}}"#,
            r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"no"}}"#,
            r#"{"jsonrpc":"2.0","id":0,"result":{"hello":1}}"#,
            r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32001,"message":"draft"}}"#,
        ] {
            let mut h = handshake(Era::Auto);
            let Step::Send(next) = h.on_reply(&reply(answer)) else { panic!("{answer}") };
            assert_eq!(Message::parse(next).unwrap().method, crate::method::Method::Initialize);
            let done = h.on_reply(&reply(
                r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2024-11-05","capabilities":{},"serverInfo":{"name":"x","version":"1"}}}"#,
            ));
            assert!(matches!(done, Step::Done(g) if g.revision == Revision::V2024_11_05));
        }
        assert!(matches!(handshake(Era::Auto).on_silence("x"), Step::Send(_)));
        assert!(matches!(handshake(Era::Modern).on_silence("x"), Step::Failed(_)));
    }
}
