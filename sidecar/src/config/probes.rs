//! Probes that the sidecar makes for a kubelet, which does not reach a server on loopback, or behind rules of redirection.

use outrigger_config::kinds::{self, Checked, HostPort, Mistake, Scheme, Url};
use outrigger_config::{Fields, Kind, doc};
use serde_json::json;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Plain HTTP.
    Http(Url),
    /// Whether something listens.
    Tcp(HostPort),
}

pub(super) fn read(f: &mut Fields<'_>) -> Vec<(String, Probe)> {
    let text = doc(
        "Probes of the server that are made for a kubelet, which asks at `/probe/<name>`: HTTP without TLS, or whether \
         something listens. Each name is a container and what is asked.",
    );
    let text = text.because("an injector writes them").env("OUTRIGGER_PROBES");
    let text = text
        .example("{ server/readiness: \"http://127.0.0.1:9001/ready\", server/liveness: \"tcp://127.0.0.1:9001\" }");
    f.with_default("probes", text, kinds::map_of(name(), target()), Vec::new())
}

fn name() -> Kind<String> {
    kinds::checked(Checked {
        name: "name of a probe",
        pattern: "^[a-z0-9-]+/[a-z]+$",
        accepts: |name| {
            let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            let is_name = |part: &str| !part.is_empty() && part.bytes().all(good);
            name.split_once('/').is_some_and(|(container, kind)| is_name(container) && is_name(kind))
        },
        hint: "a container and what is asked: server/readiness",
    })
}

fn target() -> Kind<Probe> {
    let parse = |text: &str| {
        let wrong = || Mistake::new("not what can be probed", "http://127.0.0.1:9001/ready or tcp://127.0.0.1:9001");
        if let Some(address) = text.strip_prefix("tcp://") {
            return HostPort::parse(address).map(Probe::Tcp).ok_or_else(wrong);
        }
        Url::parse(text).filter(|url| url.scheme == Scheme::Http).map(Probe::Http).ok_or_else(wrong)
    };
    let show = |probe: &Probe| match probe {
        Probe::Http(url) => url.to_string(),
        Probe::Tcp(address) => format!("tcp://{address}"),
    };
    Kind::scalar("probe", json!({"type": "string", "pattern": "^(http|tcp)://"}), parse, show)
}
