//! The whole flow as a value: who hears what and emits what, as a table, as a picture, as JSON.
//!
//! The invariant: nothing here is asked at run time. A choreography is what people and checks look at; participants know
//! only themselves. There is one way to write each form, for a document and for the `describe` of a service, and what one
//! participant's JSON says is enough to draw it beside others.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde::{Deserialize, Serialize};

use crate::{
    event::{Ending, EventType},
    participant::{Contract, Participant, StepKind},
    timeline::short,
};

/// What one participant declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name.
    pub participant: String,
    /// The topics that it listens to, sorted.
    pub listens_to: Vec<String>,
    /// The topics that it publishes on, sorted.
    pub publishes_on: Vec<String>,
    /// Its steps, in their order.
    pub steps: Vec<DeclaredStep>,
}

/// What one step declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredStep {
    /// [`Step::NAME`](crate::Step::NAME).
    pub step: String,
    /// How it joined the cast.
    pub kind: StepKind,
    /// [`Step::On`](crate::Step::On); none for a start.
    pub trigger: Vec<DeclaredEvent>,
    /// [`Step::Emits`](crate::Step::Emits).
    pub emits: Vec<DeclaredEvent>,
    /// [`Step::Rejects`](crate::Step::Rejects).
    pub rejects: Vec<DeclaredEvent>,
    /// [`Step::CompensatedOn`](crate::Step::CompensatedOn).
    pub compensated_on: Vec<DeclaredEvent>,
    /// What its compensation emits.
    pub compensated: Vec<DeclaredEvent>,
    /// Its retry policy, for people.
    pub retry: String,
}

/// An event as a step declares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredEvent {
    /// [`Event::TYPE`](crate::Event::TYPE).
    #[serde(rename = "type")]
    pub event_type: String,
    /// [`Event::TOPIC`](crate::Event::TOPIC).
    pub topic: String,
    /// [`Event::ENDING`](crate::Event::ENDING).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

impl From<&Participant> for Part {
    fn from(participant: &Participant) -> Self {
        let owned = |topics: Vec<&'static str>| topics.into_iter().map(ToOwned::to_owned).collect();
        Self {
            participant: participant.name().to_owned(),
            listens_to: owned(participant.listens_to()),
            publishes_on: owned(participant.publishes_on()),
            steps: participant.contracts().into_iter().map(DeclaredStep::from).collect(),
        }
    }
}

impl From<Contract> for DeclaredStep {
    fn from(contract: Contract) -> Self {
        let declared = |events: Vec<EventType>| events.into_iter().map(DeclaredEvent::from).collect();
        Self {
            step: contract.name.to_owned(),
            kind: contract.kind,
            trigger: declared(contract.on),
            emits: declared(contract.emits),
            rejects: declared(contract.rejects),
            compensated_on: declared(contract.compensated_on),
            compensated: declared(contract.compensated),
            retry: contract.retry,
        }
    }
}

impl From<EventType> for DeclaredEvent {
    fn from(event: EventType) -> Self {
        Self { event_type: event.name.to_owned(), topic: event.topic.to_owned(), ending: event.ending }
    }
}

impl DeclaredStep {
    /// Every event that it may publish.
    pub fn published(&self) -> impl Iterator<Item = &DeclaredEvent> {
        self.emits.iter().chain(&self.rejects).chain(&self.compensated)
    }
}

/// Several participants' declarations side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choreography {
    /// One entry per participant.
    pub parts: Vec<Part>,
}

impl Choreography {
    /// The choreography that these participants play.
    pub fn of<'p>(participants: impl IntoIterator<Item = &'p Participant>) -> Self {
        Self { parts: participants.into_iter().map(Part::from).collect() }
    }

    /// A Markdown table with one row per step.
    pub fn to_table(&self) -> String {
        let names = |events: &[DeclaredEvent]| {
            let names: Vec<String> = events
                .iter()
                .map(|event| match event.ending {
                    Some(ending) => format!("{} ({ending})", short(&event.event_type)),
                    None => short(&event.event_type),
                })
                .collect();
            names.join(", ")
        };
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN).set_header([
            "participant",
            "step",
            "kind",
            "trigger",
            "emits",
            "rejects",
            "compensated on",
            "compensated",
            "retry",
        ]);
        for part in &self.parts {
            for step in &part.steps {
                table.add_row([
                    part.participant.clone(),
                    step.step.clone(),
                    kind(step.kind).to_owned(),
                    names(&step.trigger),
                    names(&step.emits),
                    names(&step.rejects),
                    names(&step.compensated_on),
                    names(&step.compensated),
                    step.retry.clone(),
                ]);
            }
        }
        table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    /// A Mermaid flow chart: a box per step, an arrow per event that one step emits and another hears. Dashed arrows compensate.
    pub fn to_mermaid(&self) -> String {
        let mut out = String::from("flowchart LR\n");
        let id = |participant: &str, step: &str| format!("{participant}_{step}").replace('-', "_");
        for part in &self.parts {
            out += &format!("  subgraph {}\n", part.participant);
            for step in &part.steps {
                let (open, close) = match step.kind {
                    StepKind::Start | StepKind::Request => ("([", "])"),
                    StepKind::External => ("[[", "]]"),
                    StepKind::Gate => ("{{", "}}"),
                    StepKind::Local => ("[", "]"),
                };
                out += &format!("    {}{open}\"{}\"{close}\n", id(&part.participant, &step.step), step.step);
            }
            out += "  end\n";
        }
        let mut hears: BTreeMap<&str, Vec<(String, bool)>> = BTreeMap::new();
        for part in &self.parts {
            for step in &part.steps {
                let box_of = id(&part.participant, &step.step);
                for event in &step.trigger {
                    hears.entry(&event.event_type).or_default().push((box_of.clone(), false));
                }
                for event in &step.compensated_on {
                    hears.entry(&event.event_type).or_default().push((box_of.clone(), true));
                }
            }
        }
        let mut endings = BTreeSet::new();
        for part in &self.parts {
            for step in &part.steps {
                let from = id(&part.participant, &step.step);
                // A no and a compensation may be told by the same event: one arrow.
                let mut drawn = BTreeSet::new();
                for event in step.published().filter(|event| drawn.insert(&event.event_type)) {
                    let name = short(&event.event_type);
                    for (to, compensates) in hears.get(event.event_type.as_str()).into_iter().flatten() {
                        let arrow = if *compensates { "-.->" } else { "-->" };
                        out += &format!("  {from} {arrow}|{name}| {to}\n");
                    }
                    if let Some(ending) = event.ending {
                        out += &format!("  {from} -->|{name}| {ending}\n");
                        endings.insert(ending.as_str());
                    }
                }
            }
        }
        for ending in endings {
            out += &format!("  {ending}((({ending})))\n");
        }
        out
    }
}

const fn kind(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Start => "start",
        StepKind::Request => "request",
        StepKind::Local => "local",
        StepKind::External => "external",
        StepKind::Gate => "gate",
    }
}
