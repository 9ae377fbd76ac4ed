//! Tunnels through a forward proxy: opening and closing them, being refused, moving bytes, and resting.
//!
//! What goes into a tunnel begins with a real ClientHello, so that a proxy that reads it pays for that; nobody answers in TLS.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use outrigger_bench_tools::Error;
use outrigger_bench_tools::http1::{read_head, status};
use outrigger_bench_tools::process::{cpu_nanos, memory};
use outrigger_bench_tools::tls::client_hello;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use crate::window::{Tally, measure};

/// Until a program has given back what it will give back.
const SETTLE: Duration = Duration::from_secs(1);
/// Read at once when bytes are counted.
const CHUNK: usize = 256 * 1024;

#[derive(Args, Clone)]
pub struct TunnelArguments {
    /// Loopback port of the proxy; without it, the destination is dialled directly.
    #[arg(long)]
    port: Option<u16>,
    /// Host to ask for; it is also the name in the ClientHello.
    #[arg(long, default_value = "localhost")]
    host: String,
    /// Port to ask for.
    #[arg(long)]
    host_port: u16,
    /// Status that the proxy must answer with.
    #[arg(long, default_value_t = 200)]
    expect: u16,
    /// Processes whose CPU time and memory are reported, with their descendants.
    #[arg(long)]
    pid: Vec<u32>,
}

/// How to open a tunnel, prepared once.
struct Way {
    arguments: TunnelArguments,
    connect: Vec<u8>,
    hello: Vec<u8>,
}

impl Way {
    fn new(arguments: &TunnelArguments) -> Result<Self, Error> {
        let (host, port) = (&arguments.host, arguments.host_port);
        let connect = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n").into_bytes();
        Ok(Self { connect, hello: client_hello(host)?, arguments: arguments.clone() })
    }

    /// Opens a tunnel and says the first words in it. `None`: refused, as expected.
    async fn open(&self) -> io::Result<Option<TcpStream>> {
        let port = self.arguments.port.unwrap_or(self.arguments.host_port);
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.set_nodelay(true)?;
        if self.arguments.port.is_some() {
            stream.write_all(&self.connect).await?;
            let mut head = Vec::with_capacity(1024);
            read_head(&mut stream, &mut head).await?;
            let status = status(&head);
            if status != self.arguments.expect {
                return Err(io::Error::other(format!("status {status}, not {}", self.arguments.expect)));
            }
            if status != 200 {
                return Ok(None);
            }
        }
        stream.write_all(&self.hello).await?;
        Ok(Some(stream))
    }

    /// Opens, reads the first byte of the answer, closes.
    async fn once(&self) -> io::Result<()> {
        let Some(mut stream) = self.open().await? else { return Ok(()) };
        match stream.read(&mut [0; 1024]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Opens and closes tunnels, over and over.
///
/// # Errors
/// The host cannot be written into a ClientHello.
pub async fn run(arguments: &TunnelArguments, connections: usize, seconds: f64) -> Result<Value, Error> {
    let way = Arc::new(Way::new(arguments)?);
    let tally = Tally::default();
    for _ in 0..connections {
        let (way, tally) = (way.clone(), tally.clone());
        spawn_local(async move {
            loop {
                let since = Instant::now();
                match way.once().await {
                    Ok(()) => tally.done(since),
                    Err(error) => {
                        tally.failed(&error);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
        });
    }
    Ok(measure(&tally, seconds, &arguments.pid).await)
}

/// Reads so many MiB from one tunnel.
///
/// # Errors
/// The tunnel cannot be opened, or ends before that.
pub async fn bulk(arguments: &TunnelArguments, mib: u64) -> Result<Value, Error> {
    let mut stream = Way::new(arguments)?.open().await?.ok_or("the proxy refused")?;
    let (cpu_before, began) = (cpu_nanos(&arguments.pid), Instant::now());
    let (mut left, mut buffer) = (mib << 20, vec![0; CHUNK]);
    while left > 0 {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(format!("the tunnel ended {left} bytes early").into());
        }
        left = left.saturating_sub(read as u64);
    }
    let (cpu, took) = (cpu_nanos(&arguments.pid).saturating_sub(cpu_before) as f64, began.elapsed().as_secs_f64());
    Ok(json!({
        "mib_per_second": mib as f64 / took,
        "mib_per_cpu_second": (cpu > 0.0).then_some(mib as f64 * 1e9 / cpu),
        "rss_kib": memory(&arguments.pid).rss,
    }))
}

/// Opens tunnels through which an answer came, and says how memory grew.
///
/// # Errors
/// A tunnel cannot be opened.
pub async fn idle(arguments: &TunnelArguments, connections: usize) -> Result<Value, Error> {
    let way = Way::new(arguments)?;
    way.once().await?;
    tokio::time::sleep(SETTLE).await;
    let before = memory(&arguments.pid);
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = way.open().await?.ok_or("the proxy refused")?;
        stream.read_exact(&mut [0; 1]).await?;
        held.push(stream);
    }
    tokio::time::sleep(SETTLE).await;
    let after = memory(&arguments.pid);
    Ok(json!({
        "connections": held.len(),
        "rss_kib": before.rss,
        "kib_per_connection": (after.rss as f64 - before.rss as f64) / held.len().max(1) as f64,
    }))
}
