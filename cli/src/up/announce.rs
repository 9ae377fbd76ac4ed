//! Where everything is, for programs (`up.json`) and for people (the lines to paste into a client).

use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use outrigger_config::Secret;
use serde_json::{Map, Value, json};

use super::board::{Board, Entry};

/// What does not change while the mesh runs.
pub(crate) struct Facts {
    /// The name of the mesh.
    pub(crate) mesh: String,
    /// Clients speak TLS.
    pub(crate) tls: bool,
    /// The token and its file; none with anonymous access.
    pub(crate) token: Option<(Secret, PathBuf)>,
    /// The root certificate of the mesh.
    pub(crate) ca_file: PathBuf,
    /// This program.
    pub(crate) program: PathBuf,
}

impl Facts {
    /// The content of `up.json`; nothing before the ingress has an address.
    pub(crate) fn up(&self, board: &Board) -> Option<Value> {
        let ingress = board.ingress()?.addresses?;
        let services = board.services().iter().map(|entry| (entry.name.clone(), service(entry))).collect::<Map<_, _>>();
        Some(json!({
            "mcp": self.endpoint(ingress.mesh),
            "admin": format!("http://{}", reachable(ingress.admin)),
            "token_file": self.token.as_ref().map(|(_, file)| file),
            "ca_file": self.ca_file,
            "pid": std::process::id(),
            "services": services,
        }))
    }

    /// The URL for clients.
    pub(crate) fn endpoint(&self, address: SocketAddr) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}/mcp", reachable(address))
    }

    /// What a person needs to use the mesh.
    pub(crate) fn text(&self, address: SocketAddr, up: &Path) -> String {
        let url = self.endpoint(address);
        let mut server = json!({"type": "http", "url": url});
        let mut connect = vec![self.program.display().to_string(), "connect".into(), "--url".into(), url.clone()];
        if let (Some((token, file)), Some(server)) = (&self.token, server.as_object_mut()) {
            // A token in a log file would outlive its use; a person's terminal is where it is wanted.
            let shown = if io::stdout().is_terminal() {
                token.reveal().to_owned()
            } else {
                format!("<content of {}>", file.display())
            };
            server.insert("headers".to_owned(), json!({"Authorization": format!("Bearer {shown}")}));
            connect.extend(["--token-file".to_owned(), file.display().to_string()]);
        }
        if self.tls {
            connect.extend(["--ca-file".to_owned(), self.ca_file.display().to_string()]);
        }
        let client = json!({"mcpServers": {self.mesh.as_str(): server}});
        format!(
            "\nThe mesh `{}` is ready: {url}\n\nPaste into a client that speaks HTTP:\n  {client}\n\nFor one that starts \
             programs:\n  {}\n\nEverything about it: {}. Ctrl-C stops it.\n",
            self.mesh,
            connect.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
            up.display(),
        )
    }
}

fn service(entry: &Entry) -> Value {
    let mut service = Map::new();
    service.insert("sidecar".to_owned(), json!(entry.addresses.map(|addresses| addresses.mesh)));
    service.insert("admin".to_owned(), json!(entry.addresses.map(|addresses| addresses.admin)));
    service.insert("status".to_owned(), json!(entry.state));
    if let Some(reason) = &entry.reason {
        service.insert("reason".to_owned(), json!(reason));
    }
    service.into()
}

/// An address that can be dialled from this machine, for one that may mean all interfaces.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:=@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::event::What;
    use crate::up::probe::Addresses;

    fn facts(token: bool) -> Facts {
        Facts {
            mesh: "demo".into(),
            tls: false,
            token: token.then(|| (Secret::new("s3cret"), "/d/my token".into())),
            ca_file: "/d/ca/ca.pem".into(),
            program: "/bin/outrigger".into(),
        }
    }

    #[test]
    fn the_file_has_what_programs_need() {
        let mut board = Board::new(["fs", "bad", "ingress"].map(str::to_owned));
        assert_eq!(facts(true).up(&board), None);
        let addresses = |mesh: &str| Addresses { mesh: mesh.parse().unwrap(), admin: "127.0.0.1:9".parse().unwrap() };
        board.note(0, What::Bound(addresses("127.0.0.1:1")));
        board.note(0, What::Ready);
        board.note(1, What::GaveUp("no such program".into()));
        board.note(2, What::Bound(addresses("0.0.0.0:8080")));
        let up = facts(true).up(&board).unwrap();
        assert_eq!(up["mcp"], "http://127.0.0.1:8080/mcp");
        assert_eq!((&up["admin"], &up["token_file"]), (&json!("http://127.0.0.1:9"), &json!("/d/my token")));
        assert_eq!(up["services"]["fs"], json!({"sidecar": "127.0.0.1:1", "admin": "127.0.0.1:9", "status": "ready"}));
        assert_eq!(up["services"]["bad"]["status"], "failed");
        assert_eq!(up["services"]["bad"]["reason"], "no such program");
        assert!(!up.to_string().contains("s3cret"));
        assert_eq!(facts(false).up(&board).unwrap()["token_file"], Value::Null);
    }

    #[test]
    fn the_text_can_be_pasted() {
        let text = facts(true).text("127.0.0.1:8080".parse().unwrap(), Path::new("/d/up.json"));
        assert!(
            text.contains("/bin/outrigger connect --url http://127.0.0.1:8080/mcp --token-file '/d/my token'\n"),
            "{text}"
        );
        assert!(!text.contains("s3cret"), "the output of a test is no terminal: {text}");
    }
}
