//! A mesh of the test's making: answers each HTTP request as a function says, and remembers what was asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use http::header::HeaderMap;
use outrigger_proxy::dial::Endpoint;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::client::Client;
use super::outbox::Outbox;
use super::relay::Relay;
use super::target::Target;

/// What was asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: String,
    /// Names in lower case.
    pub(super) headers: HashMap<String, String>,
    pub(super) body: String,
}

/// How to answer.
pub(super) enum Reply {
    /// A status, further header lines, and a JSON body.
    Json(u16, &'static str, String),
    /// Events, then the end of the stream.
    Events(String),
    /// Events, then nothing until the other side closes.
    Open(String),
}

/// A client with its relay and its mesh.
pub(super) struct Scene {
    input: Option<WriteHalf<DuplexStream>>,
    output: BufReader<ReadHalf<DuplexStream>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Tells of each open stream that the other side closed.
    pub(super) closed: mpsc::Receiver<()>,
    relay: tokio::task::JoinHandle<()>,
}

impl Scene {
    /// A relay to a mesh that answers as `reply` says: by the request and by how many came before.
    pub(super) async fn new(reply: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (closing, closed) = mpsc::channel(16);
        let (reply, remembered) = (Arc::new(reply), Arc::clone(&asked));
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, Arc::clone(&reply), Arc::clone(&remembered), closing.clone()));
            }
        });
        let target = Target {
            endpoint: Endpoint::tcp("127.0.0.1", port),
            path: "/mcp".parse().unwrap(),
            headers: HeaderMap::new(),
        };
        // As stdin and stdout: what the client writes we read, and the other way round.
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (output, input) = tokio::io::split(ours);
        let (from_client, to_client) = tokio::io::split(theirs);
        let relay = tokio::spawn(async move {
            let (outbox, _writer) = Outbox::to(to_client);
            let mut relay = Relay::new(Client::new(target), outbox);
            relay.run(from_client).await;
            relay.finish(std::time::Duration::from_secs(5)).await;
            relay.close().await;
        });
        Self { input: Some(input), output: BufReader::new(output), asked, closed, relay }
    }

    /// The client says something.
    pub(super) async fn say(&mut self, message: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    /// What the client hears next.
    pub(super) async fn hear(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.output.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The client leaves; the relay ends.
    pub(super) async fn leave(&mut self) {
        self.input.take().unwrap().shutdown().await.unwrap();
        (&mut self.relay).await.unwrap();
    }

    /// Everything that was asked until now.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until something like this was asked.
    pub(super) async fn until(&self, wanted: impl Fn(&Asked) -> bool) -> Asked {
        loop {
            if let Some(found) = self.asked().into_iter().find(|asked| wanted(asked)) {
                return found;
            }
            tokio::task::yield_now().await;
        }
    }
}

async fn serve(
    socket: TcpStream,
    reply: Arc<impl Fn(&Asked, usize) -> Reply>,
    asked: Arc<Mutex<Vec<Asked>>>,
    closing: mpsc::Sender<()>,
) {
    let mut socket = BufReader::new(socket);
    let Some(request) = read(&mut socket).await else { return };
    let reply = {
        let mut asked = asked.lock().unwrap();
        let reply = reply(&request, asked.len());
        asked.push(request);
        reply
    };
    let (text, open) = match reply {
        Reply::Json(status, headers, body) => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n"
            );
            (format!("{head}connection: close\r\n\r\n{body}"), false)
        }
        Reply::Events(events) => (stream(&events), false),
        Reply::Open(events) => (stream(&events), true),
    };
    if socket.write_all(text.as_bytes()).await.is_ok() && open {
        // Nothing more comes from the client than the end.
        let _ = socket.read(&mut [0]).await;
        let _ = closing.send(()).await;
    }
}

fn stream(events: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{events}")
}

async fn read(socket: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    socket.read_line(&mut line).await.ok()?;
    let method = line.split(' ').next()?.to_owned();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        socket.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    Some(Asked { method, headers, body: String::from_utf8(body).unwrap() })
}
