//! `saga work`: what waits, and why.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use comfy_table::{ColumnConstraint, Table, Width, presets};
use saga_core::{
    clock::Clock,
    envelope::event_type,
    id::{ReactionId, SagaId},
    step::Direction,
    store::{DiscardedRow, WorkRow, WorkState},
    timeline::short,
};
use serde::Serialize;

use crate::{
    database::{Databases, Participant},
    selection::{Selection, reaction},
    show,
    text::{count, due, moment, plain, span},
};

/// The exit code of `--exit-code` when something is stuck; 1 is an error, and 2 a command line that could not be read.
pub(crate) const STUCK: u8 = 3;
/// The widest column, in characters. The others are ids, names and times.
const WHY: u16 = 56;
/// How many rows of one saga are searched for the one that a parked row waits for.
const MOST_OF_A_SAGA: usize = 1_000;

pub(crate) const LONG: &str = "\
List what waits: calls, retries, and what needs a person

stuck     failed for good, or its retry policy is used up: a person redrives or discards it
deferred  failed, and will be tried again by itself
parked    waits behind another row of its saga, and follows it by itself
calling   a call to another system is on its way

This changes nothing. Start with what is stuck, and look at one row whole with
`saga work show REACTION`.";

const EXAMPLES: &str = "\
Examples:
  saga work --state stuck
  saga work --step charge-customer --error timeout --older-than 10m
  saga work show 0f9b6c0e-59f5-5c5e-b1b5-0d3f8f1f2a55
  saga work --exit-code --limit 1 >/dev/null || alert      exit code 3: something is stuck";

/// See [`LONG`].
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct WorkCommand {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    selection: Selection,
    /// Only rows in this state
    #[arg(long, value_name = "STATE", value_parser = ["stuck", "deferred", "parked", "calling"])]
    state: Option<String>,
    /// Show at most so many rows of each participant
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Instead of what waits, list what was discarded, the newest first; only --saga and --limit narrow it
    #[arg(long, conflicts_with_all = ["state", "step", "error", "older_than", "exit_code"])]
    discarded: bool,
    /// Exit with 3 when anything that passes the filters is stuck, shown or not
    #[arg(long)]
    exit_code: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Show one row whole: every kept failure, the headers, the body
    Show {
        /// Its reaction id, as `saga work` lists it
        #[arg(value_parser = reaction, value_name = "REACTION")]
        reaction: ReactionId,
        /// Print a JSON object, with all of the body
        #[arg(long)]
        json: bool,
    },
}

/// A waiting row, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Waiting {
    participant: String,
    reaction: String,
    /// None for a message that is no event of any saga.
    saga: Option<String>,
    step: Option<String>,
    direction: &'static str,
    event_type: Option<String>,
    pub(crate) state: &'static str,
    attempts: u32,
    since: String,
    age_seconds: i64,
    due: Option<String>,
    reason: Option<String>,
    last_error: Option<String>,
    behind: Option<Behind>,
    #[serde(skip)]
    due_in: String,
}

/// What a parked row waits for.
#[derive(Debug, Serialize)]
pub(crate) struct Behind {
    reaction: String,
    step: String,
    direction: &'static str,
    state: &'static str,
}

impl Waiting {
    pub(crate) fn of(participant: &Participant, row: &WorkRow, behind: Option<Behind>, now: i64) -> Self {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            participant: participant.name.clone(),
            reaction: row.id.0.to_string(),
            saga: (!row.saga.0.is_nil()).then(|| row.saga.to_string()),
            step: some(&row.step),
            direction: row.direction.as_str(),
            event_type: event_type(&row.delivery),
            state: row.state.as_str(),
            attempts: row.attempts,
            since: moment(row.since),
            age_seconds: (now - row.since).max(0) / 1_000,
            due: row.due_at.map(moment),
            reason: some(&row.reason),
            last_error: row.failures.last().map(|failure| failure.error.clone()),
            behind,
            due_in: due(row.due_at, now),
        }
    }

    pub(crate) fn why(&self) -> String {
        let why = match (&self.behind, &self.reason, &self.last_error) {
            (Some(Behind { reaction, step, direction, state }), ..) => {
                format!("behind the {direction} of {step}, which is {state}: {reaction}")
            }
            (None, Some(why), _) | (None, None, Some(why)) => why.clone(),
            (None, None, None) => String::new(),
        };
        plain(&why, 300)
    }

    fn event(&self) -> String {
        self.event_type.as_deref().map_or_else(|| "(no event)".to_owned(), |name| plain(&short(name), 40))
    }
}

/// The rows of one saga, read once for all of them that are listed one after the other.
#[derive(Debug, Default)]
pub(crate) struct Saga(Option<(SagaId, Vec<WorkRow>)>);

impl Saga {
    /// What a parked row waits for: the first of the rows before it that does not wait for another one itself.
    pub(crate) async fn behind(&mut self, participant: &Participant, row: &WorkRow) -> anyhow::Result<Option<Behind>> {
        if row.state != WorkState::Parked {
            return Ok(None);
        }
        if self.0.as_ref().is_none_or(|(saga, _)| *saga != row.saga) {
            let of = Selection { saga: Some(row.saga), ..Selection::default() };
            let rows = of.rows(&participant.store, None, &Clock::system()).next(MOST_OF_A_SAGA).await?;
            self.0 = Some((row.saga, rows));
        }
        let blocks = |other: &&WorkRow| {
            let own_call = other.step == row.step && other.direction == Direction::Forward;
            let awaited = row.direction == Direction::Forward || other.direction == Direction::Compensation || own_call;
            other.blocks && other.state != WorkState::Parked && awaited && other.seq < row.seq
        };
        let first = self.0.as_ref().and_then(|(_, rows)| rows.iter().find(blocks));
        Ok(first.map(|other| Behind {
            reaction: other.id.0.to_string(),
            step: other.step.clone(),
            direction: other.direction.as_str(),
            state: other.state.as_str(),
        }))
    }
}

impl WorkCommand {
    pub(crate) async fn run(&self, databases: &Databases) -> anyhow::Result<ExitCode> {
        let participants = databases.open().await?;
        match self.command {
            Some(Sub::Show { reaction, json }) => show::show(&participants, reaction, json).await,
            None if self.discarded => self.list_discarded(&participants).await,
            None => self.list(&participants).await,
        }
    }

    async fn list(&self, participants: &[Participant]) -> anyhow::Result<ExitCode> {
        let clock = Clock::system();
        let state = self.state.as_deref().and_then(WorkState::parse);
        let (mut listed, mut more, mut stuck) = (Vec::new(), false, false);
        for participant in participants {
            let mut saga = Saga::default();
            let mut rows = self.selection.rows(&participant.store, state, &clock);
            for row in rows.next(self.limit as usize).await? {
                stuck |= row.state == WorkState::Stuck;
                let behind = saga.behind(participant, &row).await?;
                listed.push(Waiting::of(participant, &row, behind, clock.now()));
            }
            more |= !rows.next(1).await?.is_empty();
            // Those that were not listed count as well.
            if self.exit_code && !stuck && state.is_none_or(|state| state == WorkState::Stuck) {
                let mut rows = self.selection.rows(&participant.store, Some(WorkState::Stuck), &clock);
                stuck = !rows.next(1).await?.is_empty();
            }
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&listed)?);
        } else if listed.is_empty() {
            let all = self.selection == Selection::default() && state.is_none();
            println!("nothing waits{}", if all { "" } else { " that passes these filters" });
        } else {
            println!("{}", table(&listed).trim_fmt());
            tell_more(listed.len(), more);
        }
        Ok(if self.exit_code && stuck { ExitCode::from(STUCK) } else { ExitCode::SUCCESS })
    }

    async fn list_discarded(&self, participants: &[Participant]) -> anyhow::Result<ExitCode> {
        let mut listed = Vec::new();
        let mut more = false;
        for participant in participants {
            let mut rows = participant.store.discarded(self.selection.saga, self.limit + 1).await?;
            more |= rows.len() > self.limit as usize;
            rows.truncate(self.limit as usize);
            listed.extend(rows.into_iter().map(|row| (participant.name.clone(), row)));
        }
        if self.json {
            let rows: Vec<_> = listed.iter().map(|(participant, row)| discarded(participant, row)).collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
        } else if listed.is_empty() {
            println!("nothing was discarded");
        } else {
            println!("{}", discarded_table(&listed).trim_fmt());
            tell_more(listed.len(), more);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Says that the list is cut.
pub(crate) fn tell_more(shown: usize, more: bool) {
    if more {
        println!("{}, and there are more: --limit N shows them", count(shown, "row"));
    }
}

fn table(rows: &[Waiting]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "PARTICIPANT\n  step",
        "STATE\n  direction",
        "EVENT\n  attempts",
        "AGE\n  due",
        "REACTION\n  saga",
        "WHY",
    ]);
    for row in rows {
        let step = row.step.as_deref().unwrap_or("-");
        let saga = row.saga.as_deref().unwrap_or("-");
        table.add_row([
            format!("{}\n  {step}", row.participant),
            format!("{}\n  {}", row.state, row.direction),
            format!("{}\n  {}", row.event(), row.attempts),
            format!("{}\n  {}", span(row.age_seconds * 1_000), row.due_in),
            format!("{}\n  {saga}", row.reaction),
            row.why(),
        ]);
    }
    narrow(table, 5)
}

/// What was discarded, as `--json` prints it.
fn discarded(participant: &str, row: &DiscardedRow) -> serde_json::Value {
    let DiscardedRow { work, why, who, at } = row;
    serde_json::json!({
        "participant": participant,
        "reaction": work.id.0.to_string(),
        "saga": (!work.saga.0.is_nil()).then(|| work.saga.to_string()),
        "step": (!work.step.is_empty()).then_some(&work.step),
        "direction": work.direction.as_str(),
        "event_type": event_type(&work.delivery),
        "state": work.state.as_str(),
        "attempts": work.attempts,
        "discarded": moment(*at),
        "who": who,
        "why": why,
        "reason": work.reason,
        "failures": show::failures(work),
        "message": show::message(work),
    })
}

fn discarded_table(rows: &[(String, DiscardedRow)]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "PARTICIPANT\n  step",
        "EVENT\n  direction",
        "DISCARDED\n  by",
        "REACTION\n  saga",
        "WHY\n  it was",
    ]);
    for (participant, DiscardedRow { work, why, who, at }) in rows {
        let event = event_type(&work.delivery).map_or_else(|| "(no event)".to_owned(), |name| short(&name));
        let step = if work.step.is_empty() { "-" } else { &work.step };
        let saga = if work.saga.0.is_nil() { "-".to_owned() } else { work.saga.to_string() };
        table.add_row([
            format!("{participant}\n  {step}"),
            format!("{}\n  {}", plain(&event, 40), work.direction),
            format!("{}\n  {}", moment(*at), plain(who, 40)),
            format!("{}\n  {saga}", work.id.0),
            format!("{}\n  {}: {}", plain(why, 200), work.state.as_str(), plain(&work.reason, 200)),
        ]);
    }
    narrow(table, 4)
}

/// Wraps the last column: the one with other people's words.
pub(crate) fn narrow(mut table: Table, last: usize) -> Table {
    if let Some(column) = table.column_mut(last) {
        column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(WHY)));
    }
    table
}
