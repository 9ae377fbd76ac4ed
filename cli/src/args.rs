//! Every command and option of `outrigger`. The help texts are the documentation.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use outrigger_examples::templates::Lang;
use outrigger_policy::CapabilityKind;

use crate::docs::Page;

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
    /// Run a whole mesh on this machine: authority, sidecars, ingress
    Up(UpArgs),
    /// Offer a mesh over stdio, for desktop clients that start a program
    Connect(ConnectArgs),
    /// Look at an MCP server: what it speaks, what it offers, what will give trouble
    Doctor(DoctorArgs),
    /// Approve the definitions of tools, prompts and resources, and tell when they have changed
    Lock(LockArgs),
    /// Look for what in definitions is meant to deceive: hidden characters, instructions to the model, look-alike names
    Scan(ScanArgs),
    /// See and decide calls that wait for a person's approval
    #[command(subcommand)]
    Approvals(ApprovalsCommand),
    /// Make and manage the certificate authority of a mesh
    #[command(subcommand)]
    Ca(CaCommand),
    /// Check files and tell every mistake with its line
    Validate(ValidateArgs),
    /// Ask a policy who may do what
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Ask what a service may reach, and make rules of what it reached
    #[command(subcommand)]
    Egress(EgressCommand),
    /// Check that an audit is whole, and look for lines in it
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Copy out a starter for a new MCP server
    New(NewArgs),
    /// Run a bundled example service: fs, http or vector
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
    /// Run the sidecar, the proxy beside one server, as `outrigger-sidecar` does
    #[command(disable_help_flag = true)]
    Sidecar {
        /// Its options: `--config FILE`; without it the environment configures it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run the ingress, the edge of a mesh, as `outrigger-ingress` does
    #[command(disable_help_flag = true)]
    Ingress {
        /// Its options: `--config FILE`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Print a page of documentation that is made from the code
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
    /// The MCP endpoint. Without it, the mesh that `outrigger up` runs in DIR.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// A file with the bearer token. Without --url, the one of the running mesh.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificates (PEM) of authorities to believe, besides those of the system.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// A header to send with every request, as `Name: value`. Repeatable.
    #[arg(long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// Where `outrigger up` keeps its state.
    #[arg(long, value_name = "DIR", default_value = ".outrigger")]
    pub(crate) dir: PathBuf,
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
    /// A file with a bearer token for the URL.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificates (PEM) of authorities to believe, besides those of the system.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// A header to send to the URL with every request, as `Name: value`. Repeatable.
    #[arg(long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
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

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalsCommand {
    /// Show the calls that wait for a role of yours, with their arguments
    List {
        #[command(flatten)]
        desk: DeskArgs,
    },
    /// Let a call go on, once
    Approve {
        /// Its id, as `list` shows it.
        id: String,
        #[command(flatten)]
        desk: DeskArgs,
    },
    /// Refuse a call
    Deny {
        /// Its id, as `list` shows it.
        id: String,
        #[command(flatten)]
        desk: DeskArgs,
    },
}

/// The desk of an ingress, and who comes to it.
#[derive(Debug, clap::Args)]
pub(crate) struct DeskArgs {
    /// The admin port of the ingress, such as http://127.0.0.1:9090. Without it, that of the mesh in DIR.
    #[arg(long, value_name = "URL")]
    pub(crate) admin: Option<String>,
    /// The state of a mesh that `outrigger up` runs.
    #[arg(long, value_name = "DIR", default_value = ".outrigger")]
    pub(crate) dir: PathBuf,
    /// A file with your bearer token for the ingress.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: PathBuf,
    /// Certificates (PEM) of authorities to believe, besides those of the system.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where definitions come from.
#[derive(Debug, clap::Args)]
pub(crate) struct SourceArgs {
    /// The admin port of an ingress, such as http://127.0.0.1:9090. Without it, that of the mesh in DIR.
    #[arg(long, value_name = "URL", conflicts_with = "server")]
    pub(crate) admin: Option<String>,
    /// The state of a mesh that `outrigger up` runs.
    #[arg(long, value_name = "DIR", default_value = ".outrigger")]
    pub(crate) dir: PathBuf,
    /// Ask one server itself instead of a mesh: its name in the mesh. The server is given at the end.
    #[arg(long, value_name = "NAME", requires = "server")]
    pub(crate) service: Option<String>,
    /// A file with a bearer token for the URL of a server.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificates (PEM) of authorities to believe, besides those of the system.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// A header to send to the URL of a server with every request, as `Name: value`. Repeatable.
    #[arg(long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// How long to wait for each answer of a server.
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// The URL of a server, or the program that is one, with its arguments.
    #[arg(value_name = "URL|COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) server: Vec<String>,
}

/// Approves the definitions of tools, prompts and resources, and tells when they have changed.
///
/// Writes what the services offer now into FILE, for git: read it before you commit it. A service that is in the file already
/// stays as it was approved, and what has changed is told, until it is approved again with `--update`. An ingress holds its
/// services to the file with `integrity: { lock: FILE }`. Exits with 1 when something is not as it was approved.
#[derive(Debug, clap::Args)]
pub(crate) struct LockArgs {
    /// The lock.
    #[arg(short, long, value_name = "FILE", default_value = "outrigger.lock")]
    pub(crate) file: PathBuf,
    /// Write nothing; a service that is not in the file is told too. For CI.
    #[arg(long, conflicts_with = "update")]
    pub(crate) check: bool,
    /// Approve a service again as it is now; `*` stands for any characters. Repeatable.
    #[arg(long, value_name = "SERVICE")]
    pub(crate) update: Vec<String>,
    /// What is held to the lock. Repeatable. Without it, what was before, and for new services tools, prompts and templates.
    #[arg(long = "kind", value_enum, value_name = "KIND")]
    pub(crate) kinds: Vec<KindName>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// Looks for what in definitions is meant to deceive.
///
/// Hidden characters, instructions to the model, names of files with secrets, texts about other services' tools, names that
/// look like others. A finding is a reason to look. Exits with 1 when there is one.
#[derive(Debug, clap::Args)]
pub(crate) struct ScanArgs {
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

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
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say whether somebody may use a capability, by which rule, and why not by the others
    ///
    /// Exits with 0 when it is allowed and with 1 when it is denied.
    Explain(ExplainArgs),
    /// Compare policies with a file of expectations, for CI
    ///
    /// Exits with 0 when all of them hold and with 1 when one does not. docs/POLICY.md describes the file.
    Test(PolicyTestArgs),
    /// Say who gains and who loses what between two versions of a policy, by recorded audit logs
    ///
    /// Exits with 0 when nobody gains or loses anything and with 1 when somebody does.
    Diff(PolicyDiffArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct PolicyDiffArgs {
    /// The policy that was in force when the audit was recorded.
    #[arg(value_name = "OLD")]
    pub(crate) old: PathBuf,
    /// The policy that is to come.
    #[arg(value_name = "NEW")]
    pub(crate) new: PathBuf,
    /// An audit log. Repeatable.
    #[arg(long = "audit-log", value_name = "LOG", required = true)]
    pub(crate) logs: Vec<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PolicyTestArgs {
    /// The expectations.
    #[arg(value_name = "FILE")]
    pub(crate) expectations: PathBuf,
    /// A policy file, instead of those that the expectations name. Repeatable; all are read as one.
    #[arg(long = "policy", value_name = "FILE")]
    pub(crate) policies: Vec<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Find lines that were edited, removed, added or put in another order
    ///
    /// Exits with 0 when the audit is whole and with 1 when it is not. Whoever can write the file can cut off its end:
    /// `--expect` takes the number that the metric `outrigger_audit_sequence` had.
    Verify(AuditVerifyArgs),
    /// Print the lines that fit all conditions
    Query(Box<AuditQueryArgs>),
}

#[derive(Debug, clap::Args)]
pub(crate) struct AuditVerifyArgs {
    /// Audit files. The kept segments of each (`<file>.<number>`) are read with it.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The public key (`audit_trail.key` with `.pub`) of the process that wrote it, from where nobody who can write the
    /// audit can write. Repeatable: a key may have been replaced.
    #[arg(long = "key", required = true, value_name = "FILE")]
    pub(crate) keys: Vec<PathBuf>,
    /// The last line must have at least this number.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) expect: Option<u64>,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AuditQueryArgs {
    /// Audit files. The kept segments of each (`<file>.<number>`) are read before it.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Who; `*` stands for any characters, here and below.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) who: Option<String>,
    /// The service.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) service: Option<String>,
    /// The tool, prompt or resource, under the service's own name.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) capability: Option<String>,
    /// The MCP method, such as `tools/call`.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) action: Option<String>,
    /// `allow` or `deny`.
    #[arg(long, value_name = "DECISION")]
    pub(crate) decision: Option<String>,
    /// The rule that decided, as `<policy>/<rule>`.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) rule: Option<String>,
    /// How it ended: `ok`, `tool_error`, `denied`, ...
    #[arg(long, value_name = "PATTERN")]
    pub(crate) outcome: Option<String>,
    /// An argument that a rule shows, as `NAME=VALUE`. Repeatable; all have to fit.
    #[arg(long = "argument", value_name = "NAME=PATTERN")]
    pub(crate) arguments: Vec<String>,
    /// The id of an approval, or who gave or refused it.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) approval: Option<String>,
    /// The trace id, which joins the lines of ingress and sidecars.
    #[arg(long, value_name = "ID")]
    pub(crate) trace: Option<String>,
    /// From this time on: a duration before now (`1h`), or the beginning of a time in UTC (`2026-11-21T09:30`).
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Before this time, in the same form.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Print the lines as they are.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EgressCommand {
    /// Say whether a service may reach something, by which rule, and why not; dials nothing
    ///
    /// Exits with 0 when it is allowed and with 1 when it is denied.
    Test(EgressTestArgs),
    /// Make the rules that let through what was let through, for each tool its own
    Suggest {
        /// Egress logs, written with `mode: observe`.
        #[arg(required = true, value_name = "LOG")]
        logs: Vec<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct EgressTestArgs {
    /// Where to: https://host/path, http://host/path (which can be read), or host:port.
    pub(crate) url: String,
    /// The service, one of `mesh.yaml`.
    #[arg(long, value_name = "SERVICE")]
    pub(crate) service: Option<String>,
    /// A tool whose call is at work. Repeatable.
    #[arg(long = "tool", value_name = "TOOL")]
    pub(crate) tools: Vec<String>,
    /// The HTTP method, where the request can be read.
    #[arg(long, default_value = "GET")]
    pub(crate) method: String,
    /// An address that the name has. Repeatable.
    #[arg(long = "address", value_name = "ADDRESS")]
    pub(crate) addresses: Vec<std::net::IpAddr>,
    /// The file of the mesh.
    #[arg(long, value_name = "FILE", default_value = "mesh.yaml")]
    pub(crate) mesh: PathBuf,
    /// The settings of a sidecar, instead of a mesh.
    #[arg(long, value_name = "FILE", conflicts_with = "service")]
    pub(crate) config: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// What is asked for: SERVICE.NAME, such as fs.readFileText, or fs.file:///notes/a.txt with --kind resource.
    #[arg(value_name = "SERVICE.NAME")]
    pub(crate) capability: String,
    /// Who asks: a user (alice), a workload (spiffe://demo.outrigger.local/indexer), or `anonymous`.
    #[arg(long = "as", value_name = "PRINCIPAL")]
    pub(crate) principal: String,
    /// A policy file. Repeatable; all are read as one. Without it, what `outrigger up` wrote: .outrigger/policy.yaml.
    #[arg(long = "policy", value_name = "FILE")]
    pub(crate) policies: Vec<PathBuf>,
    /// A scope that the user was granted. Repeatable.
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// A role that the user was granted. Repeatable.
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<String>,
    /// A claim of the user's token, for conditions and `requires`. Repeatable, also for several values of one claim.
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    pub(crate) claims: Vec<String>,
    /// What kind of capability it is.
    #[arg(long, value_enum, default_value = "tool")]
    pub(crate) kind: KindName,
    /// The arguments of a call, a JSON object. Without these three, what a list can tell is told.
    #[arg(long, value_name = "JSON")]
    pub(crate) arguments: Option<String>,
    /// When the call is made, such as 2026-11-21T09:30:00Z. Now, if there are arguments or a source.
    #[arg(long, value_name = "TIME", value_parser = crate::commands::policy::request::time)]
    pub(crate) time: Option<std::time::SystemTime>,
    /// The address that the call comes from.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) source: Option<std::net::IpAddr>,
    /// The tool's `annotations` as its server lists them, a JSON object.
    #[arg(long, value_name = "JSON")]
    pub(crate) annotations: Option<String>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
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
