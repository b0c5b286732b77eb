//! What waits at a participant, to see that nobody overtakes it, and the person who looks after what is stuck.

use anyhow::Result;
use saga_core::{
    id::{ReactionId, SagaId},
    observer::Outcome,
    redrive::redrive,
    step::Direction,
    store::{WorkRow, WorkState},
};

use super::{BEGIN, instance::Reacted, world::World};
use crate::stage::PARTICIPANTS;

/// How often a running node looks at the work table, in milliseconds.
const LOOKS_EVERY: i64 = 100;

/// A row of the work table.
pub(super) struct Waits {
    id: ReactionId,
    saga: SagaId,
    step: String,
    direction: Direction,
    seq: i64,
    blocks: bool,
}

impl World<'_> {
    /// Nobody ran although an earlier reaction of the same saga waits.
    pub(super) fn overtaken(&mut self, participant: &'static str, reacted: &[Reacted]) {
        let waiting = self.waiting.entry(participant).or_default();
        for Reacted { saga, step, direction, event, outcome } in reacted {
            let Some(event) = event else { continue };
            let id = ReactionId::derive(*saga, step, *direction, event);
            let own = waiting.iter().find(|row| row.id == id).map(|row| row.seq);
            let ran = matches!(outcome, Outcome::Emitted | Outcome::Rejected | Outcome::Called);
            let waits = matches!(outcome, Outcome::Deferred(_) | Outcome::Parked | Outcome::Stuck(_) | Outcome::Called);
            let before = waiting
                .iter()
                .find(|row| row.saga == *saga && row.blocks && row.id != id && own.is_none_or(|own| row.seq < own));
            if let Some(before) = before.filter(|_| ran && *direction == Direction::Forward) {
                let text =
                    format!("{participant}: {step} ran although {} {} waits before it", before.step, before.direction);
                self.ether.violated("parked in order", Some(*saga), text);
                return;
            }
            waiting.retain(|row| {
                let closes = matches!(outcome, Outcome::Compensated | Outcome::NothingDone | Outcome::Called);
                let closed = *direction == Direction::Compensation && closes;
                row.id != id
                    && !(closed && row.saga == *saga && row.step == *step && row.direction == Direction::Forward)
            });
            if waits {
                let (step, blocks) = (step.clone(), !matches!(outcome, Outcome::Stuck(_)));
                waiting.push(Waits {
                    id,
                    saga: *saga,
                    step,
                    direction: *direction,
                    seq: own.unwrap_or(i64::MAX),
                    blocks,
                });
            }
        }
    }

    pub(super) async fn look_at_work(&mut self, participant: &'static str) -> Result<()> {
        let rows = self.stores[participant].work(100_000).await?;
        // What is due and was left is held until its step can take it: a node looks again after a while.
        let now = BEGIN + self.ether.now();
        let looks = |due: i64| if due <= now { now + LOOKS_EVERY } else { due };
        self.due.insert(participant, rows.iter().filter_map(|row| row.due_at).map(looks).min());
        let waits = |row: WorkRow| {
            let WorkRow { id, saga, step, direction, seq, blocks, .. } = row;
            Waits { id, saga, step, direction, seq, blocks }
        };
        self.waiting.insert(participant, rows.into_iter().map(waits).collect());
        Ok(())
    }

    /// Looks at what is stuck and tries it again. A compensation that waits for that has waited for a person.
    pub(super) async fn person(&mut self) -> Result<()> {
        for (name, store) in &self.stores {
            for row in store.work(100_000).await? {
                if row.direction == Direction::Compensation && row.state == WorkState::Parked {
                    let text = format!("{name}: the compensation of {} waits for a person", row.step);
                    self.ether.violated("nobody waits for a person", Some(row.saga), text);
                }
            }
            let stuck =
                store.work(100_000).await?.into_iter().filter(|row| row.state == WorkState::Stuck && row.blocks);
            let stuck: Vec<_> = stuck.map(|row| (row.id, row.saga)).collect();
            if !stuck.is_empty() {
                let again = redrive(store, &self.ether.clock, &stuck).await?;
                self.ether.log(format_args!("a person redrives {} reactions of {name}", again.len()));
            }
        }
        for name in PARTICIPANTS {
            self.look_at_work(name).await?;
        }
        // What is told of that waits for the running participants.
        for i in 0..self.instances.len() {
            self.sweep_later(i);
        }
        Ok(())
    }
}
