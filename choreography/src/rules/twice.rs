//! What comes twice in one run although it may come once: SG014, SG018. Only by doing: what compensations say as well is left to the
//! exploration.

use super::runs::{self, Tree};
use crate::{
    finding::{Code, Finding},
    flow::{EventId, Flow, Node, StepId},
};

pub(super) fn findings(flow: &Flow<'_>, tree: &Tree) -> Vec<Finding> {
    let mut found = second_triggers(flow, tree);
    found.extend(second_endings(flow, tree));
    found
}

/// Everybody who says an event by doing, and can be come to.
fn said_by(flow: &Flow<'_>, event: EventId) -> Vec<StepId> {
    let says = |step: &&StepId| {
        let step = flow.step(**step);
        step.emits.contains(&event) || step.rejects.contains(&event)
    };
    flow.event(event).published_by.iter().filter(says).copied().collect()
}

/// Two of several sayings that come in one run.
fn both(flow: &Flow<'_>, tree: &Tree, sayings: &[(StepId, EventId)]) -> Option<[(StepId, EventId); 2]> {
    for (i, one) in sayings.iter().enumerate() {
        for other in &sayings[i + 1..] {
            let (a, b) = ((one.0, Some(one.1)), (other.0, Some(other.1)));
            // Joined steps speak once for all of them.
            let joined = flow.step(one.0).joins.contains(&other.0);
            if !joined && tree.together(flow, a, b) {
                return Some([*one, *other]);
            }
        }
    }
    None
}

fn two_ways(flow: &Flow<'_>, tree: &Tree, both: [(StepId, EventId); 2]) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for (step, event) in both {
        let way: Vec<Node> = tree.way(step).iter().copied().chain([Node::Event(event)]).collect();
        for line in runs::lines(flow, &way) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

fn second_triggers(flow: &Flow<'_>, tree: &Tree) -> Vec<Finding> {
    let mut found = vec![];
    for id in flow.step_ids().filter(|id| !flow.step(*id).declared.first_trigger_wins) {
        let step = flow.step(id);
        // What follows from the step itself comes too late to be its first trigger, and is a circle.
        let sayings: Vec<_> = step
            .on
            .iter()
            .flat_map(|event| said_by(flow, *event).into_iter().map(move |by| (by, *event)))
            .filter(|(by, _)| *by != id && !tree.passes(*by, id))
            .collect();
        let Some(two) = both(flow, tree, &sayings) else { continue };
        let (label, names) = (step.label(), two.map(|(by, event)| (flow.step(by).label(), flow.event(event).label())));
        let message = format!(
            "{label} can be triggered twice in one saga: by {} of {} and by {} of {}",
            names[0].1, names[0].0, names[1].1, names[1].0
        );
        let fix = format!(
            "join {} and {} where both must be done, or set `FIRST_TRIGGER_WINS` at {label} where the first one counts",
            names[0].0, names[1].0
        );
        let finding = Finding::new(Code::SecondTrigger, step.participant, message, fix).step(&step.declared.step);
        found.push(finding.path(two_ways(flow, tree, two)));
    }
    found
}

fn second_endings(flow: &Flow<'_>, tree: &Tree) -> Option<Finding> {
    let endings = flow.event_ids().filter(|event| flow.event(*event).ending().is_some());
    let sayings: Vec<_> =
        endings.flat_map(|event| said_by(flow, event).into_iter().map(move |by| (by, event))).collect();
    let two = both(flow, tree, &sayings)?;
    let names = two.map(|(by, event)| (flow.step(by).label(), flow.event(event).label()));
    let step = flow.step(two[1].0);
    let message =
        format!("a saga can end twice: by {} of {} and by {} of {}", names[0].1, names[0].0, names[1].1, names[1].0);
    let fix = format!("let only one of {} and {} end the saga, after the other", names[0].0, names[1].0);
    let finding = Finding::new(Code::TwoEndings, step.participant, message, fix).step(&step.declared.step);
    Some(finding.path(two_ways(flow, tree, two)))
}
