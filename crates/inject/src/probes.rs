//! The kubelet's probes of the server, led through the sidecar: it reaches a server that listens on loopback alone, and one
//! that the rules of `redirect` have closed to everybody else.

use serde_json::{Value, json};

use crate::pod::{items, name_of};

const KINDS: [(&str, &str); 3] =
    [("startupProbe", "startup"), ("readinessProbe", "readiness"), ("livenessProbe", "liveness")];

/// One probe that the sidecar makes for the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    /// `<container>/<kind>`, the end of its path at the sidecar.
    pub(crate) name: String,
    /// `http://127.0.0.1:8080/healthz`, or `tcp://127.0.0.1:9000`.
    pub(crate) target: String,
}

/// Rewrites the probes of a container; what it cannot it leaves, and says so.
pub(crate) fn rewrite(container: &mut Value, admin: u16, warnings: &mut Vec<String>) -> Vec<Probe> {
    let (holder, ports) = (name_of(container).to_owned(), container["ports"].clone());
    let mut probes = Vec::new();
    for (member, kind) in KINDS {
        let Some(probe) = container.get_mut(member).and_then(Value::as_object_mut) else { continue };
        let found = match (probe.get("httpGet"), probe.get("tcpSocket")) {
            (Some(get), _) if get.is_object() => http(get, &ports),
            (_, Some(socket)) if socket.is_object() => tcp(socket, &ports),
            // In the container itself, or none.
            _ => continue,
        };
        let target = match found {
            Ok(target) => target,
            Err(why) => {
                warnings.push(format!("the {member} of `{holder}` stays as it is, because {why}"));
                continue;
            }
        };
        let name = format!("{holder}/{kind}");
        let mut get = json!({"path": format!("/probe/{name}"), "port": admin, "scheme": "HTTP"});
        let headers = probe.get("httpGet").and_then(|get| get.get("httpHeaders")).cloned();
        if let (Some(headers), Some(get)) = (headers, get.as_object_mut()) {
            get.insert("httpHeaders".to_owned(), headers);
        }
        probe.remove("tcpSocket");
        probe.insert("httpGet".to_owned(), get);
        probes.push(Probe { name, target });
    }
    probes
}

/// What the kubelet will not reach of a container behind the rules of `redirect`, which close every port but the sidecar's `open`.
pub(crate) fn closed(container: &Value, open: [u16; 2]) -> Vec<String> {
    let probes = KINDS.map(|(member, _)| (member, &container[member]));
    let hooks = ["postStart", "preStop"].map(|member| (member, &container["lifecycle"][member]));
    let is_closed = |action: &Value| {
        let target =
            ["httpGet", "tcpSocket", "grpc"].into_iter().find_map(|how| action.get(how).filter(|it| it.is_object()));
        target.is_some_and(|target| open.iter().all(|port| target["port"].as_u64() != Some(u64::from(*port))))
    };
    let all = probes.into_iter().chain(hooks).filter(|(_, action)| is_closed(action));
    let holder = name_of(container);
    let warn = |(member, _): (&str, &Value)| {
        format!(
            "the {member} of `{holder}` will fail: the rules of `outrigger.dev/egress: redirect` close its port to the kubelet; let \
             it run a program in the container (`exec`)"
        )
    };
    all.map(warn).collect()
}

fn http(get: &Value, ports: &Value) -> Result<String, &'static str> {
    if get["scheme"].as_str() == Some("HTTPS") {
        return Err("the sidecar probes over plain HTTP only");
    }
    if get["host"].as_str().is_some_and(|host| !host.is_empty()) {
        return Err("it names a host");
    }
    let path = get["path"].as_str().unwrap_or("/");
    if path.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control()) {
        return Err("its path has a comma or a space");
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(format!("http://127.0.0.1:{}{slash}{path}", port(&get["port"], ports)?))
}

fn tcp(socket: &Value, ports: &Value) -> Result<String, &'static str> {
    if socket["host"].as_str().is_some_and(|host| !host.is_empty()) {
        return Err("it names a host");
    }
    Ok(format!("tcp://127.0.0.1:{}", port(&socket["port"], ports)?))
}

/// A number, or the name of a port of the container.
fn port(value: &Value, ports: &Value) -> Result<u16, &'static str> {
    let number = match value {
        Value::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                items(ports).iter().find(|port| name_of(port) == name).and_then(|port| port["containerPort"].as_u64())
            }
        },
        other => other.as_u64(),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|port| *port > 0)
        .ok_or("its port is none of the container's")
}
