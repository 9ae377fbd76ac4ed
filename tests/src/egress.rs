//! The outbound half by itself, and origins that note what reaches them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_sidecar::config::EgressOnly;
use outrigger_sidecar::outbound::alone::{Alone, start};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::wait::within;

/// A running outbound half.
pub struct TestEgress {
    alone: Alone,
    log: tempfile::NamedTempFile,
    file: tempfile::NamedTempFile,
}

/// Something that listens, and remembers every byte that it was sent.
pub struct Origin {
    /// Where.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl TestEgress {
    /// Starts one; `settings` is what stands below `egress:`, two spaces in.
    pub fn start(settings: &str) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let text = format!("egress:\n  listen: 127.0.0.1:0\n  log: {}\n{settings}", log.path().display());
        let mut config =
            EgressOnly::from_sources(Some(("egress.yaml", &text)), &|_| None).unwrap_or_else(|e| panic!("{e}"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        config.file = Some(file.path().to_owned());
        Self { alone: start(&config).unwrap_or_else(|e| panic!("{e}")), log, file }
    }

    /// Writes its settings file anew, as `start` does.
    pub fn change(&self, settings: &str) {
        let text = format!("egress:\n  listen: 127.0.0.1:0\n  log: {}\n{settings}", self.log.path().display());
        std::fs::write(self.file.path(), text).unwrap();
    }

    /// The file of its log.
    pub fn log(&self) -> &std::path::Path {
        self.log.path()
    }

    /// Where the proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.alone.egress
    }

    /// Where the resolver for the server listens.
    pub fn dns(&self) -> SocketAddr {
        self.alone.dns.expect("`dns: { listen: ... }` in the settings")
    }

    /// Its metrics; `admin: { listen: 127.0.0.1:0 }` must stand in the settings.
    pub async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.alone.admin.expect("an admin port")).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        read_all(&mut stream).await
    }

    /// A connection to the proxy.
    pub async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }

    /// Sends bytes and reads until the proxy closes.
    pub async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.dial().await;
        stream.write_all(bytes).await.unwrap();
        read_all(&mut stream).await
    }

    /// Stops it, and gives the lines of its log.
    pub async fn stop(self) -> Vec<Value> {
        self.alone.stop(tokio::time::sleep(Duration::from_millis(200))).await;
        let text = std::fs::read_to_string(self.log.path()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Origin {
    /// Answers each head with `reply`, as HTTP. The connection stays open.
    pub async fn http(reply: &'static str) -> Self {
        Self::listen(move |seen| seen.ends_with(b"\r\n\r\n").then(|| reply.as_bytes().to_vec())).await
    }

    /// Sends back what it gets.
    pub async fn echo() -> Self {
        let mut sent = 0;
        Self::listen(move |seen| {
            let new = seen.get(sent..).unwrap_or_default().to_vec();
            sent = seen.len();
            Some(new)
        })
        .await
    }

    async fn listen(answer: impl FnMut(&[u8]) -> Option<Vec<u8>> + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let all = seen.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (all, mut answer) = (all.clone(), answer.clone());
                let index = {
                    let mut all = all.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                };
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        let reply = {
                            let mut all = all.lock().unwrap();
                            all[index].extend_from_slice(&buffer[..read]);
                            answer(&all[index])
                        };
                        if let Some(reply) = reply
                            && stream.write_all(&reply).await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// What each connection so far has sent.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    /// The bytes of the first connection.
    pub fn bytes(&self) -> Vec<u8> {
        self.seen.lock().unwrap().first().cloned().unwrap_or_default()
    }
}

/// Everything until the other side closes, or breaks off.
pub async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            bytes.extend_from_slice(&buffer[..read]);
        }
    };
    within("the connection ends", reading).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads up to and with `end`.
pub async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while !bytes.ends_with(end.as_bytes()) {
            match stream.read_u8().await {
                Ok(byte) => bytes.push(byte),
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
    };
    within("the words arrive", reading).await;
    String::from_utf8(bytes).unwrap()
}
