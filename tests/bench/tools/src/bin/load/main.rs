//! The load generator: one thread, one JSON object on stdout. Reads the CPU time and memory of the processes under test
//! around its own timed window, so that nobody has to line up two clocks.

mod calls;
mod events;
mod handshakes;
mod idle;
mod start;
mod target;
mod tunnels;
mod window;

use clap::{Args, Parser, Subcommand};
use outrigger_bench_tools::Error;
use outrigger_bench_tools::rpc::Asks;
use tokio::task::LocalSet;

use crate::target::TargetArguments;
use crate::tunnels::TunnelArguments;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Requests over connections that stay open; the fastest possible, or at a fixed rate.
    Calls {
        #[command(flatten)]
        common: Common,
        /// Requests per second, open loop: each is timed from the moment it was due.
        #[arg(long)]
        rate: Option<u32>,
        /// Asks for the list of tools, which must hold so many, instead of calling one.
        #[arg(long)]
        list: Option<usize>,
    },
    /// Calls that are answered with event streams without end, one on each connection.
    Events {
        #[command(flatten)]
        common: Common,
        /// One event in so many microseconds; 0: as many as are read.
        #[arg(long, default_value_t = 0)]
        micros: u64,
    },
    /// A new connection, one request, close, over and over.
    Handshakes {
        #[command(flatten)]
        common: Common,
    },
    /// Opens connections, holds them, and says how memory grew.
    Idle {
        #[command(flatten)]
        common: Common,
        /// Opens more afterwards, until there are so many.
        #[arg(long, default_value_t = 0)]
        at_last: usize,
    },
    /// Starts a program and says when its first answer came and what that cost.
    Start {
        #[command(flatten)]
        target: TargetArguments,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// A new tunnel through a forward proxy, one answer, close, over and over.
    Tunnels {
        #[command(flatten)]
        tunnel: TunnelArguments,
        /// Tunnels at once.
        #[arg(long, default_value_t = 16)]
        connections: usize,
        /// Length of the timed window.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
    /// Bytes out of one tunnel, as fast as they come.
    Bulk {
        #[command(flatten)]
        tunnel: TunnelArguments,
        /// How many MiB.
        #[arg(long, default_value_t = 1024)]
        mib: u64,
    },
    /// Opens tunnels, holds them, and says how memory grew.
    IdleTunnels {
        #[command(flatten)]
        tunnel: TunnelArguments,
        /// How many.
        #[arg(long, default_value_t = 1000)]
        connections: usize,
    },
}

/// What every mode with a running program under test takes.
#[derive(Args, Clone)]
struct Common {
    #[command(flatten)]
    target: TargetArguments,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Length of the timed window.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Processes whose CPU time and memory are reported, with their descendants.
    #[arg(long)]
    pid: Vec<u32>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let measure = async {
        match Arguments::parse().mode {
            Mode::Calls { common, rate, list } => calls::run(common, list.map_or(Asks::Call, Asks::List), rate).await,
            Mode::Events { common, micros } => events::run(common, micros).await,
            Mode::Handshakes { common } => handshakes::run(common).await,
            Mode::Idle { common, at_last } => idle::run(common, at_last).await,
            Mode::Start { target, command } => start::run(target, &command).await,
            Mode::Tunnels { tunnel, connections, seconds } => tunnels::run(&tunnel, connections, seconds).await,
            Mode::Bulk { tunnel, mib } => tunnels::bulk(&tunnel, mib).await,
            Mode::IdleTunnels { tunnel, connections } => tunnels::idle(&tunnel, connections).await,
        }
    };
    println!("{}", LocalSet::new().run_until(measure).await?);
    // Workers still hold connections; closing them one by one would only take time.
    std::process::exit(0)
}
