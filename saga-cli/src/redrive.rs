//! `saga redrive`: the fault is gone, try again now.

use std::{collections::BTreeMap, pin::pin, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use futures_util::FutureExt as _;
use saga_core::{
    clock::Clock,
    envelope::event_type,
    id::ReactionId,
    redrive::{is_reaction, re_emit, redrive},
    store::{OutboxEntry, WorkRow, WorkState},
};

use crate::{
    confirm::confirm,
    database::{Databases, Participant},
    outbox::{Entries, header},
    selection::{Selection, reaction},
    show::find,
    text::{count, plain},
};

/// How many groups of rows that are stuck for the same reason are told apart.
const GROUPS: usize = 20;
/// The exit code of whatever Ctrl-C has stopped: 128 and the number of the signal, as shells say it.
const INTERRUPTED: u8 = 130;

pub(crate) const LONG: &str = "\
Try again now what is stuck

When the fault is gone: the other system is back, the database is mended, a new version of the
service runs. Each stuck row that is chosen becomes due; the participant's own process picks it up
within a second. Its retry policy starts anew. The rows of a saga keep their order, and those that
wait behind it follow by themselves. A message that was no event is read again from its bytes.

It will not touch a call on its way, nor change what a step decides: a row whose fault is still
there is stuck again, with the new error beside the old ones. Each batch is one transaction;
Ctrl-C stops between two of them.

With --re-emit, for a saga that went silent although nothing of it waits (a topic was deleted, a
consumer was away for longer than the topic keeps): what its steps emitted is published again from
the ledger, under the same event ids, so that whoever heard it before absorbs it. Name every
participant of the saga, since each ledger has its own events only.

With --outbox, for events that the broker refused (saga outbox lists them), when it would take them
now: the participant publishes them within seconds. One that is refused again is listed again.";

const EXAMPLES: &str = "\
Examples:
  saga redrive --step charge-customer --error 'connection refused' --dry-run
  saga redrive --reaction 0f9b6c0e-59f5-5c5e-b1b5-0d3f8f1f2a55
  saga redrive --all --yes
  saga redrive --saga 019ab1c2-0000-7000-8000-000000000007 --re-emit
  saga redrive --outbox --all --dry-run";

/// See [`LONG`].
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
#[command(group = ArgGroup::new("which").args(["saga", "step", "error", "older_than", "reaction", "all"]).required(true).multiple(true))]
pub(crate) struct RedriveCommand {
    #[command(flatten)]
    selection: Selection,
    /// Only this row; may be repeated
    #[arg(long, value_name = "ID", value_parser = reaction, conflicts_with_all = ["saga", "step", "error", "older_than", "all"])]
    reaction: Vec<ReactionId>,
    /// Every stuck row, or every refused event
    #[arg(long, conflicts_with_all = ["saga", "step", "error", "older_than"])]
    all: bool,
    /// The deferred rows, too, which would be tried again later by themselves
    #[arg(long)]
    deferred: bool,
    /// Publish again what the saga's steps emitted
    #[arg(long, requires = "saga", conflicts_with_all = ["step", "error", "older_than", "reaction", "all", "deferred"])]
    re_emit: bool,
    /// Instead of reactions, the events that the broker refused, as `saga outbox` lists them
    #[arg(long, conflicts_with_all = ["step", "reaction", "deferred", "re_emit"])]
    outbox: bool,
    /// Rows per transaction
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    batch: u32,
    /// Change nothing, only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl RedriveCommand {
    pub(crate) async fn run(&self, databases: &Databases) -> anyhow::Result<ExitCode> {
        let participants = databases.open().await?;
        if self.re_emit {
            self.re_emit(&participants).await?;
        } else if self.outbox {
            self.redrive_outbox(&participants).await?;
        } else if self.reaction.is_empty() {
            return self.redrive_selected(&participants).await;
        } else {
            self.redrive_named(&participants).await?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn redrive_named(&self, participants: &[Participant]) -> anyhow::Result<()> {
        let mut found = Vec::new();
        for id in &self.reaction {
            let (participant, row) = find(participants, *id).await?;
            match row.state {
                _ if !is_reaction(&row) => {
                    bail!(
                        "{} is what a late answer left behind: there is nothing to try again. Discard it when it is looked into",
                        id.0
                    )
                }
                WorkState::Stuck | WorkState::Deferred => found.push((participant, row)),
                WorkState::Parked => {
                    bail!(
                        "{} waits behind another row of its saga, and follows it; saga work show {0} tells which",
                        id.0
                    )
                }
                WorkState::Calling => {
                    bail!("{} is being called: its answer, or the end of its lease, settles it", id.0)
                }
            }
        }
        let mut groups = Groups::default();
        found.iter().for_each(|(participant, row)| groups.add(participant, row));
        if !self.agreed(&groups)? {
            return Ok(());
        }
        let mut done = 0;
        for (participant, row) in found {
            done += redrive(&participant.store, &Clock::system(), &[(row.id, row.saga)]).await?.len();
        }
        finished(done);
        Ok(())
    }

    async fn redrive_selected(&self, participants: &[Participant]) -> anyhow::Result<ExitCode> {
        let states = if self.deferred { &[WorkState::Stuck, WorkState::Deferred][..] } else { &[WorkState::Stuck] };
        let clock = Clock::system();
        let mut groups = Groups::default();
        let each = || participants.iter().flat_map(|participant| states.iter().map(move |state| (participant, *state)));
        for (participant, state) in each() {
            let mut rows = self.selection.rows(&participant.store, Some(state), &clock);
            loop {
                let page = rows.next(self.batch as usize).await?;
                if page.is_empty() {
                    break;
                }
                page.iter().filter(|row| is_reaction(row)).for_each(|row| groups.add(participant, row));
            }
        }
        if !self.agreed(&groups)? {
            return Ok(ExitCode::SUCCESS);
        }
        let mut stop = pin!(tokio::signal::ctrl_c());
        // Asked for the first time, it begins to listen.
        let mut stopped = stop.as_mut().now_or_never();
        eprintln!("Ctrl-C stops between two batches");
        let mut done = 0;
        for (participant, state) in each() {
            // What waits only since this began is left: it was not counted, nor agreed to.
            let mut rows = self.selection.rows(&participant.store, Some(state), &clock);
            loop {
                let batch = rows.next(self.batch as usize).await?;
                if batch.is_empty() {
                    break;
                }
                let batch: Vec<_> = batch.iter().map(|row| (row.id, row.saga)).collect();
                // Between two transactions, never inside one.
                if let Some(signal) = stopped {
                    signal.context("signals cannot be received")?;
                    println!("stopped: {} redriven, the others are as they were", count(done, "reaction"));
                    return Ok(ExitCode::from(INTERRUPTED));
                }
                done += redrive(&participant.store, &clock, &batch).await?.len();
                eprintln!("{}: {done} of {} redriven", participant.name, groups.rows);
                stopped = stop.as_mut().now_or_never();
            }
        }
        finished(done);
        Ok(ExitCode::SUCCESS)
    }

    async fn re_emit(&self, participants: &[Participant]) -> anyhow::Result<()> {
        let Some(saga) = self.selection.saga else { bail!("--re-emit needs --saga") };
        let mut events = 0;
        for Participant { name, store } in participants {
            let said = re_emit(store, &Clock::system(), name, saga, true).await?;
            for (step, message) in &said.again {
                let name_of = |wanted: &str| {
                    message.headers.iter().find(|(header, _)| header == wanted).map_or("", |(_, value)| value)
                };
                println!(
                    "{name}  {step}  {} on {}, id {}",
                    plain(name_of("ce_type"), 200),
                    message.topic,
                    plain(name_of("ce_id"), 80)
                );
            }
            for (step, why) in &said.silent {
                println!("{name}  {step}  nothing: {why}");
            }
            events += said.again.len();
        }
        if events == 0 {
            bail!(
                "saga {saga} has emitted nothing at these participants; is it the right saga, and are they all named?"
            );
        }
        if self.dry_run {
            println!("{} would be published again; nothing was changed", count(events, "event"));
            return Ok(());
        }
        confirm(&format!("Publish {} of saga {saga} again?", count(events, "event")), self.yes)?;
        let mut written = 0;
        for Participant { name, store } in participants {
            written += re_emit(store, &Clock::system(), name, saga, false).await?.again.len();
        }
        println!(
            "{} written to the outbox: the running participants publish them within seconds",
            count(written, "event")
        );
        Ok(())
    }

    async fn redrive_outbox(&self, participants: &[Participant]) -> anyhow::Result<()> {
        let clock = Clock::system();
        let mut groups = Groups::default();
        // What was counted and agreed to is what is redriven, whatever is refused meanwhile.
        let mut batches = Vec::new();
        for participant in participants {
            let mut entries = Entries::new(&self.selection, false, &participant.store, &clock);
            loop {
                let page = entries.next(self.batch as usize).await?;
                if page.is_empty() {
                    break;
                }
                page.iter().for_each(|entry| groups.add_event(participant, entry));
                batches.push((participant, page.iter().map(|entry| entry.row.id).collect::<Vec<_>>()));
            }
        }
        groups.print();
        let events = count(groups.rows, "event");
        if groups.rows == 0 {
            println!("nothing to redrive: no event that passes is refused");
            return Ok(());
        }
        if self.dry_run {
            println!("{events} would be published; nothing was changed");
            return Ok(());
        }
        confirm(&format!("Publish {events}?"), self.yes)?;
        let mut done = 0;
        for (participant, rows) in batches {
            done += participant.store.outbox_retry(&rows).await?;
        }
        let done = count(usize::try_from(done).unwrap_or(usize::MAX), "event");
        println!(
            "{done} redriven: the running participants publish them within seconds; saga outbox shows what is refused again"
        );
        Ok(())
    }

    /// Says what would be done, and asks. `false` when there is nothing to do, or nothing is to be done.
    fn agreed(&self, groups: &Groups) -> anyhow::Result<bool> {
        groups.print();
        if groups.rows == 0 {
            println!(
                "nothing to redrive: no row that passes is stuck{}",
                if self.deferred { " or deferred" } else { "" }
            );
            if self.selection.saga.is_some() {
                println!("has the saga gone silent although nothing of it waits? See --re-emit in saga redrive --help");
            }
            return Ok(false);
        }
        if self.dry_run {
            println!("{} would be redriven; nothing was changed", count(groups.rows, "reaction"));
            return Ok(false);
        }
        confirm(&format!("Redrive {}?", count(groups.rows, "reaction")), self.yes)?;
        Ok(true)
    }
}

fn finished(done: usize) {
    println!("{} redriven: saga work shows what becomes of them", count(done, "reaction"));
}

/// Rows that are alike, counted.
#[derive(Debug, Default)]
struct Groups {
    rows: usize,
    alike: BTreeMap<String, usize>,
    others: usize,
}

impl Groups {
    fn add(&mut self, participant: &Participant, row: &WorkRow) {
        let step = if row.step.is_empty() { "(no event)" } else { &row.step };
        let last = row.failures.last().map_or("", |failure| failure.error.as_str());
        let why = plain(if row.reason.is_empty() { last } else { &row.reason }, 100);
        let event = event_type(&row.delivery).map(|name| plain(&name, 80)).unwrap_or_default();
        let line = format!("{}  {step}  {}  {event}  {}: {why}", participant.name, row.direction, row.state.as_str());
        self.add_line(line);
    }

    fn add_event(&mut self, participant: &Participant, entry: &OutboxEntry) {
        let event = plain(header(entry, "ce_type").unwrap_or("(no event)"), 80);
        let why = plain(entry.refused.as_deref().unwrap_or_default(), 100);
        self.add_line(format!(
            "{}  {event}  on {}  refused: {why}",
            participant.name,
            plain(&entry.row.message.topic, 80)
        ));
    }

    fn add_line(&mut self, line: String) {
        self.rows += 1;
        if self.alike.len() < GROUPS || self.alike.contains_key(&line) {
            *self.alike.entry(line).or_default() += 1;
        } else {
            self.others += 1;
        }
    }

    fn print(&self) {
        for (line, count) in &self.alike {
            println!("{count:>6}  {line}");
        }
        if self.others > 0 {
            println!("{:>6}  for other reasons", self.others);
        }
    }
}
