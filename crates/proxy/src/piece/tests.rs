//! Pieces with a script in place of a service.

use std::sync::Mutex;

use tokio::time::sleep;

use super::*;

/// A service whose listens live for so long each; it counts them.
#[derive(Debug, Default)]
struct Script {
    life: Duration,
    /// What it says to the first of them, in place of beginning.
    refusals: Mutex<Vec<Failure>>,
    opened: Mutex<usize>,
    ended: Mutex<usize>,
}

/// One listen: its acknowledgement, then its end.
struct Stream(Option<Message>, Duration);

impl Source for Script {
    fn open(&self) -> Later<'_, Result<Box<dyn Messages>, Failure>> {
        *self.opened.lock().unwrap() += 1;
        if let Some(refusal) = self.refusals.lock().unwrap().pop() {
            return Box::pin(async { Err(refusal) });
        }
        let acknowledged = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"resourceSubscriptions":["a:1"]}}}"#;
        let stream = Stream(Some(Message::parse(acknowledged.into()).unwrap()), self.life);
        Box::pin(async { Ok(Box::new(stream) as Box<dyn Messages>) })
    }

    fn change(&self, _: Message) -> Option<Change> {
        None
    }

    fn missed(&self) -> Vec<Change> {
        vec![Change::Resource { uri: "a:1".into() }]
    }

    fn failed(&self, _: &Failure, _: bool) -> Option<OpenGuard> {
        None
    }

    fn ended_soon(&self) {
        *self.ended.lock().unwrap() += 1;
    }
}

impl Messages for Stream {
    fn next(&mut self) -> Later<'_, Result<Option<Message>, Failure>> {
        Box::pin(async {
            if let Some(message) = self.0.take() {
                return Ok(Some(message));
            }
            sleep(self.1).await;
            Ok(None)
        })
    }
}

/// How often a service is asked within ten minutes, and how often a change is told, where listens live for so long.
async fn asked(life: Duration) -> (usize, usize) {
    let (sender, mut updates) = mpsc::channel(QUEUE);
    let script = Script { life, ..Script::default() };
    let piece = Piece::begin(script, (Vec::new(), Vec::new()), &sender);
    let mut told = 0;
    let hear = async {
        while updates.recv().await.is_some() {
            told += 1;
        }
    };
    assert!(timeout(Duration::from_secs(600), hear).await.is_err());
    let opened = *piece.source.opened.lock().unwrap();
    let soon = *piece.source.ended.lock().unwrap();
    let all = if life.is_zero() { told..=opened } else { 0..=0 };
    assert!(all.contains(&soon), "{soon} ended soon");
    (opened, told)
}

#[tokio::test(start_paused = true)]
async fn a_service_that_ends_each_listen_at_once_is_asked_ever_more_rarely() {
    let (opened, told) = asked(Duration::ZERO).await;
    assert!((60..=130).contains(&opened), "{opened}");
    assert_eq!(told, opened - 1, "what was missed is made up for each time");
}

#[tokio::test(start_paused = true)]
async fn a_listen_that_lasted_is_begun_again_soon() {
    let (opened, _) = asked(Duration::from_secs(20)).await;
    assert!((29..=30).contains(&opened), "{opened}");
}

#[tokio::test(start_paused = true)]
async fn what_a_service_refuses_is_known_and_made_up_for_once_it_does_not() {
    let (sender, mut updates) = mpsc::channel(QUEUE);
    let limit = || Failure::Limited { limit: "l".into(), retry_after: Duration::from_secs(30), service: None };
    let away = Failure::Unavailable { service: "s".into(), reason: "away".into() };
    let refusals = Mutex::new(vec![limit(), away]);
    let script = Script { life: Duration::from_secs(60), refusals, ..Script::default() };
    let pieces = [Piece::begin(script, (Vec::new(), Vec::new()), &sender)];
    let [(_, refused)] = &begun(&pieces).await[..] else { panic!("one piece") };
    // That the service was away a moment before is no answer.
    assert_eq!(*pieces[0].source.opened.lock().unwrap(), 2);
    assert_eq!(refused.refuses("a:1").unwrap().reason(), "limited");
    let made_up = updates.recv().await.unwrap();
    assert!(matches!(made_up, Change::Resource { uri } if uri == "a:1"));
    let [(_, of)] = &begun(&pieces).await[..] else { panic!("one piece") };
    assert!(of.refuses("a:1").is_none());
    assert_eq!(of.refuses("a:2").unwrap().reason(), "unknown_capability", "the service does not acknowledge it");
}
