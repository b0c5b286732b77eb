//! `saga outbox`: events that have not gone out, and why.

use std::{process::ExitCode, str::FromStr as _};

use clap::Args;
use comfy_table::{Table, presets};
use saga_core::{
    clock::Clock,
    id::SagaId,
    store::{OutboxEntry, Store},
    timeline::short,
};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    database::{Databases, Participant},
    selection::Selection,
    text::{moment, plain, span},
    work::{STUCK, narrow, tell_more},
};

/// How many rows are read at once. Each may hold a body of a megabyte.
const PAGE: u32 = 100;

pub(crate) const LONG: &str = "\
List events that the broker refuses: too large, no such topic, not allowed

A step's event is written to the outbox with what the step did, and the participant publishes it
soon after. An event that the broker refuses for good stays there, and its saga stands still; the
others flow. Each is here with the broker's words. What to do:

  no such topic   create the topic: the service's `migrate --topics`
  not allowed     let the service's user write to the topic
  too large       raise the topic's max.message.bytes
  then            saga redrive --outbox --all

With --all, also the events that only wait. They go out by themselves, within seconds, when the
participant runs and the broker and the event's partition are there. When they grow old, one of
these is missing: ask the participant's /ready.

This changes nothing.";

const EXAMPLES: &str = "\
Examples:
  saga outbox
  saga outbox --all --older-than 1m
  saga outbox --exit-code >/dev/null || alert      exit code 3: an event is refused
  saga redrive --outbox --all --dry-run";

/// See [`LONG`].
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct OutboxCommand {
    /// The events that wait and are tried by themselves, too
    #[arg(long)]
    all: bool,
    /// Only the events of this saga
    #[arg(long, value_name = "ID", value_parser = SagaId::from_str)]
    saga: Option<SagaId>,
    /// Only events whose refusal contains this text, in upper or lower case
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only events that were written at least this long ago: 10m, 2h, 3days
    #[arg(long, value_name = "TIME")]
    older_than: Option<humantime::Duration>,
    /// Show at most so many events of each participant
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Exit with 3 when an event that passes the filters is refused, shown or not
    #[arg(long)]
    exit_code: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// An event that has not gone out, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Waiting {
    participant: String,
    /// The event's id.
    event: Option<String>,
    saga: String,
    event_type: Option<String>,
    topic: String,
    state: &'static str,
    since: String,
    age_seconds: i64,
    bytes: usize,
    reason: Option<String>,
}

/// The events of one participant that pass, the oldest first, a bounded number at a time.
#[derive(Debug)]
pub(crate) struct Entries<'s> {
    selection: Selection,
    all: bool,
    store: &'s Store,
    /// Written later, it is not old enough.
    latest: i64,
    after: Option<(i64, Uuid)>,
    ended: bool,
}

impl<'s> Entries<'s> {
    /// Those that are refused, or with `all` those that wait, too. A selection's step is not asked: an event is nobody's any more.
    pub(crate) fn new(selection: &Selection, all: bool, store: &'s Store, clock: &Clock) -> Self {
        let age = selection.older_than.map_or(0, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let latest = clock.now().saturating_sub(age);
        Self { selection: selection.clone(), all, store, latest, after: None, ended: false }
    }

    /// The next ones, `most` of them at most; none when there are no more.
    pub(crate) async fn next(&mut self, most: usize) -> anyhow::Result<Vec<OutboxEntry>> {
        let mut found = Vec::new();
        while !self.ended && found.len() < most {
            let page = self.store.outbox_page(self.all, self.selection.saga, self.after, PAGE).await?;
            self.ended = page.len() < PAGE as usize;
            for entry in page {
                if found.len() == most {
                    // The rest of the page is read again.
                    self.ended = false;
                    break;
                }
                self.after = Some((entry.row.created_at, entry.row.id));
                if self.passes(&entry) {
                    found.push(entry);
                }
            }
        }
        Ok(found)
    }

    fn passes(&self, entry: &OutboxEntry) -> bool {
        let said = |text: &String| {
            entry.refused.as_ref().is_some_and(|reason| reason.to_lowercase().contains(&text.to_lowercase()))
        };
        entry.row.created_at <= self.latest && self.selection.error.as_ref().is_none_or(said)
    }
}

/// A header of the event that a row holds.
pub(crate) fn header<'e>(entry: &'e OutboxEntry, wanted: &str) -> Option<&'e str> {
    entry.row.message.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
}

impl Waiting {
    fn of(participant: &Participant, entry: &OutboxEntry, now: i64) -> Self {
        let message = &entry.row.message;
        Self {
            participant: participant.name.clone(),
            event: header(entry, "ce_id").map(str::to_owned),
            saga: message.key.clone(),
            event_type: header(entry, "ce_type").map(str::to_owned),
            topic: message.topic.clone(),
            state: if entry.refused.is_some() { "refused" } else { "waiting" },
            since: moment(entry.row.created_at),
            age_seconds: (now - entry.row.created_at).max(0) / 1_000,
            bytes: message.body.len(),
            reason: entry.refused.clone(),
        }
    }
}

impl OutboxCommand {
    pub(crate) async fn run(&self, databases: &Databases) -> anyhow::Result<ExitCode> {
        let participants = databases.open().await?;
        let clock = Clock::system();
        let selection =
            Selection { saga: self.saga, step: None, error: self.error.clone(), older_than: self.older_than };
        let (mut listed, mut more, mut refused) = (Vec::new(), false, false);
        for participant in &participants {
            let mut entries = Entries::new(&selection, self.all, &participant.store, &clock);
            for entry in entries.next(self.limit as usize).await? {
                refused |= entry.refused.is_some();
                listed.push(Waiting::of(participant, &entry, clock.now()));
            }
            more |= !entries.next(1).await?.is_empty();
            // Those that were not listed count as well.
            if self.exit_code && !refused {
                let mut entries = Entries::new(&selection, false, &participant.store, &clock);
                refused = !entries.next(1).await?.is_empty();
            }
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&listed)?);
        } else if listed.is_empty() {
            let filtered = selection != Selection::default();
            let what = if self.all { "no event waits" } else { "no event is refused" };
            println!("{what}{}", if filtered { " that passes these filters" } else { "" });
        } else {
            println!("{}", table(&listed).trim_fmt());
            tell_more(listed.len(), more);
        }
        Ok(if self.exit_code && refused { ExitCode::from(STUCK) } else { ExitCode::SUCCESS })
    }
}

fn table(rows: &[Waiting]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["PARTICIPANT\n  topic", "STATE\n  bytes", "EVENT\n  age", "SAGA\n  event id", "WHY"]);
    for row in rows {
        let event = row.event_type.as_deref().map_or_else(|| "(no event)".to_owned(), |name| plain(&short(name), 40));
        table.add_row([
            format!("{}\n  {}", row.participant, plain(&row.topic, 40)),
            format!("{}\n  {}", row.state, row.bytes),
            format!("{event}\n  {}", span(row.age_seconds * 1_000)),
            format!("{}\n  {}", plain(&row.saga, 40), plain(row.event.as_deref().unwrap_or("-"), 40)),
            plain(row.reason.as_deref().unwrap_or("tried by itself"), 300),
        ]);
    }
    narrow(table, 4)
}
