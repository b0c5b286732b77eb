//! The payment gateway, with faults on request.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use saga_services::{
    gateway::{Behaviour, Gateway},
    process::{Signals, exit, probe, serve, until_told},
};
use saga_tracing::{Config, LogFormat};
use tokio::net::TcpListener;

/// A payment gateway that keeps its own record, with faults on request
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where to serve HTTP
    #[arg(long, env = "SAGA_HTTP", default_value = "127.0.0.1:8090", global = true)]
    http: SocketAddr,
    /// Its record, sqlite:FILE or sqlite::memory:
    #[arg(long, env = "GATEWAY_RECORD", default_value = "sqlite:gateway.db")]
    record: String,
    #[command(flatten)]
    behaviour: Behaviour,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask the running gateway on this machine whether it is ready
    Health,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    exit("gateway", async {
        if let Some(Command::Health) = cli.command {
            return probe(cli.http).await;
        }
        let log = Config { service: "gateway".to_owned(), otlp: None, log: LogFormat::Text, sample: 0.0 };
        let _telemetry = saga_tracing::init(log)?;
        let gateway = Gateway::open(&cli.record, cli.behaviour).await?;
        let listener = TcpListener::bind(cli.http).await.with_context(|| format!("cannot serve at {}", cli.http))?;
        println!("gateway: at http://{}", listener.local_addr()?);
        until_told(&mut Signals::listen()?, Duration::from_secs(5), |stop| async {
            serve(listener, gateway.clone().routes(), stop).await?;
            gateway.close().await;
            Ok(())
        })
        .await
    })
}
