//! The sagas of one start step as a transition system: its states. What can happen in them is in [`super::moves`].
//!
//! ```text
//! state = every step's ledger row + the set of events that were emitted
//! ```
//!
//! The invariant: a move of one step depends on the rows of its own cell only, and on which events were emitted.

use std::collections::BTreeMap;

use saga_compensation::{Kind, State as Ledger};
use saga_core::{event::Ending, participant::StepKind, step::Direction};

use super::set::Set;
use crate::flow::{EventId, Flow, StepId};

/// The sagas that one start step begins.
#[derive(Debug)]
pub(super) struct Model<'f, 'm> {
    pub(super) flow: &'f Flow<'m>,
    /// The start step's place in `steps`.
    pub(super) start: usize,
    /// Every step that such a saga can come to.
    pub(super) steps: Vec<Player>,
    /// Every event that such a saga can bring forth. Its id derives from the step, the direction and the type, so these three are it.
    pub(super) emissions: Vec<Emission>,
    /// How many cells there are.
    pub(super) cells: usize,
}

/// A step in the model. Emissions stand for themselves by their places.
#[derive(Debug)]
pub(super) struct Player {
    pub(super) id: StepId,
    pub(super) kind: StepKind,
    pub(super) verdicts: Kind,
    /// A request that can join the saga: of the participant that started it.
    pub(super) requestable: bool,
    pub(super) on: Set,
    pub(super) compensated_on: Set,
    pub(super) emits: Vec<usize>,
    pub(super) rejects: Vec<usize>,
    pub(super) compensated: Vec<usize>,
    /// What its forward may emit, either way.
    pub(super) forward: Set,
    /// What its compensation may emit.
    pub(super) backward: Set,
    pub(super) joins: Vec<usize>,
    pub(super) first_trigger_wins: bool,
    /// The endings that its participant may emit, by any step.
    pub(super) endings: Set,
    /// Steps that see each other's rows are of one cell: see [`super::reduce`].
    pub(super) cell: usize,
}

/// An event that a saga may bring forth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Emission {
    pub(super) step: usize,
    pub(super) event: EventId,
    pub(super) direction: Direction,
    /// By the publisher's own declaration.
    pub(super) ending: Option<Ending>,
}

/// Where a saga stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) rows: Box<[Row]>,
    pub(super) emitted: Set,
}

/// What a step's participant knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Row {
    pub(super) ledger: Option<Ledger>,
    /// The trigger; not kept where any trigger is as good as another.
    pub(super) opened: Option<usize>,
    /// The call's key was closed to say no, so the step is not one that was taken back.
    pub(super) rejecting: bool,
    /// A second trigger needs a person.
    pub(super) second_trigger: bool,
    /// The forward would end the saga again, and needs a person.
    pub(super) forward_stuck: bool,
    /// The same of the compensation.
    pub(super) compensation_stuck: bool,
    /// The request will never come: nobody has to change their mind.
    pub(super) withheld: bool,
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Move {
    pub(super) step: usize,
    /// The event that is delivered.
    pub(super) cause: Option<usize>,
    pub(super) what: What,
    pub(super) emits: Option<usize>,
    /// What it would emit ends a saga that has ended.
    pub(super) stuck: bool,
}

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum What {
    Requested,
    /// Nobody will request it. So no saga is found to end only because somebody did.
    Withheld,
    Called,
    Done,
    /// Done before those that it joins, so its event does not go out.
    Joined,
    Rejected,
    /// A no that closes the call's key first.
    RejectedInDoubt,
    SecondTrigger,
    Compensated,
    /// Taken back without knowing what the call came to.
    InDoubt,
    NothingDone,
}

impl<'f, 'm> Model<'f, 'm> {
    pub(super) fn of(flow: &'f Flow<'m>, start: StepId) -> Self {
        let reached = reached(flow, start);
        let local: BTreeMap<StepId, usize> = reached.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let mut emissions = Vec::new();
        for (step, id) in reached.iter().enumerate() {
            let declared = flow.step(*id);
            let forward = declared.emits.iter().chain(&declared.rejects).map(|event| (*event, Direction::Forward));
            let backward = declared.compensated.iter().map(|event| (*event, Direction::Compensation));
            for (event, direction) in forward.chain(backward) {
                let emission = Emission { step, event, direction, ending: ending(flow, *id, event) };
                if !emissions.contains(&emission) {
                    emissions.push(emission);
                }
            }
        }
        let all = |which: &dyn Fn(&Emission) -> bool| {
            Set::of(emissions.len(), emissions.iter().enumerate().filter(|(_, e)| which(e)).map(|(i, _)| i))
        };
        let participant = |step: usize| flow.step(reached[step]).participant;
        let player = |(step, id): (usize, &StepId)| {
            let declared = flow.step(*id);
            let places = |events: &[EventId], direction| {
                let place = |event: &EventId| {
                    let it = |e: &Emission| e.step == step && e.event == *event && e.direction == direction;
                    emissions.iter().position(it)
                };
                events.iter().filter_map(place).collect::<Vec<_>>()
            };
            let (emits, rejects) =
                (places(&declared.emits, Direction::Forward), places(&declared.rejects, Direction::Forward));
            let compensated = places(&declared.compensated, Direction::Compensation);
            let hears = matches!(declared.declared.kind, StepKind::Local | StepKind::External | StepKind::Gate);
            Player {
                id: *id,
                kind: declared.declared.kind,
                verdicts: declared.declared.kind.verdict_kind(),
                requestable: declared.declared.kind == StepKind::Request
                    && declared.participant == flow.step(start).participant,
                on: all(&|e| hears && declared.on.contains(&e.event)),
                compensated_on: all(&|e| declared.compensated_on.contains(&e.event)),
                forward: Set::of(emissions.len(), emits.iter().chain(&rejects).copied()),
                backward: Set::of(emissions.len(), compensated.iter().copied()),
                emits,
                rejects,
                compensated,
                joins: declared.joins.iter().filter_map(|id| local.get(id).copied()).collect(),
                first_trigger_wins: declared.declared.first_trigger_wins,
                endings: all(&|e| e.ending.is_some() && participant(e.step) == declared.participant),
                cell: step,
            }
        };
        let mut steps: Vec<Player> = reached.iter().enumerate().map(player).collect();
        let cells = assign_cells(&mut steps, &participant);
        let start = local.get(&start).copied().unwrap_or_default();
        Self { flow, start, steps, emissions, cells }
    }
}

fn ending(flow: &Flow<'_>, step: StepId, event: EventId) -> Option<Ending> {
    let participant = flow.step(step).participant;
    flow.event(event).known.iter().find(|(by, _)| *by == participant).and_then(|(_, declared)| declared.ending)
}

/// The steps that a saga can come to: by events, and by requests to the participant that started it.
fn reached(flow: &Flow<'_>, start: StepId) -> Vec<StepId> {
    let participant = flow.step(start).participant;
    let requests = flow.step_ids().filter(|id| {
        let step = flow.step(*id);
        step.participant == participant && step.declared.kind == StepKind::Request
    });
    let mut reached: Vec<StepId> = std::iter::once(start).chain(requests).collect();
    let mut next = 0;
    while let Some(id) = reached.get(next).copied() {
        next += 1;
        for event in flow.step(id).published() {
            let event = flow.event(event);
            for hearer in event.triggers.iter().chain(&event.compensates) {
                if !reached.contains(hearer) {
                    reached.push(*hearer);
                }
            }
        }
    }
    // Joined steps are asked for, even where nothing can trigger them.
    for id in reached.clone() {
        reached.extend(flow.step(id).joins.iter().copied());
    }
    reached.sort_unstable();
    reached.dedup();
    reached
}

/// Puts steps of which one's moves depend on another's row into one cell, and returns how many cells there are.
///
/// They are joined steps, and at a participant all that emit endings, for a second ending is refused, with the requests, which come
/// to nothing when the saga has ended.
fn assign_cells<'m>(steps: &mut [Player], participant: &impl Fn(usize) -> &'m str) -> usize {
    let ends = |player: &Player| {
        let own = |e: usize| player.forward.contains(e) || player.backward.contains(e);
        player.kind == StepKind::Request || player.endings.iter().any(own)
    };
    for i in 0..steps.len() {
        for j in 0..i {
            let joined = steps[i].joins.contains(&j) || steps[j].joins.contains(&i);
            let rivals =
                participant(i) == participant(j) && !steps[i].endings.is_empty() && ends(&steps[i]) && ends(&steps[j]);
            if joined || rivals {
                let (from, to) = (steps[i].cell, steps[j].cell);
                steps.iter_mut().filter(|player| player.cell == from).for_each(|player| player.cell = to);
            }
        }
    }
    let mut names: Vec<usize> = steps.iter().map(|player| player.cell).collect();
    names.sort_unstable();
    names.dedup();
    for player in steps.iter_mut() {
        player.cell = names.partition_point(|name| *name < player.cell);
    }
    names.len()
}
