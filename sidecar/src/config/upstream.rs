//! Settings of the server behind the sidecar: where it is or how to start it, and which MCP it speaks.

use std::path::PathBuf;

use outrigger_config::kinds::{self, Checked, Kind, Url};
use outrigger_config::{Fields, Secret, doc};

/// The server behind the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// It runs already and speaks Streamable HTTP, or HTTP+SSE.
    Url(Url),
    /// The sidecar starts it and speaks over its standard input and output.
    Command(Command),
}

/// A stdio server to start. No shell is involved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments; never empty.
    pub words: Vec<String>,
    /// Variables added to those of the sidecar.
    pub env: Vec<(String, Secret)>,
    /// Its working directory; the sidecar's own when absent.
    pub cwd: Option<PathBuf>,
}

/// Which revisions of MCP to speak with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// Ask once, then speak what it speaks.
    Auto,
    /// 2026-07-28 and later, without a handshake.
    Modern,
    /// 2025-11-25 and earlier, with `initialize`.
    Legacy,
    /// 2025-11-25 and earlier over the transport of 2024-11-05: GET opens an event stream that names where to post.
    HttpSse,
}

/// What one session of the server (or one child process) is shared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionScope {
    /// By all callers.
    Shared,
    /// By the calls of one principal.
    PerPrincipal,
    /// By the calls of one client session.
    PerClientSession,
    /// By nothing: a fresh one per call.
    PerRequest,
}

/// Reads `upstream` or `command`, of which there must be exactly one, with what belongs to them.
pub(super) fn read(f: &mut Fields<'_>) -> Option<Upstream> {
    let text = doc("The server, when it runs already: `http://...`, `https://...`, or `unix:/path/of.sock:/mcp`.");
    let url = f.optional("upstream", text.env("OUTRIGGER_UPSTREAM").example("http://127.0.0.1:9001/mcp"), kinds::url());
    let text = doc(
        "The server, when the sidecar starts it: a program and its arguments. In the environment one line, with quotes.",
    );
    let words = f.optional("command", text.env("OUTRIGGER_COMMAND").example("[npx, -y, a-server]"), kinds::command());
    let text =
        doc("Variables added to the child's environment. Values never reach a log.").example("{ API_KEY: \"...\" }");
    let env = f.optional("env", text, variables());
    let text = doc("The child's working directory.").env("OUTRIGGER_CWD").because("the sidecar's own");
    let cwd = f.optional("cwd", text, kinds::path());
    if words.is_none() {
        for (name, given) in [("env", env.is_some()), ("cwd", cwd.is_some())] {
            if given && url.is_some() {
                f.mistake(
                    name,
                    "this belongs to `command`, and there is none",
                    "remove it, or start the server with `command`",
                );
            }
        }
    }
    match (url, words) {
        (Some(_), Some(_)) => {
            f.mistake("command", "both `upstream` and `command` are given", "keep the one that applies");
            None
        }
        (Some(url), None) => Some(Upstream::Url(url)),
        (None, Some(words)) => Some(Upstream::Command(Command { words, env: env.unwrap_or_default(), cwd })),
        (None, None) => {
            // A wrong value has a mistake of its own already.
            if !f.has("upstream") && !f.has("command") {
                let hint = "add `upstream: http://...` for a server that runs, or `command: [...]` for one to start \
                            (OUTRIGGER_UPSTREAM, OUTRIGGER_COMMAND)";
                f.mistake("", "no server: neither `upstream` nor `command` is given", hint);
            }
            None
        }
    }
}

pub(super) fn read_era(f: &mut Fields<'_>) -> Era {
    let text = doc(
        "The MCP that the server speaks: `legacy` up to 2025-11-25, `modern` from 2026-07-28, `http+sse` for the HTTP \
         transport of 2024-11-05, whose URL often ends in `/sse`.",
    )
    .env("OUTRIGGER_ERA");
    let reason =
        "a probe at start finds out: `server/discover`, then `initialize`, then a GET that brings an `endpoint` event";
    let chosen = f.with_default("era", text.because(reason), era(), Era::Auto);
    if chosen == Era::HttpSse && f.has("command") {
        f.mistake("era", "a server that is started with `command` has no HTTP", "use `legacy`, or leave `era` out");
    }
    chosen
}

pub(super) fn read_session(f: &mut Fields<'_>) -> SessionScope {
    let text = doc("What one session of a server that keeps sessions (or one child process) is shared by.")
        .env("OUTRIGGER_SESSION");
    let reason = "no caller meets another one's state, at the cost of one session each";
    f.with_default("session", text.because(reason), session_scope(), SessionScope::PerPrincipal)
}

/// The kind of an `era` setting.
pub fn era() -> Kind<Era> {
    kinds::choice(&[("auto", Era::Auto), ("modern", Era::Modern), ("legacy", Era::Legacy), ("http+sse", Era::HttpSse)])
}

/// The kind of a `session` setting.
pub fn session_scope() -> Kind<SessionScope> {
    kinds::choice(&[
        ("shared", SessionScope::Shared),
        ("per_principal", SessionScope::PerPrincipal),
        ("per_client_session", SessionScope::PerClientSession),
        ("per_request", SessionScope::PerRequest),
    ])
}

/// The kind of an `env` setting: variables of a child, their values kept secret.
pub fn variables() -> Kind<Vec<(String, Secret)>> {
    let name = kinds::checked(Checked {
        name: "variable name",
        pattern: "^[A-Za-z_][A-Za-z0-9_]*$",
        accepts: |name| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            name.bytes().all(good) && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
        },
        hint: "letters, digits and `_`, not a digit first",
    });
    kinds::map_of(name, kinds::secret())
}
