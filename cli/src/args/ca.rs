//! `outrigger ca`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use super::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Make a new authority: ca.key, ca.pem and an empty revocation list. Never overwrites one
    Init {
        /// The mesh whose members it will name, such as demo.outrigger.local.
        #[arg(long, value_name = "NAME")]
        trust_domain: String,
        /// Make a root that signs other authorities and is kept offline; see `ca intermediate`.
        #[arg(long)]
        root: bool,
        #[command(flatten)]
        dir: CaDir,
    },
    /// Make an authority below a root, which can then be taken offline
    ///
    /// In a directory that has an authority already, this makes its successor: go on with `ca rotate switch`.
    Intermediate {
        /// The directory of the root, made with `ca init --root`.
        #[arg(long, value_name = "DIR")]
        root: PathBuf,
        #[command(flatten)]
        dir: CaDir,
        /// How long it lives, never longer than the root.
        #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = duration)]
        life: Duration,
    },
    /// Sign certificates for workloads over the network
    ///
    /// Workloads make their own keys, prove themselves with a join token (see `ca token`), a service-account token of
    /// Kubernetes or their present certificate, and learn of revocations at once. Settings: `outrigger docs configuration`.
    Serve {
        /// Settings file (YAML). Without it everything comes from OUTRIGGER_* variables, which also override the file.
        #[arg(long, env = "OUTRIGGER_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        /// The authority's directory, instead of `dir` in the settings.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Ask a running `ca serve` whether it is ready; exit code 0 or 1. For container health checks
    Health {
        /// The settings of `ca serve`.
        #[arg(long, env = "OUTRIGGER_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Make and manage the tokens with which workloads prove themselves to `ca serve`
    #[command(subcommand)]
    Token(TokenCommand),
    /// Replace the authority in three steps, without a call that fails
    #[command(subcommand)]
    Rotate(RotateCommand),
    /// Make a certificate and key for a service
    ///
    /// Writes OUT/SERVICE.pem and OUT/SERVICE.key. The certificate names spiffe://<trust domain>/SERVICE and nobody else.
    Issue {
        /// Whom to name: 1 to 20 of a-z, 0-9 and `-`.
        service: String,
        #[command(flatten)]
        dir: CaDir,
        /// Where to write; the authority's directory unless given.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// How long it lives: 24h, 90m, 30s.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
        life: Duration,
        /// A DNS name or IP address for clients that verify those, as of a public listener. Repeatable.
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
    },
    /// Take a certificate back: it is refused as soon as members have read the new revocation list
    Revoke {
        /// The certificate's file, or its serial number.
        #[arg(value_name = "FILE|SERIAL")]
        what: String,
        #[command(flatten)]
        dir: CaDir,
    },
    /// Show the authority: trust domain, end of its life, digests for first contact, what it revoked
    Show {
        #[command(flatten)]
        dir: CaDir,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it, once
    Create {
        /// Who proves itself with it.
        #[arg(long, value_name = "NAME")]
        service: String,
        /// How many workloads may use it: one for each replica.
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
        /// How long it can be used.
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
        ttl: Duration,
        #[command(flatten)]
        dir: CaDir,
    },
    /// Show which tokens there are, without the tokens themselves
    List {
        #[command(flatten)]
        dir: CaDir,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a token useless
    Revoke {
        /// Its id, as `list` shows it.
        id: String,
        #[command(flatten)]
        dir: CaDir,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RotateCommand {
    /// Make the successor and let members believe it beside the present one; it does not sign yet
    Begin {
        #[command(flatten)]
        dir: CaDir,
    },
    /// Let the successor sign, once every member has the new ca.pem and crl.pem
    Switch {
        #[command(flatten)]
        dir: CaDir,
    },
    /// Let nobody believe the old one, once none of its certificates lives
    Finish {
        #[command(flatten)]
        dir: CaDir,
        /// How long certificates live at most that the old one signed.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
        after: Duration,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct CaDir {
    /// The authority's directory.
    #[arg(long, value_name = "DIR", default_value = ".outrigger/ca")]
    pub(crate) dir: PathBuf,
}
