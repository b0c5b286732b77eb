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
            for edge in flow.graph.edges(at) {
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
    /// For each step the shortest way to it, itself included; empty when nothing leads there.
    ways: Vec<Vec<Node>>,
    /// For each step those whose ways are gone, too: itself, and whatever joined steps on the way wait for.
    needs: Vec<Vec<StepId>>,
    /// For each step those that were heard before, on any of these ways.
    before: Vec<Vec<bool>>,
    /// For each step those on whose ways it is.
    after: Vec<Vec<StepId>>,
    /// For each step the noes on these ways.
    noes: Vec<Vec<EventId>>,
}

impl Tree {
    pub(super) fn of(flow: &Flow<'_>, start: StepId) -> Self {
        let forward =
            |from: Node, _, to: Node| !matches!((from, to), (Node::Compensation(_), _) | (_, Node::Compensation(_)));
        let reached = Reached::from(flow, &[Node::Forward(start)], forward);
        let mut ways: Vec<Vec<Node>> = flow.step_ids().map(|id| reached.way(flow, Node::Forward(id))).collect();
        let mut needs = vec![];
        for id in flow.step_ids() {
            let (mut all, mut at) = (vec![id], 0);
            while let Some(step) = all.get(at) {
                // The last step of a way has to be done, not to be heard.
                let way = &ways[step.0];
                let heard = &way[..way.len().saturating_sub(1)];
                let more: Vec<StepId> = heard.iter().flat_map(|node| mates(flow, *node)).collect();
                for mate in more {
                    if !all.contains(&mate) {
                        all.push(mate);
                    }
                }
                at += 1;
            }
            needs.push(all);
        }
        let lost: Vec<bool> = needs.iter().map(|all| all.iter().any(|step| ways[step.0].is_empty())).collect();
        for (way, _) in ways.iter_mut().zip(lost).filter(|(_, lost)| *lost) {
            way.clear();
        }
        let mut before = vec![vec![false; ways.len()]; ways.len()];
        let mut noes = vec![vec![]; ways.len()];
        for (id, needs) in needs.iter().enumerate() {
            for way in needs.iter().map(|step| &ways[step.0]) {
                for (i, node) in way.iter().enumerate() {
                    if let Node::Forward(step) = node {
                        before[id][step.0] = true;
                        if let Some(Node::Event(event)) = way.get(i + 1)
                            && !flow.step(*step).emits.contains(event)
                            && !noes[id].contains(event)
                        {
                            noes[id].push(*event);
                        }
                    }
                }
            }
        }
        let later = |step: usize| flow.step_ids().filter(|id| id.0 != step && before[id.0][step]).collect();
        let after = (0..ways.len()).map(later).collect();
        Self { ways, needs, before, after, noes }
    }

    /// The way to a step, itself included; empty when there is none.
    pub(super) fn way(&self, step: StepId) -> &[Node] {
        &self.ways[step.0]
    }

    /// Whether another step was heard on the way to a step.
    pub(super) fn passes(&self, step: StepId, through: StepId) -> bool {
        step != through && self.before[step.0][through.0]
    }

    /// The steps on whose ways a step is.
    pub(super) fn after(&self, step: StepId) -> &[StepId] {
        &self.after[step.0]
    }

    /// What the steps on the way to a step say.
    pub(super) fn sayings(&self, step: StepId) -> Vec<(StepId, EventId)> {
        let said = |pair: &[Node]| match pair {
            [Node::Forward(step), Node::Event(event)] => Some((*step, *event)),
            _ => None,
        };
        self.needs[step.0].iter().flat_map(|need| self.ways[need.0].windows(2)).filter_map(said).collect()
    }

    /// The noes on the way to a step.
    pub(super) fn noes(&self, step: StepId) -> &[EventId] {
        &self.noes[step.0]
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
        let ours = self.said(flow, one, outcome);
        let theirs = self.said(flow, other, other_outcome);
        ours.iter().all(|one| theirs.iter().all(|other| one.goes_with(flow, other)))
    }

    /// The ways to a step, with what it says at the end of its own, and those of the steps that it waits for to say so.
    fn said(&self, flow: &Flow<'_>, step: StepId, outcome: Option<EventId>) -> Vec<Way<'_>> {
        let way = |of: &StepId| {
            let says = outcome.filter(|_| *of == step).map(Node::Event);
            Way { nodes: &self.ways[of.0], says }
        };
        let mut ways: Vec<Way<'_>> = self.needs[step.0].iter().map(way).collect();
        if outcome.is_some_and(|outcome| flow.step(step).emits.contains(&outcome)) {
            ways.extend(mates(flow, Node::Forward(step)).flat_map(|mate| &self.needs[mate.0]).map(way));
        }
        ways
    }
}

/// A way with what its last step says, if that matters.
struct Way<'t> {
    nodes: &'t [Node],
    says: Option<Node>,
}

impl Way<'_> {
    fn get(&self, place: usize) -> Option<Node> {
        self.nodes.get(place).copied().or(self.says.filter(|_| place == self.nodes.len()))
    }

    /// Whether both can be gone in one run.
    fn goes_with(&self, flow: &Flow<'_>, other: &Way<'_>) -> bool {
        // Both are branches of one tree: where they have a node in common, they have all before it.
        let (mut common, mut apart) = (0, self.nodes.len().min(other.nodes.len()));
        while common < apart {
            let middle = (common + apart) / 2;
            if self.nodes[middle] == other.nodes[middle] { common = middle + 1 } else { apart = middle }
        }
        if self.get(common).is_some() && self.get(common) == other.get(common) {
            common += 1;
        }
        let last = common.checked_sub(1).and_then(|last| self.get(last));
        match (last, self.get(common), other.get(common)) {
            // Two that hear one event go their ways, both.
            (Some(Node::Event(_)), ..) | (_, None, None) => true,
            // One goes on where the other ends, with that step done: by something that is said when done.
            (Some(Node::Forward(step)), Some(Node::Event(next)), None)
            | (Some(Node::Forward(step)), None, Some(Node::Event(next))) => flow.step(step).emits.contains(&next),
            // A step says one thing only.
            _ => false,
        }
    }
}

/// The steps that must be done before what this one emits goes out.
fn mates<'f>(flow: &'f Flow<'_>, node: Node) -> impl Iterator<Item = StepId> + 'f {
    let step = if let Node::Forward(step) = node { Some(step) } else { None };
    step.into_iter().flat_map(|step| flow.step(step).joins.iter().copied())
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
