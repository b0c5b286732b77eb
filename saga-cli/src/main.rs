//! `saga`: what waits at a participant, why, and what a person can do about it; and what the choreography looks like as a whole.
//!
//! The invariant: it knows no step and no event type. Commands on waiting work do nothing that the participant's own rules would not
//! allow: everything is decided by the tables and by `saga-core`, in transactions under the locks of the sagas. Commands on manifests
//! open no database.

mod confirm;
mod database;
mod diff;
mod discard;
mod draw;
mod explain;
mod list;
mod manifests;
mod observe;
mod observed;
mod outbox;
mod redrive;
mod saga;
mod selection;
mod show;
mod text;
mod verify;
mod work;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::{
    database::Databases,
    diff::DiffCommand,
    discard::DiscardCommand,
    draw::DrawCommand,
    explain::ExplainCommand,
    list::{ListCommand, StuckCommand},
    observe::ObserveCommand,
    outbox::OutboxCommand,
    redrive::RedriveCommand,
    saga::ShowCommand,
    verify::VerifyCommand,
    work::WorkCommand,
};

#[derive(Debug, Parser)]
#[command(name = "saga", version, about, long_about = ABOUT)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const ABOUT: &str = "\
Operates the waiting work of a participant, looks at whole choreographies, and shows what sagas wait for

Commands on waiting work talk to the participant's database only. The participant may be running,
and need not be: what is made due here is done by the participant's own process, within a second
once it runs. Commands on manifests read what the services say of themselves, and nothing else.

  export SAGA_DATABASE='payment=postgres://saga@db/payment'
  saga work                              what waits, and why
  saga work show REACTION                everything about one row
  saga outbox                            events that the broker refuses, and why
  saga redrive --step charge-customer    the fault is gone: try again
  saga discard --reaction REACTION --reason '..'

  saga verify order.json payment.json    whether every saga ends well, from what
                                         SERVICE describe --json printed
  saga explain SG007                     what one finding means, and how to mend it
  saga diff --old main/ --new branch/    whether a change is safe for what runs
  saga draw order.json payment.json      the flow as a picture or a table

  saga observe order.json payment.json   keeps for every saga where it is and what it waits for
  saga list, saga show 4711, saga stuck  ask what it has seen";

#[derive(Debug, Subcommand)]
enum Command {
    /// List what waits: calls, retries, and what needs a person
    #[command(long_about = work::LONG)]
    Work(At<WorkCommand>),
    /// List events that the broker refuses
    #[command(long_about = outbox::LONG)]
    Outbox(At<OutboxCommand>),
    /// Try again now what is stuck
    #[command(long_about = redrive::LONG)]
    Redrive(At<RedriveCommand>),
    /// Give one waiting reaction up, with a reason
    #[command(long_about = discard::LONG)]
    Discard(At<DiscardCommand>),
    /// Draw a choreography: pictures, tables and documents
    #[command(long_about = draw::LONG)]
    Draw(DrawCommand),
    /// Check a whole choreography before it is deployed
    #[command(long_about = verify::LONG)]
    Verify(VerifyCommand),
    /// Say what a finding of `verify` means, and how to mend it
    #[command(long_about = explain::LONG)]
    Explain(ExplainCommand),
    /// Say whether a change of manifests is safe for what runs, and in which order to deploy it
    #[command(long_about = diff::LONG)]
    Diff(DiffCommand),
    /// Watch the topics, and keep for every saga where it is and what it waits for
    #[command(long_about = observe::LONG)]
    Observe(ObserveCommand),
    /// List sagas: by state, age, what they wait for, or a text in their business keys
    #[command(long_about = list::LONG)]
    List(ListCommand),
    /// Show one saga whole, by its id or a business key
    #[command(long_about = saga::LONG)]
    Show(ShowCommand),
    /// Tell what needs a person; exits with 3 when something does
    Stuck(StuckCommand),
}

/// A command that works on the databases of participants.
#[derive(Debug, Args)]
struct At<C: Args> {
    #[command(flatten)]
    command: C,
    #[command(flatten)]
    databases: Databases,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Work(At { command, databases }) => command.run(&databases).await,
        Command::Outbox(At { command, databases }) => command.run(&databases).await,
        Command::Redrive(At { command, databases }) => command.run(&databases).await,
        Command::Discard(At { command, databases }) => command.run(&databases).await,
        Command::Draw(draw) => draw.run().await,
        Command::Observe(observe) => observe.run().await,
        Command::List(list) => list.run().await,
        Command::Show(show) => show.run().await,
        Command::Stuck(stuck) => stuck.run().await,
        // Of these, 1 says that something was found.
        Command::Verify(verify) => return verify.run().await.unwrap_or_else(unusable),
        Command::Explain(explain) => return explain.run().unwrap_or_else(unusable),
        Command::Diff(diff) => return diff.run().await.unwrap_or_else(unusable),
    };
    done.unwrap_or_else(|error| {
        eprintln!("saga: {error:#}");
        ExitCode::FAILURE
    })
}

/// Nothing was found out, because what was given cannot be used: 2, as the command line's own errors.
fn unusable(error: anyhow::Error) -> ExitCode {
    eprintln!("saga: {error:#}");
    ExitCode::from(2)
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
