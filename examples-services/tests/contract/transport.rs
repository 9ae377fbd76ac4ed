//! What holds for every service whatever it does: the HTTP edge, the process's streams and its end.

use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Era, HttpService, PATIENCE, command};

/// Sends one raw request and returns the status line.
async fn status(service: &HttpService, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(service.authority()).await.unwrap();
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let request = format!(
        "POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("no reply").unwrap();
    String::from_utf8_lossy(&reply).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn foreign_hosts_origins_and_paths_are_refused() {
    let service = HttpService::start(&["vector"]).await;
    let host = format!("Host: {}\r\n", service.authority());
    assert!(status(&service, "/", &host).await.contains(" 404 "));
    assert_eq!(status(&service, "/mcp", "Host: evil.example\r\n").await, "HTTP/1.1 403 Forbidden");
    let from_page = format!("{host}Origin: https://evil.example\r\n");
    assert!(status(&service, "/mcp", &from_page).await.contains(" 403 "));
}

#[tokio::test]
async fn a_further_host_is_accepted_when_told() {
    let service = HttpService::start(&["vector", "--allow-host", "vector.internal"]).await;
    let reply = status(&service, "/mcp", "Host: vector.internal\r\n").await;
    assert!(!reply.contains(" 403 "), "{reply}");
    assert!(status(&service, "/mcp", "Host: evil.example\r\n").await.contains(" 403 "));
}

#[tokio::test]
async fn sigterm_ends_an_http_service_that_holds_a_session() {
    let mut service = HttpService::start(&["vector"]).await;
    let _client = service.connect(Era::Legacy).await;
    let pid = service.child.id().unwrap().to_string();
    let sent = std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(sent.success());
    let exit = tokio::time::timeout(PATIENCE, service.child.wait()).await.expect("does not end").unwrap();
    assert!(exit.success(), "{exit}");
}

#[tokio::test]
async fn a_stdio_service_ends_with_its_input_and_writes_nothing_of_its_own() {
    let mut command = command(&["vector", "--log", "trace"], &[]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("does not end").unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[tokio::test]
async fn usage_and_start_errors_are_clear() {
    for (args, code, reason) in [
        (vec!["fs"], 2, "--root"),
        (vec!["ftp"], 1, "there is no example service \"ftp\": use one of fs, http, vector"),
        (vec![], 1, "name a service"),
        (vec!["fs", "--root", "/no/such/dir"], 1, "cannot open --root /no/such/dir"),
        (vec!["vector", "--transport", "http", "--listen", "192.0.2.1:0"], 1, "cannot listen on 192.0.2.1:0"),
    ] {
        let output = command(&args, &[]).stdin(Stdio::null()).output().await.unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
        assert!(message.contains(reason), "{args:?}: {message}");
    }
}
