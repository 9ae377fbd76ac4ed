//! A yardstick, not a product: mTLS in, hyper server, pooled hyper client, plain HTTP out, and nothing else. It says what
//! tokio, rustls and hyper cost before a mesh does anything.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Uri, Version};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use outrigger_bench_tools::{Error, tls};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

type Upstream = Client<HttpConnector, Incoming>;

#[derive(Parser)]
struct Arguments {
    /// Loopback port to accept on.
    #[arg(long)]
    listen: u16,
    /// Loopback port of the upstream.
    #[arg(long)]
    to: u16,
    /// Folder with ca.pem, server.pem and server.key.
    #[arg(long)]
    certs: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let acceptor = TlsAcceptor::from(tls::server(&arguments.certs)?);
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let upstream = Client::builder(TokioExecutor::new()).build(connector);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.listen)).await?;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.to));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        tokio::spawn(serve(stream, acceptor.clone(), upstream.clone(), to));
    }
}

/// Relays the requests of one connection. Whatever goes wrong ends it; the load generator counts that.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor, upstream: Upstream, to: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let relay = service_fn(move |mut request: Request<Incoming>| {
        let upstream = upstream.clone();
        async move {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            *request.uri_mut() = format!("http://{to}{path}").parse::<Uri>().map_err(io::Error::other)?;
            *request.version_mut() = Version::HTTP_11;
            upstream.request(request).await.map_err(io::Error::other)
        }
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), relay).await;
}
