//! Runs one example service: `outrigger-example fs --root ./data`.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let name = args.next().unwrap_or_default();
    match outrigger_examples::run(&name.to_string_lossy(), args.collect()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(usage) = error.downcast_ref::<clap::Error>() {
                usage.exit();
            }
            eprintln!("outrigger-example: {error:#}");
            ExitCode::FAILURE
        }
    }
}
