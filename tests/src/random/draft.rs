//! A choreography while it is being made up: steps of numbered participants, and events that carry their publisher in their name.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;
use saga_core::{
    Manifest, Participant,
    event::Ending,
    harness::Decide,
    manifest::{DeclaredEvent, DeclaredRetry, DeclaredStep, FORMAT, KEY},
    participant::StepKind,
    retry::Retry,
};
use std::time::Duration;

/// Their names. The first one starts sagas and ends them.
pub(super) const PARTICIPANTS: [&str; 4] = ["alpha", "beta", "gamma", "delta"];

/// How long a call may take: short beside the delays of the messages, so that leases end under calls.
const TIMEOUT: Duration = Duration::from_secs(1);

/// See the top of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    /// Each step with its participant's number.
    pub(super) steps: Vec<(usize, DeclaredStep)>,
    /// The events that end sagas.
    pub(super) endings: BTreeMap<String, Ending>,
}

/// The type of what a step of a participant says.
pub(super) fn event(participant: usize, step: &str, outcome: &str) -> String {
    format!("r.{}.{step}-{outcome}.v1", PARTICIPANTS[participant])
}

/// A step that declares nothing yet.
pub(super) fn step(name: &str, kind: StepKind) -> DeclaredStep {
    DeclaredStep {
        retry: DeclaredRetry::from(&Retry::fixed(Duration::from_secs(2)).forever()),
        timeout_ms: TIMEOUT.as_millis() as u64,
        ..DeclaredStep::new(name, kind)
    }
}

impl Draft {
    pub(super) fn add(&mut self, participant: usize, step: DeclaredStep) {
        self.steps.push((participant, step));
    }

    /// Every event that some step names, sorted.
    pub(super) fn events(&self) -> Vec<String> {
        let named =
            self.steps.iter().flat_map(|(_, step)| step.published().chain(&step.on).chain(&step.compensated_on));
        let mut events: Vec<String> = named.cloned().collect();
        events.sort_unstable();
        events.dedup();
        events
    }

    /// What its participants would print. An error where one of them contradicts itself, so that it could not be played.
    pub(super) fn manifests(&self, decide: &Arc<dyn Decide>) -> Result<Vec<Manifest>> {
        let mut manifests = Vec::new();
        for (i, name) in PARTICIPANTS.iter().enumerate() {
            let steps: Vec<_> = self.steps.iter().filter(|(own, _)| *own == i).map(|(_, step)| step.clone()).collect();
            if steps.is_empty() {
                continue;
            }
            let named = steps.iter().flat_map(|step| step.published().chain(&step.on).chain(&step.compensated_on));
            let events = named.map(|name| (name.clone(), self.known(name))).collect();
            let participant = (*name).to_owned();
            let manifest =
                Manifest { manifest: FORMAT, participant, version: String::new(), group: None, steps, events };
            let cast = Participant::scripted(&manifest, decide)?;
            cast.check()?;
            // With the schemas that follow from what each does with its events.
            manifests.push(Manifest::of(&cast));
        }
        Ok(manifests)
    }

    fn known(&self, name: &str) -> DeclaredEvent {
        DeclaredEvent {
            topic: name.split('.').nth(1).unwrap_or_default().to_owned(),
            key: KEY.to_owned(),
            ending: self.endings.get(name).copied(),
            writes: None,
            reads: None,
        }
    }
}
