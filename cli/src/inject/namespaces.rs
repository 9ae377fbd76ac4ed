//! What namespaces say for their pods, remembered. Each has a lock of its own, so that a slow answer for one holds up no pod of
//! another; pods of one namespace come together, and one question is enough for them.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_inject::Namespace;
use tokio::time::{Instant, timeout};

/// For what a namespace says: the API server waits for us meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer counts, or that there was none: a person who annotates a namespace and then creates a pod is not much faster.
const LIFE: Duration = Duration::from_secs(2);
/// How long there must have been no right to read a namespace until that is taken to be meant. Clusters that start say it, too.
const LASTING: Duration = Duration::from_secs(30);
/// Namespaces that are remembered.
const MAX: usize = 1024;

/// Why nobody knows what a namespace says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// The injector has no right to read it.
    Denied(String),
    /// No answer that says it, for now.
    Unanswered(String),
}

impl Unknown {
    /// The words of the API server, or of the way to it.
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Denied(why) | Self::Unanswered(why) => why,
        }
    }
}

/// What is known of one.
#[derive(Default)]
struct Entry {
    /// What it said last, however long ago: it beats nothing.
    said: Option<Namespace>,
    /// When somebody last asked, and what was in the way then.
    asked: Option<(Instant, Option<Unknown>)>,
    /// Since when each answer is that there is no right.
    denied: Option<Instant>,
}

/// Locked while somebody asks.
type Shared = Arc<tokio::sync::Mutex<Entry>>;

/// What is known of all.
#[derive(Default)]
pub(crate) struct Namespaces {
    /// By name, with the time of the last question.
    all: Mutex<HashMap<String, (Instant, Shared)>>,
}

impl Namespaces {
    /// What a namespace says, or said last; `ask` is for when that was a while ago.
    ///
    /// # Errors
    /// Nobody ever knew. [`Unknown::Denied`] only if that is lasting.
    pub(crate) async fn get(
        &self,
        name: &str,
        ask: impl Future<Output = Result<Namespace, Unknown>>,
    ) -> Result<Namespace, Unknown> {
        let entry = self.entry(name);
        let mut entry = entry.lock().await;
        if entry.asked.as_ref().is_none_or(|(asked, _)| asked.elapsed() >= LIFE) {
            let answer = timeout(PATIENCE, ask).await;
            entry.take(name, answer.unwrap_or_else(|_| Err(Unknown::Unanswered("no answer in time".to_owned()))));
        }
        match (&entry.said, entry.asked.as_ref().and_then(|(_, trouble)| trouble.clone())) {
            (Some(said), _) => Ok(said.clone()),
            (None, Some(Unknown::Denied(why))) if entry.denied.is_none_or(|since| since.elapsed() < LASTING) => {
                Err(Unknown::Unanswered(why))
            }
            (None, Some(trouble)) => Err(trouble),
            (None, None) => Err(Unknown::Unanswered("nobody has asked".to_owned())),
        }
    }

    fn entry(&self, name: &str) -> Shared {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX && !all.contains_key(name) {
            let oldest = all.iter().min_by_key(|(_, (used, _))| *used).map(|(name, _)| name.clone());
            oldest.map(|name| all.remove(&name));
        }
        let (used, entry) = all.entry(name.to_owned()).or_insert_with(|| (Instant::now(), Arc::default()));
        *used = Instant::now();
        Arc::clone(entry)
    }
}

impl Entry {
    fn take(&mut self, name: &str, answer: Result<Namespace, Unknown>) {
        self.denied = match &answer {
            Err(Unknown::Denied(_)) => self.denied.or_else(|| Some(Instant::now())),
            _ => None,
        };
        let trouble = match answer {
            Ok(said) => {
                self.said = Some(said);
                None
            }
            Err(trouble) => {
                let (why, known) = (trouble.why(), self.said.is_some());
                tracing::warn!(
                    namespace = name,
                    why,
                    known,
                    "the namespace could not be asked; what it said before counts, if that is known"
                );
                Some(trouble)
            }
        };
        self.asked = Some((Instant::now(), trouble));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::future::{pending, ready};

    use super::*;

    fn saying(word: &str) -> Namespace {
        let annotations = BTreeMap::from([("outrigger.dev/inject".to_owned(), word.to_owned())]);
        Namespace { annotations, ..Namespace::default() }
    }

    fn denied() -> std::future::Ready<Result<Namespace, Unknown>> {
        ready(Err(Unknown::Denied("no right".to_owned())))
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_namespace_said_last_counts_while_nobody_answers() {
        let all = Namespaces::default();
        assert_eq!(all.get("tools", pending()).await.unwrap_err().why(), "no answer in time");
        // It is not asked again at once, nor after it was.
        assert!(all.get("tools", async { panic!("asked") }).await.is_err());
        tokio::time::advance(LIFE).await;
        let said = all.get("tools", ready(Ok(saying("true")))).await.unwrap();
        assert_eq!(said.annotations, saying("true").annotations);
        assert!(all.get("tools", async { panic!("asked") }).await.is_ok());
        for _ in 0..3 {
            tokio::time::advance(LIFE).await;
            assert_eq!(all.get("tools", pending()).await.unwrap().annotations, said.annotations);
        }
        tokio::time::advance(LIFE).await;
        assert_eq!(all.get("tools", denied()).await.unwrap().annotations, said.annotations);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_lasting_refusal_is_taken_to_be_meant() {
        let all = Namespaces::default();
        assert!(matches!(all.get("tools", denied()).await, Err(Unknown::Unanswered(_))));
        tokio::time::advance(LASTING).await;
        assert!(matches!(all.get("tools", denied()).await, Err(Unknown::Denied(_))));
        tokio::time::advance(LIFE).await;
        assert!(matches!(all.get("tools", pending()).await, Err(Unknown::Unanswered(_))));
        tokio::time::advance(LIFE).await;
        assert!(matches!(all.get("tools", denied()).await, Err(Unknown::Unanswered(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_namespace_costs_its_pods_one_wait_and_others_none() {
        let all = Namespaces::default();
        let begun = Instant::now();
        let slow = || async {
            all.get("slow", pending()).await.unwrap_err();
            begun.elapsed()
        };
        let other = async {
            all.get("other", ready(Ok(saying("false")))).await.unwrap();
            begun.elapsed()
        };
        let (first, second, third, other) = tokio::join!(slow(), slow(), slow(), other);
        // The clock is paused and has steps of a millisecond.
        assert!([first, second, third].iter().all(|it| *it < PATIENCE + Duration::from_millis(10)), "{third:?}");
        assert_eq!(other, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_remembered_than_there_is_room_for() {
        let all = Namespaces::default();
        for number in 0..=MAX {
            all.get(&number.to_string(), ready(Ok(saying("true")))).await.unwrap();
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let held = all.all.lock().unwrap();
        assert!(held.len() == MAX && !held.contains_key("0") && held.contains_key(&MAX.to_string()));
    }
}
