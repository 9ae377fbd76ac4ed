//! The declarations of every setting of `mesh.yaml`.

use std::net::{Ipv4Addr, SocketAddr};

use outrigger_config::kinds::{self, Checked, Kind, Url};
use outrigger_config::{Fields, Node, doc, sections};
use outrigger_ingress::config::{self as ingress, client_tls, host_pattern, integrity, naming, origin, safety};
use outrigger_policy::Principal;
use outrigger_sidecar::config::egress;
use outrigger_sidecar::config::{
    CatalogMode, Egress, Era, Firmness, SessionScope, catalog_mode, era, read_sandbox, session_scope, variables,
};

use super::{DEFAULT_MESH, EXAMPLES, Ingress, Manifest, Service, ServiceEgress, Source, Token};
use crate::up::INGRESS;

/// Declares every setting. All are read before the first `?`, so that every mistake is found.
pub(super) fn read(f: &mut Fields<'_>) -> Option<Manifest> {
    let text = doc("The name of the mesh; its trust domain is `<mesh>.outrigger.local`.");
    let text = text.because("any name does on one machine");
    let mesh = f.with_default("mesh", text, sections::service_name(), DEFAULT_MESH.to_owned());
    let ingress = f.section("ingress", "Where clients connect, and how.", read_ingress);
    let text = doc("Policy files. Rate limits are part of policy.").example("[policy.yaml]");
    let text =
        text.because("`up` then allows everything to the clients it lets in; a policy is for more than one of them");
    let policy = f.with_default("policy", text, kinds::list_of(kinds::path()), Vec::new());
    let text = "The services, under their names. Each has exactly one of `example`, `command` and `url`.";
    let mut any = false; // an entry with a mistake of its own is not in the list
    let services = f.map("services", text, &sections::service_name(), |name, f| {
        any = true;
        read_service(name, f)
    });
    if !any {
        let hint = "add `services: { fs: { example: fs } }`; without any file the bundled examples run";
        f.mistake("", "no services", hint);
    }
    let services = services.into_iter().map(|(_, service)| service).collect();
    Some(Manifest { mesh, ingress: ingress?, policy, services, warnings: Vec::new() })
}

fn read_ingress(f: &mut Fields<'_>) -> Option<Ingress> {
    let text = doc("Where clients connect. Port 0 lets the system choose.");
    let text = text.because("nobody else can reach it until somebody decides so");
    let listen = f.with_default("listen", text, kinds::listen(), default_listen());
    let text = doc("Clients need no token. Only on a loopback address.");
    let anonymous = f.with_default("anonymous", text.because("whoever calls must be known"), kinds::boolean(), false);
    if anonymous && !listen.ip().is_loopback() {
        let message = format!("anonymous access on {listen}, which other machines reach");
        f.mistake("anonymous", message, "listen on 127.0.0.1, or remove this line: `up` makes a token");
    }
    let token = f.section("token", "What the token proves that `up` makes.", read_token);
    if anonymous && f.has("token") {
        f.mistake("token", "with `anonymous: true` there is no token", "keep the one that applies");
    }
    let (public_url, oauth) = read_oauth(f);
    let tls = f.optional_section("tls", "TLS for clients; without this section they speak plain HTTP.", client_tls);
    let text = doc("Further names of this ingress that may stand in `Host`.")
        .because("the listen address and loopback names are accepted anyway");
    let allowed_hosts = f.with_default("allowed_hosts", text, kinds::list_of(host_pattern()), Vec::new());
    let text = doc("Web pages that may call, as browsers name them in `Origin`.");
    let text = text.because("only pages under our own address and port; others are an attack by DNS rebinding");
    let allowed_origins = f.with_default("allowed_origins", text, kinds::list_of(origin()), Vec::new());
    let http_sse = sections::http_sse(f, None);
    let naming = f.section("names", "Names of capabilities on the merged endpoint.", naming);
    let tolerant = sections::header_checks(f);
    let text = "Definitions of tools, prompts and resources, held to those that somebody approved.";
    let integrity = f.section("integrity", text, integrity);
    Some(Ingress {
        listen,
        anonymous,
        public_url,
        oauth,
        token: token?,
        tls,
        allowed_hosts,
        allowed_origins,
        tolerant,
        http_sse,
        naming: naming?,
        integrity: integrity?,
    })
}

/// Identity providers, and the URL that tokens of theirs are for.
fn read_oauth(f: &mut Fields<'_>) -> (Option<Url>, Option<serde_json::Map<String, serde_json::Value>>) {
    let public_url = ingress::public_url(f, None);
    let text = "Tokens of identity providers (OAuth 2.1), accepted beside the one that `up` makes.";
    let oauth = f.optional_section("oauth", text, ingress::oauth);
    if oauth.is_some() && public_url.is_none() {
        let hint = "give the URL that clients know: `public_url: http://127.0.0.1:8080`";
        f.mistake("oauth", "tokens are for an endpoint with a name, and this ingress has none", hint);
    }
    let given = oauth.and_then(|_| f.raw("oauth").map(Node::to_json)?.as_object().cloned());
    (public_url, given)
}

fn read_token(f: &mut Fields<'_>) -> Option<Token> {
    let usual = Token::default();
    let text = doc("Who presents it, for policy and audit.").because("one person uses a mesh on their own machine");
    let subject = f.with_default("subject", text, kinds::text(), usual.subject);
    let text = doc("Roles granted, for policy.").because("whoever runs the mesh is its administrator");
    let roles = f.with_default("roles", text, kinds::list_of(kinds::text()), usual.roles);
    let text = doc("Scopes granted, for policy.").because("the two that the examples of policies ask for");
    let scopes = f.with_default("scopes", text, kinds::list_of(kinds::text()), usual.scopes);
    if let Err(wrong) = Principal::user(&subject).and_then(|user| user.with_grants(&roles, &scopes)) {
        f.mistake("subject", wrong.to_string(), "a short name, such as `local`");
    }
    Some(Token { subject, roles, scopes })
}

fn read_service(name: &str, f: &mut Fields<'_>) -> Option<Service> {
    if name == INGRESS {
        f.mistake(
            "",
            format!("`{INGRESS}` is the name of the ingress itself in the mesh"),
            "give the service another name",
        );
    }
    let source = read_source(f);
    let text = doc("Variables added to the environment of what `up` starts. Values never reach a log.");
    let env = f.with_default("env", text.because("the environment of `outrigger up` alone"), variables(), Vec::new());
    let cwd = f.optional(
        "cwd",
        doc("Working directory of what `up` starts; without it, that of `outrigger up`."),
        kinds::path(),
    );
    let sandbox = read_sandbox(f, None, "url");
    let text = doc(
        "The MCP that the server speaks: `legacy` up to 2025-11-25, `modern` from 2026-07-28, `http+sse` for the HTTP transport of 2024-11-05.",
    );
    let era = f.with_default("era", text.because("one probe at start finds out"), era(), Era::Auto);
    let text = doc("What one session of a server that keeps sessions (or one child process) is shared by.");
    let text = text.because("no caller meets another one's state");
    let session = f.with_default("session", text, session_scope(), SessionScope::PerPrincipal);
    let text = doc(
        "Whose lists are offered: `shared`, one catalog for all, and in sessions that say that theirs have changed their own; or `per_caller`, each caller's own, asked for whenever it lists.",
    );
    let text = text.because("nearly every server lists the same for everybody, and says where it does not");
    let catalog = f.with_default("catalog", text, catalog_mode(), CatalogMode::Shared);
    let text = doc("As `ingress.header_checks`, for clients of `/s/<service>/mcp`; without it, the same.");
    let tolerant = f.optional("header_checks", text, sections::tolerance());
    let safety = safety::read(f);
    let given = safety::KEYS.iter().filter_map(|key| Some(((*key).to_owned(), f.raw(key)?.to_json())));
    let given = given.collect();
    let runs = matches!(source, Some(Source::Url(_)));
    let confined = sandbox.as_ref().is_some_and(|sandbox| sandbox.firmness != Firmness::Off);
    let text = "What the service itself may reach: its sidecar then has a proxy for it (HTTP and SOCKS5).";
    let egress = f.optional_section("egress", text, |f| read_egress(f, runs, confined)).map(|settings| {
        let given = f.raw("egress").map(Node::to_json).and_then(|given| given.as_object().cloned()).unwrap_or_default();
        ServiceEgress { settings, given }
    });
    if let Some(Source::Url(_)) = source {
        for (name, given) in [("env", !env.is_empty()), ("cwd", cwd.is_some())] {
            if given {
                f.mistake(name, "`up` does not start this server", "remove it, or start the server with `command`");
            }
        }
    }
    Some(Service {
        name: name.to_owned(),
        source: source?,
        env,
        cwd,
        sandbox: sandbox?,
        era,
        session,
        catalog,
        tolerant,
        safety: safety.map(|_| given)?,
        egress,
    })
}

/// Reads `example`, `command` or `url`, of which there must be exactly one.
fn read_source(f: &mut Fields<'_>) -> Option<Source> {
    let example = f.optional("example", doc("A bundled example service."), kinds::choice(EXAMPLES));
    let text = doc("Arguments of the example service.").example("[--root, ./data]");
    let args = f.optional("args", text, kinds::list_of(argument()));
    let text = doc("A stdio server that the sidecar starts, unchanged.")
        .example("[npx, -y, \"@modelcontextprotocol/server-everything\", stdio]");
    let command = f.optional("command", text, kinds::command());
    let text = doc("A server that runs already.").example("http://127.0.0.1:9001/mcp");
    let url = f.optional("url", text, kinds::url());
    let given: Vec<&str> = ["example", "command", "url"].into_iter().filter(|name| f.has(name)).collect();
    match given[..] {
        [] => f.mistake("", "nothing serves this service", "add one of `example`, `command` and `url`"),
        [_] => {}
        [first, second, ..] => {
            f.mistake(second, format!("both `{first}` and `{second}` are given"), "keep the one that applies");
            return None;
        }
    }
    if args.is_some() && !f.has("example") {
        f.mistake("args", "this belongs to `example`", "write the arguments of a command into `command`");
    }
    let example = example.map(|example| Source::Example(example, args.unwrap_or_default()));
    example.or(command.map(Source::Command)).or(url.map(Source::Url))
}

fn read_egress(f: &mut Fields<'_>, runs: bool, confined: bool) -> Option<Egress> {
    let settings = egress::read_for_service(f);
    if runs && !f.has("listen") {
        let hint = "set `listen: 127.0.0.1:15001` here, and HTTP_PROXY and HTTPS_PROXY for the server to that address";
        f.warn("", "this server runs already, and does not know of its proxy", hint);
    } else if !runs && !confined {
        let hint = "set `sandbox: strict` to leave it no other way out";
        f.warn("", "the server is told of its proxy, and nothing makes it use it", hint);
    }
    settings
}

/// An argument may be empty, unlike other texts.
fn argument() -> Kind<String> {
    let accepts = |text: &str| !text.contains('\0');
    kinds::checked(Checked { name: "argument", pattern: "", accepts, hint: "remove the zero byte" })
}

/// Also the address of the mesh that runs without a file.
pub(super) fn default_listen() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 8080).into()
}
