//! What a listen tells of tasks: each lives at one replica of one service, which is listened to on the caller's behalf.
//!
//! The ids that a listen names lead to those replicas (docs/decisions/0013-ids-of-tasks.md). Whose a task is, its sidecar
//! knows: what that does not acknowledge is not acknowledged here either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_mcp::bridge::owner as owners;
use outrigger_mcp::bridge::tasks::{ids, progress};
use outrigger_mcp::edit::rebuild_object;
use outrigger_mcp::envelope::{Message, Param, Shape};
use outrigger_mcp::error::{notification, request};
use outrigger_mcp::json::{decode_string, elements, member, quote};
use outrigger_mcp::method::Method;
use outrigger_proxy::failure::Failure;
use outrigger_proxy::pause::Pause;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::core::{Answer, Caller, Route};
use crate::gateway::Gateway;
use crate::owner;
use crate::relay::Rewriter;
use crate::subscribe::{Listened, listen_at, listen_member, params_for};

/// Tasks that one listen may name; more are left out of what is honoured. As many as a sidecar watches for a listen.
const MAX_TASKS: usize = 64;
/// News that wait for a slow listener; then the services wait.
const QUEUE: usize = 64;
/// A service that takes longer to say what it honours is left out.
const BEGIN: Duration = Duration::from_secs(2);

/// News of the tasks of one listen. Dropping it ends every listening on its behalf.
#[derive(Debug)]
pub(crate) struct TaskNews {
    /// As the caller wrote them.
    asked: Vec<String>,
    news: mpsc::Receiver<Message>,
    /// The tasks that a service has said it tells of; closed when all have spoken.
    honoured: mpsc::Receiver<Vec<String>>,
    _listening: JoinSet<()>,
}

/// One replica, and what is to be heard from it.
struct Place {
    gateway: Arc<Gateway>,
    caller: Caller,
    /// What it has in common with the other listens for that of the client.
    tag: Arc<str>,
    /// The ids on this endpoint begin with the service.
    merged: bool,
    service: Arc<str>,
    /// Those that are not over, as the sidecar knows them.
    handles: BTreeSet<String>,
}

impl TaskNews {
    /// Begins to listen to the replicas that these tasks, as the caller knows them, are at.
    pub(crate) fn begin(
        gateway: &Arc<Gateway>,
        caller: &Caller,
        route: &Route,
        (mut asked, tag): (Vec<String>, &Arc<str>),
    ) -> Self {
        asked.truncate(MAX_TASKS);
        let (tell, news) = mpsc::channel(QUEUE);
        let (honour, honoured) = mpsc::channel(MAX_TASKS);
        let mut listening = JoinSet::new();
        for ((service, _), handles) in grouped(route, &asked) {
            let (gateway, caller, tag) = (Arc::clone(gateway), caller.clone(), Arc::clone(tag));
            let merged = *route == Route::Merged;
            let place = Place { gateway, caller, tag, merged, service, handles };
            listening.spawn(place.follow(honour.clone(), tell.clone()));
        }
        Self { asked, news, honoured, _listening: listening }
    }

    /// Which of the tasks will be told of. To be asked once, before [`TaskNews::next`].
    pub(crate) async fn honoured(&mut self) -> Vec<String> {
        let mut honoured = BTreeSet::new();
        let collect = async {
            while let Some(ids) = self.honoured.recv().await {
                honoured.extend(ids);
            }
        };
        let _ = timeout(BEGIN, collect).await;
        // Whoever is later finds nobody, and ends.
        self.honoured.close();
        self.asked.retain(|id| honoured.remove(id));
        std::mem::take(&mut self.asked)
    }

    /// The next `notifications/tasks`, with ids as the caller knows them; waits for ever when no task is left. Cancelling
    /// the future loses nothing.
    pub(crate) async fn next(&mut self) -> Message {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }
}

/// The handles of tasks by service and replica. What cannot be a name of a task is nobody's.
fn grouped(route: &Route, asked: &[String]) -> BTreeMap<(Arc<str>, String), BTreeSet<String>> {
    let mut groups: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for id in asked {
        let (service, handle) = match route {
            Route::Service(service) => (Arc::clone(service), id.as_str()),
            Route::Merged => match ids::split(id) {
                Some((service, handle)) => (Arc::from(service), handle),
                None => continue,
            },
        };
        if let Some((replica, _)) = owners::split(handle) {
            groups.entry((service, replica.to_owned())).or_default().insert(handle.to_owned());
        }
    }
    groups
}

/// Nobody takes the news any more.
struct Gone;

impl Place {
    /// Listens until every task is over, the replica is gone, or nobody takes the news any more.
    async fn follow(mut self, honour: mpsc::Sender<Vec<String>>, tell: mpsc::Sender<Message>) {
        let mut honour = Some(honour);
        let mut pause = Pause::default();
        while !self.handles.is_empty() {
            match self.open().await {
                Ok(stream) => {
                    let began = Instant::now();
                    if honour.is_none() && self.missed(&tell).await.is_err() {
                        return;
                    }
                    if self.relay(stream, &mut honour, &tell).await.is_err() {
                        return;
                    }
                    pause.lived_since(began);
                }
                // What it held is lost with it, or the caller may no longer know of it.
                Err(Failure::Interaction(_) | Failure::CallerRefused) => return,
                Err(failure) => tracing::debug!(service = %self.service, %failure, "cannot listen for tasks"),
            }
            if honour.is_some() {
                return;
            }
            pause.wait().await;
        }
    }

    async fn open(&self) -> Result<Listened, Failure> {
        let services = Arc::clone(&self.gateway.snapshot.load().services);
        let at = services.iter().position(|service| service.name == self.service).ok_or(Failure::CallerRefused)?;
        let service = services.get(at).ok_or(Failure::CallerRefused)?;
        // The rules in force now: a listen may be older.
        if !self.allowed() {
            return Err(Failure::CallerRefused);
        }
        let handle = self.handles.first().map(String::as_str).unwrap_or_default();
        let owner = owner::of_task(service, handle)?;
        let handles: Vec<String> = self.handles.iter().map(|handle| quote(handle)).collect();
        let filter = format!("{{\"taskIds\":[{}]{}}}", handles.join(","), listen_member(Some(&self.tag)));
        listen_at(&self.gateway, &self.caller, (at, service), owner, filter.as_bytes()).await
    }

    fn allowed(&self) -> bool {
        self.gateway.policy().rules.may_use_service(&self.caller.principal, &self.service)
    }

    /// Passes on what is said of the tasks, until the stream ends.
    async fn relay(
        &mut self,
        mut stream: Listened,
        honour: &mut Option<mpsc::Sender<Vec<String>>>,
        tell: &mpsc::Sender<Message>,
    ) -> Result<(), Gone> {
        while let Ok(Some(message)) = stream.next().await {
            match message.method {
                _ if message.shape != Shape::Notification => return Ok(()),
                Method::SubscriptionsAcknowledged => {
                    self.acknowledged(&message);
                    if let Some(honour) = honour.take() {
                        let ids = self.handles.iter().map(|handle| self.exposed(handle)).collect();
                        honour.send(ids).await.map_err(|_| Gone)?;
                    }
                }
                Method::TasksChanged => self.tell(&message, tell).await?,
                _ => {}
            }
            if self.handles.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Forgets the tasks that the sidecar does not tell of.
    fn acknowledged(&mut self, message: &Message) {
        let list = message.params().get(Param::Notifications).and_then(|at| member(message.body(), at, "taskIds"));
        let list = list.and_then(|list| elements(message.body(), list)).unwrap_or_default();
        let known: BTreeSet<_> = list.into_iter().filter_map(|at| decode_string(message.raw(at))).collect();
        self.handles.retain(|handle| known.contains(handle.as_str()));
    }

    /// Tells of a task, unless nobody asked for it.
    async fn tell(&mut self, message: &Message, tell: &mpsc::Sender<Message>) -> Result<(), Gone> {
        let handle = message.text(Param::TaskId);
        let known = handle.as_deref().is_some_and(|handle| self.handles.contains(handle));
        if !known || !self.allowed() {
            return Ok(());
        }
        let over = message.params().object().is_some_and(|at| progress(message.body(), at).0.is_terminal());
        if over && let Some(handle) = &handle {
            self.handles.remove(&**handle);
        }
        match Message::parse(self.renamed(message)) {
            Ok(news) => tell.send(news).await.map_err(|_| Gone),
            Err(_) => Ok(()),
        }
    }

    /// With ids and URIs as the caller can use them.
    fn renamed(&self, message: &Message) -> Bytes {
        if !self.merged {
            return message.body().clone();
        }
        // The caller's own lists say which URIs are ambiguous to it.
        let snapshot = self.gateway.known_to(&self.caller);
        let Some(at) = snapshot.merged.service(&self.service) else { return message.body().clone() };
        Rewriter::new(&snapshot, at, true, Some((Arc::clone(&self.service), Method::Other))).apply(message)
    }

    fn exposed(&self, handle: &str) -> String {
        if self.merged { ids::expose(&self.service, handle) } else { handle.to_owned() }
    }

    /// Makes up for what was missed while nobody listened. An older server's sidecar begins with how things are by itself.
    async fn missed(&mut self, tell: &mpsc::Sender<Message>) -> Result<(), Gone> {
        let services = Arc::clone(&self.gateway.snapshot.load().services);
        if services.iter().any(|service| service.name == self.service && service.stateful()) {
            return Ok(());
        }
        for handle in self.handles.clone() {
            if let Some(news) = self.look(&handle).await {
                self.tell(&news, tell).await?;
            }
        }
        Ok(())
    }

    /// How a task is now, in the form in which it is told.
    async fn look(&self, handle: &str) -> Option<Message> {
        let params = params_for(&self.caller.declared, "taskId", quote(handle).as_bytes());
        let asked = Message::parse(request(b"1", Method::TasksGet.as_str(), &params)).ok()?;
        let route = Route::Service(Arc::clone(&self.service));
        let Ok(Answer::Message { body, .. }) = self.gateway.call(&self.caller, &route, asked).await else {
            return None;
        };
        let seen = Message::parse(body).ok()?;
        let task = rebuild_object(seen.body(), seen.result_span()?, |name| matches!(name, "resultType" | "_meta"), &[]);
        Message::parse(notification(Method::TasksChanged.as_str(), Some(&task))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_sorted_by_the_place_that_their_names_lead_to() {
        let (one, two) = ("0123456789abcdef", "fedcba9876543210");
        let asked = [format!("a~{one}.s~1"), format!("b~{one}.s~1"), format!("a~{two}.s~2"), format!("a~{one}.s~3")];
        let mut asked: Vec<String> = asked.into();
        asked.extend(["a~nothing", "nothing", "A~x", ""].map(String::from));
        let groups = grouped(&Route::Merged, &asked);
        let counts: Vec<_> = groups.iter().map(|((s, r), handles)| (&**s, r.as_str(), handles.len())).collect();
        assert_eq!(counts, [("a", one, 2), ("a", two, 1), ("b", one, 1)]);
        let handles = [format!("{one}.s~1"), "x".to_owned()];
        let groups = grouped(&Route::Service("a".into()), &handles);
        assert_eq!(groups.into_values().flatten().collect::<Vec<_>>(), [format!("{one}.s~1")]);
    }
}
