//! Who listens on the port that we want: a better answer than "address in use".

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};

use anyhow::bail;

/// `TCP_LISTEN` in /proc/net/tcp.
const LISTEN: &str = "0A";

/// Fails when `address` cannot be listened on, saying by whom it is taken and what to do.
///
/// The ingress binds it a moment later; a port lost in between is reported by its log.
pub(crate) fn check(address: SocketAddr) -> anyhow::Result<()> {
    let error = match TcpListener::bind(address) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let who = holder(address.port()).map(|who| format!(" by {who}")).unwrap_or_default();
            bail!(
                "{address} is taken{who}: stop that, or choose another `ingress.listen` in mesh.yaml (port 0 takes a free one)"
            )
        }
        io::ErrorKind::PermissionDenied => {
            bail!(
                "{address} may not be listened on ({error}): choose a port above 1023 as `ingress.listen` in mesh.yaml"
            )
        }
        _ => bail!("{address} cannot be listened on ({error}): choose another `ingress.listen` in mesh.yaml"),
    }
}

/// The process that listens on a port, as `name (process 123)`. Only those that we may look at are found.
fn holder(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let inodes: Vec<&str> =
        tables.iter().flat_map(|table| table.lines()).filter_map(|line| inode(line, port)).collect();
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        // Besides processes there are links to ourselves and the kernel's own files.
        if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let Some(files) = fs::read_dir(process.path().join("fd")).ok() else {
            continue; // no process, or somebody else's
        };
        let mut links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        if links.any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str())) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {})", name.trim(), process.file_name().display()));
        }
    }
    None
}

/// The inode of a line of /proc/net/tcp about a socket that listens on `port`.
fn inode(line: &str, port: u16) -> Option<&str> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let (_, local_port) = local.rsplit_once(':')?;
    let matches = state == LISTEN && u16::from_str_radix(local_port, 16).ok()? == port;
    fields.nth(5).filter(|_| matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let refused = check(address).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(listener);
        check(address).unwrap();
    }

    #[test]
    fn other_states_and_ports_are_passed_over() {
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 54321 1 0 100 0 0 10 0";
        assert_eq!(inode(line, 8080), Some("54321"));
        assert_eq!(inode(line, 8081), None);
        assert_eq!(inode(&line.replace(" 0A ", " 01 "), 8080), None);
    }
}
