//! `cargo xtask servers`: a real Kafka and a real PostgreSQL to develop against.
//!
//! The invariant: both are the ones that the tests use, and both are gone when this program is.

use std::process::ExitCode;

use saga_tests::support::{KAFKA_VARIABLE, Kafka, POSTGRES_VARIABLE, Postgres};

/// Start the Kafka and the PostgreSQL that the tests use, print where they are, and stop them at Ctrl-C
///
/// Both are as empty as for a test, and what is in them is gone afterwards.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Ends early, with exit code 1, only when a server cannot be had.
pub(crate) async fn run(_: Args) -> anyhow::Result<ExitCode> {
    let progress = |line: &str| eprintln!("{line}");
    let (kafka, postgres) = tokio::join!(Kafka::start(&progress), Postgres::start(&progress));
    let (kafka, postgres) = (kafka?, postgres?);
    println!("{kafka}\n{postgres}\n");
    println!("for tests:");
    println!("  export {KAFKA_VARIABLE}={} {POSTGRES_VARIABLE}='{}'", kafka.address(), postgres.url());
    println!("for the demo:");
    println!("  cargo demo --kafka {} --postgres '{}'", kafka.address(), postgres.url());
    println!("\nboth run until Ctrl-C");
    // Ctrl-C ends the whole program from outside, and stops them with it.
    std::future::pending().await
}
