//! Whether a saga has ended well: asked of states in which nothing more can happen.
//!
//! A saga ends well if nothing waits for a person, exactly one ending was emitted, and the steps agree with it: when it completed none
//! is taken back or shut, when it is cancelled none is done that should have been taken back or should not have run.
//!
//! Of an end with two endings only that is told: that some steps agree with the one and some with the other is its consequence.

use saga_compensation::State as Ledger;
use saga_core::{event::Ending, participant::StepKind, step::Direction};

use super::model::{Model, Player, Row, State};
use crate::finding::Code;

/// Something that is wrong with an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Fault {
    pub(super) code: Code,
    /// At which step.
    pub(super) step: usize,
    /// The emission that it is about, where there is one.
    pub(super) event: Option<usize>,
}

impl Model<'_, '_> {
    /// What is wrong with an end.
    pub(super) fn faults(&self, end: &State) -> Vec<Fault> {
        let steps = || self.steps.iter().zip(&end.rows).enumerate();
        let marked = |code, is: fn(&Row) -> bool| {
            let marked = steps().filter(move |(_, (_, row))| is(row));
            marked.map(move |(step, _)| Fault { code, step, event: None }).collect::<Vec<Fault>>()
        };
        let mut faults = marked(Code::SecondTrigger, |row| row.second_trigger);
        let refused = marked(Code::TwoEndings, |row| row.forward_stuck || row.compensation_stuck);
        if !refused.is_empty() {
            faults.extend(refused);
            return faults;
        }
        let endings: Vec<usize> = end.emitted.iter().filter(|event| self.emissions[*event].ending.is_some()).collect();
        let (event, ending) = match endings.as_slice() {
            [] => {
                faults.push(self.loose_end(end));
                return faults;
            }
            [only] => (*only, self.emissions[*only].ending),
            [.., last] => {
                faults.push(Fault { code: Code::TwoEndings, step: self.emissions[*last].step, event: Some(*last) });
                return faults;
            }
        };
        let disagrees = |step: usize, player: &Player, row: &Row| match ending {
            Some(Ending::Completed) => is_taken_back(player, row).then_some(Code::CompensatedThoughCompleted),
            _ => self.stands(end, step, player, row),
        };
        faults.extend(steps().filter_map(|(step, (player, row))| {
            disagrees(step, player, row).map(|code| Fault { code, step, event: Some(event) })
        }));
        faults
    }

    /// Why a step stands in the way of a cancelled ending.
    fn stands(&self, end: &State, step: usize, player: &Player, row: &Row) -> Option<Code> {
        if row.ledger != Some(Ledger::Done) {
            return None;
        }
        let is_cancelled = |event: usize| self.emissions[event].ending == Some(Ending::Cancelled);
        match player.kind {
            StepKind::Gate => Some(Code::NoGate),
            StepKind::Request => None,
            _ if self.is_compensatable(step) => Some(Code::Uncompensated),
            StepKind::Start => None,
            // Of joined steps each only notes that its own branch is done.
            _ if player.emits.is_empty() || !player.joins.is_empty() => None,
            // It is how the saga was cancelled, or what comes of that.
            _ if player.forward.both(&end.emitted).any(|event| is_cancelled(event) || self.takes_back(event)) => None,
            _ if row.opened.is_some_and(is_cancelled) => None,
            StepKind::Local | StepKind::External => Some(Code::NoGate),
        }
    }

    fn takes_back(&self, event: usize) -> bool {
        self.steps.iter().any(|player| player.compensated_on.contains(event))
    }

    /// Whether something takes the step back: not a gate, which can only be shut.
    pub(super) fn is_compensatable(&self, step: usize) -> bool {
        let player = &self.steps[step];
        let kind = matches!(player.kind, StepKind::Start | StepKind::Local | StepKind::External);
        kind && !self.flow.step(player.id).compensated_on.is_empty()
    }

    /// Where a saga without an ending stopped: a no or a compensation that leads to nothing is told before what waits for others, and
    /// that before an event or a step that leads to nothing, as many do that nothing has to follow.
    fn loose_end(&self, end: &State) -> Fault {
        let leads = |event: usize| {
            self.steps.iter().zip(&end.rows).any(|(player, row)| {
                let ran = row.opened == Some(event) || player.first_trigger_wins && player.on.contains(event);
                let triggered = ran && !matches!(row.ledger, None | Some(Ledger::Void));
                triggered || player.compensated_on.contains(event) && is_taken_back(player, row)
            })
        };
        let events = end.emitted.iter().filter(|event| !leads(*event)).map(|event| {
            let emission = self.emissions[event];
            let says_no = emission.direction == Direction::Compensation
                || end.rows[emission.step].ledger != Some(Ledger::Done)
                    && self.steps[emission.step].rejects.contains(&event);
            (if says_no { 0 } else { 3 }, emission.step, Some(event))
        });
        let silent = self.steps.iter().zip(&end.rows).enumerate().filter_map(|(step, (player, row))| {
            let rank = match row.ledger {
                Some(Ledger::Compensated | Ledger::Void) if !row.rejecting && !player.backward.meets(&end.emitted) => 1,
                Some(Ledger::Done) if !player.forward.meets(&end.emitted) && !player.joins.is_empty() => 2,
                Some(Ledger::Done) if !player.forward.meets(&end.emitted) => 4,
                _ => return None,
            };
            Some((rank, step, None))
        });
        let (_, step, event) = events.chain(silent).min().unwrap_or((0, self.start, None));
        Fault { code: Code::NoEnding, step, event }
    }
}

/// Taken back, or shut before it could run; a step that closed a call's key to say no is neither.
fn is_taken_back(player: &Player, row: &Row) -> bool {
    let closed = matches!(row.ledger, Some(Ledger::Compensating | Ledger::Compensated | Ledger::Void));
    closed && !row.rejecting && !player.compensated_on.is_empty()
}
