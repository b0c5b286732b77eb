//! Choreographies in a few lines, for tests: one step a line.
//!
//! ```text
//! payment charge external on Placed emits Charged rejects Declined back ShipFailed by Refunded
//! ```
//!
//! `back` is what it is compensated on, `by` what that emits, `joins` names steps, `first` lets the first trigger win. An event whose
//! name ends in Completed or Cancelled is that ending, and its topic is its name. Shared by the tests beside the model and those of
//! its findings.

pub(crate) mod samples;

use std::collections::BTreeMap;

use saga_core::{
    event::Ending,
    manifest::{DeclaredEvent, DeclaredStep, FORMAT, KEY, Manifest},
    participant::StepKind,
};

/// Reads a choreography; a line that is not one is a mistake in the test.
pub(crate) fn cast(text: &str) -> Vec<Manifest> {
    let mut manifests = Vec::<Manifest>::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let (Some(participant), Some(step), Some(kind)) = (words.next(), words.next(), words.next()) else {
            panic!("no participant, step and kind in {line:?}");
        };
        let kinds = [StepKind::Start, StepKind::Request, StepKind::Local, StepKind::External, StepKind::Gate];
        let kind = kinds.into_iter().find(|it| it.as_str() == kind).unwrap_or_else(|| panic!("no kind in {line:?}"));
        let mut declared = DeclaredStep { timeout_ms: 1_000, ..DeclaredStep::new(step, kind) };
        while let Some(word) = words.next() {
            let list = match word {
                "first" => {
                    declared.first_trigger_wins = true;
                    continue;
                }
                "on" => &mut declared.on,
                "emits" => &mut declared.emits,
                "rejects" => &mut declared.rejects,
                "back" => &mut declared.compensated_on,
                "by" => &mut declared.compensated,
                "joins" => &mut declared.joins,
                other => panic!("{other:?} means nothing in {line:?}"),
            };
            *list = words.next().into_iter().flat_map(|names| names.split(',')).map(str::to_owned).collect();
        }
        let at = manifests.iter().position(|manifest| manifest.participant == participant).unwrap_or_else(|| {
            manifests.push(Manifest {
                manifest: FORMAT,
                participant: participant.to_owned(),
                version: String::new(),
                group: None,
                steps: vec![],
                events: BTreeMap::new(),
            });
            manifests.len() - 1
        });
        let named = declared.published().chain(&declared.on).chain(&declared.compensated_on);
        let known: Vec<_> = named.map(|name| (name.clone(), event(name))).collect();
        manifests[at].events.extend(known);
        manifests[at].steps.push(declared);
    }
    manifests
}

fn event(name: &str) -> DeclaredEvent {
    let ends = [("Completed", Ending::Completed), ("Cancelled", Ending::Cancelled)];
    let ending = ends.into_iter().find(|(end, _)| name.ends_with(end)).map(|(_, ending)| ending);
    DeclaredEvent { topic: name.to_owned(), key: KEY.to_owned(), ending, writes: None, reads: None }
}
