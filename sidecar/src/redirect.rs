//! `outrigger-sidecar redirect`: rules of the kernel by which whatever the server dials arrives at the sidecar, and
//! nothing else leaves. Installed once, by whoever has NET_ADMIN; the sidecar itself needs no privilege.
//!
//! ```text
//!  raw    output: not the sidecar's user, DNS over UDP       -> a zone of connection tracking of its own, with its answers
//!  nat    output: not the sidecar's user, the mesh, TCP      -> the proxy's port here, although it is a loopback address
//!                 not the sidecar's user, not loopback, TCP  -> the proxy's port here (SO_ORIGINAL_DST says where to)
//!                 DNS over UDP and TCP                       -> the resolver's port here
//!  filter output: not the sidecar's user, not loopback       -> refused, unless it answers a connection from outside
//!  filter input:  not loopback, another port than `--inbound` -> refused, unless it answers a connection to outside
//! ```
//!
//! Docker's resolver is at an address of loopback, on port 53 and on one that nobody is told: it asks the world, so nobody but the
//! sidecar speaks to it.
//!
//! A socket that was closed with words still on their way belongs to no user any more. Only the sidecar's can be that: what
//! others dial never gets as far as a connection to the outside.
//!
//! The zone keeps two who ask the same server from the same port, one after the other, from being taken for one: the kernel
//! remembers for minutes whether a pair of ports was redirected, and datagrams have no end by which it would forget.
//!
//! nftables takes the whole set at once or not at all. Where there is no `nft`, the same is said to iptables.

use std::{
    fmt::Write as _,
    io::{ErrorKind, Write as _},
    process::{Command, Stdio},
};

use clap::{Args, Subcommand, ValueEnum};
use thiserror::Error;

use crate::outbound::mesh;

/// What is done with the rules.
#[derive(Debug, Subcommand)]
pub enum RedirectCommand {
    /// Send what others than the sidecar's user dial to the sidecar, and let nothing else out. Needs NET_ADMIN, once.
    Install(Install),
    /// Take the rules away.
    Remove {
        /// What understands the rules.
        #[arg(long, value_enum, default_value = "auto")]
        backend: Backend,
    },
}

/// How connections are redirected.
#[derive(Debug, Clone, Args)]
pub struct Install {
    /// The user that the sidecar runs as; what it dials leaves. Nothing else may run as this user.
    #[arg(long, env = "OUTRIGGER_REDIRECT_UID", default_value_t = 1337, value_name = "UID")]
    pub uid: u32,
    /// The port of `egress.listen`.
    #[arg(long, default_value_t = 15001, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The port of `egress.dns.listen`; without it no names are looked up.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub dns_port: Option<u16>,
    /// From outside, only these TCP ports can be reached, such as those of `listen` and `admin.listen`; without it, every port of the
    /// server can.
    #[arg(long, value_delimiter = ',', value_name = "PORTS", value_parser = clap::value_parser!(u16).range(1..))]
    pub inbound: Vec<u16>,
    /// What understands the rules.
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: Backend,
    /// Only print the rules.
    #[arg(long)]
    pub print: bool,
    /// Stay until a signal comes: for a container that holds the network namespace which sidecar and server join.
    #[arg(long)]
    pub hold: bool,
}

/// What understands the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// `nft`, or iptables where there is none.
    Auto,
    /// The program `nft` of nftables.
    Nft,
    /// The programs `iptables-restore` and `ip6tables-restore`.
    Iptables,
}

/// Why there are no rules.
#[derive(Debug, Error)]
pub enum RedirectError {
    /// Neither program is installed.
    #[error("neither `nft` nor `iptables-restore` is installed; install nftables")]
    NoProgram,
    /// The one that was asked for is not installed.
    #[error("`{0}` is not installed")]
    Missing(&'static str),
    /// It refused.
    #[error("{program}: {said}{hint}")]
    Refused {
        /// Who.
        program: &'static str,
        /// In its words.
        said: String,
        /// What to do.
        hint: &'static str,
    },
    /// It could not be talked to.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
}

/// Does it.
///
/// # Errors
/// [`RedirectError`]; with nftables nothing has changed then.
pub fn run(command: &RedirectCommand) -> Result<Option<String>, RedirectError> {
    match command {
        RedirectCommand::Install(install) if install.print => Ok(Some(match install.backend {
            Backend::Iptables => {
                format!("{}{}", iptables(install, Family::V4), iptables(install, Family::V6))
            }
            Backend::Auto | Backend::Nft => nftables(install),
        })),
        RedirectCommand::Install(install) => {
            choose(
                install.backend,
                || feed("nft", &["-f", "-"], &nftables(install)),
                || {
                    Family::BOTH.iter().try_for_each(|family| {
                        let rules = replacing(*family, &iptables(install, *family))?;
                        feed(family.restore(), &["--noflush"], &rules)
                    })
                },
            )?;
            Ok(None)
        }
        RedirectCommand::Remove { backend } => {
            let nft = || feed("nft", &["-f", "-"], REMOVED);
            let iptables = || Family::BOTH.iter().try_for_each(|family| forget(*family));
            match backend {
                // Both: nobody remembers by which they came.
                Backend::Auto => match (nft(), iptables()) {
                    (Err(RedirectError::Missing(_)), Err(RedirectError::Missing(_))) => {
                        return Err(RedirectError::NoProgram);
                    }
                    (Ok(()) | Err(RedirectError::Missing(_)), Ok(()) | Err(RedirectError::Missing(_))) => {}
                    (Err(error), _) | (_, Err(error)) => return Err(error),
                },
                one => choose(*one, nft, iptables)?,
            }
            Ok(None)
        }
    }
}

fn choose(
    backend: Backend,
    nft: impl FnOnce() -> Result<(), RedirectError>,
    iptables: impl FnOnce() -> Result<(), RedirectError>,
) -> Result<(), RedirectError> {
    match backend {
        Backend::Nft => nft(),
        Backend::Iptables => iptables(),
        Backend::Auto => match nft() {
            Err(RedirectError::Missing(_)) => match iptables() {
                Err(RedirectError::Missing(_)) => Err(RedirectError::NoProgram),
                other => other,
            },
            other => other,
        },
    }
}

/// Our chains of iptables: the tables that they are in, and where they are entered from.
const CHAINS: [(&str, &str, &str); 4] = [
    ("raw", "OUTPUT", "OUTRIGGER_ZONE"),
    ("nat", "OUTPUT", "OUTRIGGER_REDIRECT"),
    ("filter", "OUTPUT", "OUTRIGGER_GUARD"),
    ("filter", "INPUT", "OUTRIGGER_DOOR"),
];

/// Where Docker's resolver listens in every network namespace that has one, also on a port of its choice.
pub(crate) const ENGINE_RESOLVER: &str = "127.0.0.11";

/// Where redirected questions are tracked; everything else is in 0.
const ZONE: u16 = 1337;

/// A table is made before it is deleted, so that both work whether or not it was there.
const REMOVED: &str = "table inet outrigger\ndelete table inet outrigger\n";

/// The whole set for `nft -f -`, which takes it as one transaction. It replaces one that was there.
fn nftables(install: &Install) -> String {
    let (uid, port, mesh) = (install.uid, install.port, mesh::ADDRESS);
    let dns = install.dns_port.map_or_else(String::new, |dns| {
        format!("    udp dport 53 redirect to :{dns}\n    tcp dport 53 redirect to :{dns}\n")
    });
    // Where container engines have a resolver on loopback, they send what is for it to another port before this is asked.
    let names = if install.dns_port.is_some() {
        String::new()
    } else {
        ["ip daddr 127.0.0.0/8", "ip6 daddr ::1"]
            .map(|to| {
                let asked = format!("ct direction original ct original {to} ct original proto-dst 53");
                format!("    meta l4proto {{ 6, 17 }} {asked} reject\n")
            })
            .concat()
    };
    // Priority raw: before tracking.
    let zone = install.dns_port.map_or_else(String::new, |dns| {
        format!(
            "  chain apart {{
    type filter hook output priority -300; policy accept;
    meta skuid != {uid} udp dport 53 ct zone set {ZONE}
    udp sport {dns} ct zone set {ZONE}
  }}
"
        )
    });
    let inbound = if install.inbound.is_empty() {
        String::new()
    } else {
        let ports = install.inbound.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        format!(
            "  chain from_outside {{
    type filter hook input priority 0; policy accept;
    iif lo accept
    ct state established,related accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert }} accept
    tcp dport {{ {ports} }} accept
    drop
  }}
"
        )
    };
    // Before dstnat (-100), where container engines have rules of their own for DNS. Protocols by number (ICMP is 1, that of IPv6 58):
    // `nft` knows most names from /etc/protocols, which small images do not have.
    format!(
        "{REMOVED}\
table inet outrigger {{
{zone}  chain to_sidecar {{
    type nat hook output priority -150; policy accept;
    meta skuid {uid} return
{dns}    ip daddr {mesh} meta l4proto tcp redirect to :{port}
    ip daddr 127.0.0.0/8 return
    ip6 daddr ::1 return
    meta l4proto tcp redirect to :{port}
  }}
  chain only_sidecar {{
    type filter hook output priority 0; policy accept;
    meta skuid {uid} accept
{names}    ip daddr {ENGINE_RESOLVER} reject
    ip daddr 127.0.0.0/8 accept
    ip6 daddr ::1 accept
    meta l4proto tcp ct direction reply ct state established accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} accept
    meta l4proto {{ 1, 58 }} meta skuid 0-4294967295 drop
    meta l4proto udp meta skuid 0-4294967295 reject
    meta skuid 0-4294967295 drop
    meta l4proto tcp ct state established accept
    icmp type destination-unreachable accept
    icmpv6 type destination-unreachable accept
    drop
  }}
{inbound}}}
"
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    fn restore(self) -> &'static str {
        match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        }
    }

    fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.0/8",
            Self::V6 => "::1/128",
        }
    }
}

/// The same for `iptables-restore --noflush`, one family at a time. Our chains go first: others must not decide before.
fn iptables(install: &Install, family: Family) -> String {
    let (uid, port, loopback) = (install.uid, install.port, family.loopback());
    let mut text = String::new();
    let mut add = |line: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    };
    if let Some(dns) = install.dns_port {
        add(format_args!("*raw\n:OUTRIGGER_ZONE - [0:0]\n-I OUTPUT 1 -j OUTRIGGER_ZONE"));
        let others = format_args!("-p udp --dport 53 -m owner ! --uid-owner {uid}");
        add(format_args!("-A OUTRIGGER_ZONE {others} -j CT --zone {ZONE}"));
        add(format_args!("-A OUTRIGGER_ZONE -p udp --sport {dns} -j CT --zone {ZONE}\nCOMMIT"));
    }
    add(format_args!("*nat\n:OUTRIGGER_REDIRECT - [0:0]\n-I OUTPUT 1 -j OUTRIGGER_REDIRECT"));
    add(format_args!("-A OUTRIGGER_REDIRECT -m owner --uid-owner {uid} -j RETURN"));
    for protocol in ["udp", "tcp"].iter().filter(|_| install.dns_port.is_some()) {
        let dns = install.dns_port.unwrap_or_default();
        add(format_args!("-A OUTRIGGER_REDIRECT -p {protocol} --dport 53 -j REDIRECT --to-ports {dns}"));
    }
    if family == Family::V4 {
        let mesh = mesh::ADDRESS;
        add(format_args!("-A OUTRIGGER_REDIRECT -d {mesh} -p tcp -j REDIRECT --to-ports {port}"));
    }
    add(format_args!("-A OUTRIGGER_REDIRECT -d {loopback} -j RETURN"));
    add(format_args!("-A OUTRIGGER_REDIRECT -p tcp -j REDIRECT --to-ports {port}\nCOMMIT"));
    add(format_args!("*filter\n:OUTRIGGER_GUARD - [0:0]\n-I OUTPUT 1 -j OUTRIGGER_GUARD"));
    add(format_args!("-A OUTRIGGER_GUARD -m owner --uid-owner {uid} -j RETURN"));
    for protocol in ["udp", "tcp"].iter().filter(|_| install.dns_port.is_none()) {
        let asked = format_args!("conntrack --ctdir ORIGINAL --ctorigdst {loopback} --ctorigdstport 53");
        add(format_args!("-A OUTRIGGER_GUARD -p {protocol} -m {asked} -j DROP"));
    }
    if family == Family::V4 {
        add(format_args!("-A OUTRIGGER_GUARD -d {ENGINE_RESOLVER} -j DROP"));
    }
    add(format_args!("-A OUTRIGGER_GUARD -d {loopback} -j RETURN"));
    add(format_args!("-A OUTRIGGER_GUARD -p tcp -m conntrack --ctdir REPLY --ctstate ESTABLISHED -j RETURN"));
    let nobodys = "-m owner ! --socket-exists -m conntrack --ctstate ESTABLISHED";
    add(format_args!("-A OUTRIGGER_GUARD -p tcp {nobodys} -j RETURN"));
    if family == Family::V6 {
        for kind in ["neighbour-solicitation", "neighbour-advertisement", "router-solicitation"] {
            add(format_args!("-A OUTRIGGER_GUARD -p icmpv6 --icmpv6-type {kind} -j RETURN"));
        }
    }
    add(format_args!("-A OUTRIGGER_GUARD -j DROP"));
    // An empty chain lets everything in, and takes the place of an older one that did not.
    add(format_args!(":OUTRIGGER_DOOR - [0:0]\n-I INPUT 1 -j OUTRIGGER_DOOR"));
    if !install.inbound.is_empty() {
        add(format_args!("-A OUTRIGGER_DOOR -i lo -j RETURN"));
        add(format_args!("-A OUTRIGGER_DOOR -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"));
        if family == Family::V6 {
            for kind in ["neighbour-solicitation", "neighbour-advertisement", "router-advertisement"] {
                add(format_args!("-A OUTRIGGER_DOOR -p icmpv6 --icmpv6-type {kind} -j RETURN"));
            }
        }
        for port in &install.inbound {
            add(format_args!("-A OUTRIGGER_DOOR -p tcp --dport {port} -j RETURN"));
        }
        add(format_args!("-A OUTRIGGER_DOOR -j DROP"));
    }
    add(format_args!("COMMIT"));
    text
}

/// The same rules for where older ones of ours may be: they go in the moment in which the new ones come. A chain that is named
/// again is emptied; the way into it must not be there twice.
fn replacing(family: Family, rules: &str) -> Result<String, RedirectError> {
    let mut text = rules.to_owned();
    for (table, from, chain) in CHAINS {
        match feed(family.program(), &["-w", "-t", table, "-C", from, "-j", chain], "") {
            Ok(()) => {
                let enter = format!("-I {from} 1 -j {chain}\n");
                text = text.replace(&enter, &format!("-D {from} -j {chain}\n{enter}"));
            }
            // There is none; whoever lacks the privilege hears of it at the next step.
            Err(RedirectError::Refused { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(text)
}

/// Takes our chains of iptables away, if they are there.
fn forget(family: Family) -> Result<(), RedirectError> {
    let program = family.program();
    for (table, from, chain) in CHAINS {
        let steps: [&[&str]; 3] = [&["-D", from, "-j", chain], &["-F", chain], &["-X", chain]];
        if let Err(error) = feed(program, &["-w", "-t", table, "-n", "-L", chain], "") {
            match error {
                // There is no such chain; whoever lacks the privilege hears of it at the next step.
                RedirectError::Refused { .. } => continue,
                other => return Err(other),
            }
        }
        for step in steps {
            feed(program, &[&["-w", "-t", table], step].concat(), "")?;
        }
    }
    Ok(())
}

/// Runs a program with this input.
fn feed(program: &'static str, arguments: &[&str], input: &str) -> Result<(), RedirectError> {
    let io = |error| RedirectError::Io(program, error);
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(RedirectError::Missing(program)),
        Err(error) => return Err(io(error)),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ended early says why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(io)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let denied = said.to_ascii_lowercase();
    let hint = if denied.contains("permitted") || denied.contains("permission") || denied.contains("are you root") {
        "; it needs the capability NET_ADMIN (in an init container, or `docker run --cap-add NET_ADMIN`)"
    } else {
        ""
    };
    Err(RedirectError::Refused { program, said, hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(dns_port: Option<u16>) -> Install {
        Install {
            uid: 1337,
            port: 15001,
            dns_port,
            inbound: Vec::new(),
            backend: Backend::Auto,
            print: false,
            hold: false,
        }
    }

    #[test]
    fn the_sidecar_is_exempt_before_anything_else() {
        for text in [nftables(&install(Some(15053))), iptables(&install(Some(15053)), Family::V4)] {
            for verdict in ["redirect to", "REDIRECT --to-ports", "drop", "DROP"] {
                if let Some(at) = text.find(verdict) {
                    assert!(text[..at].contains("1337"), "{verdict} before the exemption in {text}");
                }
            }
            assert!(text.contains("15053"));
        }
    }

    #[test]
    fn without_a_resolver_no_name_is_looked_up() {
        assert!(!nftables(&install(None)).contains(" dport 53"));
        assert!(nftables(&install(None)).contains("ct original proto-dst 53 reject"));
        assert!(!iptables(&install(None), Family::V6).contains("--dport 53"));
        assert!(iptables(&install(None), Family::V6).contains("--ctorigdstport 53"));
    }

    #[test]
    fn only_the_named_ports_can_be_reached_from_outside() {
        let open = install(None);
        assert!(!nftables(&open).contains("hook input") && !iptables(&open, Family::V4).contains("DOOR -j DROP"));
        let closed = Install { inbound: vec![8443, 15020], ..open };
        assert!(nftables(&closed).contains("tcp dport { 8443, 15020 } accept\n    drop"));
        assert!(iptables(&closed, Family::V6).contains("--dport 15020 -j RETURN\n-A OUTRIGGER_DOOR -j DROP"));
    }

    #[test]
    fn nobody_but_the_sidecar_speaks_to_the_resolver_of_the_engine() {
        for text in [nftables(&install(None)), nftables(&install(Some(53)))] {
            let (refused, open) = (text.find("127.0.0.11 reject").unwrap(), text.find("127.0.0.0/8 accept").unwrap());
            assert!(refused < open);
        }
        assert!(iptables(&install(None), Family::V4).contains("-d 127.0.0.11 -j DROP"));
    }

    #[test]
    fn nftables_is_tried_first_and_iptables_only_where_there_is_none() {
        let refused = || Err(RedirectError::Refused { program: "nft", said: String::new(), hint: "" });
        assert!(choose(Backend::Auto, refused, || panic!("not asked")).is_err());
        assert!(choose(Backend::Auto, || Err(RedirectError::Missing("nft")), || Ok(())).is_ok());
        let neither =
            choose(Backend::Auto, || Err(RedirectError::Missing("nft")), || Err(RedirectError::Missing("iptables")));
        assert!(matches!(neither, Err(RedirectError::NoProgram)));
    }
}
