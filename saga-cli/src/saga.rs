//! `saga show`: one saga whole.

use std::{process::ExitCode, str::FromStr as _};

use anyhow::{bail, ensure};
use clap::Args;
use saga_choreography::Choreography;
use saga_core::{clock::Clock, id::SagaId, signal::Tells, step::Direction, timeline::short};
use saga_observer::{Cast, Saga, Store, View, saga::Told, store::Filter, view::Awaited};
use serde_json::json;

use crate::{
    observed::Observed,
    text::{moment, plain, span},
};

pub(crate) const LONG: &str = "\
Show one saga whole: where it is, what it waits for, what must still happen, and everything it has done

The saga is named by its id, or by a business key such as an order number.";

const EXAMPLES: &str = "\
Examples:
  saga show 019ab1c2-0000-7000-8000-000000000007
  saga show 4711                  by order number
  saga show 4711 --mermaid        as a sequence diagram";

/// How many sagas with one key are listed when the key does not tell which is meant.
const MANY: u32 = 10;

/// See [`LONG`].
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ShowCommand {
    /// The saga's id, or a text in one of its business keys
    #[arg(value_name = "ID|KEY")]
    saga: String,
    /// Print a JSON object
    #[arg(long, conflicts_with = "mermaid")]
    json: bool,
    /// Print a Mermaid sequence diagram
    #[arg(long)]
    mermaid: bool,
    #[command(flatten)]
    observed: Observed,
}

impl ShowCommand {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let store = self.observed.open().await?;
        let (id, saga) = self.find(&store).await?;
        let choreography = Choreography::from(store.manifests().await?);
        let view = Cast::of(choreography.flow()).view(&saga);
        if self.json {
            let whole = json!({ "saga": id, "view": view, "events": events(&saga) });
            println!("{}", serde_json::to_string_pretty(&whole)?);
        } else if self.mermaid {
            print!("{}", mermaid(&saga, &view));
        } else {
            print(id, &saga, &view);
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn find(&self, store: &Store) -> anyhow::Result<(SagaId, Saga)> {
        if let Ok(id) = SagaId::from_str(&self.saga)
            && let Some(saga) = store.saga(id).await?
        {
            return Ok((id, saga));
        }
        ensure!(!self.saga.is_empty(), "which saga? Give its id, or a business key such as an order number");
        let filter = Filter { text: self.saga.clone(), ..Filter::default() };
        let found = store.list(&filter, MANY).await?;
        match found.as_slice() {
            [] => bail!("the observer has seen no saga with this id or key; has it come so far? See saga list"),
            [one] => {
                let id = SagaId::from_str(&one.saga)?;
                let Some(saga) = store.saga(id).await? else { bail!("saga {id} is gone from the observer's tables") };
                Ok((id, saga))
            }
            many => {
                let ids: Vec<&str> = many.iter().map(|row| row.saga.as_str()).collect();
                bail!("which of these is meant?\n  {}", ids.join("\n  "))
            }
        }
    }
}

fn print(id: SagaId, saga: &Saga, view: &View) {
    let now = Clock::system().now();
    let keys: Vec<String> = view.subjects.iter().map(|key| plain(key, 200)).collect();
    let time = |at: Option<i64>| at.map_or_else(|| "-".to_owned(), moment);
    let lines = [
        ("saga", id.to_string()),
        ("key", keys.join(", ")),
        ("state", view.state.as_str().to_owned()),
        ("started", time(view.started_at)),
        ("changed", time(view.changed_at)),
        ("trace", view.trace_id.clone().unwrap_or_else(|| "-".to_owned())),
    ];
    for (name, value) in lines {
        println!("{name:<9} {value}");
    }
    println!("\n{}", plain_lines(&saga.timeline(id).to_string()));
    for awaited in &view.waiting {
        println!("{}", waits(awaited, now));
    }
    if !view.expected.is_empty() {
        println!("then      {}", view.expected.join(", "));
    }
    for (source, id, seen) in saga.events().filter(|(.., seen)| seen.places.len() > 1) {
        let name = short(&seen.event_type);
        println!(
            "again     {} of {} was sent {} times ({})",
            plain(&name, 80),
            plain(source, 40),
            seen.places.len(),
            plain(&id.0, 64)
        );
    }
    if view.truncated {
        println!("this saga has more events than the observer keeps: what is said here may be wrong");
    }
}

/// Foreign names stand in a timeline, so no control character of theirs may reach the terminal; line ends are the timeline's own.
fn plain_lines(text: &str) -> String {
    text.lines().map(|line| plain(line, 300) + "\n").collect()
}

fn waits(awaited: &Awaited, now: i64) -> String {
    let since = awaited.since.map_or_else(|| "-".to_owned(), |since| span(now - since));
    let why = awaited.told.as_ref().map(|told| format!(", {}", tells(told))).unwrap_or_default();
    plain(&format!("waits     {since} for {}{why}", awaited.describe()), 400)
}

/// `deferred after 3 attempts: the gateway does not answer`.
fn tells(told: &Told) -> String {
    let word = match told.tells {
        Tells::Deferred | Tells::Impatient => "deferred",
        Tells::Parked => "parked",
        Tells::Stuck => "stuck",
        Tells::Redriven => "redriven",
        Tells::Discarded => "discarded",
        Tells::Absorbed => "absorbed",
        Tells::Settled => "settled",
    };
    let attempts = match told.attempts {
        0 => String::new(),
        1 => " after 1 attempt".to_owned(),
        attempts => format!(" after {attempts} attempts"),
    };
    let reason = if told.reason.is_empty() { String::new() } else { format!(": {}", told.reason) };
    format!("{word}{attempts}{reason}")
}

fn events(saga: &Saga) -> serde_json::Value {
    saga.events().map(|(source, id, seen)| json!({ "source": source, "id": id, "event": seen })).collect()
}

/// One arrow per event from who emitted it to whoever reacted, and a dashed one for what is awaited.
fn mermaid(saga: &Saga, view: &View) -> String {
    let name =
        |text: &str| -> String { text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect() };
    let said = |text: &str| -> String { text.chars().filter(|c| !c.is_control() && !";#:<>".contains(*c)).collect() };
    let mut out = "sequenceDiagram\n".to_owned();
    let mut events: Vec<_> = saga.events().collect();
    events.sort_by_key(|(source, id, seen)| (seen.hops, seen.time, *source, *id));
    for (source, id, seen) in &events {
        let from = name(source.trim_start_matches('/'));
        let reacted = events.iter().filter(|(.., later)| later.causation.as_ref() == Some(*id));
        let mut to: Vec<String> = reacted.map(|(source, ..)| name(source.trim_start_matches('/'))).collect();
        to.dedup();
        if to.is_empty() && !view.waiting.iter().any(|awaited| awaited.event == **id) {
            to.push(from.clone());
        }
        for to in to {
            out += &format!("  {from}->>{to}: {}\n", said(&short(&seen.event_type)));
        }
    }
    for awaited in &view.waiting {
        let from = events.iter().find(|(_, id, _)| **id == awaited.event).map_or("", |(source, ..)| source);
        let does = if awaited.direction == Direction::Forward { "" } else { " compensates" };
        let (from, to) = (name(from.trim_start_matches('/')), name(&awaited.participant));
        out += &format!("  {from}--x{to}: {}{does}, awaited\n", said(&short(&awaited.event_type)));
    }
    out
}
