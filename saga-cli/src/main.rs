//! `saga`: what waits at a participant, why, and what a person can do about it.
//!
//! The invariant: it knows no step and no event type, and does nothing that the participant's own rules would not allow: everything
//! is decided by the tables and by `saga-core`, in transactions under the locks of the sagas.

mod confirm;
mod database;
mod discard;
mod outbox;
mod redrive;
mod selection;
mod show;
mod text;
mod work;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    database::Databases, discard::DiscardCommand, outbox::OutboxCommand, redrive::RedriveCommand, work::WorkCommand,
};

#[derive(Debug, Parser)]
#[command(name = "saga", version, about, long_about = ABOUT)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    databases: Databases,
}

const ABOUT: &str = "\
Operates the waiting work of a participant: lists it, redrives it, discards it

It talks to the participant's database only. The participant may be running, and need not be:
what is made due here is done by the participant's own process, within a second once it runs.

  export SAGA_DATABASE='payment=postgres://saga@db/payment'
  saga work                              what waits, and why
  saga work show REACTION                everything about one row
  saga outbox                            events that the broker refuses, and why
  saga redrive --step charge-customer    the fault is gone: try again
  saga discard --reaction REACTION --reason '..'";

#[derive(Debug, Subcommand)]
enum Command {
    /// List what waits: calls, retries, and what needs a person
    #[command(long_about = work::LONG)]
    Work(WorkCommand),
    /// List events that the broker refuses
    #[command(long_about = outbox::LONG)]
    Outbox(OutboxCommand),
    /// Try again now what is stuck
    #[command(long_about = redrive::LONG)]
    Redrive(RedriveCommand),
    /// Give one waiting reaction up, with a reason
    #[command(long_about = discard::LONG)]
    Discard(DiscardCommand),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Cli { command, databases } = Cli::parse();
    let done = match command {
        Command::Work(work) => work.run(&databases).await,
        Command::Outbox(outbox) => outbox.run(&databases).await,
        Command::Redrive(redrive) => redrive.run(&databases).await,
        Command::Discard(discard) => discard.run(&databases).await,
    };
    done.unwrap_or_else(|error| {
        eprintln!("saga: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
