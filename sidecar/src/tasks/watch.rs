//! Tells a listen of tasks on a server of 2025-11-25. Such a server need not say anything by itself, so it is asked, as
//! often as it wants to be.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use outrigger_mcp::{bridge::tasks::progress, error::notification, method::Method};
use tokio::sync::mpsc;

use super::{Task, follow::describe};
use crate::listen::MAX_TASKS;

/// Between two looks at a task, unless the server says otherwise; and the least and the most.
const PAUSE: (Duration, Duration, Duration) =
    (Duration::from_secs(1), Duration::from_millis(500), Duration::from_secs(60));

/// News of tasks. Dropping it ends the looking.
pub struct Watch {
    news: mpsc::Receiver<Bytes>,
}

impl Watch {
    /// Begins to look at tasks; `able` are the capabilities that their client declared (raw JSON).
    pub fn begin(tasks: Vec<Arc<Task>>, patience: Duration, able: &Bytes) -> Self {
        // One for each: then a slow listener holds up the looking and nothing else.
        let (sender, news) = mpsc::channel(MAX_TASKS);
        for task in tasks {
            tokio::spawn(look(task, patience, able.clone(), sender.clone()));
        }
        Self { news }
    }

    /// The next notification; waits for ever when all tasks are over.
    pub async fn next(&mut self) -> Bytes {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }
}

async fn look(task: Arc<Task>, patience: Duration, able: Bytes, sender: mpsc::Sender<Bytes>) {
    let mut told = Vec::new();
    loop {
        let described = tokio::select! {
            () = sender.closed() => return,
            described = describe(&task, patience, &able) => described,
        };
        let Ok(described) = described else { return };
        let (status, pause) = described.status.result_span().map_or((None, None), |at| {
            let (status, pause) = progress(described.status.body(), at);
            (Some(status), pause)
        });
        if described.members != told {
            let params = [b"{", described.members.as_slice(), b"}"].concat();
            if sender.send(notification(Method::TasksChanged.as_str(), Some(&params))).await.is_err() {
                return;
            }
            told = described.members;
        }
        if status.is_none_or(outrigger_mcp::bridge::tasks::Status::is_terminal) {
            return;
        }
        let pause = pause.map_or(PAUSE.0, Duration::from_millis).clamp(PAUSE.1, PAUSE.2);
        tokio::select! {
            () = sender.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
