//! Two versions of a choreography: is the change safe for whoever hears the events, and for the sagas that are under way; and in which
//! order are the services deployed?
//!
//! While a change is rolled out old and new versions run side by side, topics hold events that the old ones wrote, and ledgers hold
//! records that the old ones made. The invariant: what is called safe is safe for all of these, in the order that is given.

mod events;
mod order;
mod steps;

use std::{collections::BTreeMap, fmt};

use saga_core::{Manifest, manifest::DeclaredStep};
use serde::Serialize;

use crate::{Choreography, codes::codes, finding::Severity};

codes! {
    /// What kind of change it is. A code keeps its meaning for ever.
    ChangeCode,
    /// A new version cannot read what is written.
    Unreadable "SD001" Error "an event cannot be read by the new version of one who hears it",
    /// An event is somewhere else.
    Moved "SD002" Error "an event's topic, key or ending is another",
    /// A compensation cannot read what the old version recorded.
    RecordUnreadable "SD003" Error "a record of the old version cannot be read by the new compensation",
    /// A step is gone.
    StepGone "SD004" Error "a step is gone that sagas under way have done or wait for",
    /// A step has another name and does not say so.
    StepRenamed "SD005" Error "a step is renamed, and does not say what it was called",
    /// An event no longer triggers a step.
    TriggerGone "SD006" Error "a step no longer hears an event of sagas under way",
    /// An event no longer takes a step back.
    CompensationGone "SD007" Error "a step is no longer taken back on an event of sagas under way",
    /// An event takes a step back that did not before.
    CompensationNew "SD008" Warning "a step is taken back on one more event",
    /// A step is of another kind.
    KindChanged "SD009" Error "a step is of another kind than its rows",
    /// A policy without an end has one now.
    RetryBounded "SD010" Warning "a retry policy is bounded now",
    /// Other steps are joined.
    JoinsChanged "SD011" Warning "a step joins other steps than before",
    /// A participant is gone.
    ParticipantGone "SD012" Error "a participant is gone that sagas under way come to",
    /// Another consumer group.
    GroupChanged "SD013" Warning "a participant's consumer group is another",
    /// No order of deployment is safe.
    NoOrder "SD014" Error "no order of deployment is safe",
}

/// One thing that the change does to what runs; the same shape as a [`Finding`](crate::Finding).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of change.
    pub code: ChangeCode,
    /// The participant at which it is to be mended.
    pub participant: String,
    /// The step, where it is one step's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The event type, where it is one event's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// What happens, with names, in one sentence without a full stop.
    pub message: String,
    /// What to do, in one sentence without a full stop.
    pub fix: String,
}

impl Change {
    fn new(code: ChangeCode, participant: &str, message: String, fix: String) -> Self {
        let (severity, participant) = (code.severity(), participant.to_owned());
        Self { severity, code, participant, step: None, event: None, message, fix }
    }

    fn step(self, step: &str) -> Self {
        Self { step: Some(step.to_owned()), ..self }
    }

    fn event(self, event: &str) -> Self {
        Self { event: Some(event.to_owned()), ..self }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}[{}]: {}", self.severity.name(), self.code, self.message)?;
        writeln!(f, "  fix: {}", self.fix)
    }
}

/// A participant in the order of deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deployment {
    /// Those of one number may be deployed at the same time; those of the next when all of these run.
    pub turn: usize,
    /// Which participant.
    pub participant: String,
    /// What has to wait for it, one reason each.
    pub because: Vec<String>,
}

/// What a change does to what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Whether it is safe for sagas under way, in the order given.
    pub safe: bool,
    /// What is unsafe, and what is worth a thought: errors first.
    pub changes: Vec<Change>,
    /// Every participant whose manifest is another, in the order in which to deploy them.
    pub order: Vec<Deployment>,
}

/// Compares two versions of a choreography. Participants are the same by their names.
pub fn diff(old: &Choreography, new: &Choreography) -> Diff {
    let (before, after) = (by_name(old), by_name(new));
    let mut changes = Vec::new();
    for (name, was) in &before {
        match after.get(name) {
            Some(is) => steps::compare(was, is, &before, &mut changes),
            None => changes.push(gone(was)),
        }
    }
    events::compare(&before, &after, &mut changes);
    let order = order::of(&before, &after, &mut changes);
    changes.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.cmp(b)));
    changes.dedup();
    let safe = changes.iter().all(|change| change.severity != Severity::Error);
    Diff { safe, changes, order }
}

type ByName<'m> = BTreeMap<&'m str, &'m Manifest>;

/// Of two manifests of one name the first one counts; `verify` says what is wrong with that.
fn by_name(choreography: &Choreography) -> ByName<'_> {
    let mut by_name = BTreeMap::new();
    for manifest in &choreography.manifests {
        by_name.entry(manifest.participant.as_str()).or_insert(manifest);
    }
    by_name
}

fn gone(was: &Manifest) -> Change {
    let name = &was.participant;
    Change::new(
        ChangeCode::ParticipantGone,
        name,
        format!("{name} is gone, and sagas under way stop where they come to it"),
        format!(
            "first let nothing lead to {name} any more; take it away when the last saga that it has a part in has ended"
        ),
    )
}

fn publishes(manifest: &Manifest, event: &str) -> bool {
    manifest.steps.iter().any(|step| step.published().any(|published| published == event))
}

fn hears(step: &DeclaredStep, event: &str) -> bool {
    step.on.iter().chain(&step.compensated_on).any(|heard| heard == event)
}

/// The participants that publish an event.
fn publishers<'m>(manifests: &ByName<'m>, event: &str) -> Vec<&'m str> {
    manifests.iter().filter(|(_, manifest)| publishes(manifest, event)).map(|(name, _)| *name).collect()
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(f, "{change}")?;
        }
        if !self.order.is_empty() {
            writeln!(f, "deploy in this order:")?;
            for Deployment { turn, participant, because } in &self.order {
                writeln!(f, "  {turn}. {participant}")?;
                for reason in because {
                    writeln!(f, "     {reason}")?;
                }
            }
            writeln!(f)?;
        }
        match (self.safe, self.order.is_empty() && self.changes.is_empty()) {
            (_, true) => writeln!(f, "nothing changes for what runs"),
            (true, _) => writeln!(f, "safe for sagas under way, in this order"),
            (false, _) => writeln!(f, "unsafe for sagas under way"),
        }
    }
}
