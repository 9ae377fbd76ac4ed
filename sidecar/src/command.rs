//! The command line of the sidecar, for its own binary and for `outrigger sidecar`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use outrigger_config::{Diagnostics, Env};
use outrigger_confine::Plan;
use outrigger_runtime::start::{Exit, run};
use outrigger_runtime::{ShutdownSignals, health_check};

use crate::{
    child,
    config::{Config, EgressOnly, Upstream},
    drain, init, outbound,
    redirect::{self, RedirectCommand},
    start::variable,
};

/// The proxy beside one MCP server: mTLS, policy, limits, trace and metrics, without a change to the server.
#[derive(Debug, Parser)]
#[command(name = "outrigger-sidecar", version)]
struct Arguments {
    /// Settings file (YAML). Without it everything comes from OUTRIGGER_* variables, which also override the file.
    #[arg(long, env = "OUTRIGGER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only the outbound half, for anything that should reach no more than it may: an allowlist over HTTP and SOCKS5
    /// (`egress:` in the file, or OUTRIGGER_EGRESS_LISTEN, OUTRIGGER_EGRESS_ALLOW, OUTRIGGER_EGRESS_MODE).
    #[arg(long)]
    egress_only: bool,
    #[command(subcommand)]
    action: Option<Action>,
    /// The server that the sidecar starts, and its arguments: instead of `command` in the settings, and with words as they are.
    #[arg(last = true, value_name = "COMMAND")]
    server: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Ask a running sidecar whether it is ready; exit code 0 or 1. For container health checks.
    Health,
    /// Have a running sidecar drain, and wait until no call is left. It stays until it is told to end. For hooks of containers.
    Drain,
    /// Rules of the kernel that send what the server dials to the sidecar, for servers that the sidecar does not start.
    #[command(subcommand)]
    Redirect(RedirectCommand),
    /// Copy this program into a directory, for containers whose image does not have it, with `through-the-ingress.yaml`: a policy by which
    /// whoever comes through the ingress may use the service.
    Copy {
        /// Where to, such as a volume.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Run a server and take it down when the parent dies. Used by the sidecar itself.
    #[command(name = "child-guard", hide = true)]
    ChildGuard {
        /// What the server may do, as the sidecar wrote it.
        #[arg(long, value_name = "JSON")]
        confine: Option<String>,
        /// The server's command line.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

/// Runs the sidecar. `args` are those after the program's name (or after `outrigger sidecar`); `self_command` is how this
/// program is called to be the sidecar again, for the guard of child processes.
pub fn main(args: Vec<OsString>, self_command: Vec<OsString>) -> ExitCode {
    let argv = std::iter::once(OsString::from("outrigger-sidecar")).chain(args.iter().cloned());
    let arguments = match Arguments::try_parse_from(argv) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are results; mistakes go to stderr. A closed terminal is nobody to tell.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage.code() } else { Exit::Clean.code() });
        }
    };
    match arguments.action {
        Some(Action::ChildGuard { confine, command }) => guard(confine.as_deref(), &command),
        Some(Action::Redirect(command)) => redirect(&command),
        Some(Action::Copy { dir }) => match copy(&dir) {
            Ok(()) => Exit::Clean.into(),
            Err(error) => failed(&format!("cannot copy this program to {}: {error}", dir.display())),
        },
        Some(Action::Health) if arguments.egress_only => match read(arguments.config, None, EgressOnly::from_sources) {
            Ok((EgressOnly { admin: Some(admin), .. }, _)) => run(1, health_check::check(admin)).into(),
            Ok(_) => failed("there is no admin port to ask: set `admin.listen` (OUTRIGGER_ADMIN_LISTEN)"),
            Err(text) => usage(&text),
        },
        Some(Action::Health) => {
            with_config(arguments.config, None, |config| run(1, health_check::check(config.admin)).into())
        }
        Some(Action::Drain) => with_config(arguments.config, None, |config| run(1, drain::ask(config.admin)).into()),
        None if arguments.egress_only => match read(arguments.config, None, EgressOnly::from_sources) {
            Ok((config, file)) => run(config.threads, outbound::alone::process(EgressOnly { file, ..config })).into(),
            Err(text) => usage(&text),
        },
        None => with_config(arguments.config, quoted(&arguments.server), |config| {
            let starts_programs = matches!(config.upstream, Upstream::Command(_));
            if starts_programs && init::is_first() {
                return init::become_init(&self_command, &args);
            }
            let threads = config.threads;
            run(threads, crate::process(config, self_command)).into()
        }),
    }
}

fn with_config(path: Option<PathBuf>, given_command: Option<String>, go: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match read(path, given_command.as_deref(), Config::from_sources) {
        Ok((config, file)) => go(Config { file, given_command, ..config }),
        Err(text) => usage(&text),
    }
}

fn usage(text: &str) -> ExitCode {
    said(Exit::Usage, text)
}

fn failed(text: &str) -> ExitCode {
    said(Exit::Failed, text)
}

fn said(exit: Exit, text: &str) -> ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
    exit.into()
}

/// Words in one line, as OUTRIGGER_COMMAND has them; none when there are none.
fn quoted(words: &[String]) -> Option<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    (!words.is_empty()).then(|| quoted.join(" "))
}

/// Reads settings of one kind or the other, and says from where.
fn read<T>(
    path: Option<PathBuf>,
    command: Option<&str>,
    from_sources: impl Fn(Option<(&str, &str)>, Env<'_>) -> Result<T, Diagnostics>,
) -> Result<(T, Option<PathBuf>), String> {
    let env = |name: &str| variable(name, command);
    let Some(path) = path else {
        return from_sources(None, &env).map(|config| (config, None)).map_err(|e| e.to_string());
    };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(&path).map_err(|e| format!("cannot read {name}: {e}"))?;
    let config = from_sources(Some((&name, &text)), &env).map_err(|e| e.to_string())?;
    Ok((config, Some(path)))
}

fn redirect(command: &RedirectCommand) -> ExitCode {
    use std::io::Write;
    match redirect::run(command) {
        Ok(None) if matches!(command, RedirectCommand::Install(install) if install.hold) => run(1, hold()).into(),
        Ok(None) => Exit::Clean.into(),
        Ok(Some(rules)) => {
            // A closed terminal is nobody to tell.
            let _ = write!(std::io::stdout(), "{rules}");
            Exit::Clean.into()
        }
        Err(error) => failed(&error.to_string()),
    }
}

/// Stays until a signal: the namespace lives as long as its first container.
async fn hold() -> Exit {
    use std::io::Write;
    match ShutdownSignals::install() {
        Ok(mut signals) => {
            let _ = writeln!(
                std::io::stderr(),
                "the rules are in force; this holds the network namespace until it is stopped"
            );
            signals.next().await;
            Exit::Clean
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            Exit::Failed
        }
    }
}

/// Puts a copy of this program into a directory, whole or not at all: another container may be running the one before.
fn copy(dir: &Path) -> std::io::Result<()> {
    const POLICY: &str = include_str!("../policy/through-the-ingress.yaml");
    std::fs::write(dir.join("through-the-ingress.yaml"), POLICY)?;
    let partial = dir.join(".outrigger-sidecar.new");
    std::fs::copy(std::env::current_exe()?, &partial)?;
    std::fs::rename(partial, dir.join("outrigger-sidecar"))
}

fn guard(plan: Option<&str>, command: &[String]) -> ExitCode {
    let mut code = Exit::Failed.code();
    let plan = plan.map(serde_json::from_str::<Plan>).transpose();
    // What the runtime makes of it says less.
    let _ = run(1, async {
        use std::io::Write;
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "--confine: {error}");
                return Exit::Usage;
            }
        };
        let Err(why) = child::guard(plan.as_ref(), command).await;
        let _ = writeln!(std::io::stderr(), "{why}");
        code = why.exit_code();
        Exit::Failed
    });
    ExitCode::from(code)
}
