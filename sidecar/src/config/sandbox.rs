//! Settings of a confined child: how firmly, and what it may do beyond what programs need to run.

use std::{net::SocketAddr, path::PathBuf};

use outrigger_config::kinds::{self, Checked, Kind};
use outrigger_config::{Fields, doc};
use serde_json::{Map, Value, json};

/// How firmly a child is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Firmness {
    /// Wholly, or the sidecar does not start.
    Strict,
    /// As far as the kernel can; what it cannot is told at the start.
    BestEffort,
    /// Not at all.
    #[default]
    Off,
}

/// What a confined child may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sandbox {
    /// How firmly.
    pub firmness: Firmness,
    /// Files and directories to read and execute.
    pub read: Vec<PathBuf>,
    /// Files and directories that stay closed inside those.
    pub closed: Vec<PathBuf>,
    /// Files and directories to change.
    pub write: Vec<PathBuf>,
    /// TCP addresses to connect to.
    pub connect: Vec<SocketAddr>,
    /// TCP ports to listen on.
    pub listen: Vec<u16>,
    /// Socket files to connect to.
    pub sockets: Vec<PathBuf>,
    /// The home directory, when it shall last.
    pub home: Option<PathBuf>,
}

/// Reads `sandbox` and `confine`. `running` is the setting that names a server which nobody starts.
pub fn read(f: &mut Fields<'_>, env: Option<&'static str>, running: &str) -> Option<Sandbox> {
    let text = doc(
        "Confines the child that the sidecar starts: files, connections and system calls, without privileges. `strict` \
         does not start where the kernel cannot do all of it; `best-effort` does what it can and says what is missing.",
    );
    let text = env.map_or(text, |name| text.env(name));
    let reason =
        "which files a server needs only its operator knows; EGRESS.md says what is allowed without being named";
    let firmness = f.with_default("sandbox", text.because(reason), firmness(), Firmness::Off);
    if firmness != Firmness::Off && f.has(running) {
        let hint = "remove it; a server that runs already is confined by its container";
        f.mistake("sandbox", "nobody starts this server here, so it cannot be confined", hint);
    }
    let given = f.has("confine");
    let sandbox = f.section("confine", "What a confined child may do beyond the defaults.", read_confine);
    if firmness == Firmness::Off && given {
        f.mistake("confine", "nothing is confined", "add `sandbox: strict`, or remove this section");
    }
    Some(Sandbox { firmness, ..sandbox? })
}

impl Sandbox {
    /// As one would write it in the settings; nothing when it is off.
    pub fn settings(&self) -> Map<String, Value> {
        let firmness = match self.firmness {
            Firmness::Strict => "strict",
            Firmness::BestEffort => "best-effort",
            Firmness::Off => return Map::new(),
        };
        let mut confine = json!({"read": self.read, "closed": self.closed, "write": self.write, "connect": self.connect,
            "listen": self.listen, "sockets": self.sockets});
        if let (Some(home), Some(confine)) = (&self.home, confine.as_object_mut()) {
            confine.insert("home".to_owned(), json!(home));
        }
        [("sandbox".to_owned(), json!(firmness)), ("confine".to_owned(), confine)].into_iter().collect()
    }
}

fn read_confine(f: &mut Fields<'_>) -> Option<Sandbox> {
    let text =
        doc("Files and directories that the child may read and execute. Each must exist.").example("[/srv/data]");
    let text = text.because("the system's programs and libraries, what PATH and the command name, and `cwd`");
    let read = f.with_default("read", text, kinds::list_of(absolute()), Vec::new());
    let text = doc(
        "Files and directories that stay closed inside those that are open to read; their names can be seen. What is made beside \
         them while the child runs is closed too.",
    );
    let text = text.because("the sidecar's settings file, its key, and the secrets of `egress` are closed always");
    let text = text.example("[/srv/app/.env]");
    let closed = f.with_default("closed", text, kinds::list_of(absolute()), Vec::new());
    let text = doc("Files and directories that the child may also change. Each must exist.").example("[/srv/data]");
    let text = text.because("its own temporary directory, which is also its home unless `home` is set");
    let write = f.with_default("write", text, kinds::list_of(absolute()), Vec::new());
    let text = doc("TCP addresses that the child may connect to itself.").example("[\"127.0.0.1:5432\"]");
    let connect = f.with_default("connect", text.because("nowhere"), kinds::list_of(kinds::listen()), Vec::new());
    let text = doc("TCP ports that the child may listen on.").because("a stdio server listens nowhere");
    let listen = f.with_default("listen", text, kinds::list_of(port()), Vec::new());
    let text = doc("Socket files that the child may connect to. Nobody but you should be able to replace them.");
    let text = text.because("none but those that it makes itself").example("[/run/postgresql/.s.PGSQL.5432]");
    let sockets = f.with_default("sockets", text, kinds::list_of(absolute()), Vec::new());
    let text = doc("A directory that is the child's home and lasts, for caches of package runners. Must exist.");
    let home = f.optional("home", text.example("/var/lib/outrigger/fs"), absolute());
    let home = home.map(PathBuf::from);
    let [read, closed, write, sockets] =
        [read, closed, write, sockets].map(|paths| paths.into_iter().map(PathBuf::from).collect());
    let listen = listen.into_iter().filter_map(|port| u16::try_from(port).ok()).collect();
    Some(Sandbox { firmness: Firmness::Off, read, closed, write, connect, listen, sockets, home })
}

fn firmness() -> Kind<Firmness> {
    kinds::choice(&[("strict", Firmness::Strict), ("best-effort", Firmness::BestEffort), ("off", Firmness::Off)])
}

fn port() -> Kind<usize> {
    kinds::count(1..=65_535)
}

fn absolute() -> Kind<String> {
    kinds::checked(Checked {
        name: "absolute path",
        pattern: "^/",
        accepts: |text| text.starts_with('/') && !text.contains('\0'),
        hint: "a path that begins with /",
    })
}
