//! The whole flow as a value: who hears what and emits what, as a table, as a picture, as JSON.
//!
//! The invariant: nothing here is asked at run time. A choreography is what people and checks look at; participants know
//! only themselves.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde::Serialize;

use crate::{
    participant::{Contract, Participant, StepKind},
    timeline::short,
};

/// What one participant declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its name.
    pub participant: String,
    /// Its steps, in their order.
    pub steps: Vec<Contract>,
}

impl From<&Participant> for Part {
    fn from(participant: &Participant) -> Self {
        Self { participant: participant.name().to_owned(), steps: participant.contracts() }
    }
}

/// Several participants' declarations side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
        let names = |events: &[crate::event::EventType]| {
            let names: Vec<String> = events
                .iter()
                .map(|event| match event.ending {
                    Some(ending) => format!("{} ({ending})", short(event.name)),
                    None => short(event.name),
                })
                .collect();
            names.join(", ")
        };
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN).set_header([
            "participant",
            "step",
            "kind",
            "on",
            "emits",
            "rejects",
            "compensated on",
            "compensation emits",
        ]);
        for part in &self.parts {
            for step in &part.steps {
                table.add_row([
                    part.participant.clone(),
                    step.name.to_owned(),
                    kind(step.kind).to_owned(),
                    names(&step.on),
                    names(&step.emits),
                    names(&step.rejects),
                    names(&step.compensated_on),
                    names(&step.compensated),
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
                out += &format!("    {}{open}\"{}\"{close}\n", id(&part.participant, step.name), step.name);
            }
            out += "  end\n";
        }
        let mut hears: BTreeMap<&str, Vec<(String, bool)>> = BTreeMap::new();
        for part in &self.parts {
            for step in &part.steps {
                let box_of = id(&part.participant, step.name);
                for event in &step.on {
                    hears.entry(event.name).or_default().push((box_of.clone(), false));
                }
                for event in &step.compensated_on {
                    hears.entry(event.name).or_default().push((box_of.clone(), true));
                }
            }
        }
        let mut endings = BTreeSet::new();
        for part in &self.parts {
            for step in &part.steps {
                let from = id(&part.participant, step.name);
                for event in step.published() {
                    let name = short(event.name);
                    for (to, compensates) in hears.get(event.name).into_iter().flatten() {
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
