//! What one participant declares, as a value that travels: the service prints it, and whoever holds the manifests of all services
//! knows the whole flow.
//!
//! The invariant: nothing here is asked at run time. A manifest is what people and checks look at; participants know only themselves.

use std::{collections::BTreeMap, time::Duration};

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Ending, EventType},
    participant::{Contract, Participant, StepKind},
    retry::Retry,
    timeline::short,
};

/// The version of the format that this code writes, and the only one that it reads.
pub const FORMAT: u32 = 1;

/// The event attribute that is the key of every message this toolkit writes.
pub const KEY: &str = "sagaid";

/// What one participant declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this format: 1.
    pub manifest: u32,
    /// Its name.
    pub participant: String,
    /// The version of the program that plays it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Its consumer group; its name unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its steps, in their order.
    pub steps: Vec<DeclaredStep>,
    /// The events that they name, by type, as this participant knows them.
    pub events: BTreeMap<String, DeclaredEvent>,
}

/// What one step declares. Events are named by their types.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclaredStep {
    /// [`Step::NAME`](crate::Step::NAME).
    pub step: String,
    /// How it joined the cast.
    pub kind: StepKind,
    /// [`Step::On`](crate::Step::On); empty for a start and a request. Any one of them triggers the step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<String>,
    /// [`Step::Emits`](crate::Step::Emits): one of them, or nothing when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emits: Vec<String>,
    /// [`Step::Rejects`](crate::Step::Rejects): one of them; a step without any cannot say no.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejects: Vec<String>,
    /// [`Step::CompensatedOn`](crate::Step::CompensatedOn).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compensated_on: Vec<String>,
    /// What its compensation emits: one of them, or nothing when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compensated: Vec<String>,
    /// [`Step::JOINS`](crate::Step::JOINS).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joins: Vec<String>,
    /// [`Step::FORMERLY`](crate::Step::FORMERLY).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formerly: Vec<String>,
    /// [`Step::FIRST_TRIGGER_WINS`](crate::Step::FIRST_TRIGGER_WINS).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first_trigger_wins: bool,
    /// When it is tried again.
    #[serde(default)]
    pub retry: DeclaredRetry,
    /// How long one run, call or compensation may take, in milliseconds.
    #[serde(default = "default_timeout")]
    pub timeout_ms: u64,
}

/// A retry policy as numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclaredRetry {
    /// The first wait, in milliseconds.
    pub first_ms: u64,
    /// The longest wait, in milliseconds.
    pub cap_ms: u64,
    /// Attempts before the reaction is stuck; without it, and without `at_most_ms`, it is retried for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Milliseconds since the first attempt before the reaction is stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most_ms: Option<u64>,
    /// Milliseconds of failing before an alarm is raised; never when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience_ms: Option<u64>,
}

/// An event as one participant knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclaredEvent {
    /// [`Event::TOPIC`](crate::Event::TOPIC).
    pub topic: String,
    /// Which attribute of the event is its message's key.
    #[serde(default = "default_key")]
    pub key: String,
    /// [`Event::ENDING`](crate::Event::ENDING).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// The JSON Schema (draft 2020-12) of the bodies that this participant writes; present where it publishes the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<serde_json::Value>,
    /// The JSON Schema of the bodies that it can read; present where it reacts to the event, or reads it back from its ledger to
    /// compensate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<serde_json::Value>,
}

fn default_key() -> String {
    KEY.to_owned()
}

fn default_timeout() -> u64 {
    30_000
}

impl Default for DeclaredRetry {
    fn default() -> Self {
        Self::from(&Retry::default())
    }
}

impl Manifest {
    /// What a participant declares, under its own name as the consumer group and without a version.
    pub fn of(participant: &Participant) -> Self {
        let contracts = participant.contracts();
        let mut events = BTreeMap::new();
        for contract in &contracts {
            // A gate is never taken back, so what it did is never read again.
            let kept = contract.compensated_on.is_empty() || contract.kind == StepKind::Gate;
            let recorded = if kept { &[] } else { contract.emits.as_slice() };
            for event in contract.published() {
                known(&mut events, &event).writes.get_or_insert_with(|| event.shape.written());
            }
            for event in contract.on.iter().chain(&contract.compensated_on).chain(recorded) {
                known(&mut events, event).reads.get_or_insert_with(|| event.shape.read());
            }
        }
        Self {
            manifest: FORMAT,
            participant: participant.name().to_owned(),
            version: String::new(),
            group: None,
            steps: contracts.iter().map(DeclaredStep::from).collect(),
            events,
        }
    }

    /// The same, of the program's version `version`.
    #[must_use]
    pub fn version(self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self }
    }

    /// The same, in the consumer group `group`.
    #[must_use]
    pub fn group(self, group: &str) -> Self {
        let group = Some(group.to_owned()).filter(|group| *group != self.participant);
        Self { group, ..self }
    }

    /// Its consumer group.
    pub fn consumer_group(&self) -> &str {
        self.group.as_deref().unwrap_or(&self.participant)
    }

    /// Reads a manifest, or several in a JSON array. The error says where the text is not one, or which format it is of.
    pub fn read(json: &str) -> Result<Vec<Self>, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            manifest: u32,
        }
        fn one(value: serde_json::Value) -> Result<Manifest, ManifestError> {
            let Head { manifest } = Head::deserialize(&value)?;
            if manifest != FORMAT {
                return Err(ManifestError::Format(manifest));
            }
            Ok(Manifest::deserialize(value)?)
        }
        match serde_json::from_str(json)? {
            serde_json::Value::Array(all) => all.into_iter().map(one).collect(),
            value => Ok(vec![one(value)?]),
        }
    }

    /// The JSON Schema of this format.
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(Manifest).to_value()
    }
}

/// A text that is no manifest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or not of the shape.
    #[error("this is no manifest, such as `describe --json` prints")]
    Json(#[from] serde_json::Error),
    /// Written by another version of the toolkit.
    #[error("expected a manifest of format {FORMAT}, got format {0}: print it with the same version of the toolkit")]
    Format(u32),
}

fn known<'e>(events: &'e mut BTreeMap<String, DeclaredEvent>, event: &EventType) -> &'e mut DeclaredEvent {
    events.entry(event.name.to_owned()).or_insert_with(|| DeclaredEvent {
        topic: event.topic.to_owned(),
        key: default_key(),
        ending: event.ending,
        writes: None,
        reads: None,
    })
}

impl From<&Contract> for DeclaredStep {
    fn from(contract: &Contract) -> Self {
        let names = |events: &[EventType]| events.iter().map(|event| event.name.to_owned()).collect();
        Self {
            step: contract.name.to_owned(),
            kind: contract.kind,
            on: names(&contract.on),
            emits: names(&contract.emits),
            rejects: names(&contract.rejects),
            compensated_on: names(&contract.compensated_on),
            compensated: names(&contract.compensated),
            joins: contract.joins.iter().map(|step| (*step).to_owned()).collect(),
            formerly: contract.formerly.iter().map(|name| (*name).to_owned()).collect(),
            first_trigger_wins: contract.first_trigger_wins,
            retry: DeclaredRetry::from(&contract.retry),
            timeout_ms: millis(contract.timeout),
        }
    }
}

impl DeclaredStep {
    /// A step that hears and says nothing yet, retried and timed as by default.
    pub fn new(name: &str, kind: StepKind) -> Self {
        Self {
            step: name.to_owned(),
            kind,
            on: Vec::new(),
            emits: Vec::new(),
            rejects: Vec::new(),
            compensated_on: Vec::new(),
            compensated: Vec::new(),
            joins: Vec::new(),
            first_trigger_wins: false,
            formerly: Vec::new(),
            retry: DeclaredRetry::default(),
            timeout_ms: default_timeout(),
        }
    }

    /// The types of every event that it may publish; one that it publishes in several ways comes several times.
    pub fn published(&self) -> impl Iterator<Item = &String> {
        self.emits.iter().chain(&self.rejects).chain(&self.compensated)
    }
}

impl DeclaredRetry {
    /// One line for people; the same as [`Retry::describe`].
    pub fn describe(&self) -> String {
        self.policy().describe()
    }

    /// The policy of these numbers.
    pub(crate) fn policy(&self) -> Retry {
        let (first, cap) = (Duration::from_millis(self.first_ms), Duration::from_millis(self.cap_ms));
        let backoff = if first == cap { Retry::fixed(first) } else { Retry::exponential(first, cap) };
        match (self.attempts, self.at_most_ms) {
            (Some(attempts), _) => backoff.attempts(attempts),
            (None, Some(most)) => backoff.for_at_most(Duration::from_millis(most)),
            (None, None) => backoff.forever(),
        }
        .patience(self.patience_ms.map_or(Duration::MAX, Duration::from_millis))
    }
}

/// A Markdown table with one row per step, and what each declares.
pub fn to_table(manifests: &[Manifest]) -> String {
    to_table_with(manifests, None)
}

/// What is said of each step besides what it declares: the title of the column, and its text by participant and step.
pub type Column<'c> = (&'c str, &'c dyn Fn(&str, &str) -> String);

/// The same, with another column behind the steps' kinds.
pub fn to_table_with(manifests: &[Manifest], more: Option<Column<'_>>) -> String {
    let mut table = Table::new();
    let titles = ["trigger", "emits", "rejects", "compensated on", "compensated", "retry"];
    let more_title = more.map(|(title, _)| title);
    let titles = ["participant", "step", "kind"].into_iter().chain(more_title).chain(titles);
    table.load_style(ASCII_MARKDOWN).set_header(titles);
    for manifest in manifests {
        let names = |types: &[String]| {
            let ending = |name: &String| manifest.events.get(name).and_then(|event| event.ending);
            let name = |name: &String| match ending(name) {
                Some(ending) => format!("{} ({ending})", cell(&short(name))),
                None => cell(&short(name)),
            };
            types.iter().map(name).collect::<Vec<_>>().join(", ")
        };
        for step in &manifest.steps {
            let mut row = vec![cell(&manifest.participant), cell(&step.step), step.kind.as_str().to_owned()];
            row.extend(more.map(|(_, said)| cell(&said(&manifest.participant, &step.step))));
            row.extend([
                names(&step.on),
                names(&step.emits),
                names(&step.rejects),
                names(&step.compensated_on),
                names(&step.compensated),
                step.retry.describe(),
            ]);
            table.add_row(row);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A name inside of a Markdown table: on one line, in one cell, and no mark-up.
fn cell(name: &str) -> String {
    let one_line: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    one_line.replace('\\', "\\\\").replace('|', "\\|").replace('&', "&amp;").replace('<', "&lt;").replace('`', "\\`")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<&Retry> for DeclaredRetry {
    fn from(retry: &Retry) -> Self {
        let (first, cap) = retry.waits();
        Self {
            first_ms: millis(first),
            cap_ms: millis(cap),
            attempts: retry.bounded_attempts(),
            at_most_ms: retry.bounded_time().map(millis),
            patience_ms: Some(retry.declared_patience()).filter(|patience| *patience != Duration::MAX).map(millis),
        }
    }
}
