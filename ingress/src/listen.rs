//! `subscriptions/listen`: a response that stays open and tells what changes (2026-07-28, basic/patterns/subscriptions).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use outrigger_mcp::bridge::meta_keys::SUBSCRIPTION_ID;
use outrigger_mcp::bridge::tasks;
use outrigger_mcp::edit::{Edits, MetaEdit};
use outrigger_mcp::envelope::{Message, Param};
use outrigger_mcp::error::{notification, result_reply};
use outrigger_mcp::json::quote;
use outrigger_mcp::sse;
use outrigger_proxy::body::{BodySender, OutBody};
use outrigger_proxy::failure::Failure;
use outrigger_proxy::peek::Accepts;
use outrigger_proxy::reply;
use outrigger_telemetry::metrics::LimitKind;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use crate::changes::Changes;
use crate::core::{Caller, Change, Declared, ListKind, Route, Wanted};
use crate::gateway::Gateway;
use crate::relay::KEEPALIVE;
use crate::task_news::TaskNews;

/// Notifications that wait for a slow listener. More are not made meanwhile: lists coalesce.
const QUEUE: usize = 16;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    tools_list_changed: Option<bool>,
    prompts_list_changed: Option<bool>,
    resources_list_changed: Option<bool>,
    resource_subscriptions: Option<Vec<String>>,
    /// Of the tasks extension.
    task_ids: Option<Vec<String>>,
}

impl Filter {
    /// Whether it asks for changes of any list.
    fn lists(&self) -> bool {
        [self.tools_list_changed, self.prompts_list_changed, self.resources_list_changed].contains(&Some(true))
    }
}

/// Begins a listen. The stream is fed by a task that ends with it.
///
/// # Errors
/// Bad parameters; too many streams, here or where all that is asked for would come from; we are shutting down.
pub(crate) async fn serve(
    gateway: &Arc<Gateway>,
    caller: &Caller,
    route: &Route,
    message: &Message,
    accepts: Accepts,
) -> Result<Response<OutBody>, Failure> {
    if !accepts.stream {
        return Err(Failure::NotAcceptable);
    }
    if gateway.draining.draining() {
        return Err(Failure::Draining);
    }
    let mut filter = filter(message)?;
    let named = filter.task_ids.take();
    if named.is_some() && !tasks::declared(message) {
        return Err(Failure::MissingExtension(tasks::EXTENSION));
    }
    let mut resources = filter.resource_subscriptions.clone().unwrap_or_default();
    if resources.len() > gateway.limits.session.subscriptions {
        // The acknowledgement says what is honoured.
        gateway.recorder.merged.limited(LimitKind::Subscriptions);
        resources.truncate(gateway.limits.session.subscriptions);
    }
    let place = gateway.listens.begin(caller.principal.id())?;
    let wanted = Wanted { resources, session: false };
    let caller = Caller { declared: Declared::of(message), ..caller.clone() };
    let tag: Arc<str> = format!("{:016x}", fastrand::u64(..)).into();
    let mut changes = Changes::new(gateway, &caller, route, (wanted, Some(Arc::clone(&tag))));
    let news = named.map(|named| TaskNews::begin(gateway, &caller, route, (named, &tag)));
    let refused = changes.begun().await;
    // Lists and tasks are honoured, whatever becomes of resources; on the endpoint of one service the client knows what it needs.
    let alone = news.is_none() && !filter.lists();
    if let Some(limited) = changes.limited().filter(|_| alone || *route != Route::Merged) {
        return Err(limited);
    }
    let honoured = changes.honoured(&refused);
    let listener = Listener { id: message.id().unwrap_or_default(), keepalive: gateway.timeouts.keepalive, filter };
    let (sender, body) = OutBody::channel(QUEUE);
    gateway.tasks.spawn(async move {
        listener.run((changes, honoured), news, sender).await;
        drop(place);
    });
    Ok(reply::event_stream(body))
}

fn filter(message: &Message) -> Result<Filter, Failure> {
    let wrong = |what: String| Failure::InvalidParams(format!("`params.notifications` {what}"));
    let span = message.params().get(Param::Notifications).ok_or_else(|| wrong("is required".into()))?;
    serde_json::from_slice(message.raw(span)).map_err(|error| wrong(format!("cannot be read: {error}")))
}

/// One open stream.
struct Listener {
    /// Of the request, raw: it marks every message of the stream.
    id: Bytes,
    keepalive: Duration,
    filter: Filter,
}

impl Listener {
    async fn run(
        mut self,
        (mut changes, resources): (Changes, Vec<String>),
        mut news: Option<TaskNews>,
        sender: BodySender,
    ) {
        self.filter.task_ids = tokio::select! {
            () = sender.gone() => return,
            honoured = honoured(&mut news) => honoured,
        };
        if sender.send(self.acknowledgement(&resources)).await.is_err() {
            return;
        }
        let mut spoken = Instant::now();
        loop {
            let event = tokio::select! {
                biased;
                () = sender.gone() => return,
                change = changes.next() => match change {
                    Some(change) => self.event(&change),
                    None => break,
                },
                told = told(&mut news) => Some(self.stamped(&told)),
                () = sleep_until(spoken + self.keepalive) => Some(Bytes::from_static(KEEPALIVE)),
            };
            // News that this caller did not ask for are no sign of life.
            let Some(event) = event else { continue };
            if sender.send(event).await.is_err() {
                return;
            }
            spoken = Instant::now();
        }
        let result = format!("{{\"resultType\":\"complete\",{}}}", self.meta());
        if sender.send(sse::event(&result_reply(&self.id, result.as_bytes()))).await.is_ok() {
            drop(sender.finish().await);
        }
    }

    fn asked(&self, list: ListKind) -> bool {
        match list {
            ListKind::Tools => self.filter.tools_list_changed,
            ListKind::Prompts => self.filter.prompts_list_changed,
            ListKind::Resources => self.filter.resources_list_changed,
        }
        .unwrap_or(false)
    }

    fn event(&self, change: &Change) -> Option<Bytes> {
        match change {
            Change::List(list) => self.asked(*list).then(|| self.notify(list.method(), "")),
            Change::Resource { uri } => {
                Some(self.notify("notifications/resources/updated", &format!("\"uri\":{},", quote(uri))))
            }
            // Nobody asked for these.
            Change::Session { .. } => None,
        }
    }

    /// What of the request is honoured: all lists, because we notice their changes ourselves, and the resources that
    /// exist for the caller and that their services do not refuse.
    fn acknowledgement(&self, resources: &[String]) -> Bytes {
        let names = ["toolsListChanged", "promptsListChanged", "resourcesListChanged"];
        let lists = names.into_iter().zip(ListKind::ALL).filter(|(_, list)| self.asked(*list));
        let mut honoured: Vec<String> = lists.map(|(name, _)| format!("\"{name}\":true")).collect();
        if self.filter.resource_subscriptions.is_some() {
            honoured.push(texts("resourceSubscriptions", resources));
        }
        honoured.extend(self.filter.task_ids.iter().map(|ids| texts("taskIds", ids)));
        let params = format!("\"notifications\":{{{}}},", honoured.join(","));
        self.notify("notifications/subscriptions/acknowledged", &params)
    }

    fn notify(&self, method: &str, params: &str) -> Bytes {
        sse::event(&notification(method, Some(format!("{{{params}{}}}", self.meta()).as_bytes())))
    }

    /// A message of a service as one of this stream.
    fn stamped(&self, message: &Message) -> Bytes {
        let mut edits = Edits::new();
        MetaEdit::default().raw(SUBSCRIPTION_ID, self.id.clone()).params(message, &mut edits);
        sse::event(&edits.apply_flat(message.body()))
    }

    fn meta(&self) -> String {
        format!("\"_meta\":{{\"{SUBSCRIPTION_ID}\":{}}}", String::from_utf8_lossy(&self.id))
    }
}

fn texts(name: &str, texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quote(text)).collect();
    format!("\"{name}\":[{}]", texts.join(","))
}

async fn honoured(news: &mut Option<TaskNews>) -> Option<Vec<String>> {
    match news {
        Some(news) => Some(news.honoured().await),
        None => None,
    }
}

async fn told(news: &mut Option<TaskNews>) -> Message {
    match news {
        Some(news) => news.next().await,
        None => std::future::pending().await,
    }
}
