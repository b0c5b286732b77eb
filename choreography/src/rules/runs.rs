//! What may happen in a run, and what can happen in one run together.
//!
//! Two directions, never mixed: a [`Reached`] holds *at least* everything that may happen (so what is not in it cannot), and a
//! [`Tree`] holds runs that really can be played (so what it says can happen does, in some order of deliveries).

use std::collections::VecDeque;

use petgraph::{
    graph::NodeIndex,
    visit::{EdgeRef, IntoNodeReferences},
};
use saga_core::participant::StepKind;

use crate::flow::{Arrow, EventId, Flow, Node, StepId};

/// The steps that start sagas.
pub(super) fn starts(flow: &Flow<'_>) -> Vec<StepId> {
    flow.step_ids().filter(|id| flow.step(*id).declared.kind == StepKind::Start).collect()
}

/// The requests that may join a saga of this start.
pub(super) fn requests(flow: &Flow<'_>, start: StepId) -> Vec<StepId> {
    let joins = |id: &StepId| {
        let step = flow.step(*id);
        step.declared.kind == StepKind::Request && step.participant == flow.step(start).participant
    };
    flow.step_ids().filter(joins).collect()
}

/// Nodes, and from where each was come to first, which is the shortest way.
#[derive(Debug)]
pub(super) struct Reached {
    seen: Vec<bool>,
    from: Vec<Option<NodeIndex>>,
}

impl Reached {
    /// Follows the arrows that `allowed` lets pass.
    pub(super) fn from(flow: &Flow<'_>, roots: &[Node], allowed: impl Fn(Node, Arrow, Node) -> bool) -> Self {
        let mut reached =
            Self { seen: vec![false; flow.graph.node_count()], from: vec![None; flow.graph.node_count()] };
        let mut next: VecDeque<NodeIndex> = roots.iter().filter_map(|node| flow.index(*node)).collect();
        next.iter().for_each(|node| reached.seen[node.index()] = true);
        while let Some(at) = next.pop_front() {
            // Edges come newest first; the declared order reads better.
            let mut edges: Vec<_> = flow.graph.edges(at).collect();
            edges.reverse();
            for edge in edges {
                let to = edge.target();
                if !reached.seen[to.index()] && allowed(flow.graph[at], *edge.weight(), flow.graph[to]) {
                    reached.seen[to.index()] = true;
                    reached.from[to.index()] = Some(at);
                    next.push_back(to);
                }
            }
        }
        reached
    }

    pub(super) fn has(&self, flow: &Flow<'_>, node: Node) -> bool {
        flow.index(node).is_some_and(|index| self.seen[index.index()])
    }

    pub(super) fn event(&self, flow: &Flow<'_>, event: EventId) -> bool {
        self.has(flow, Node::Event(event))
    }

    /// Forward or backward.
    pub(super) fn step(&self, flow: &Flow<'_>, step: StepId) -> bool {
        self.has(flow, Node::Forward(step)) || self.has(flow, Node::Compensation(step))
    }

    pub(super) fn add(&mut self, other: &Reached) {
        for (seen, more) in self.seen.iter_mut().zip(&other.seen) {
            *seen |= more;
        }
    }

    /// The shortest way to a node, from its root on.
    pub(super) fn way(&self, flow: &Flow<'_>, node: Node) -> Vec<Node> {
        let Some(mut at) = flow.index(node).filter(|index| self.seen[index.index()]) else { return vec![] };
        let mut way = vec![flow.graph[at]];
        while let Some(from) = self.from[at.index()] {
            at = from;
            way.push(flow.graph[at]);
        }
        way.reverse();
        way
    }
}

/// Everything that any run of a saga may come to, requests included.
pub(super) fn everything(flow: &Flow<'_>, start: StepId) -> Reached {
    let roots: Vec<Node> = [start].into_iter().chain(requests(flow, start)).map(Node::Forward).collect();
    Reached::from(flow, &roots, |_, _, _| true)
}

/// Runs that can really be played: for each step the ways that lead to it, over what steps say when they are done, or as a no. A step
/// is free to say any of its outcomes and deliveries to come in any order, so the steps of a way can be played one after the other.
pub(super) struct Tree {
    /// For each step one way to it, itself included, and behind that the ways to what joined steps on it wait for; empty when
    /// nothing leads there.
    ways: Vec<Vec<Vec<Node>>>,
}

impl Tree {
    pub(super) fn of(flow: &Flow<'_>, start: StepId) -> Self {
        let forward =
            |from: Node, _, to: Node| !matches!((from, to), (Node::Compensation(_), _) | (_, Node::Compensation(_)));
        let reached = Reached::from(flow, &[Node::Forward(start)], forward);
        let single = |id| reached.way(flow, Node::Forward(id));
        let all = |id| {
            let mut ways = vec![single(id)];
            let mut at = 0;
            while at < ways.len() {
                // The last step of a way has to be done, not to be heard.
                let spoken = ways[at].len().saturating_sub(1);
                for mate in ways[at][..spoken].iter().flat_map(|node| mates(flow, *node)).collect::<Vec<_>>() {
                    let way = single(mate);
                    if !ways.contains(&way) {
                        ways.push(way);
                    }
                }
                at += 1;
            }
            if ways.iter().any(Vec::is_empty) { vec![] } else { ways }
        };
        Self { ways: flow.step_ids().map(all).collect() }
    }

    /// The way to a step, itself included; empty when there is none.
    pub(super) fn way(&self, step: StepId) -> &[Node] {
        self.ways[step.0].first().map_or(&[], Vec::as_slice)
    }

    /// Whether a step can only be come to when another was done, as far as its way says.
    pub(super) fn passes(&self, step: StepId, through: StepId) -> bool {
        step != through && self.ways[step.0].iter().flatten().any(|node| *node == Node::Forward(through))
    }

    /// The noes on the ways to a step.
    pub(super) fn noes(&self, flow: &Flow<'_>, step: StepId) -> Vec<EventId> {
        let no = |pair: &[Node]| match pair {
            [Node::Forward(by), Node::Event(event)] if !flow.step(*by).emits.contains(event) => Some(*event),
            _ => None,
        };
        self.ways[step.0].iter().flat_map(|way| way.windows(2)).filter_map(no).collect()
    }

    /// Whether, in one run, both steps can be come to and say their outcomes, or be done where none is named.
    pub(super) fn together(
        &self,
        flow: &Flow<'_>,
        (one, outcome): (StepId, Option<EventId>),
        (other, other_outcome): (StepId, Option<EventId>),
    ) -> bool {
        if one == other || self.way(one).is_empty() || self.way(other).is_empty() {
            return false;
        }
        let (ours, theirs) = (self.said(flow, one, outcome), self.said(flow, other, other_outcome));
        ours.iter().all(|one| theirs.iter().all(|other| compatible(flow, one, other)))
    }

    /// The ways to a step, with what it says at the end of the first, and with those that it waits for to say so.
    fn said(&self, flow: &Flow<'_>, step: StepId, outcome: Option<EventId>) -> Vec<Vec<Node>> {
        let mut ways = self.ways[step.0].clone();
        if let (Some(outcome), Some(way)) = (outcome, ways.first_mut()) {
            way.push(Node::Event(outcome));
            if flow.step(step).emits.contains(&outcome) {
                ways.extend(mates(flow, Node::Forward(step)).flat_map(|mate| self.ways[mate.0].clone()));
            }
        }
        ways
    }
}

/// The steps that must be done before what this one emits goes out.
fn mates<'f>(flow: &'f Flow<'_>, node: Node) -> impl Iterator<Item = StepId> + 'f {
    let step = if let Node::Forward(step) = node { Some(step) } else { None };
    step.into_iter().flat_map(|step| flow.step(step).joins.iter().copied())
}

/// Whether two ways can be gone in one run. Both begin at the start.
fn compatible(flow: &Flow<'_>, one: &[Node], other: &[Node]) -> bool {
    let common = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let last = common.checked_sub(1).map(|last| one[last]);
    match (last, one.get(common).or(other.get(common)), common == one.len() || common == other.len()) {
        // Two that hear one event go their ways, both.
        (Some(Node::Event(_)), ..) | (_, None, _) => true,
        // One goes on where the other ends, with that step done: by something that is said when done.
        (Some(Node::Forward(step)), Some(Node::Event(next)), true) => flow.step(step).emits.contains(next),
        // A step says one thing only.
        _ => false,
    }
}

/// Every node with its place.
pub(super) fn forwards<'f>(flow: &'f Flow<'_>) -> impl Iterator<Item = (NodeIndex, Node)> + 'f {
    flow.graph
        .node_references()
        .map(|(index, node)| (index, *node))
        .filter(|(_, node)| !matches!(node, Node::Compensation(_)))
}

/// A way for people, one line per step: `order/place-order emits OrderPlaced`.
pub(super) fn lines(flow: &Flow<'_>, way: &[Node]) -> Vec<String> {
    let mut lines = vec![];
    for (i, node) in way.iter().enumerate() {
        let said = way.get(i + 1).and_then(|next| if let Node::Event(event) = next { Some(*event) } else { None });
        let name = |event: EventId| flow.event(event).label();
        let heard =
            i.checked_sub(1).and_then(|i| if let Node::Event(event) = way[i] { Some(name(event)) } else { None });
        let (label, says) = match (node, said) {
            (Node::Forward(step), Some(event)) if flow.step(*step).emits.contains(&event) => {
                (flow.step(*step).label(), format!("emits {}", name(event)))
            }
            (Node::Forward(step), Some(event)) => (flow.step(*step).label(), format!("says no by {}", name(event))),
            (Node::Forward(step), None) => {
                (flow.step(*step).label(), heard.map_or("starts".to_owned(), |heard| format!("hears {heard}")))
            }
            (Node::Compensation(step), said) => {
                let heard = heard.map(|heard| format!(" on {heard}")).unwrap_or_default();
                let says = said.map(|event| format!(" and emits {}", name(event))).unwrap_or_default();
                (flow.step(*step).label(), format!("is taken back{heard}{says}"))
            }
            (Node::Event(_), _) => continue,
        };
        lines.push(format!("{label} {says}"));
    }
    lines
}
