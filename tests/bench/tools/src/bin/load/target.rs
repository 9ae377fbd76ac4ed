//! What is asked, and how to get there.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use outrigger_bench_tools::http1::{Response, find, read_response};
use outrigger_bench_tools::{Error, rpc, tls};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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
    /// Name of the tool to call.
    #[arg(long, default_value = "tool_7")]
    tool: String,
}

/// A place to send one prepared request to.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    request: Arc<[u8]>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// One open connection.
pub struct Connection {
    stream: Box<dyn Stream>,
    surplus: Vec<u8>,
    request: Arc<[u8]>,
}

impl Target {
    pub fn new(arguments: &TargetArguments) -> Result<Self, Error> {
        Ok(Self {
            address: (Ipv4Addr::LOCALHOST, arguments.port).into(),
            tls: arguments.certs.as_deref().map(tls::client).transpose()?,
            request: rpc::call_request(&arguments.path, &arguments.tool).into(),
        })
    }

    pub async fn open(&self) -> io::Result<Connection> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                Box::new(TlsConnector::from(config.clone()).connect(name, tcp).await?)
            }
        };
        Ok(Connection { stream, surplus: Vec::with_capacity(4096), request: self.request.clone() })
    }
}

impl Connection {
    /// Sends the request and reads its answer. An answer that is not a result is an error: refusals are cheap.
    pub async fn call(&mut self) -> io::Result<Response> {
        self.stream.write_all(&self.request).await?;
        let response = read_response(&mut self.stream, &mut self.surplus).await?;
        // A JSON-RPC error comes with status 200 as well.
        let has_result = find(&response.body, b"\"result\"").is_some();
        if response.status == 200 && has_result {
            return Ok(response);
        }
        let start = String::from_utf8_lossy(&response.body[..response.body.len().min(200)]).into_owned();
        Err(io::Error::other(format!("status {}: {start}", response.status)))
    }
}
