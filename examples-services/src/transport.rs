//! The flags every service shares, and the choice between stdio and Streamable HTTP.

use std::io::IsTerminal;
use std::net::SocketAddr;

use anyhow::Context;
use clap::ValueEnum;
use rmcp::service::ServerInitializeError;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::io::stdio_pipes;
use rmcp::{RoleServer, ServerHandler, ServiceExt};
use tracing::level_filters::LevelFilter;

/// One incoming message, in bytes: room for the largest legal tool call, far below what hurts.
pub(crate) const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// How clients reach the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportKind {
    /// Newline-delimited JSON on stdin and stdout.
    Stdio,
    /// Streamable HTTP on `--listen`, path `/mcp`.
    Http,
}

/// The flags every service shares.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TransportArgs {
    /// How clients reach the service.
    #[arg(long, value_enum, default_value_t = TransportKind::Stdio)]
    pub(crate) transport: TransportKind,
    /// Address for --transport http; port 0 takes a free one. The bound address is printed on stderr.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// A further Host header to accept over http (repeatable). Loopback names and the address of --listen always are.
    #[arg(long = "allow-host", value_name = "HOST")]
    pub(crate) allow_hosts: Vec<String>,
    /// Log level on stderr: off, error, warn, info, debug or trace.
    #[arg(long = "log", default_value = "warn", value_name = "LEVEL")]
    pub(crate) log: LevelFilter,
}

/// Serves `service` as the flags say until the client leaves or a signal arrives.
///
/// # Errors
/// The address cannot be bound, the handshake fails, or the server task breaks.
pub(crate) async fn serve<S>(args: &TransportArgs, service: S) -> anyhow::Result<()>
where
    S: ServerHandler + Clone,
{
    // A host program (the `outrigger` tool) may have set its own subscriber: then that one stays.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(args.log)
        // Otherwise a closed stderr makes each failed log line print to stderr, which panics in the middle of a call.
        .log_internal_errors(false)
        .try_init();
    match args.transport {
        TransportKind::Stdio => serve_stdio(service).await,
        TransportKind::Http => crate::http_server::serve(args, service).await,
    }
}

async fn serve_stdio<S: ServerHandler>(service: S) -> anyhow::Result<()> {
    let (reader, writer) = stdio_pipes();
    let transport =
        AsyncRwTransport::<RoleServer, _, _>::new_server(reader, writer).with_max_line_length(MAX_MESSAGE_BYTES);
    let running = match service.serve(transport).await {
        Ok(running) => running,
        // The client closed stdin before it said anything: nothing is wrong with us.
        Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(error) => return Err(error).context("the MCP handshake on stdio failed"),
    };
    running.waiting().await.context("the stdio server stopped")?;
    Ok(())
}
