//! Draining before the signal to end: Kubernetes ends native sidecars after everything else of a pod, and the server before.
//!
//! `POST /drain`, from loopback alone (`outrigger-sidecar drain`, the sidecar's hook), begins the drain. `GET /drain` (the
//! server's hook, which the kubelet asks) waits for its end: only then is the server told to stop. Both are answered when no
//! call is left, or the deadline has passed. Only where `admin.drain` is set.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::ORIGIN;
use http::{Method, StatusCode};
use outrigger_runtime::admin::AdminRequest;
use outrigger_runtime::{AdminPage, Exit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Where it is asked for.
pub(crate) const PATH: &str = "/drain";
/// How long a hook waits for a drain to begin: the kubelet runs those of a pod at the same time.
const BEGIN: Duration = Duration::from_secs(10);

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Serving,
    /// Somebody asked for it.
    Asked,
    Draining,
    Drained,
}

/// Shared by the admin pages and the process.
#[derive(Debug, Clone)]
pub(crate) struct Stages(watch::Sender<Stage>);

impl Stages {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Stage::Serving))
    }

    /// Goes on to a stage; never back.
    pub(crate) fn reach(&self, stage: Stage) {
        self.0.send_if_modified(|present| {
            let further = *present < stage;
            *present = stage.max(*present);
            further
        });
    }

    /// Waits for a stage, or a later one.
    pub(crate) async fn reached(&self, stage: Stage) {
        // We hold a sender: it cannot be closed.
        let _ = self.0.subscribe().wait_for(|present| *present >= stage).await;
    }

    /// Answers a hook.
    pub(crate) async fn answer(self, request: AdminRequest) -> AdminPage {
        if request.method == Method::POST {
            if !request.peer.to_canonical().is_loopback() {
                return AdminPage::text(StatusCode::FORBIDDEN, "only from the same network namespace\n");
            }
            // A page in a browser on this machine can post here, too.
            if request.headers.contains_key(ORIGIN) || request.headers.contains_key("sec-fetch-site") {
                return AdminPage::text(StatusCode::FORBIDDEN, "not from a browser\n");
            }
            self.reach(Stage::Asked);
        } else if tokio::time::timeout(BEGIN, self.reached(Stage::Asked)).await.is_err() {
            return AdminPage::text(StatusCode::SERVICE_UNAVAILABLE, "nobody is draining\n");
        }
        self.reached(Stage::Drained).await;
        AdminPage::text(StatusCode::OK, "drained\n")
    }
}

/// `outrigger-sidecar drain`: asks the running sidecar, and waits.
pub(crate) async fn ask(mut admin: SocketAddr) -> Exit {
    if admin.ip().is_unspecified() {
        admin.set_ip(if admin.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    let asked = async {
        let mut stream = TcpStream::connect(admin).await?;
        stream
            .write_all(b"POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        stream.take(1024).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    match asked.await {
        Ok(answer) if answer.starts_with(b"HTTP/1.1 200") => Exit::Clean,
        other => {
            use std::io::Write;
            let why = match other {
                Ok(answer) if answer.starts_with(b"HTTP/1.1 404") => "its setting `admin.drain` is off".to_owned(),
                Ok(_) => "it refused".to_owned(),
                Err(error) => error.to_string(),
            };
            let _ = writeln!(std::io::stderr(), "the sidecar at {admin} does not drain: {why}");
            Exit::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, peer: [u8; 4]) -> AdminRequest {
        AdminRequest {
            method,
            path: PATH.to_owned(),
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::new(),
            peer: peer.into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hooks_are_answered_when_the_drain_is_over() {
        let stages = Stages::new();
        let refused = stages.clone().answer(request(Method::POST, [10, 0, 0, 7])).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
        let mut page = request(Method::POST, [127, 0, 0, 1]);
        page.headers.insert(ORIGIN, http::HeaderValue::from_static("https://evil.example"));
        assert_eq!(stages.clone().answer(page).await.status, StatusCode::FORBIDDEN);
        let nobody = stages.clone().answer(request(Method::GET, [10, 0, 0, 7])).await;
        assert_eq!(nobody.status, StatusCode::SERVICE_UNAVAILABLE);

        let server = tokio::spawn(stages.clone().answer(request(Method::GET, [10, 0, 0, 7])));
        let own = tokio::spawn(stages.clone().answer(request(Method::POST, [127, 0, 0, 1])));
        stages.reached(Stage::Asked).await;
        stages.reach(Stage::Draining);
        tokio::task::yield_now().await;
        assert!(!server.is_finished() && !own.is_finished());
        stages.reach(Stage::Drained);
        assert_eq!(server.await.unwrap().status, StatusCode::OK);
        assert_eq!(own.await.unwrap().status, StatusCode::OK);
        stages.reach(Stage::Asked);
        stages.reached(Stage::Drained).await;
    }
}
