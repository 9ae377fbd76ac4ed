//! route: which service a message is for, and what it calls the thing that is asked for.

use std::borrow::Cow;
use std::sync::Arc;

use outrigger_mcp::bridge::tasks::ids;
use outrigger_mcp::catalog::ToolHeaders;
use outrigger_mcp::catalog::merge::{Merged, ResolveError, Target};
use outrigger_mcp::catalog_kind::Kind;
use outrigger_mcp::envelope::{Message, Param};
use outrigger_mcp::json::{Span, decode_string, member};
use outrigger_mcp::method::Method;
use outrigger_mcp::names::looks_shortened;
use outrigger_proxy::failure::Failure;

use crate::core::{Caller, Era, Route};
use crate::services::Service;

/// Where a message goes.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) service: Arc<Service>,
    /// Index of the service in the snapshot.
    pub(crate) at: usize,
    /// What is asked for; `None` for methods that are about the service as a whole.
    pub(crate) wanted: Option<Wanted>,
    /// The task that is asked for.
    pub(crate) task: Option<Task>,
    /// URIs in the answer have to be looked at, because other services may have the same.
    pub(crate) rewrite: bool,
}

/// A capability as the caller and as its service name it.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) kind: Kind,
    /// As the caller wrote it.
    pub(crate) asked: String,
    /// The service's own name or URI.
    pub(crate) original: Arc<str>,
    /// Where the name's token lies in the message.
    pub(crate) token: Span,
    /// What the tool says about mirrored arguments.
    pub(crate) headers: ToolHeaders,
}

/// A task as the caller and as its service name it.
#[derive(Debug)]
pub(crate) struct Task {
    /// The service's own id.
    pub(crate) handle: String,
    /// Where the id's token lies in the message.
    pub(crate) token: Span,
}

/// What kinds of things the methods that are forwarded are about.
enum Reference {
    /// `params.name` or `params.uri`.
    Direct(Kind, Param),
    /// `params.ref`.
    Completion,
    /// `params.taskId`.
    Task,
    /// The service as a whole.
    Service,
}

/// Finds the destination of a message that is not answered here.
///
/// # Errors
/// Unknown method, missing parameters, or [`Failure::UnknownCapability`].
pub(crate) fn route(
    catalog: &Merged,
    at: Option<usize>,
    services: &[Arc<Service>],
    caller: &Caller,
    route: &Route,
    message: &Message,
) -> Result<Destination, Failure> {
    let (kind, token, asked) = match reference(caller, route, message)? {
        Reference::Direct(kind, field) => {
            let token = message.params().get(field);
            let asked = message.text(field).map(Cow::into_owned);
            let (token, asked) = token.zip(asked).ok_or_else(|| missing(field))?;
            (kind, token, asked)
        }
        Reference::Completion => completed(message)?,
        Reference::Task => return of_task(catalog, at, services, caller, message),
        Reference::Service => {
            // Only single routes get here: their catalog has one service, at this index of all.
            let service = at.and_then(|at| services.get(at)).cloned();
            let service = service.ok_or_else(|| Failure::UnknownMethod(message.method_name().into_owned()))?;
            return Ok(Destination { service, at: at.unwrap_or_default(), wanted: None, task: None, rewrite: false });
        }
    };
    let resolved = match kind {
        Kind::Tool | Kind::Prompt => catalog.resolve_name(kind, &asked),
        Kind::Resource => catalog.resolve_uri(&asked),
        Kind::Template => catalog.resolve_template(&asked),
    };
    let target = resolved.map_err(|_| unknown(kind, &asked))?;
    let index = at.unwrap_or(target.service);
    let service = services.get(index).cloned().ok_or_else(|| unknown(kind, &asked))?;
    let wanted = Wanted {
        kind,
        original: Arc::from(target.original),
        token,
        headers: target.item.map_or(ToolHeaders::None, |item| item.headers().clone()),
        asked: asked.clone(),
    };
    let rewrite = at.is_none() && (target.wrapped || shares_uris(catalog, target.service));
    Ok(Destination { service, at: index, wanted: Some(wanted), task: None, rewrite })
}

/// Whether only lists can tell where a message goes, or what it names, and these do not: a URI that nobody lists while
/// none were asked for (`has_lists`), or that leads nowhere; and a name that looks shortened.
pub(crate) fn depends_on_lists(catalog: &Merged, message: &Message, has_lists: impl Fn() -> bool) -> bool {
    let direct = |kind, field| message.text(field).map(|asked| (kind, asked.into_owned()));
    let asked = match message.method {
        Method::ToolsCall => direct(Kind::Tool, Param::Name),
        Method::PromptsGet => direct(Kind::Prompt, Param::Name),
        Method::ResourcesRead => direct(Kind::Resource, Param::Uri),
        Method::CompletionComplete => completed(message).ok().map(|(kind, _, asked)| (kind, asked)),
        _ => None,
    };
    let Some((kind, asked)) = asked else { return false };
    match kind {
        Kind::Tool | Kind::Prompt => {
            let target = catalog.resolve_name(kind, &asked);
            target.is_ok_and(|target| target.item.is_none() && looks_shortened(target.original))
        }
        Kind::Resource => unlisted(&catalog.resolve_uri(&asked), has_lists),
        Kind::Template => unlisted(&catalog.resolve_template(&asked), has_lists),
    }
}

fn unlisted(resolved: &Result<Target<'_>, ResolveError>, has_lists: impl Fn() -> bool) -> bool {
    resolved.as_ref().map_or(true, |target| target.item.is_none() && !has_lists())
}

/// The answer for something that does not exist and for something that the caller may not know of: the same.
pub(crate) fn unknown(kind: Kind, asked: &str) -> Failure {
    let kind = match kind {
        Kind::Tool => "tool",
        Kind::Prompt => "prompt",
        Kind::Resource | Kind::Template => "resource",
    };
    Failure::UnknownCapability { kind, name: asked.to_owned() }
}

fn reference(caller: &Caller, route: &Route, message: &Message) -> Result<Reference, Failure> {
    let single = matches!(route, Route::Service(_));
    match message.method {
        Method::ToolsCall => Ok(Reference::Direct(Kind::Tool, Param::Name)),
        Method::PromptsGet => Ok(Reference::Direct(Kind::Prompt, Param::Name)),
        Method::ResourcesRead => Ok(Reference::Direct(Kind::Resource, Param::Uri)),
        Method::CompletionComplete => Ok(Reference::Completion),
        Method::TasksGet | Method::TasksUpdate | Method::TasksCancel => Ok(Reference::Task),
        // What a legacy client answered to a server outside any call, or that its session is over; only our own sessions may
        // say that.
        Method::SessionRespond | Method::SessionEnd if single && caller.era == Era::Legacy => Ok(Reference::Service),
        _ => Err(Failure::UnknownMethod(message.method_name().into_owned())),
    }
}

/// Whose task it is: on the merged endpoint its id begins with the service, whose policy decides then. The service knows
/// whether it is the caller's.
fn of_task(
    catalog: &Merged,
    at: Option<usize>,
    services: &[Arc<Service>],
    caller: &Caller,
    message: &Message,
) -> Result<Destination, Failure> {
    let token = message.params().get(Param::TaskId);
    let (token, asked) = token.zip(message.text(Param::TaskId)).ok_or_else(|| missing(Param::TaskId))?;
    let merged = at.is_none();
    let (at, handle) = match at {
        Some(at) => (Some(at), &*asked),
        None => match ids::split(&asked) {
            Some((name, handle)) => (services.iter().position(|service| &*service.name == name), handle),
            None => (None, ""),
        },
    };
    let service = at.and_then(|at| services.get(at)).cloned();
    // One of a service that the caller may not use looks like one that does not exist.
    let usable = service.filter(|service| caller.policy.rules.may_use_service(&caller.principal, &service.name));
    let service = usable.ok_or_else(|| Failure::InvalidParams("Task not found".into()))?;
    let task = Task { handle: handle.to_owned(), token };
    let rewrite = merged && at.is_some_and(|at| shares_uris(catalog, at));
    Ok(Destination { service, at: at.unwrap_or_default(), wanted: None, task: Some(task), rewrite })
}

fn missing(field: Param) -> Failure {
    let name = match field {
        Param::Uri => "uri",
        Param::TaskId => "taskId",
        _ => "name",
    };
    Failure::InvalidParams(format!("`params.{name}` is required and must be a string"))
}

/// What `completion/complete` is about: a prompt, or a resource (template).
fn completed(message: &Message) -> Result<(Kind, Span, String), Failure> {
    let wrong = || {
        Failure::InvalidParams(
            "`params.ref` must be {type: \"ref/prompt\", name} or {type: \"ref/resource\", uri}".into(),
        )
    };
    let span = message.params().get(Param::Ref).ok_or_else(wrong)?;
    let text = |name| member(message.body(), span, name).and_then(|token| decode_string(message.raw(token)));
    let (kind, name) = match text("type").as_deref() {
        Some("ref/prompt") => (Kind::Prompt, "name"),
        Some("ref/resource") => (Kind::Template, "uri"),
        _ => return Err(wrong()),
    };
    let token = member(message.body(), span, name).ok_or_else(wrong)?;
    Ok((kind, token, text(name).ok_or_else(wrong)?.into_owned()))
}

/// Whether URIs in answers of a service could mean something else on the merged endpoint: it and another one have
/// resources.
fn shares_uris(catalog: &Merged, service: usize) -> bool {
    let offers = |at: usize| catalog.services().get(at).is_some_and(|service| service.catalog.offers(Kind::Resource));
    offers(service) && (0..catalog.services().len()).any(|at| at != service && offers(at))
}
