//! What is to be done to one pod: what its annotations, its containers and the settings come to.

use outrigger_config::kinds::split_words;
use serde_json::Value;

use crate::annotations::{Annotations, wrong};
use crate::pod::{self, name_of};
use crate::refusal::Refusal;
use crate::settings::{Authority, Egress, Settings, WorkloadApi};

/// Seconds between the end of the drain and the kubelet's patience, for stopping.
const STOPPING: u64 = 5;
/// The kubelet's patience unless the pod has its own, in seconds.
const GRACE: u64 = 30;

/// Everything that was decided.
pub(crate) struct Plan<'a> {
    pub(crate) annotations: Annotations<'a>,
    pub(crate) service: String,
    pub(crate) identity: Identity<'a>,
    pub(crate) server: Server,
    pub(crate) ports: Ports,
    pub(crate) egress: Egress,
    pub(crate) rewrite_probes: bool,
    /// Seconds that calls have to finish.
    pub(crate) drain: u64,
    /// What the person should know.
    pub(crate) warnings: Vec<String>,
}

/// From whom the sidecar has its certificate.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Identity<'a> {
    Authority(&'a Authority),
    WorkloadApi(&'a WorkloadApi),
}

/// The server, and how the sidecar reaches it.
pub(crate) struct Server {
    /// Its container, by number.
    pub(crate) container: usize,
    pub(crate) reached: Reached,
}

/// How a server is reached.
pub(crate) enum Reached {
    /// It listens.
    At(String),
    /// It is started by the sidecar, by this command before the `args` of its container.
    Started(Vec<String>),
}

/// Where the sidecar listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) mesh: u16,
    pub(crate) admin: u16,
    pub(crate) egress: u16,
    pub(crate) dns: u16,
}

impl<'a> Plan<'a> {
    pub(crate) fn make(pod: &Value, annotations: Annotations<'a>, settings: &'a Settings) -> Result<Self, Refusal> {
        let mut warnings = Vec::new();
        let identity = identity(&annotations, settings)?;
        let service = service(pod, &annotations, identity, &mut warnings)?;
        let server = server(pod, &annotations)?;
        let ports = Ports {
            mesh: annotations.port("mesh-port", 8443)?,
            admin: annotations.port("admin-port", 15020)?,
            egress: annotations.port("egress-port", 15001)?,
            dns: annotations.port("dns-port", 15053)?,
        };
        ports.differ()?;
        let rewrite = annotations.word("probes", &[("rewrite", true), ("keep", false)])?.unwrap_or(true);
        let egress = egress(&annotations, &server, settings)?;
        let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(GRACE);
        let drain = grace.saturating_sub(STOPPING).max(1);
        Ok(Self { annotations, service, identity, server, ports, egress, rewrite_probes: rewrite, drain, warnings })
    }

    pub(crate) fn is_stdio(&self) -> bool {
        matches!(self.server.reached, Reached::Started(_))
    }
}

impl Ports {
    /// Each with the annotation that moves it.
    pub(crate) fn all(&self) -> [(&'static str, u16); 4] {
        [("mesh-port", self.mesh), ("admin-port", self.admin), ("egress-port", self.egress), ("dns-port", self.dns)]
    }

    fn differ(&self) -> Result<(), Refusal> {
        let all = self.all();
        for (index, (name, port)) in all.iter().enumerate() {
            if let Some((other, _)) = all.iter().skip(index + 1).find(|(_, other)| other == port) {
                return Err(Refusal::SamePort(name, other));
            }
        }
        Ok(())
    }
}

fn identity<'a>(annotations: &Annotations<'_>, settings: &'a Settings) -> Result<Identity<'a>, Refusal> {
    let authority = settings.authority.as_ref().map(Identity::Authority);
    let agent = settings.workload_api.as_ref().map(Identity::WorkloadApi);
    match annotations.word("identity", &[("authority", false), ("workload-api", true)])? {
        None => agent.or(authority).ok_or(Refusal::NotOffered("authority", "mesh.ca_url")),
        Some(false) => authority.ok_or(Refusal::NotOffered("authority", "mesh.ca_url")),
        Some(true) => agent.ok_or(Refusal::NotOffered("workload-api", "workload_api")),
    }
}

fn service(
    pod: &Value,
    annotations: &Annotations<'_>,
    identity: Identity<'_>,
    warnings: &mut Vec<String>,
) -> Result<String, Refusal> {
    let account = pod["spec"]["serviceAccountName"].as_str().filter(|name| !name.is_empty() && *name != "default");
    if let Some(service) = annotations.get("service") {
        if !is_service(service) {
            return Err(wrong("service", service, "1 to 20 of a-z, 0-9 and `-`, with a letter or digit at both ends"));
        }
        // An agent has entries of its own.
        if account != Some(service) && matches!(identity, Identity::Authority(_)) {
            let account = account.unwrap_or("default");
            warnings.push(format!(
                "the authority knows pods by their service account: a rule (`kubernetes.rules`) must say that `{account}` of \
                 this namespace is `{service}`"
            ));
        }
        return Ok(service.to_owned());
    }
    account.filter(|name| is_service(name)).map(str::to_owned).ok_or(Refusal::NoService)
}

fn is_service(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [name.bytes().next(), name.bytes().last()];
    name.len() <= 20
        && name.bytes().all(|byte| good(byte) || byte == b'-')
        && ends.into_iter().all(|end| end.is_some_and(good))
}

fn server(pod: &Value, annotations: &Annotations<'_>) -> Result<Server, Refusal> {
    let containers = pod::list(pod, "containers");
    let chosen = match annotations.get("container") {
        None => None,
        Some(name) => {
            let found = containers.iter().position(|it| name_of(it) == name);
            Some(found.ok_or_else(|| Refusal::NoContainer(name.to_owned(), names(containers)))?)
        }
    };
    let command = annotations.get("command");
    let stdio = annotations.word("transport", &[("http", false), ("stdio", true)])?;
    if !stdio.unwrap_or(command.is_some()) {
        if command.is_some() {
            return Err(Refusal::Contradiction("transport", "command", "a server with `http` starts by itself"));
        }
        return at(containers, chosen, annotations);
    }
    if let Some(other) = ["upstream", "port", "path"].into_iter().find(|name| annotations.get(name).is_some()) {
        return Err(Refusal::Contradiction("transport", other, "a stdio server listens nowhere"));
    }
    let container = chosen.or((containers.len() == 1).then_some(0));
    let container = container.ok_or_else(|| Refusal::WhichContainer(names(containers)))?;
    let Some(holder) = containers.get(container) else { return Err(Refusal::NotAPod("it has no containers")) };
    let words = match command {
        Some(line) => match split_words(line) {
            Ok(words) => words,
            Err(mistake) => return Err(wrong("command", line, &format!("a command ({})", mistake.message))),
        },
        None => pod::items(&holder["command"]).iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    };
    if words.first().is_none_or(String::is_empty) {
        return Err(Refusal::NoCommand(name_of(holder).to_owned()));
    }
    Ok(Server { container, reached: Reached::Started(words) })
}

/// A server that listens: at `upstream`, or at a port on loopback.
fn at(containers: &[Value], chosen: Option<usize>, annotations: &Annotations<'_>) -> Result<Server, Refusal> {
    if let Some(url) = annotations.get("upstream") {
        if let Some(other) = ["port", "path"].into_iter().find(|name| annotations.get(name).is_some()) {
            return Err(Refusal::Contradiction("upstream", other, "the URL says both"));
        }
        return Ok(Server { container: chosen.unwrap_or(0), reached: Reached::At(url.to_owned()) });
    }
    let path = annotations.get("path").unwrap_or("/mcp");
    if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(wrong("path", path, "a path that begins with `/`"));
    }
    let offered: Vec<Offered<'_>> = containers
        .iter()
        .enumerate()
        .filter(|(index, _)| chosen.is_none_or(|chosen| chosen == *index))
        .flat_map(|(index, container)| pod::items(&container["ports"]).iter().map(move |port| (index, port)))
        .filter_map(|(container, port)| Offered::of(container, port))
        .collect();
    let (container, port) = match annotations.get("port") {
        Some(text) => match text.parse::<u16>().ok().filter(|port| *port > 0) {
            Some(port) => {
                let holder = offered.iter().find(|it| it.port == port).map(|it| it.container);
                (holder.or(chosen).unwrap_or(0), port)
            }
            None => {
                let named = offered.iter().find(|it| it.name == Some(text));
                let named = named.ok_or_else(|| wrong("port", text, "a number, or the name of a port of the pod"))?;
                (named.container, named.port)
            }
        },
        None => match (offered.as_slice(), offered.iter().find(|it| it.name == Some("mcp"))) {
            ([only], _) => (only.container, only.port),
            (_, Some(named)) => (named.container, named.port),
            ([], _) => return Err(Refusal::NoPort),
            (several, _) => {
                let ports: Vec<String> = several.iter().map(|it| it.port.to_string()).collect();
                return Err(Refusal::WhichPort(ports.join(", ")));
            }
        },
    };
    Ok(Server { container, reached: Reached::At(format!("http://127.0.0.1:{port}{path}")) })
}

/// A port in the list of a container.
struct Offered<'a> {
    container: usize,
    name: Option<&'a str>,
    port: u16,
}

impl<'a> Offered<'a> {
    fn of(container: usize, port: &'a Value) -> Option<Self> {
        let is_tcp = port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP");
        let number = u16::try_from(port["containerPort"].as_u64()?).ok().filter(|_| is_tcp)?;
        Some(Self { container, name: port["name"].as_str(), port: number })
    }
}

fn egress(annotations: &Annotations<'_>, server: &Server, settings: &Settings) -> Result<Egress, Refusal> {
    let words = [("off", Egress::Off), ("proxy", Egress::Proxy), ("redirect", Egress::Redirect)];
    let allows = annotations.get("egress-allow").is_some();
    let stdio = matches!(server.reached, Reached::Started(_));
    match annotations.word("egress", &words)? {
        Some(Egress::Off) if allows => {
            Err(Refusal::Contradiction("egress", "egress-allow", "nothing would hold to it"))
        }
        Some(Egress::Redirect) if stdio => {
            let why = "a stdio server runs as the same user as its sidecar, by which rules of the kernel go; \
                       `outrigger.dev/sandbox: strict` confines it";
            Err(Refusal::Contradiction("egress", "transport", why))
        }
        Some(said) => Ok(said),
        None => Ok(match settings.egress {
            Egress::Off if allows => Egress::Proxy,
            Egress::Redirect if stdio => Egress::Proxy,
            usual => usual,
        }),
    }
}

fn names(containers: &[Value]) -> String {
    containers.iter().map(name_of).collect::<Vec<_>>().join(", ")
}
