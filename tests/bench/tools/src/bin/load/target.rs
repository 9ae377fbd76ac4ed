//! What is asked, and how to get there.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Args;
use outrigger_bench_tools::http1::{Response, fill_past, find, read_head, read_response, status};
use outrigger_bench_tools::rpc::{Asks, Era};
use outrigger_bench_tools::{Error, rpc, tls};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

/// Bytes of events that are read at once.
const MANY_EVENTS: usize = 64 * 1024;

/// Bytes of events that may wait to be read, on each connection.
const EVENTS_BUFFER: u32 = 128 * 1024;

#[derive(Args, Clone)]
pub struct TargetArguments {
    /// Loopback port of the program under test.
    #[arg(long)]
    port: u16,
    /// Folder with ca.pem, client.pem and client.key; without it, plaintext.
    #[arg(long)]
    certs: Option<PathBuf>,
    /// Path of the endpoint.
    #[arg(long, default_value = "/mcp")]
    path: String,
    /// What the client speaks.
    #[arg(long, value_enum, default_value = "modern")]
    era: Era,
    /// HTTP+SSE: the path is that of the event stream.
    #[arg(long)]
    sse: bool,
    /// Name of the tool to call.
    #[arg(long, default_value = "tool_7")]
    tool: String,
    /// So many services, named `s0`, `s1` and so on, each have the tool: calls go to one after the other.
    #[arg(long)]
    services: Option<usize>,
}

/// A place to send one prepared request to.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    arguments: TargetArguments,
    asks: Asks,
    /// The session of all connections, which begins with the first. Over HTTP+SSE each has its own.
    session: Arc<OnceCell<String>>,
    /// In a session, requests that are at work have different ids.
    ids: Arc<AtomicUsize>,
    /// Requests that take turns, of all connections.
    turns: Arc<Turns>,
}

#[derive(Default)]
struct Turns {
    requests: Vec<Vec<u8>>,
    next: AtomicUsize,
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// One open connection, or over HTTP+SSE two.
pub struct Connection {
    stream: Box<dyn Stream>,
    surplus: Vec<u8>,
    request: Vec<u8>,
    turns: Arc<Turns>,
    events: Option<Events>,
    /// How many tools the next answer must list.
    tools: Option<usize>,
    /// What events are read into, and whether it ended within a blank line.
    room: Vec<u8>,
    half: bool,
}

impl Target {
    pub fn new(arguments: &TargetArguments, asks: Asks) -> Result<Self, Error> {
        Ok(Self {
            address: (Ipv4Addr::LOCALHOST, arguments.port).into(),
            tls: arguments.certs.as_deref().map(tls::client).transpose()?,
            arguments: arguments.clone(),
            asks,
            session: Arc::default(),
            ids: Arc::new(AtomicUsize::new(1)),
            turns: Arc::new(Turns::new(arguments)),
        })
    }

    pub async fn open(&self) -> io::Result<Connection> {
        let TargetArguments { path, tool, era, sse, .. } = &self.arguments;
        let (stream, surplus) = (self.connect().await?, Vec::with_capacity(4096));
        let mut connection = Connection {
            stream,
            surplus,
            request: Vec::new(),
            turns: Arc::clone(&self.turns),
            events: None,
            tools: None,
            room: Vec::new(),
            half: false,
        };
        let mut path = path.clone();
        let mut session = "";
        if *sse {
            let mut events = Events::open(self.connect().await?, &path).await?;
            path = events.endpoint().await?;
            connection.events = Some(events);
            connection.greet(&path).await?;
        } else if *era == Era::Legacy {
            session = self.session.get_or_try_init(|| connection.greet(&path)).await?;
        }
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let head = if *sse { String::new() } else { self.asks.head(tool, *era, session) };
        connection.request = rpc::post(&path, &head, &self.asks.body(id, tool, *era));
        if let Asks::List(count) = self.asks {
            connection.tools = Some(count);
        }
        Ok(connection)
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let tcp = TcpSocket::new_v4()?;
        if matches!(self.asks, Asks::Events(_)) {
            // The kernel would hold so many events that a second passes in which the proxy has nothing to do.
            tcp.set_recv_buffer_size(EVENTS_BUFFER)?;
        }
        let tcp = tcp.connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let Some(config) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(config.clone()).connect(name, tcp).await?))
    }
}

impl Turns {
    fn new(arguments: &TargetArguments) -> Self {
        let TargetArguments { path, tool, era, services, .. } = arguments;
        let request = |at: usize| {
            let tool = format!("s{at}__{tool}");
            rpc::post(path, &Asks::Call.head(&tool, *era, ""), &Asks::Call.body(at, &tool, *era))
        };
        Self { requests: (0..services.unwrap_or(0)).map(request).collect(), next: AtomicUsize::new(0) }
    }

    fn next(&self) -> Option<&Vec<u8>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.requests.get(turn.checked_rem(self.requests.len())?)
    }
}

impl Connection {
    /// Begins a session; returns its id, which is empty over HTTP+SSE.
    async fn greet(&mut self, path: &str) -> io::Result<String> {
        let [initialize, initialized] = rpc::greeting();
        self.request = rpc::post(path, "", &initialize);
        let session = self.call().await?.session.unwrap_or_default();
        let head = if session.is_empty() { String::new() } else { format!("mcp-session-id: {session}\r\n") };
        self.stream.write_all(&rpc::post(path, &head, &initialized)).await?;
        read_response(&mut self.stream, &mut self.surplus).await?;
        Ok(session)
    }

    /// Sends the request and reads its answer. An answer that is not a result is an error: refusals are cheap.
    pub async fn call(&mut self) -> io::Result<Response> {
        self.stream.write_all(self.turns.next().unwrap_or(&self.request)).await?;
        let mut response = read_response(&mut self.stream, &mut self.surplus).await?;
        if let Some(events) = self.events.as_mut().filter(|_| response.status == 202) {
            (response.status, response.body) = (200, events.reply().await?);
        }
        // A JSON-RPC error comes with status 200 as well.
        let has_result = find(&response.body, b"\"result\"").is_some();
        if response.status == 200 && has_result {
            if let Some(expected) = self.tools.take() {
                let found = count(&response.body, b"\"inputSchema\"");
                if found != expected {
                    return Err(io::Error::other(format!("a list of {found} tools, not {expected}")));
                }
            }
            return Ok(response);
        }
        let start = String::from_utf8_lossy(&response.body[..response.body.len().min(200)]).into_owned();
        Err(io::Error::other(format!("status {}: {start}", response.status)))
    }
}

impl Connection {
    /// Sends the request, whose answer is a stream of events, and reads its head.
    pub async fn begin_events(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.request).await?;
        let length = read_head(&mut self.stream, &mut self.surplus).await?.length;
        let head: Vec<u8> = self.surplus.drain(..length).collect();
        match (status(&head), find(&head, b"text/event-stream")) {
            (200, Some(_)) => Ok(()),
            (status, _) => Err(io::Error::other(format!("status {status} or no event stream"))),
        }
    }

    /// How many events end in what arrives next. Chunks are not put together: a blank line is only ever the end of an event.
    pub async fn events(&mut self) -> io::Result<usize> {
        // Zeroed once: TLS would zero what a fresh buffer has, for each record.
        self.room.resize(MANY_EVENTS, 0);
        let read = self.stream.read(&mut self.room).await?;
        let arrived = &self.room[..read];
        let Some(first) = arrived.first() else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let rest_of_half = self.half && *first == b'\n';
        // The second half of a blank line may come later.
        self.half = arrived.ends_with(b"\n") && !arrived.ends_with(b"\n\n") && !(rest_of_half && read == 1);
        Ok(count(arrived, b"\n\n") + usize::from(rest_of_half))
    }
}

/// How often `needle` is in `haystack`.
fn count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).filter(|window| *window == needle).count()
}

/// An event stream of HTTP+SSE. Chunks are not put together: a blank line is only ever the end of an event.
struct Events {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Events {
    async fn open(mut stream: Box<dyn Stream>, path: &str) -> io::Result<Self> {
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut buffer = Vec::new();
        let length = read_head(&mut stream, &mut buffer).await?.length;
        buffer.drain(..length);
        Ok(Self { stream, buffer })
    }

    async fn event(&mut self) -> io::Result<Vec<u8>> {
        let end = fill_past(&mut self.stream, &mut self.buffer, b"\n\n").await? + 2;
        Ok(self.buffer.drain(..end).collect())
    }

    /// The path of the first event, to which messages are posted.
    async fn endpoint(&mut self) -> io::Result<String> {
        let event = String::from_utf8_lossy(&self.event().await?).into_owned();
        let data = event.lines().find_map(|line| line.strip_prefix("data:"));
        data.map(|path| path.trim().to_owned()).ok_or_else(|| io::Error::other(format!("no endpoint: {event}")))
    }

    /// The next event that answers something.
    async fn reply(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let event = self.event().await?;
            if find(&event, b"\"jsonrpc\"").is_some() {
                return Ok(event);
            }
        }
    }
}
