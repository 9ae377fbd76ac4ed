//! Waiting for something to become true, with an end.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Long enough for a slow machine that does other things as well; nothing waits this long when it works.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again and again until `probe` gives something, and returns it.
///
/// # Panics
/// When it gives nothing for [`PATIENCE`]; `what` says what was waited for.
pub async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// `future`, which must end within [`PATIENCE`].
///
/// # Panics
/// When it does not; `what` says what was waited for.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for: {what}"),
    }
}
