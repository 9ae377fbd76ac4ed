//! Whose connection it is, as the kernel says: the socket at its other end, looked for among the open files of our children.
//!
//! Only for connections that show no credentials; a child that hides its files from us is nobody.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use super::passes::ChildId;

/// Processes of one child that are looked at, and open files of each.
const MOST: (usize, usize) = (256, 4096);

/// The child that holds the socket bound to `from` and connected to `to`; `None` when no child does, or several do.
pub(super) fn holder(from: SocketAddr, to: SocketAddr, roots: Vec<(ChildId, u32)>) -> Option<ChildId> {
    let link = format!("socket:[{}]", inode(from, to)?);
    let mut found = None;
    for (child, root) in roots {
        if family(root).into_iter().any(|process| holds(process, &link)) {
            if found.is_some() {
                return None;
            }
            found = Some(child);
        }
    }
    found
}

/// The number of a socket. One of IPv6 may speak IPv4.
fn inode(from: SocketAddr, to: SocketAddr) -> Option<u64> {
    let (from, to) = (canonical(from), canonical(to));
    let in_table = |table: &str, mapped: bool| {
        let text = fs::read_to_string(table).ok()?;
        let (from, to) = (in_hex(from, mapped), in_hex(to, mapped));
        text.lines().skip(1).find_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            let ours = words.next() == Some(&from) && words.next() == Some(&to);
            // One that is closed already is no file any more, and has 0 here.
            if ours { words.nth(6)?.parse().ok().filter(|&inode| inode > 0) } else { None }
        })
    };
    let v4 = || in_table("/proc/self/net/tcp", false);
    let v6 = || in_table("/proc/self/net/tcp6", true);
    if from.is_ipv4() { v4().or_else(v6) } else { v6() }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// As the tables write it: words of the machine's own byte order.
fn in_hex(address: SocketAddr, mapped: bool) -> String {
    let octets = match (address.ip(), mapped) {
        (IpAddr::V4(ip), false) => ip.octets().to_vec(),
        (IpAddr::V4(ip), true) => ip.to_ipv6_mapped().octets().to_vec(),
        (IpAddr::V6(ip), _) => ip.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).filter_map(|word| <[u8; 4]>::try_from(word).ok());
    let words: String = words.map(|word| format!("{:08X}", u32::from_ne_bytes(word))).collect();
    format!("{words}:{:04X}", address.port())
}

/// A process and what it started, bounded.
fn family(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(process) = all.get(next).copied() {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok());
            all.extend(children.take(MOST.0.saturating_sub(all.len())));
        }
    }
    all
}

fn holds(process: u32, link: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let mut files = files.flatten().take(MOST.1);
    files.any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == link))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_belongs_to_the_process_that_holds_it() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (from, to) = (client.local_addr().unwrap(), listener.local_addr().unwrap());
            let (own, nobody) = (std::process::id(), u32::MAX);
            assert_eq!(holder(from, to, vec![(7, own), (8, nobody)]), Some(7), "{address}");
            assert_eq!(holder(from, to, vec![(8, nobody)]), None);
            assert_eq!(holder(from, to, vec![(7, own), (9, own)]), None, "of two at once");
            drop(client);
            assert_eq!(holder(from, to, vec![(7, own)]), None, "it is over");
        }
    }

    #[test]
    fn a_socket_of_ipv6_that_speaks_ipv4_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{}", to.port()).parse().unwrap();
        let client = TcpStream::connect(mapped).unwrap();
        let from = client.local_addr().unwrap();
        assert_eq!(holder(from, to, vec![(1, std::process::id())]), Some(1));
    }

    #[test]
    fn what_a_process_started_is_of_its_family() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(family(std::process::id()).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
