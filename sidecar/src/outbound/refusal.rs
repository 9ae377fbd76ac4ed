//! Why something does not go out, and the one place where that becomes a status, a SOCKS code, a word and a hint.

use std::io;
use std::time::Duration;

use outrigger_egress::{reply::BadReply, request::BadRequest, socks::Code};
use outrigger_policy::RuleId;
use outrigger_policy::egress::{HostError, Over, Reason};
use outrigger_telemetry::metrics::{DenyReason, DnsLimit, EgressVerdict};

use super::resolve::ResolveError;

/// Why.
#[derive(Debug)]
pub enum Why {
    /// The rules, or the guard over addresses. With whether only names below the one asked for are named.
    Rules(Reason, bool),
    /// The host cannot be read.
    Host(HostError),
    /// `Host` names another host than the target.
    HostMismatch,
    /// A tunnel's TLS asks for another name than CONNECT did; the name.
    Sni(String),
    /// A tunnel's TLS names nobody.
    NoSni,
    /// A tunnel's TLS hides a name.
    HiddenSni,
    /// A tunnel that carries something else than TLS.
    NotTls,
    /// A tunnel in which nothing was said in time.
    Silent,
    /// A name below a wildcard, over a limit of those.
    Below(DnsLimit),
    /// No address.
    Resolve(ResolveError),
    /// Calls of several tools are at work, and rules do not allow all of them.
    Uncertain,
    /// Credentials of no child that lives.
    WrongPass,
    /// Children serve different callers, and nobody knows whose connection it is.
    NoPass,
    /// What rules allowed when it was opened, they allow no longer.
    Revoked,
    /// A limit of the rule that allows it.
    Over(Over),
    /// The destination failed several times in a row, and is left alone for so long.
    Resting(Duration),
    /// No connection.
    Connect(io::Error),
    /// TLS with the destination does not come to be: it is somebody else, or speaks no TLS.
    Tls(io::Error),
    /// TLS with the client does not come to be: it does not believe our certificate.
    ClientTls(io::Error),
    /// A client that speaks HTTP/2 alone, where TLS is read inside.
    OnlyHttp2,
    /// What stands for the secret of this rule, on its way to somebody else.
    Placeholder(RuleId),
    /// The secret for this header cannot be read.
    NoCredential(String),
    /// A method whose answer would show what was added.
    Echo,
    /// A rule that inspects came with a reload, and nothing was made for it at start.
    NotInspecting,
    /// A service of the mesh whose address is not known; its name.
    NoService(String),
    /// The proxy itself.
    Ourselves,
    /// A request that breaks HTTP.
    BadRequest(BadRequest),
    /// A request to us as if we were the server.
    NotProxied,
    /// SOCKS that is not served; the code says what of it.
    Socks(Code, &'static str),
    /// A head over its limit.
    TooLarge,
    /// A head that took too long.
    TooSlow,
    /// The destination's reply breaks HTTP.
    BadReply(BadReply),
    /// The destination went away before it answered.
    NoReply,
}

/// A refusal, with the rule that came nearest.
#[derive(Debug)]
pub struct Refusal {
    /// Why.
    pub why: Why,
    /// The rule in question.
    pub rule: Option<RuleId>,
}

impl From<Why> for Refusal {
    fn from(why: Why) -> Self {
        Refusal { why, rule: None }
    }
}

/// What each refusal is to each reader.
pub struct Told {
    /// The HTTP status.
    pub status: u16,
    /// The SOCKS code.
    pub socks: Code,
    /// The word in logs and answers.
    pub reason: &'static str,
    /// In metrics.
    pub verdict: EgressVerdict,
    /// For `outrigger_denied_total`.
    pub denied: Option<DenyReason>,
}

impl Why {
    /// For its readers.
    pub fn told(&self) -> Told {
        let denied = |reason: &'static str, denied| Told {
            status: 403,
            socks: Code::NotAllowed,
            reason,
            verdict: EgressVerdict::Denied,
            denied: Some(denied),
        };
        let invalid = |status, reason| Told {
            status,
            socks: Code::Failure,
            reason,
            verdict: EgressVerdict::Invalid,
            denied: None,
        };
        let failed =
            |status, socks, reason| Told { status, socks, reason, verdict: EgressVerdict::Failed, denied: None };
        let limited =
            |status, socks, reason| Told { status, socks, reason, verdict: EgressVerdict::Limited, denied: None };
        match self {
            Why::Over(over) => limited(429, Code::NotAllowed, over.as_str()),
            Why::Resting(_) => limited(503, Code::HostUnreachable, "breaker"),
            Why::Rules(Reason::Address(..), _) => denied("address", DenyReason::Address),
            Why::Uncertain => denied("attribution", DenyReason::Egress),
            Why::Revoked => denied("revoked", DenyReason::Egress),
            Why::WrongPass => Told { status: 407, ..denied("wrong_credential", DenyReason::Egress) },
            Why::NoPass => Told { status: 407, ..denied("child", DenyReason::Egress) },
            Why::Rules(reason, _) => denied(reason.as_str(), DenyReason::Egress),
            Why::Below(limit) => denied(limit.as_str(), DenyReason::Egress),
            Why::Ourselves => denied("address", DenyReason::Address),
            Why::HostMismatch => denied("host_mismatch", DenyReason::Egress),
            Why::Sni(_) => denied("sni_mismatch", DenyReason::Egress),
            Why::NoSni => denied("no_sni", DenyReason::Egress),
            Why::HiddenSni => denied("hidden_sni", DenyReason::Egress),
            Why::NotTls => denied("not_tls", DenyReason::Egress),
            Why::Silent => invalid(408, "silent"),
            Why::Host(_) => invalid(400, "bad_host"),
            Why::Resolve(ResolveError::Timeout) => failed(504, Code::HostUnreachable, "resolve_timeout"),
            Why::Resolve(ResolveError::NoAddress | ResolveError::Failed(_)) => {
                failed(502, Code::HostUnreachable, "no_address")
            }
            Why::Connect(error) => match error.kind() {
                io::ErrorKind::TimedOut => failed(504, Code::Expired, "connect_timeout"),
                io::ErrorKind::ConnectionRefused => failed(502, Code::Refused, "refused"),
                _ => failed(502, Code::HostUnreachable, "unreachable"),
            },
            Why::Tls(_) => failed(502, Code::HostUnreachable, "tls"),
            Why::ClientTls(_) => failed(502, Code::Failure, "client_tls"),
            Why::OnlyHttp2 => failed(502, Code::Failure, "only_http2"),
            Why::Placeholder(_) => denied("placeholder", DenyReason::Egress),
            Why::Echo => denied("echo", DenyReason::Egress),
            Why::NoCredential(_) => failed(502, Code::Failure, "no_credential"),
            Why::NotInspecting => failed(503, Code::Failure, "not_inspecting"),
            Why::NoService(_) => failed(503, Code::HostUnreachable, "no_service"),
            Why::BadRequest(_) => invalid(400, "bad_request"),
            Why::NotProxied => invalid(400, "not_proxied"),
            Why::Socks(code, _) => Told { socks: *code, ..invalid(400, "bad_socks") },
            Why::TooLarge => invalid(431, "too_large"),
            Why::TooSlow => invalid(408, "too_slow"),
            Why::BadReply(_) => failed(502, Code::Failure, "bad_reply"),
            Why::NoReply => failed(502, Code::Failure, "no_reply"),
        }
    }

    /// When another try makes sense, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Why::Over(over) => over.retry_after(),
            Why::Resting(wait) => Some(*wait),
            _ => None,
        }
    }

    /// For the author of the request: what to do about it.
    pub fn hint(&self) -> String {
        match self {
            Why::Rules(Reason::Host, true) => {
                "`*.` covers names below, not the name itself: list it too under `egress.allow`".into()
            }
            Why::Rules(Reason::Host, false) => {
                "no rule names this host: list it under `egress.allow` (OUTRIGGER_EGRESS_ALLOW) of the sidecar".into()
            }
            Why::Rules(Reason::Port, _) => "the host is allowed on other ports: write it as host:port".into(),
            Why::Rules(Reason::Tool, _) => "the rule for this host does not name the tool that was called".into(),
            Why::Rules(Reason::Sealed, _) => {
                "a tunnel hides the request: for port 80, and where a rule names methods or paths, ask for http://host/path".into()
            }
            Why::Rules(Reason::Request, _) => "the rule allows other methods or paths, and no field that says another one".into(),
            Why::Rules(Reason::Address(address, special), _) => {
                format!("{address} is a {special} address: no rule for this host names its range under `addresses`")
            }
            Why::Below(limit) => format!("over `egress.dns.{}`: name the host exactly, or raise the limit", limit.as_str()),
            Why::Ourselves => "this is the proxy itself".into(),
            Why::Host(error) => error.to_string(),
            Why::HostMismatch => "the header Host must name the host of the target".into(),
            Why::Sni(name) => format!("the TLS inside asks for `{name}`, which is not what the tunnel was opened to"),
            Why::NoSni => "the TLS inside must name its host (SNI)".into(),
            Why::HiddenSni => "the TLS inside hides a name (ECH): a rule with `ech: true` allows that".into(),
            Why::NotTls => "tunnels and port 443 carry TLS: a rule with `raw: true` allows something else".into(),
            Why::Silent => "nothing was said in the tunnel".into(),
            Why::Resolve(error) => error.to_string(),
            Why::Uncertain => "calls of other tools are at work, so nobody knows which one this is for: try again later, or set \
                               `egress.attribution: serial`"
                .into(),
            Why::WrongPass => "these credentials are of no child of this sidecar that lives: each child finds its own in HTTP_PROXY".into(),
            Why::NoPass => "this server has a child for each caller, each with credentials of its own in HTTP_PROXY: send them \
                            (user name and password of that URL), so that it is known which call this is for"
                .into(),
            Why::Revoked => "the rules have changed".into(),
            Why::Over(over) => format!("over `{}` of the rule", over.as_str()),
            Why::Resting(_) => "the last connections to it failed: it is tried again after `egress.breaker.rest`".into(),
            Why::Connect(error) => format!("cannot connect: {error}"),
            Why::Tls(error) => format!("the destination is not who it should be, or speaks no TLS: {error}"),
            Why::ClientTls(error) => {
                format!("the client does not believe the certificate of this sidecar (its bundle: `egress.inspection`): {error}")
            }
            Why::OnlyHttp2 => "HTTP/1.1 is spoken where TLS is read inside: name this host in a rule without `inspect`".into(),
            Why::Placeholder(rule) => {
                format!("the request holds what stands for the secret of `{}`, and goes to somebody else", rule.as_str())
            }
            Why::Echo => "the answer to this method repeats the request, with what the sidecar adds to it".into(),
            Why::NoCredential(header) => {
                format!("the secret for `{header}` cannot be read; the log of the sidecar says why")
            }
            Why::NotInspecting => "the rule inspects TLS, and none did when the sidecar started: start it again".into(),
            Why::NoService(name) => {
                format!("this sidecar knows no address of the service `{name}`: see `mesh.services` of its settings")
            }
            Why::BadRequest(error) => error.to_string(),
            Why::NotProxied => "this is a proxy: ask for http://host/path, or CONNECT host:port".into(),
            Why::Socks(_, what) => (*what).into(),
            Why::TooLarge => "the request's head is over `egress.limits.header_bytes`".into(),
            Why::TooSlow => "the request's head did not arrive within `egress.timeouts.header`".into(),
            Why::BadReply(error) => error.to_string(),
            Why::NoReply => "the server closed the connection without a reply".into(),
        }
    }
}
