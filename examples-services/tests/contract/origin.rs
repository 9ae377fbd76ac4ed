//! A scripted HTTP origin and a recording proxy, small enough to see every byte they send.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A server on a free loopback port that keeps the request heads it saw; it stops when dropped.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    /// Serves the routes of [`answer`] in plain HTTP, or over TLS.
    pub(crate) async fn start(tls: Option<TlsAcceptor>) -> Self {
        Self::listen(move |stream, heads| {
            let tls = tls.clone();
            async move {
                match tls {
                    // A client that does not trust us hangs up during the handshake.
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => serve(stream, heads).await,
                        Err(_) => None,
                    },
                    None => serve(stream, heads).await,
                }
            }
        })
        .await
    }

    /// A forward proxy: answers absolute-form requests itself, tunnels CONNECT to `target` whatever name was asked for.
    pub(crate) async fn start_proxy(target: SocketAddr) -> Self {
        Self::listen(move |mut stream, heads| async move {
            let head = read_head(&mut stream).await?;
            heads.lock().unwrap().push(head.clone());
            if !head.starts_with("CONNECT ") {
                return stream.write_all(&page("text/plain", b"from the proxy")).await.ok();
            }
            if head.contains("forbidden.example") {
                return stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await.ok();
            }
            let mut upstream = TcpStream::connect(target).await.ok()?;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
            tokio::io::copy_bidirectional(&mut stream, &mut upstream).await.ok().map(drop)
        })
        .await
    }

    async fn listen<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream, Arc<Mutex<Vec<String>>>) -> Fut + Send + 'static,
        Fut: Future<Output = Option<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&seen)));
            }
        });
        Self { address, heads, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The request heads so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, heads: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let head = read_head(&mut stream).await?;
    heads.lock().unwrap().push(head.clone());
    let path = head.split(' ').nth(1)?.to_owned();
    if path == "/hang" {
        return std::future::pending().await;
    }
    stream.write_all(&answer(&path)).await.ok()?;
    stream.shutdown().await.ok()
}

async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// The routes of the origin.
fn answer(path: &str) -> Vec<u8> {
    match path {
        "/page" => page("text/html; charset=utf-8", "<p>café</p>".as_bytes()),
        "/latin1" => page("text/plain; charset=iso-8859-1", b"caf\xe9"),
        "/koi8" => page("text/plain; charset=koi8-r", b"x"),
        "/json?q=1" => page("application/json", b"{\"ok\":true}"),
        "/png" => page("image/png", b"\x89PNG"),
        "/big" => page("text/plain", &b"0123456789".repeat(100)),
        "/untyped" => b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx".to_vec(),
        "/gzip" => {
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"
                .to_vec()
        }
        "/garbage" => b"this is not HTTP\r\n\r\n".to_vec(),
        "/moved" => redirect("page"),
        "/loop" => redirect("/loop"),
        "/to-file" => redirect("file:///etc/passwd"),
        "/to-credentials" => redirect("http://u:p@localhost/"),
        "/no-location" => b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nnone".to_vec(),
    }
}

fn page(content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn redirect(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}
