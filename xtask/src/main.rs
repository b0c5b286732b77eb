//! Developer commands behind cargo aliases: `cargo xtask <command>`. One module per command; this file only chooses.

mod cargo;
mod chaos;
mod demo;
mod jaeger;
mod pace;
mod servers;
mod simulate;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", about = "Developer commands of this workspace")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Chaos(chaos::Args),
    Demo(demo::Args),
    Servers(servers::Args),
    JaegerCheck(jaeger::Args),
    Simulate(simulate::Args),
    Test(test::Args),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = async {
        match cli.command {
            Command::Chaos(args) => chaos::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Servers(args) => servers::run(args).await,
            Command::JaegerCheck(args) => jaeger::run(args).await,
            Command::Simulate(args) => simulate::run(args).await,
            Command::Test(args) => test::run(args).await,
        }
    };
    // Whoever loses is dropped here, and dropping the command stops every child it started.
    let result = tokio::select! {
        result = command => result,
        result = interrupted() => result.map(|()| ExitCode::from(INTERRUPTED)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Ends when somebody wants this program to end.
async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let name = tokio::select! {
        result = tokio::signal::ctrl_c() => result.map(|()| "SIGINT")?,
        _ = terminate.recv() => "SIGTERM",
        _ = hang_up.recv() => "SIGHUP",
    };
    eprintln!("{name}: stopping what was started");
    Ok(())
}
