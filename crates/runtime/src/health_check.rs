//! The command `health` of every program: asks the admin port of a running one, so that a container needs no shell or curl.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::start::Exit;

/// Exits with 0 when `/readyz` says 200.
pub async fn check(mut admin: SocketAddr) -> Exit {
    if admin.ip().is_unspecified() {
        admin.set_ip(if admin.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    let answer = tokio::time::timeout(Duration::from_secs(3), ask(admin)).await;
    use std::io::Write;
    match answer {
        Ok(Ok(text)) if text.starts_with("HTTP/1.1 200") => Exit::Clean,
        Ok(Ok(text)) => {
            let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let _ = writeln!(std::io::stderr(), "not ready: {}", body.trim());
            Exit::Failed
        }
        Ok(Err(error)) => {
            let _ = writeln!(std::io::stderr(), "no answer from {admin}: {error}");
            Exit::Failed
        }
        Err(_) => {
            let _ = writeln!(std::io::stderr(), "no answer from {admin} within 3 s");
            Exit::Failed
        }
    }
}

async fn ask(admin: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut text = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
