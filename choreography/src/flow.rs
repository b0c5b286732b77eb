//! The merged flow: every step and every event of all participants, and who hears what.
//!
//! ```text
//! event ──heard──► forward(step) ──emits, rejects──► event ──heard──► compensation(step) ──emits──► event
//! ```
//!
//! The invariant: it holds what the manifests say, also where they contradict each other; judging is for the rules.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::graph::{DiGraph, NodeIndex};
use saga_core::{
    event::Ending,
    manifest::{DeclaredEvent, DeclaredStep, Manifest},
    timeline::short,
};

/// A step by its place in [`Flow::steps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub usize);

/// An event type by its place in [`Flow::events`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub usize);

/// A step of the merged flow, with its events resolved.
#[derive(Debug)]
pub struct FlowStep<'m> {
    /// Whose.
    pub participant: &'m str,
    /// What it declares.
    pub declared: &'m DeclaredStep,
    /// What triggers it.
    pub on: Vec<EventId>,
    /// What it emits when done, one of them.
    pub emits: Vec<EventId>,
    /// What it emits as a no, one of them.
    pub rejects: Vec<EventId>,
    /// What takes it back.
    pub compensated_on: Vec<EventId>,
    /// What taking it back emits, one of them.
    pub compensated: Vec<EventId>,
    /// The other steps that must be done before it emits.
    pub joins: Vec<StepId>,
}

/// An event type of the merged flow.
#[derive(Debug)]
pub struct FlowEvent<'m> {
    /// Its type.
    pub name: &'m str,
    /// Every participant that names it, and how it knows it, in the order of the manifests.
    pub known: Vec<(&'m str, &'m DeclaredEvent)>,
    /// The steps that may publish it, each once.
    pub published_by: Vec<StepId>,
    /// The steps that it triggers.
    pub triggers: Vec<StepId>,
    /// The steps that it takes back.
    pub compensates: Vec<StepId>,
}

/// A node of [`Flow::graph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// An event type.
    Event(EventId),
    /// A step, doing.
    Forward(StepId),
    /// A step, being taken back.
    Compensation(StepId),
}

/// What an edge of [`Flow::graph`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arrow {
    /// The event triggers the forward, or the compensation, that it points to.
    Heard,
    /// The forward, when done, or the compensation emits the event.
    Emits,
    /// The forward says no by the event.
    Rejects,
}

/// What a step is to its saga (Garcia-Molina and Salem, "Sagas", 1987; the names are those of Richardson, "Microservices Patterns",
/// 2018, section 4.3.2). Derived, never declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It may say no, and so may a step after it: then it is taken back.
    Compensatable,
    /// The last on its way that may say no: once it is done, the saga completes.
    Pivot,
    /// It cannot say no, so it is tried until it is done.
    Retriable,
}

impl Role {
    /// The word that tables carry.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Compensatable => "compensatable",
            Role::Pivot => "pivot",
            Role::Retriable => "retriable",
        }
    }
}

/// Who hears what and emits what.
#[derive(Debug)]
pub struct Flow<'m> {
    /// The manifests that it was made of.
    pub manifests: &'m [Manifest],
    /// Every step, participant by participant.
    pub steps: Vec<FlowStep<'m>>,
    /// Every event type that a step names, sorted by name.
    pub events: Vec<FlowEvent<'m>>,
    /// The same as a graph.
    pub graph: DiGraph<Node, Arrow>,
    nodes: BTreeMap<Node, NodeIndex>,
}

impl<'m> Flow<'m> {
    /// Merges manifests. An event that a step names without declaring it is known by nobody.
    pub fn of(manifests: &'m [Manifest]) -> Self {
        let mut events = BTreeMap::<&'m str, FlowEvent<'m>>::new();
        let unknown =
            |name| FlowEvent { name, known: vec![], published_by: vec![], triggers: vec![], compensates: vec![] };
        for manifest in manifests {
            let named =
                manifest.steps.iter().flat_map(|step| step.published().chain(&step.on).chain(&step.compensated_on));
            for name in manifest.events.keys().chain(named) {
                events.entry(name).or_insert_with(|| unknown(name));
            }
            for (name, declared) in &manifest.events {
                let event = events.entry(name).or_insert_with(|| unknown(name));
                event.known.push((&manifest.participant, declared));
            }
        }
        let ids: BTreeMap<&str, EventId> = events.keys().enumerate().map(|(i, name)| (*name, EventId(i))).collect();
        let mut events: Vec<FlowEvent<'m>> = events.into_values().collect();
        let mut steps = Vec::<FlowStep<'m>>::new();
        for manifest in manifests {
            let first = steps.len();
            for declared in &manifest.steps {
                let resolved = |names: &[String]| names.iter().map(|name| ids[name.as_str()]).collect::<Vec<_>>();
                let joined = |step: &String| manifest.steps.iter().position(|other| other.step == *step);
                steps.push(FlowStep {
                    participant: &manifest.participant,
                    declared,
                    on: resolved(&declared.on),
                    emits: resolved(&declared.emits),
                    rejects: resolved(&declared.rejects),
                    compensated_on: resolved(&declared.compensated_on),
                    compensated: resolved(&declared.compensated),
                    joins: declared.joins.iter().filter_map(joined).map(|i| StepId(first + i)).collect(),
                });
            }
        }
        let mut graph = DiGraph::new();
        let mut nodes = BTreeMap::new();
        let mut node =
            |graph: &mut DiGraph<Node, Arrow>, node: Node| *nodes.entry(node).or_insert_with(|| graph.add_node(node));
        for i in 0..events.len() {
            node(&mut graph, Node::Event(EventId(i)));
        }
        for (i, step) in steps.iter().enumerate() {
            let id = StepId(i);
            let forward = node(&mut graph, Node::Forward(id));
            for event in &step.on {
                events[event.0].triggers.push(id);
                let event = node(&mut graph, Node::Event(*event));
                graph.update_edge(event, forward, Arrow::Heard);
            }
            for (published, arrow) in [(&step.emits, Arrow::Emits), (&step.rejects, Arrow::Rejects)] {
                for event in published {
                    let event = node(&mut graph, Node::Event(*event));
                    graph.add_edge(forward, event, arrow);
                }
            }
            if !step.compensated_on.is_empty() {
                let compensation = node(&mut graph, Node::Compensation(id));
                for event in &step.compensated_on {
                    events[event.0].compensates.push(id);
                    let event = node(&mut graph, Node::Event(*event));
                    graph.update_edge(event, compensation, Arrow::Heard);
                }
                for event in &step.compensated {
                    let event = node(&mut graph, Node::Event(*event));
                    graph.update_edge(compensation, event, Arrow::Emits);
                }
            }
            let mut published: Vec<EventId> = step.published().collect();
            published.sort_unstable();
            published.dedup();
            for event in published {
                events[event.0].published_by.push(id);
            }
        }
        Self { manifests, steps, events, graph, nodes }
    }

    /// A step.
    pub fn step(&self, id: StepId) -> &FlowStep<'m> {
        &self.steps[id.0]
    }

    /// An event type.
    pub fn event(&self, id: EventId) -> &FlowEvent<'m> {
        &self.events[id.0]
    }

    /// Every step by its id.
    pub fn step_ids(&self) -> impl Iterator<Item = StepId> + use<> {
        (0..self.steps.len()).map(StepId)
    }

    /// Every event type by its id.
    pub fn event_ids(&self) -> impl Iterator<Item = EventId> + use<> {
        (0..self.events.len()).map(EventId)
    }

    /// What a step is to its saga: what cannot say no is retriable, and of those that can the last on each way is its pivot.
    pub fn role(&self, id: StepId) -> Role {
        if self.step(id).rejects.is_empty() {
            return Role::Retriable;
        }
        // What follows when nobody says no.
        let (mut next, mut seen) = (vec![id], BTreeSet::from([id]));
        while let Some(step) = next.pop() {
            for later in self.step(step).emits.iter().flat_map(|event| &self.event(*event).triggers) {
                if seen.insert(*later) {
                    if !self.step(*later).rejects.is_empty() {
                        return Role::Compensatable;
                    }
                    next.push(*later);
                }
            }
        }
        Role::Pivot
    }

    /// Where a node stands in [`Flow::graph`]; `None` for a compensation that does not exist.
    pub fn index(&self, node: Node) -> Option<NodeIndex> {
        self.nodes.get(&node).copied()
    }
}

impl FlowStep<'_> {
    /// Every event that it may publish; one that it publishes in several ways comes several times.
    pub fn published(&self) -> impl Iterator<Item = EventId> + '_ {
        self.emits.iter().chain(&self.rejects).chain(&self.compensated).copied()
    }

    /// `payment/charge-customer`, for people.
    pub fn label(&self) -> String {
        format!("{}/{}", self.participant, self.declared.step)
    }
}

impl FlowEvent<'_> {
    /// `shop.payment.charged.v1` as `PaymentCharged`, for people.
    pub fn label(&self) -> String {
        short(self.name)
    }

    /// How it ends a saga, by the first declaration that says so.
    pub fn ending(&self) -> Option<Ending> {
        self.known.iter().find_map(|(_, declared)| declared.ending)
    }
}
