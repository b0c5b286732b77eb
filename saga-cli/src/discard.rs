//! `saga discard`: trying again cannot help.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use saga_core::{
    State,
    clock::Clock,
    discard::{Discard, DiscardError, Discarded, discard},
    id::ReactionId,
    step::Direction,
};

use crate::{
    confirm::confirm,
    database::Databases,
    selection::reaction,
    show::find,
    text::plain,
    work::{Saga, Waiting},
};

pub(crate) const LONG: &str = "\
Give one waiting reaction up, with a reason

When trying again cannot help: the message is nonsense, or somebody has done by hand what the step
should have done. The reaction is deleted from what waits and kept for ever with its bytes, its
errors, your reason and your name (saga work --discarded); its step's ledger row gets a note. It
never runs again, however often its event is delivered. The rows that waited behind it go on.

It will not decide what becomes of the saga: the discarded step emits nothing, so what would have
followed does not happen by itself. It will not touch a call whose lease lasts, because its answer
may still come. It will not give up a compensation, because what was done must be taken back; with
--compensation you say that you have taken the effect back by hand, and the step then counts as
compensated.";

const EXAMPLES: &str = "\
Examples:
  saga discard --reaction 0f9b6c0e-59f5-5c5e-b1b5-0d3f8f1f2a55 --reason 'test message, ticket 12' --dry-run
  saga discard --reaction 0f9b6c0e-59f5-5c5e-b1b5-0d3f8f1f2a55 --compensation --reason 'refunded by hand, receipt 77'";

/// See [`LONG`].
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct DiscardCommand {
    /// Which row, as `saga work` lists it
    #[arg(long, value_name = "ID", value_parser = reaction)]
    reaction: ReactionId,
    /// Why, for those who will ask in a year
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who says so
    #[arg(long, value_name = "NAME", env = "USER")]
    who: Option<String>,
    /// It is a compensation, and its effect was taken back by hand
    #[arg(long)]
    compensation: bool,
    /// Change nothing, only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl DiscardCommand {
    pub(crate) async fn run(&self, databases: &Databases) -> anyhow::Result<ExitCode> {
        let who = self.who.as_deref().filter(|who| !who.trim().is_empty());
        let who = who.context("who discards it? Say --who NAME: it is kept with the reason")?;
        let participants = databases.open().await?;
        let (participant, _) = find(&participants, self.reaction).await?;
        let clock = Clock::system();
        let (reaction, reason, taken_back) = (self.reaction, self.reason.as_str(), self.compensation);
        let what = Discard { reaction, reason, who, taken_back, dry_run: true };
        let would = discard(&participant.store, &clock, &participant.name, &what).await.map_err(with_fix)?;
        let behind = Saga::default().behind(participant, &would.work).await?;
        let waiting = Waiting::of(participant, &would.work, behind, clock.now());
        println!("{}  {}  {}: {}", participant.name, step(&would), waiting.state, waiting.why());
        for line in consequences(&would) {
            println!("- {line}");
        }
        if self.dry_run {
            println!("nothing was changed");
            return Ok(ExitCode::SUCCESS);
        }
        confirm("Discard it for good?", self.yes)?;
        let what = Discard { dry_run: false, ..what };
        let done = discard(&participant.store, &clock, &participant.name, &what).await.map_err(with_fix)?;
        println!("discarded by {}: {}", plain(who, 100), plain(self.reason.trim(), 300));
        if done.step != would.step {
            println!("the saga went on meanwhile:");
            for line in consequences(&done) {
                println!("- {line}");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The library does not know what the options are called here.
fn with_fix(error: DiscardError) -> anyhow::Error {
    let fix = match &error {
        DiscardError::Compensation(_) => {
            Some("saga redrive --reaction ID, or saga discard --reaction ID --compensation")
        }
        _ => None,
    };
    let error = anyhow::Error::from(error);
    match fix {
        Some(fix) => anyhow::anyhow!("{error} ({fix})"),
        None => error,
    }
}

fn step(discarded: &Discarded) -> String {
    let row = &discarded.work;
    if row.step.is_empty() { "(no event)".to_owned() } else { format!("{} ({})", row.step, row.direction) }
}

/// What it means, in sentences.
fn consequences(discarded: &Discarded) -> Vec<&'static str> {
    let mut lines = Vec::new();
    match (discarded.work.direction, discarded.step) {
        (Direction::Forward, (None, Some(_))) => {
            lines.push(
                "the step does not run for this event, and emits nothing: the saga does not go on from here by itself",
            );
            lines.push("should the saga be compensated, the step says that nothing was done");
        }
        (Direction::Forward, (None, None)) => lines.push("its bytes are kept; nothing else changes"),
        (Direction::Forward, (Some(State::Calling), _)) => {
            lines.push(
                "nobody calls the other system again, and the step emits nothing: the saga does not go on by itself",
            );
            lines.push("an attempt may have taken effect there: look there; a compensation would close the call's key");
        }
        (Direction::Forward, (Some(_), _)) => lines.push("what the step did before stays as it is"),
        (Direction::Compensation, _) => {
            lines.push("the step counts as compensated: it can neither run nor be compensated again");
            if discarded.emits.is_some() {
                lines.push("its rejection, which waited for this, is emitted");
            } else {
                lines.push("the event that its compensation would have emitted is not: what should follow it must be done by hand");
            }
        }
    }
    if discarded.wakes.is_some() {
        lines.push("what waited behind it goes on");
    }
    lines
}
