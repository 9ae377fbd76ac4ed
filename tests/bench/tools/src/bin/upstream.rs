//! The cheapest MCP server that a sidecar accepts: it answers `tools/call` without parsing JSON, so that it is never the
//! limit of what is measured, and the few other methods properly.

use std::io::Result;
use std::net::Ipv4Addr;
use std::rc::Rc;

use clap::Parser;
use outrigger_bench_tools::http1::{fill_past, fill_to, find, read_head};
use outrigger_bench_tools::rpc;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// The result of every call: about 200 bytes.
const RESULT: &str = r#"{"content":[{"type":"text","text":"01234567890123456789012345678901234567890123456789012345678901234567890123456789"}],"isError":false,"resultType":"complete"}"#;

#[derive(Parser)]
struct Arguments {
    /// Loopback port to accept on.
    #[arg(long)]
    port: u16,
    /// How many tools to offer.
    #[arg(long, default_value_t = 50)]
    tools: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let tools = Rc::new(rpc::tools(arguments.tools));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.port)).await?;
    let connections = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            tokio::task::spawn_local(serve(stream, tools.clone()));
        }
    };
    LocalSet::new().run_until(connections).await
}

/// Answers the requests of one connection until it ends.
async fn serve(mut stream: TcpStream, tools: Rc<Value>) -> Result<()> {
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
        stream.write_all(&reply(&buffer[head.length..end], &tools)).await?;
        buffer.drain(..end);
        if head.close {
            return Ok(());
        }
    }
}

fn reply(body: &[u8], tools: &Value) -> Vec<u8> {
    if find(body, b"\"tools/call\"").is_some() {
        let id = String::from_utf8_lossy(raw_id(body).unwrap_or(b"1"));
        return json_reply(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{RESULT}}}"#));
    }
    let start = body.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let request = serde_json::Deserializer::from_slice(&body[start..]).into_iter::<Value>().next();
    match request.and_then(|request| rpc::answer(&request.ok()?, tools)) {
        Some(answer) => json_reply(&answer.to_string()),
        None => b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n".to_vec(),
    }
}

fn json_reply(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// The bytes of the first `id`: a number, or a string without commas, which is all that proxies send.
fn raw_id(body: &[u8]) -> Option<&[u8]> {
    let rest = &body[find(body, b"\"id\":")? + 5..];
    let end = rest.iter().position(|byte| matches!(byte, b',' | b'}'))?;
    Some(&rest[..end])
}
