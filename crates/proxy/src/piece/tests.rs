//! Pieces with a script in place of a service.

use std::sync::Mutex;

use tokio::time::sleep;

use super::*;

/// A service whose listens live for so long each; it counts them.
#[derive(Debug)]
struct Script {
    life: Duration,
    opened: Mutex<usize>,
}

/// One listen: its acknowledgement, then its end.
struct Stream(Option<Message>, Duration);

impl Source for Script {
    fn open(&self) -> Later<'_, Result<Box<dyn Messages>, Failure>> {
        *self.opened.lock().unwrap() += 1;
        let acknowledged = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{}}"#;
        let stream = Stream(Some(Message::parse(acknowledged.into()).unwrap()), self.life);
        Box::pin(async { Ok(Box::new(stream) as Box<dyn Messages>) })
    }

    fn change(&self, _: Message) -> Option<Change> {
        None
    }

    fn missed(&self) -> Vec<Change> {
        vec![Change::Resource { uri: "a:1".into() }]
    }

    fn failed(&self, failure: &Failure, _: bool) {
        panic!("{failure}");
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
    let script = Script { life, opened: Mutex::default() };
    let piece = Piece::begin(script, (Vec::new(), Vec::new()), &sender);
    let mut told = 0;
    let hear = async {
        while updates.recv().await.is_some() {
            told += 1;
        }
    };
    assert!(timeout(Duration::from_secs(600), hear).await.is_err());
    let opened = *piece.source.opened.lock().unwrap();
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
