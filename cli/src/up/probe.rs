//! What a running part says about itself: where it listens, and whether it is ready.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::{Request, StatusCode};
use outrigger_proxy::body::{OutBody, read_bounded};
use outrigger_proxy::dial::Endpoint;
use outrigger_proxy::pool::{Pool, PoolSettings};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::event::What;

/// How often a part that starts is looked at: soon for a person, and cheap.
const STARTING: Duration = Duration::from_millis(100);
/// How often a part that is ready is looked at.
const READY: Duration = Duration::from_secs(1);
/// The longest that an answer may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most of an answer that is read.
const MAX_ANSWER: usize = 16 * 1024;
/// The most characters of a reason: a line of a table.
const MAX_REASON: usize = 240;

/// Where a part listens, as it reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Addresses {
    /// Where its callers connect: the mesh, or the clients of the ingress.
    #[serde(alias = "mcp")]
    pub(crate) mesh: SocketAddr,
    /// Health and metrics.
    pub(crate) admin: SocketAddr,
}

/// Asks a part for ever whether it is ready. `tell` hears of every change.
pub(crate) async fn follow<F: Future<Output = ()>>(admin: SocketAddr, tell: impl Fn(What) -> F) {
    let endpoint = Endpoint::tcp(admin.ip().to_string(), admin.port());
    let pool = Pool::new(endpoint, PoolSettings { connect_timeout: PATIENCE, ..PoolSettings::default() });
    let mut last = None;
    loop {
        let now = ready(&pool).await;
        let pause = if now.is_ok() { READY } else { STARTING };
        if last.as_ref() != Some(&now) {
            let what = match &now {
                Ok(()) => What::Ready,
                Err(reason) => What::Waiting(reason.clone()),
            };
            tell(what).await;
            last = Some(now);
        }
        sleep(pause).await;
    }
}

/// Waits for the report of a part, which is written whole.
pub(crate) async fn reported(path: &Path) -> Addresses {
    loop {
        let report = std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        match report {
            Some(addresses) => return addresses,
            None => sleep(STARTING).await,
        }
    }
}

/// Asks once. The reason says what is missing.
async fn ready(pool: &Pool) -> Result<(), String> {
    let mut request = Request::new(OutBody::empty());
    *request.uri_mut() = http::Uri::from_static("/readyz");
    let response = match timeout(PATIENCE, pool.send(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("it does not answer".to_owned()),
    };
    if response.status() == StatusCode::OK {
        return Ok(());
    }
    let body = read_bounded(response.into_body(), MAX_ANSWER, PATIENCE).await;
    Err(body.map_or_else(|error| error.to_string(), |body| missing(&String::from_utf8_lossy(&body))))
}

/// The reasons in the text of `/readyz`, whose first line says only that there are some.
fn missing(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty() && *line != "not ready").collect();
    short(&lines.join("; "))
}

/// Cut to a line, without what could move the cursor of a terminal.
pub(crate) fn short(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut cut: String = clean.take(MAX_REASON).collect();
    if text.chars().nth(MAX_REASON).is_some() {
        cut.push_str("...");
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_report_are_read() {
        for text in
            [r#"{"mesh":"127.0.0.1:1","admin":"[::1]:2"}"#, r#"{"mcp":"127.0.0.1:1","admin":"[::1]:2","more":true}"#]
        {
            let addresses: Addresses = serde_json::from_str(text).unwrap();
            assert_eq!((addresses.mesh.port(), addresses.admin.port()), (1, 2));
        }
    }

    #[test]
    fn reasons_are_one_short_clean_line() {
        assert_eq!(missing("not ready\ncatalog: none yet\nchild: ended\n"), "catalog: none yet; child: ended");
        assert_eq!(short(&format!("{}\u{1b}[2J", "x".repeat(500))).len(), MAX_REASON + 3);
        assert_eq!(short("a\u{1b}b"), "a b");
    }
}
