//! Arguments of `bench`.

use std::time::Duration;

use super::{ConnectArgs, duration};

/// Measures an MCP endpoint under load: how many calls it answers, and how long each takes.
///
/// Asks for `tools/list`, or calls one tool again and again: choose one that may be called thousands of times. With --rate calls
/// begin when they are due, whether or not the ones before are done, so that waiting for a slow server is part of what is
/// measured; without it each connection calls as fast as it is answered. The first second is not counted. Exits with 1 when
/// calls failed.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) endpoint: ConnectArgs,
    /// The tool to call, as the endpoint lists it. Without it, tools/list.
    #[arg(long, value_name = "NAME")]
    pub(crate) tool: Option<String>,
    /// Its arguments, a JSON object.
    #[arg(long, value_name = "JSON", default_value = "{}", requires = "tool")]
    pub(crate) arguments: String,
    /// Calls per second, of all connections together. Without it, as many as are answered.
    #[arg(long, value_name = "CALLS", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: Option<u32>,
    /// How long to measure.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Connections, and so calls at once.
    #[arg(long, value_name = "COUNT", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
    /// A call that takes longer has failed.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// As JSON; latencies in microseconds.
    #[arg(long)]
    pub(crate) json: bool,
}
