//! The cheapest MCP server that a sidecar accepts: it answers `tools/call` without parsing JSON, so that it is never the
//! limit of what is measured, and the few other methods properly. Of either era, over HTTP, HTTP+SSE or stdio.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, BufRead, Result, Write};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use outrigger_bench_tools::http1::{fill_past, fill_to, read_head};
use outrigger_bench_tools::rpc::{self, Era};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

/// Written at once when bytes are all that is asked for.
const CHUNK: usize = 256 * 1024;
/// Events that are written at once when they are asked for without a pause: as many as a server on hyper does.
const EVENTS_AT_ONCE: u64 = 16;
const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
const NO_SUCH: &[u8] = b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n";
const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
const PROGRESS: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

#[derive(Parser)]
struct Arguments {
    /// Loopback port to accept on, or several; without one, stdio.
    #[arg(long)]
    port: Vec<u16>,
    /// How many tools to offer.
    #[arg(long, default_value_t = 50)]
    tools: usize,
    /// What it speaks; given twice, both.
    #[arg(long, value_enum, default_value = "modern")]
    era: Vec<Era>,
    /// HTTP+SSE, with the event stream at `/sse`.
    #[arg(long)]
    sse: bool,
    /// No MCP at all: whatever comes first is answered with so many bytes, for tunnels.
    #[arg(long, requires = "port")]
    bytes: Option<u64>,
}

/// What every connection needs.
struct Server {
    tools: Value,
    eras: Vec<Era>,
    sse: bool,
    /// Event streams of HTTP+SSE, by the number in their endpoint.
    streams: RefCell<HashMap<usize, UnboundedSender<String>>>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let server = Server {
        tools: rpc::tools(arguments.tools),
        eras: arguments.era,
        sse: arguments.sse,
        streams: RefCell::default(),
    };
    match (arguments.port.as_slice(), arguments.bytes) {
        ([], _) => server.lines(),
        (ports, Some(bytes)) => listen(ports, async move |stream| send(stream, bytes).await),
        (ports, None) => {
            let server = Rc::new(server);
            listen(ports, async move |stream| server.serve(stream).await)
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn listen(ports: &[u16], serve: impl AsyncFn(TcpStream) -> Result<()> + 'static) -> Result<()> {
    let serve = Rc::new(serve);
    let tasks = LocalSet::new();
    for port in ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).await?;
        let serve = serve.clone();
        tasks.spawn_local(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let serve = serve.clone();
                tokio::task::spawn_local(async move { serve(stream).await });
            }
        });
    }
    tasks.await;
    Ok(())
}

/// Sends so many bytes after the first words of the client, and waits for it to leave.
async fn send(mut stream: TcpStream, bytes: u64) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut heard = [0; 4096];
    if stream.read(&mut heard).await? == 0 {
        return Ok(());
    }
    let (chunk, mut left) = (vec![b'o'; CHUNK], bytes);
    while left > 0 {
        let now = left.min(CHUNK as u64) as usize;
        stream.write_all(&chunk[..now]).await?;
        left -= now as u64;
    }
    while stream.read(&mut heard).await? > 0 {}
    Ok(())
}

impl Server {
    /// Answers the lines of stdin until it ends.
    fn lines(&self) -> Result<()> {
        let mut out = io::stdout().lock();
        for line in io::stdin().lock().lines() {
            if let Some(mut reply) = self.reply(line?.as_bytes()) {
                reply.push('\n');
                out.write_all(reply.as_bytes())?;
                out.flush()?;
            }
        }
        Ok(())
    }

    /// Answers the requests of one connection until it ends.
    async fn serve(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = Vec::with_capacity(4096);
        loop {
            let head = read_head(&mut stream, &mut buffer).await?;
            let end = if head.chunked {
                // The frames stay in the body: nothing below needs it exact.
                fill_past(&mut stream, &mut buffer, b"\r\n0\r\n\r\n").await? + 7
            } else {
                fill_to(&mut stream, &mut buffer, head.length + head.content_length).await?;
                head.length + head.content_length
            };
            let (line, body) = (&buffer[..head.length], &buffer[head.length..end]);
            if self.sse && line.starts_with(b"GET /sse ") {
                return self.events(stream).await;
            }
            if let (Some(micros), Some(token)) =
                (rpc::number(body, b"\"micros\":"), rpc::number(body, b"\"progressToken\":"))
            {
                let token = String::from_utf8_lossy(token).into_owned();
                let micros = std::str::from_utf8(micros).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
                return progress(stream, &token, micros).await;
            }
            let answer = match session(line) {
                Some(number) if self.sse => self.post(number, body),
                _ if self.sse || line.starts_with(b"GET ") => NO_SUCH.to_vec(),
                _ => self.reply(body).map_or_else(|| ACCEPTED.to_vec(), |reply| self.json(&reply)),
            };
            stream.write_all(&answer).await?;
            buffer.drain(..end);
            if head.close {
                return Ok(());
            }
        }
    }

    /// The event stream of a new session over HTTP+SSE, until its reader leaves.
    async fn events(&self, mut stream: TcpStream) -> Result<()> {
        let (sender, mut replies) = unbounded_channel();
        let number = self.streams.borrow().len();
        self.streams.borrow_mut().insert(number, sender);
        stream.write_all(EVENTS).await?;
        stream.write_all(format!("event: endpoint\ndata: /message?s={number}\n\n").as_bytes()).await?;
        while let Some(reply) = replies.recv().await {
            stream.write_all(format!("event: message\ndata: {reply}\n\n").as_bytes()).await?;
        }
        Ok(())
    }

    /// A message of HTTP+SSE: the reply comes on the event stream.
    fn post(&self, number: usize, body: &[u8]) -> Vec<u8> {
        if let (Some(sender), Some(reply)) = (self.streams.borrow().get(&number), self.reply(body)) {
            // A reader that left needs no reply.
            let _ = sender.send(reply);
        }
        ACCEPTED.to_vec()
    }

    fn reply(&self, body: &[u8]) -> Option<String> {
        if let Some(answer) = rpc::called(body, self.eras.contains(&Era::Modern)) {
            return Some(answer);
        }
        let start = body.iter().position(|byte| *byte == b'{').unwrap_or(0);
        let request = serde_json::Deserializer::from_slice(&body[start..]).into_iter::<Value>().next();
        Some(rpc::answer(&request?.ok()?, &self.tools, &self.eras)?.to_string())
    }

    fn json(&self, body: &str) -> Vec<u8> {
        let length = body.len();
        let session = if self.eras == [Era::Legacy] { "mcp-session-id: bench\r\n" } else { "" };
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{session}content-length: {length}\r\n\r\n{body}")
            .into_bytes()
    }
}

/// Tells of the progress of a call that never ends, until its reader leaves.
async fn progress(mut stream: TcpStream, token: &str, micros: u64) -> Result<()> {
    stream.write_all(PROGRESS).await?;
    let mut pace = (micros > 0).then(|| {
        let mut pace = tokio::time::interval(Duration::from_micros(micros));
        // What a slow moment made late is not made up for: a burst would be another load.
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        pace
    });
    let (mut made, mut chunks) = (0, Vec::new());
    loop {
        let now = match &mut pace {
            Some(pace) => {
                pace.tick().await;
                1
            }
            None => EVENTS_AT_ONCE,
        };
        chunks.clear();
        for _ in 0..now {
            made += 1;
            let event = rpc::event(token, made);
            write!(chunks, "{:x}\r\n{event}\r\n", event.len())?;
        }
        stream.write_all(&chunks).await?;
    }
}

/// The number in the path of a message of HTTP+SSE.
fn session(head: &[u8]) -> Option<usize> {
    let rest = head.strip_prefix(b"POST /message?s=")?;
    let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}
