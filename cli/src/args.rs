//! Every command and option of `outrigger`. The help texts are the documentation.

mod approvals;
mod audit;
mod bench;
mod ca;
mod definitions;
mod egress;
mod inject;
mod policy;
mod token;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use outrigger_examples::templates::Lang;
use outrigger_policy::CapabilityKind;

use crate::docs::Page;

pub(crate) use approvals::{ApprovalsCommand, DeskArgs};
pub(crate) use audit::{AuditCommand, AuditQueryArgs, AuditVerifyArgs};
pub(crate) use bench::BenchArgs;
pub(crate) use ca::{CaCommand, CaDir, RotateCommand, TokenCommand};
pub(crate) use definitions::{LockArgs, ScanArgs, SourceArgs};
pub(crate) use egress::{EgressCommand, EgressTestArgs};
pub(crate) use inject::{InjectArgs, InjectCommand};
pub(crate) use policy::{ExplainArgs, PolicyCommand, PolicyDiffArgs, PolicyTestArgs};
pub(crate) use token::TokenArgs;

/// A mesh for MCP servers: a sidecar beside each server, one ingress in front.
///
/// `outrigger up` is the place to start: it runs a whole mesh on this machine. Results go to stdout, everything else to
/// stderr. Exit codes: 0 success, 1 failure (of `validate`, `policy explain` and `egress test`: the answer is no), 2 a mistake
/// in the command line or in a file.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, propagate_version = true)]
pub(crate) struct Args {
    /// End when this process ends. `up` gives it to what it starts.
    #[arg(long, hide = true, value_name = "PID")]
    pub(crate) parent: Option<i32>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(UpArgs),
    Connect(ConnectArgs),
    Doctor(DoctorArgs),
    Bench(BenchArgs),
    Lock(LockArgs),
    Scan(ScanArgs),
    /// Sees and decides calls that wait for a person's approval
    #[command(subcommand)]
    Approvals(ApprovalsCommand),
    /// Makes and manages the certificate authority of a mesh
    #[command(subcommand)]
    Ca(CaCommand),
    Inject(InjectArgs),
    Token(TokenArgs),
    Validate(ValidateArgs),
    /// Asks a policy who may do what
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Asks what a service may reach, and makes rules of what it reached
    #[command(subcommand)]
    Egress(EgressCommand),
    /// Checks that an audit is whole, and looks for lines in it
    #[command(subcommand)]
    Audit(AuditCommand),
    New(NewArgs),
    /// Runs a bundled example service: fs, http or vector
    ///
    /// Over stdio, or with `--transport http` over Streamable HTTP. Each service has its own options: `outrigger example
    /// fs --help`.
    #[command(disable_help_flag = true)]
    Example {
        /// Which: fs, http or vector.
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
        /// Its options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Runs the sidecar, the proxy beside one server, as `outrigger-sidecar` does
    #[command(disable_help_flag = true)]
    Sidecar {
        /// Its options: `--config FILE`; without it the environment configures it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Runs the ingress, the edge of a mesh, as `outrigger-ingress` does
    #[command(disable_help_flag = true)]
    Ingress {
        /// Its options: `--config FILE`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Prints a page of documentation that is made from the code
    Docs {
        /// Which page.
        #[arg(value_enum)]
        page: Page,
    },
}

/// Runs a whole mesh on this machine.
///
/// Makes a certificate authority, starts a sidecar for each service and one ingress, and prints where clients connect.
/// Without a file the bundled example services run. A service that does not start is reported and stops nothing else.
/// When every part is ready, DIR/up.json says where everything is; it goes away at the end. Ctrl-C lets running calls
/// finish; a second one ends at once.
///
/// In DIR: `token` (what clients present), `ca/` and `identity/` (certificates, renewed at two thirds of their life),
/// `config/` (what each part was started with), `logs/`, and `policy.yaml` when the manifest names no policy.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// The services to run (mesh.yaml). Paths in it are relative to the working directory.
    #[arg(short, long, value_name = "MESH.YAML")]
    pub(crate) file: Option<PathBuf>,
    /// Where the state is kept between runs.
    #[arg(long, value_name = "DIR", default_value = ".outrigger")]
    pub(crate) dir: PathBuf,
    /// Write each change of state to stdout as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// A service that is not ready within this is reported as failed. It may still become ready later.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) start_timeout: Duration,
    /// How long a certificate lives: 24h, 90m, 30s.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub(crate) certificate_life: Duration,
}

/// Offers a mesh over stdio, for desktop clients that start a program.
///
/// Reads MCP messages from stdin, one per line, of any revision; sends each to the mesh over HTTP and writes what comes
/// back to stdout. Ends at the end of stdin.
///
/// In a client's configuration: `{"mcpServers": {"mesh": {"command": "outrigger", "args": ["connect", "--url", "...",
/// "--token-file", "..."]}}}`
#[derive(Debug, clap::Args)]
pub(crate) struct ConnectArgs {
    /// The MCP endpoint. Without it, the mesh that `outrigger up` runs in DIR, with its token and its authority.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    #[command(flatten)]
    pub(crate) asked: UrlArgs,
    /// Where `outrigger up` keeps its state.
    #[arg(long, value_name = "DIR", default_value = ".outrigger")]
    pub(crate) dir: PathBuf,
}

/// How a URL is asked.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct UrlArgs {
    /// A file with a bearer token for the URL.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificates (PEM) of authorities to believe, besides those of the system.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// A header to send to the URL with every request, as `Name: value`. Repeatable.
    #[arg(long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
}

/// Looks at an MCP server: what it speaks, what it offers, what will give trouble.
///
/// Asks the server in each revision of MCP in turn (a program is started anew for each), reads its whole catalog and
/// says what a mesh, an LLM API or an older client would stumble over. Calls no tool. Exits with 1 when the server
/// cannot be used or something in it is broken, with 0 when there are only warnings and notes.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// The URL of a server, or the program that is one, with its arguments.
    #[arg(value_name = "URL|COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) server: Vec<String>,
    #[command(flatten)]
    pub(crate) asked: UrlArgs,
    /// The name that the service would have in the mesh, for checking the length of exposed names.
    #[arg(long, value_name = "NAME", default_value = "service")]
    pub(crate) service: String,
    /// How long to wait for each answer; a program's first one includes its start.
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Checks files and tells every mistake with its line.
///
/// The kind of each file is recognised by what stands in it. All policy files given together are checked as one policy.
/// Exits with 1 when there is a mistake, and with 2 when a file cannot be read.
#[derive(Debug, clap::Args)]
pub(crate) struct ValidateArgs {
    /// The files: mesh.yaml, sidecar.yaml, ingress.yaml, policies, outrigger.lock.
    #[arg(value_name = "FILE", required_unless_present = "schema")]
    pub(crate) files: Vec<PathBuf>,
    /// Take every file for this kind.
    #[arg(long, value_enum)]
    pub(crate) kind: Option<FileKind>,
    /// Let environment variables (OUTRIGGER_...) complete and override the files, as they do when a program starts.
    #[arg(long)]
    pub(crate) environment: bool,
    /// Print the JSON Schema of a kind of file, for editors.
    #[arg(long, value_enum, value_name = "KIND", conflicts_with_all = ["files", "kind", "environment"])]
    pub(crate) schema: Option<FileKind>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The kinds of files that people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileKind {
    /// What `outrigger up -f` takes.
    Mesh,
    /// Settings of a sidecar.
    Sidecar,
    /// Settings of an ingress.
    Ingress,
    /// Who may do what.
    Policy,
    /// Settings of `outrigger ca serve`.
    Ca,
    /// Settings of `outrigger inject`.
    Inject,
}

/// Which ingress is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct IngressArgs {
    /// The admin port of the ingress, such as http://127.0.0.1:9090. Without it, that of the mesh in DIR.
    #[arg(long, value_name = "URL")]
    pub(crate) admin: Option<String>,
    /// The state of a mesh that `outrigger up` runs.
    #[arg(long, value_name = "DIR", default_value = ".outrigger")]
    pub(crate) dir: PathBuf,
}

/// The kinds of capabilities, as arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindName {
    /// Called by a model.
    Tool,
    /// Chosen by a person.
    Prompt,
    /// Read by its URI.
    Resource,
    /// A pattern of resource URIs.
    Template,
}

impl From<KindName> for CapabilityKind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Tool => Self::Tool,
            KindName::Prompt => Self::Prompt,
            KindName::Resource => Self::Resource,
            KindName::Template => Self::Template,
        }
    }
}

/// Copies out a starter for a new MCP server, with the official SDK, tests and a README.
#[derive(Debug, clap::Args)]
pub(crate) struct NewArgs {
    /// The language.
    #[arg(long, value_enum)]
    pub(crate) lang: Lang,
    /// The name of the service: 1 to 20 of a-z, 0-9 and `-`.
    pub(crate) name: String,
    /// Where to write; a directory of the service's name unless given.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// A duration as in the settings: a number and one of s, m, h, d.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    let total = seconds.and_then(|unit: u64| number.parse::<u64>().ok()?.checked_mul(unit)).filter(|total| *total > 0);
    total.map(Duration::from_secs).ok_or_else(|| "a number and a unit: 30s, 90m, 24h, 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn options_of_the_carried_programs_are_theirs() {
        let args = Args::try_parse_from(["outrigger", "example", "fs", "--help"]).unwrap();
        let Command::Example { name, args } = args.command else { panic!("another command") };
        assert_eq!((name.as_str(), args), ("fs", vec!["--help".into()]));
        let args = Args::try_parse_from(["outrigger", "--parent", "7", "sidecar", "--config", "x"]).unwrap();
        assert!(matches!(args.command, Command::Sidecar { args } if args.len() == 2));
        assert_eq!(args.parent, Some(7));
    }

    #[test]
    fn durations_are_bounded_and_have_a_unit() {
        assert_eq!(duration("90m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "5", "0s", "-1s", "1w", "s", "99999999999999999999s", "99999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
