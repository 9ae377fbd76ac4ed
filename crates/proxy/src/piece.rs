//! One of the listens that together tell a caller what changes. It is begun again when it ends, and takes the place of others
//! without a gap: those go on until it hears.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_mcp::envelope::{Message, Param, Shape};
use outrigger_mcp::json::{decode_string, elements, member};
use outrigger_mcp::method::Method;
use outrigger_telemetry::metrics::OpenGuard;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::failure::{Failure, Side};
use crate::legacy::mesh::{Later, Messages};
use crate::legacy::seam::Change;
use crate::pause::Pause;

/// When nothing was subscribed to for so long, the listens at one service become one.
pub const QUIET: Duration = Duration::from_millis(500);
/// Changes that wait for a slow listener; then the services wait.
pub const QUEUE: usize = 64;
/// A service that takes longer to say that it listens does not hold up its client.
const BEGIN: Duration = Duration::from_secs(2);
/// A listen whose place another takes goes on for so long once that one hears: what it has been told is on its way.
const LINGER: Duration = Duration::from_millis(100);

/// What a piece listens to, and for whom.
pub trait Source: Send + Sync + 'static {
    /// Opens the listen.
    fn open(&self) -> Later<'_, Result<Box<dyn Messages>, Failure>>;

    /// What a message of it says to the caller.
    fn change(&self, message: Message) -> Option<Change>;

    /// What may have changed while nobody listened.
    fn missed(&self) -> Vec<Change>;

    /// Notes why it could not be opened. `first`: for the first time since it was open; the guard is kept until it is again.
    fn failed(&self, failure: &Failure, first: bool) -> Option<OpenGuard>;

    /// Notes that it was ended soon after it had begun.
    fn ended_soon(&self);
}

/// What has become of a piece since it was to begin.
#[derive(Debug, Clone, Default)]
pub enum Begun {
    /// Nothing yet; a service that cannot be reached is tried again.
    #[default]
    NotYet,
    /// It tells of these, as the service calls them; of everything that was asked for where the service does not say.
    Of(Option<Arc<BTreeSet<String>>>),
    /// The service does not let it. It is tried again.
    Refused(Arc<Failure>),
}

/// One listen. Dropping it ends it, and those whose place it takes.
#[derive(Debug)]
pub struct Piece<S> {
    /// What it listens to.
    pub source: Arc<S>,
    state: Arc<Mutex<State<S>>>,
    begun: watch::Receiver<Begun>,
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct State<S> {
    phase: Phase,
    /// What may have changed while nobody listened, to be told when we do.
    owed: Vec<Change>,
    /// Whose place this one takes. They go on until it hears.
    before: Vec<Piece<S>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has heard nothing yet.
    Opening,
    Live,
    /// It did hear, and its stream ended.
    Lost,
}

impl<S: Source> Piece<S> {
    /// Begins to listen, in the place of those `before`. They end when this one hears, and what they had to make up for is
    /// its to tell, as is what is `owed` besides.
    pub fn begin(source: S, (before, owed): (Vec<Self>, Vec<Change>), updates: &mpsc::Sender<Change>) -> Self {
        let mut state = State { phase: Phase::Opening, owed, before: Vec::new() };
        for piece in before {
            let mut old = lock(&piece.state);
            state.owed.append(&mut old.owed);
            match old.phase {
                Phase::Live => {
                    drop(old);
                    state.before.push(piece);
                }
                // It covers nothing now: only those whose place it was to take do.
                Phase::Opening | Phase::Lost => state.before.append(&mut old.before),
            }
        }
        let (begins, begun) = watch::channel(Begun::NotYet);
        let (source, state) = (Arc::new(source), Arc::new(Mutex::new(state)));
        let listener =
            Listener { source: Arc::clone(&source), state: Arc::clone(&state), begins, updates: updates.clone() };
        let mut task = JoinSet::new();
        task.spawn(listener.run());
        Self { source, state, begun, _task: task }
    }

    /// Why its service does not let it listen.
    pub fn refused(&self) -> Option<Arc<Failure>> {
        match &*self.begun.borrow() {
            Begun::Refused(failure) => Some(Arc::clone(failure)),
            Begun::NotYet | Begun::Of(_) => None,
        }
    }
}

impl Begun {
    /// Why a resource, as its service calls it, is not heard of. One whose service cannot be reached will be.
    pub fn refuses(&self, own: &str) -> Option<Arc<Failure>> {
        match self {
            Begun::NotYet | Begun::Of(None) => None,
            Begun::Of(Some(honoured)) if honoured.contains(own) => None,
            Begun::Of(Some(_)) => Some(Arc::new(Failure::UnknownCapability { kind: "resource", name: own.to_owned() })),
            Begun::Refused(failure) => Some(Arc::clone(failure)),
        }
    }
}

/// Resolves when all of them have begun to tell, or are refused, or do neither in time; with what has become of each. To confirm
/// a subscription earlier would lose what changes right after.
pub fn begun<S>(pieces: &[Piece<S>]) -> impl Future<Output = Vec<(Arc<S>, Begun)>> + Send + use<S>
where
    S: Send + Sync,
{
    let mut begins: Vec<_> = pieces.iter().map(|piece| (Arc::clone(&piece.source), piece.begun.clone())).collect();
    async move {
        let all = async {
            for (_, begun) in &mut begins {
                // One that ended will not tell.
                let _ = begun.wait_for(|begun| !matches!(begun, Begun::NotYet)).await;
            }
        };
        let _ = timeout(BEGIN, all).await;
        begins.into_iter().map(|(source, begun)| (source, begun.borrow().clone())).collect()
    }
}

/// Takes out the pieces whose place one for `count` more resources takes: those that are no larger. So each resource is asked
/// for a few times at most, and there are few pieces. `size` is `None` for a piece that stays.
pub fn outgrown<S>(pieces: &mut Vec<Piece<S>>, mut count: usize, size: impl Fn(&S) -> Option<usize>) -> Vec<Piece<S>> {
    let mut taken = Vec::new();
    let of = |piece: &Piece<S>, count| size(&piece.source).filter(|size| *size <= count);
    while let Some((at, size)) = pieces.iter().enumerate().find_map(|(at, piece)| Some((at, of(piece, count)?))) {
        taken.push(pieces.swap_remove(at));
        count += size;
    }
    taken
}

/// The resources that a service acknowledges, as it calls them. `None` when it says nothing of resources.
fn honoured(message: &Message) -> Option<Arc<BTreeSet<String>>> {
    let acknowledged = message.method == Method::SubscriptionsAcknowledged;
    let filter = message.params().get(Param::Notifications).filter(|_| acknowledged)?;
    let list = member(message.body(), filter, "resourceSubscriptions").and_then(|at| elements(message.body(), at))?;
    let text = |at| decode_string(message.raw(at)).map(Into::into);
    Some(Arc::new(list.into_iter().filter_map(text).collect()))
}

/// Whether two changes are of one resource, or of one list.
fn same(one: &Change, other: &Change) -> bool {
    match (one, other) {
        (Change::Resource { uri: one }, Change::Resource { uri: other }) => one == other,
        (Change::List(one), Change::List(other)) => one == other,
        _ => false,
    }
}

/// Resolves then; never without a time.
pub async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn lock<S>(state: &Mutex<State<S>>) -> MutexGuard<'_, State<S>> {
    // No statement under it can fail half way.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task behind a piece.
struct Listener<S> {
    source: Arc<S>,
    state: Arc<Mutex<State<S>>>,
    begins: watch::Sender<Begun>,
    updates: mpsc::Sender<Change>,
}

/// Nobody takes the changes any more.
struct Gone;

impl<S: Source> Listener<S> {
    /// Listens until nobody takes the changes any more. What was missed while it did not listen is made up for.
    async fn run(self) {
        let (mut pause, mut failing) = (Pause::default(), None);
        loop {
            match self.source.open().await {
                Ok(stream) => {
                    drop(failing.take());
                    let began = Instant::now();
                    if self.relay(stream).await.is_err() {
                        return;
                    }
                    self.lost();
                    if !pause.lived_since(began) {
                        self.source.ended_soon();
                    }
                }
                Err(failure) => {
                    let guard = self.source.failed(&failure, failing.is_none());
                    failing.get_or_insert(guard);
                    self.not_begun(failure);
                }
            }
            pause.wait().await;
        }
    }

    /// Passes on what concerns the caller, until the stream ends.
    async fn relay(&self, mut stream: Box<dyn Messages>) -> Result<(), Gone> {
        let (mut heard, mut linger) = (false, None);
        loop {
            let message = tokio::select! {
                message = stream.next() => message,
                () = at(linger) => {
                    // While the client is late, those before may hold something that waits for it.
                    let late = self.updates.capacity() == 0;
                    linger = late.then(|| Instant::now() + LINGER);
                    if !late {
                        self.tell(self.relieve()).await?;
                    }
                    continue;
                }
            };
            let Ok(Some(message)) = message else { return Ok(()) };
            if message.shape != Shape::Notification {
                return Ok(());
            }
            if !std::mem::replace(&mut heard, true) {
                self.tell(self.hears(&message)).await?;
                linger = Some(Instant::now() + LINGER);
            }
            if let Some(change) = self.source.change(message) {
                self.updates.send(change).await.map_err(|_| Gone)?;
            }
        }
    }

    /// It could not be opened. Whoever waits is told if that is the service's answer; and what nobody tells of meanwhile is
    /// made up for.
    fn not_begun(&self, failure: Failure) {
        {
            let mut state = lock(&self.state);
            if state.phase == Phase::Opening {
                let told: Vec<Change> = state.before.iter().flat_map(|piece| piece.source.missed()).collect();
                state.owed = self.source.missed();
                state.owed.retain(|change| !told.iter().any(|told| same(told, change)));
            }
        }
        if failure.side() == Side::Downstream {
            self.begins.send_if_modified(|begun| {
                let waits = !matches!(begun, Begun::Of(_));
                if waits {
                    *begun = Begun::Refused(Arc::new(failure));
                }
                waits
            });
        }
    }

    /// The stream has begun to tell, with this; the value is what may have changed while none did.
    fn hears(&self, first: &Message) -> Vec<Change> {
        self.begins.send_replace(Begun::Of(honoured(first)));
        let mut state = lock(&self.state);
        state.phase = Phase::Live;
        std::mem::take(&mut state.owed)
    }

    /// The stream has ended, and until the next begins nobody tells.
    fn lost(&self) {
        let mut state = lock(&self.state);
        if state.phase == Phase::Live {
            state.phase = Phase::Lost;
            state.owed = self.source.missed();
        }
    }

    /// Ends those whose place this one takes; the value is what they lost on the way.
    fn relieve(&self) -> Vec<Change> {
        let before = std::mem::take(&mut lock(&self.state).before);
        before.iter().flat_map(|piece| std::mem::take(&mut lock(&piece.state).owed)).collect()
    }

    async fn tell(&self, changes: Vec<Change>) -> Result<(), Gone> {
        for change in changes {
            self.updates.send(change).await.map_err(|_| Gone)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
