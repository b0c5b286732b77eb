//! Rules over what is reached at all: SG008, SG012, SG017, SG020, SG023.

use std::collections::BTreeSet;

use petgraph::{algo::tarjan_scc, graph::DiGraph};
use saga_core::participant::StepKind;

use super::runs::{self, Reached};
use crate::{
    finding::{Code, Finding},
    flow::{Arrow, EventId, Flow, Node, StepId},
};

pub(super) fn findings(flow: &Flow<'_>) -> Vec<Finding> {
    let mut found = cycles(flow);
    let starts = runs::starts(flow);
    if starts.is_empty() {
        found.extend(no_start(flow));
        return found;
    }
    let mut roots: BTreeSet<StepId> = starts.iter().copied().collect();
    roots.extend(starts.iter().flat_map(|start| runs::requests(flow, *start)));
    let roots: Vec<Node> = roots.into_iter().map(Node::Forward).collect();
    let reached = Reached::from(flow, &roots, |_, _, _| true);
    found.extend(unreached(flow, &reached));
    found.extend(flow.step_ids().filter_map(|step| dead_compensation(flow, &reached, step)));
    // Whatever is said when all goes well, or by a request, is neither a no nor a compensation.
    let well = |from: Node, arrow: Arrow, to: Node| {
        let backward = matches!((from, to), (Node::Compensation(_), _) | (_, Node::Compensation(_)));
        !backward && arrow != Arrow::Rejects
    };
    let well = Reached::from(flow, &roots, well);
    found.extend(flow.step_ids().flat_map(|step| raw_cancellations(flow, &well, step)));
    found
}

fn no_start(flow: &Flow<'_>) -> Option<Finding> {
    let participant = &flow.manifests.first()?.participant;
    let all: Vec<&str> = flow.manifests.iter().map(|manifest| manifest.participant.as_str()).collect();
    let message = format!("no step starts sagas: neither of {}", all.join(", "));
    let fix =
        "add the step that begins a saga to the cast of its participant with `.start(..)`, or pass the manifest of \
               the participant that has it"
            .to_owned();
    Some(Finding::new(Code::NoStart, participant, message, fix))
}

/// Events that lead back to the step that they come of, by doing only: compensations meet each other's rows and stop.
fn cycles(flow: &Flow<'_>) -> Vec<Finding> {
    // The forward half of the graph, where a node's weight is what it stands for.
    let mut forward = DiGraph::<Node, ()>::new();
    let mut at = vec![None; flow.graph.node_count()];
    for (index, node) in runs::forwards(flow) {
        at[index.index()] = Some(forward.add_node(node));
    }
    for edge in flow.graph.edge_indices() {
        if let Some((from, to)) = flow.graph.edge_endpoints(edge)
            && let (Some(from), Some(to)) = (at[from.index()], at[to.index()])
        {
            forward.add_edge(from, to, ());
        }
    }
    let mut found = vec![];
    for circle in tarjan_scc(&forward).into_iter().filter(|circle| circle.len() > 1) {
        let inside: BTreeSet<Node> = circle.iter().map(|index| forward[*index]).collect();
        let step_of = |node: &Node| if let Node::Forward(step) = node { Some(*step) } else { None };
        let Some(first) = inside.iter().find_map(step_of) else { continue };
        let way = shortest_circle(flow, first, &inside);
        let label = flow.step(first).label();
        let event = way.iter().rev().find_map(|node| if let Node::Event(event) = node { Some(*event) } else { None });
        let Some(event) = event.map(|event| flow.event(event)) else { continue };
        let message = format!("what {label} says comes back to it as {}", event.label());
        let fix = format!("take {} out of `On` of {label}, or let a step on the way say something else", event.label());
        let finding = Finding::new(Code::Cycle, flow.step(first).participant, message, fix);
        let step = &flow.step(first).declared.step;
        found.push(finding.step(step).event(event.name).path(runs::lines(flow, &way)));
    }
    found
}

/// From a step back to itself, inside its circle.
fn shortest_circle(flow: &Flow<'_>, first: StepId, inside: &BTreeSet<Node>) -> Vec<Node> {
    let step = flow.step(first);
    let within = |_: Node, _: Arrow, to: Node| inside.contains(&to) && to != Node::Forward(first);
    let reached = Reached::from(flow, &[Node::Forward(first)], within);
    let back = step.on.iter().map(|event| reached.way(flow, Node::Event(*event))).filter(|way| !way.is_empty());
    let mut way = back.min_by_key(Vec::len).unwrap_or_default();
    way.push(Node::Forward(first));
    way
}

/// A participant that nothing comes to, or a step of one that is reached otherwise.
fn unreached(flow: &Flow<'_>, reached: &Reached) -> Vec<Finding> {
    let mut found = vec![];
    for manifest in flow.manifests {
        let own: Vec<StepId> =
            flow.step_ids().filter(|id| flow.step(*id).participant == manifest.participant).collect();
        let lost: Vec<StepId> = own.iter().copied().filter(|step| !reached.step(flow, *step)).collect();
        let name = &manifest.participant;
        if lost.len() == own.len() {
            let hears: BTreeSet<String> = own
                .iter()
                .flat_map(|step| flow.step(*step).on.iter().chain(&flow.step(*step).compensated_on))
                .map(|event| flow.event(*event).label())
                .collect();
            let hears = hears.into_iter().collect::<Vec<_>>().join(", ");
            let hears = if hears.is_empty() { "it hears nothing".to_owned() } else { format!("it hears {hears}") };
            let message = format!("no saga reaches {name}: {hears}, and no start leads there");
            let fix =
                format!("let a step of {name} hear an event of the saga, or leave {name} out of the choreography");
            found.push(Finding::new(Code::Unreached, name, message, fix));
            continue;
        }
        // Where an event is missing altogether, that has been said.
        let told = |step: &StepId| flow.step(*step).on.iter().any(|event| flow.event(*event).published_by.is_empty());
        for step in lost.into_iter().filter(|step| !told(step)) {
            let step = flow.step(step);
            let label = step.label();
            let (why, fix) = if step.declared.kind == StepKind::Request {
                let fix =
                    format!("move {label} to the participant that starts the saga, because a request joins one there");
                (format!("{name} starts no saga that it could join"), fix)
            } else {
                let on: Vec<String> = step.on.iter().map(|event| flow.event(*event).label()).collect();
                let fix = format!("let {label} hear an event of the saga, or remove it");
                (format!("no start leads to {}", on.join(", ")), fix)
            };
            let finding = Finding::new(Code::Unreached, name, format!("no saga reaches {label}: {why}"), fix);
            found.push(finding.step(&step.declared.step));
        }
    }
    found
}

fn dead_compensation(flow: &Flow<'_>, reached: &Reached, id: StepId) -> Option<Finding> {
    let step = flow.step(id);
    let published = |event: &&EventId| !flow.event(**event).published_by.is_empty();
    let on = step.compensated_on.iter().find(published)?;
    if reached.has(flow, Node::Compensation(id)) || !reached.step(flow, id) {
        return None;
    }
    let (label, event) = (step.label(), flow.event(*on));
    let by = flow.step(event.published_by[0]).label();
    let message =
        format!("{label} is compensated on {}, but no saga comes to {by}, which would publish it", event.label());
    let fix = format!(
        "name in `CompensatedOn` of {label} the no after which it is to be taken back, or let a saga come to {by}"
    );
    Some(
        Finding::new(Code::DeadCompensation, step.participant, message, fix)
            .step(&step.declared.step)
            .event(event.name),
    )
}

/// Only a gate may hear what is no answer of the saga itself: it alone settles which of the two came first.
fn raw_cancellations(flow: &Flow<'_>, well: &Reached, id: StepId) -> Vec<Finding> {
    let step = flow.step(id);
    if step.declared.kind == StepKind::Gate {
        return vec![];
    }
    let raw = step.compensated_on.iter().filter(|event| well.event(flow, **event));
    let finding = |event: &EventId| {
        let way = well.way(flow, Node::Event(*event));
        let (label, event) = (step.label(), flow.event(*event));
        let said = event.label();
        let message = format!("{label} is taken back by {said}, which is neither a no nor said by a compensation");
        let fix = format!(
            "let a gate alone hear {said}: take it out of `CompensatedOn` of {label}, name there the event that the gate emits \
             when it is shut"
        );
        let mut path = runs::lines(flow, &way);
        path.push(format!("{label} is taken back on {said}, whatever the saga has come to"));
        let finding = Finding::new(Code::RawCancellation, step.participant, message, fix);
        finding.step(&step.declared.step).event(event.name).path(path)
    };
    raw.map(finding).collect()
}
