//! Probes made for a kubelet: it asks at `/probe/<name>` of the admin port, and gets what the server says over loopback.
//!
//! Only what the settings name can be asked, by whoever reaches the admin port: the kubelet has no credential to show.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use outrigger_config::kinds::{HostPort, Url};
use outrigger_runtime::AdminPage;
use outrigger_runtime::admin::AdminRequest;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::config::Probe;

/// What all paths begin with.
pub(crate) const PREFIX: &str = "/probe/";
/// For an answer. A kubelet that has less patience goes away by itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes of an answer's first line, which has the status.
const LINE: u64 = 4096;

/// Makes the probe that a request names.
pub(crate) async fn answer(probes: Arc<Vec<(String, Probe)>>, request: AdminRequest) -> AdminPage {
    let name = request.path.strip_prefix(PREFIX).unwrap_or_default();
    let Some((_, probe)) = probes.iter().find(|(own, _)| own == name) else {
        return AdminPage::text(StatusCode::NOT_FOUND, "no such probe in the settings\n");
    };
    let asked = async {
        match probe {
            Probe::Tcp(address) => connect(address).await.map(|_| StatusCode::OK),
            Probe::Http(url) => get(url, &request.headers).await,
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(status)) => AdminPage::text(status, format!("the server says {}\n", status.as_u16())),
        Ok(Err(error)) => AdminPage::text(StatusCode::BAD_GATEWAY, format!("the server: {error}\n")),
        Err(_) => AdminPage::text(StatusCode::GATEWAY_TIMEOUT, "the server does not answer\n"),
    }
}

async fn connect(address: &HostPort) -> std::io::Result<TcpStream> {
    TcpStream::connect((address.host.as_str(), address.port)).await
}

/// One request on a connection of its own, as kubelets make them.
async fn get(url: &Url, headers: &HeaderMap) -> std::io::Result<StatusCode> {
    let mut text = format!("GET {} HTTP/1.1\r\nConnection: close\r\n", url.path);
    if !headers.contains_key(header::HOST) {
        text.push_str(&format!("Host: {}\r\n", url.authority));
    }
    let own = [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE];
    for (name, value) in headers.iter().filter(|(name, _)| !own.contains(name)) {
        // What is no text is no header of a manifest.
        if let Ok(value) = value.to_str() {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    text.push_str("\r\n");
    let mut stream = connect(&url.authority).await?;
    stream.write_all(text.as_bytes()).await?;
    // Not to the end: some servers keep the connection open, whatever they were asked.
    let mut head = Vec::new();
    BufReader::new(stream).take(LINE).read_until(b'\n', &mut head).await?;
    let status = head.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5)).map(StatusCode::from_bytes);
    match status {
        Some(Ok(status)) => Ok(status),
        _ => Err(std::io::Error::other("it does not speak HTTP/1.1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_known_by_its_first_line_and_need_not_end() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/up", server.local_addr().unwrap())).unwrap();
        let headers = HeaderMap::new();
        let serve = async {
            let (mut stream, _) = server.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Le").await.unwrap();
            stream
        };
        // The connection stays open until both are done.
        let (status, _open) = tokio::join!(get(&url, &headers), serve);
        assert_eq!(status.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
