//! `saga list` and `saga stuck`: which sagas there are, and which of them need a person.

use std::{process::ExitCode, str::FromStr as _};

use anyhow::ensure;
use clap::Args;
use comfy_table::{Table, presets};
use saga_core::{clock::Clock, event::Ending, id::SagaId};
use saga_observer::{
    store::{Filter, Listed, Store},
    view::State,
};
use serde_json::{Value, json};

use crate::{
    observed::Observed,
    text::{moment, plain, span},
};

/// The exit code of `saga stuck` when something is; 1 is an error, and 2 a command line that could not be read.
const STUCK: u8 = 3;

pub(crate) const LONG: &str = "\
List sagas as the observer sees them, the newest first

running    something is on its way; the list says who owes it and since when
deferred   something failed and is tried again by itself
stuck      something needs a person: saga show ID, then saga work, saga redrive
silent     no ending, and nobody is known to owe it anything
ending     it has its ending, and something is still being compensated
completed  everything that it is for was done
cancelled  everything that was done is compensated";

const EXAMPLES: &str = "\
Examples:
  saga list 4711                              a business key, or the beginning of an id
  saga list --state running --older-than 10m
  saga list --awaited payment/charge-customer --json";

/// See [`LONG`].
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ListCommand {
    /// Only sagas with this text in a business key, or whose id begins with it
    #[arg(value_name = "TEXT", default_value = "", hide_default_value = true)]
    text: String,
    /// Only sagas in this state
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<State>,
    /// Only sagas with this ending: completed or cancelled
    #[arg(long, value_name = "ENDING", value_parser = ending)]
    ending: Option<Ending>,
    /// Only sagas that have waited longest for this step
    #[arg(long, value_name = "PARTICIPANT/STEP", default_value = "", hide_default_value = true)]
    awaited: String,
    /// Only sagas that were started at least this long ago: 10m, 2h, 3days
    #[arg(long, value_name = "TIME")]
    older_than: Option<humantime::Duration>,
    /// Only sagas with ids before this one: the next page
    #[arg(long, value_name = "ID", value_parser = SagaId::from_str)]
    after: Option<SagaId>,
    /// Show at most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    observed: Observed,
}

fn state(word: &str) -> Result<State, String> {
    State::ALL
        .into_iter()
        .find(|state| state.as_str() == word)
        .ok_or_else(|| format!("expected one of {}", State::ALL.map(State::as_str).join(", ")))
}

fn ending(word: &str) -> Result<Ending, String> {
    Ending::parse(word).ok_or_else(|| "expected completed or cancelled".to_owned())
}

impl ListCommand {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let now = Clock::system().now();
        let filter = Filter {
            state: self.state,
            ending: self.ending,
            awaited: self.awaited.clone(),
            text: self.text.clone(),
            started_before: self.older_than.map(|age| now - i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
            after: self.after,
        };
        let store = self.observed.open().await?;
        let rows = store.list(&filter, self.limit).await?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows.iter().map(|row| shown(row, now)).collect::<Value>())?);
            return Ok(ExitCode::SUCCESS);
        }
        if rows.is_empty() {
            println!("no saga that the observer has seen passes these filters");
            return Ok(ExitCode::SUCCESS);
        }
        println!("{}", table(&rows, now));
        if rows.len() == self.limit as usize
            && let Some(last) = rows.last()
        {
            println!("there may be more: saga list .. --after {}", last.saga);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Tell what needs a person, for people and for alerts
#[derive(Debug, Args)]
pub(crate) struct StuckCommand {
    /// Count a saga that has waited longer than this as stuck, too: 10m, 2h
    #[arg(long, value_name = "TIME")]
    waiting: Option<humantime::Duration>,
    /// Show at most so many of each kind
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    observed: Observed,
}

impl StuckCommand {
    /// Exits with 3 when something is stuck.
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let now = Clock::system().now();
        let store = self.observed.open().await?;
        let mut rows = store.list(&Filter { state: Some(State::Stuck), ..Filter::default() }, self.limit).await?;
        if let Some(waiting) = self.waiting {
            rows.extend(self.waiting(&store, now - i64::try_from(waiting.as_millis())?).await?);
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows.iter().map(|row| shown(row, now)).collect::<Value>())?);
        } else if rows.is_empty() {
            println!("nothing is stuck");
        } else {
            println!("{}\nnext: saga show ID", table(&rows, now));
        }
        Ok(if rows.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(STUCK) })
    }

    /// What has waited since before this time without being stuck, the longest first.
    async fn waiting(&self, store: &Store, before: i64) -> anyhow::Result<Vec<Listed>> {
        ensure!(before > 0, "--waiting is longer than there have been sagas");
        Ok(store.waiting_since(before, self.limit).await?)
    }
}

fn table(rows: &[Listed], now: i64) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["saga", "key", "state", "waits for", "for", "started"]);
    for row in rows {
        let waits = if row.since > 0 { span(now - row.since) } else { String::new() };
        table.add_row([
            row.saga.clone(),
            plain(&row.subjects.replace('\n', ", "), 60),
            row.state.clone(),
            plain(&row.awaited, 60),
            waits,
            moment(row.started_at),
        ]);
    }
    table
}

fn shown(row: &Listed, now: i64) -> Value {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let time = |at: i64| (at > 0).then(|| moment(at));
    json!({
        "saga": row.saga,
        "keys": row.subjects.lines().collect::<Vec<_>>(),
        "state": row.state,
        "ending": some(&row.ending),
        "awaited": some(&row.awaited),
        "since": time(row.since),
        "waiting_seconds": (row.since > 0).then(|| (now - row.since).max(0) / 1_000),
        "started": time(row.started_at),
        "changed": time(row.changed_at),
    })
}
