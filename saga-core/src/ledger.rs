//! One saga's rows while a transaction holds its lock: read once, folded in memory, written in bulk.
//!
//! The invariant: a row is written with the state that it was read in, however often it changed in between.

use std::collections::BTreeMap;

use saga_compensation::State;

use crate::{
    envelope::Message,
    id::ReactionId,
    participant::Contract,
    step::Direction,
    store::{Changes, LedgerRow, WorkRow, WorkState},
};

impl LedgerRow {
    /// Remembers where the record went.
    pub(crate) fn record_went(&mut self, message: &Message) {
        // PostgreSQL's text holds no NUL, and a subject may come from elsewhere.
        let subject = message.headers.iter().find(|(name, value)| name == "ce_subject" && !value.contains('\0'));
        self.record_topic = Some(message.topic.clone());
        self.record_subject = subject.map(|(_, value)| value.clone());
    }

    /// The event that the step was compensated on, as far as what was said of it tells.
    pub(crate) fn closed_by(&self) -> Option<&str> {
        let mut headers = self.compensation.iter().flat_map(|message| &message.headers);
        headers.find(|(name, _)| name == "ce_causationid").map(|(_, value)| value.as_str())
    }

    /// Whether a person has discarded this reaction of the row's step.
    pub(crate) fn has_discarded(&self, reaction: ReactionId) -> bool {
        self.notes.iter().any(|note| note.reaction == reaction)
    }

    /// Whether the row is there only because its trigger was discarded before the step had ever run (see [`crate::discard`]).
    pub(crate) fn is_vacant(&self) -> bool {
        let opened = || ReactionId::derive(self.saga, &self.step, Direction::Forward, &self.trigger);
        self.state == State::Rejected && self.record.is_none() && !self.notes.is_empty() && self.has_discarded(opened())
    }
}

/// The rows of one saga at this participant.
#[derive(Debug, Default)]
pub(crate) struct SagaRows {
    ledger: BTreeMap<String, Slot>,
    work: Vec<WorkSlot>,
}

#[derive(Debug)]
struct Slot {
    read: Option<State>,
    row: LedgerRow,
    dirty: bool,
}

#[derive(Debug)]
struct WorkSlot {
    row: WorkRow,
    stored: bool,
    dirty: bool,
    gone: bool,
    /// Its step was closed before it had run.
    closed: bool,
}

impl SagaRows {
    pub(crate) fn read_ledger(&mut self, row: LedgerRow) {
        self.ledger.insert(row.step.clone(), Slot { read: Some(row.state), row, dirty: false });
    }

    /// Rows come in the order of their `seq`.
    pub(crate) fn read_work(&mut self, row: WorkRow) {
        self.work.push(WorkSlot { row, stored: true, dirty: false, gone: false, closed: false });
    }

    /// The name that this saga knows a step by, and that its rows, ids and keys carry: the one under which its first row was written.
    pub(crate) fn name_of(&self, contract: &Contract) -> &'static str {
        self.knows(contract).unwrap_or(contract.name)
    }

    /// The same, where there is a row.
    pub(crate) fn knows(&self, contract: &Contract) -> Option<&'static str> {
        if contract.formerly.is_empty() {
            return Some(contract.name);
        }
        let in_ledger = contract.names().find(|name| self.ledger.contains_key(*name));
        in_ledger.or_else(|| contract.names().find(|name| self.waiting().any(|row| row.step == *name)))
    }

    /// The row of a step, by the name that the saga knows it by ([`SagaRows::name_of`]).
    pub(crate) fn ledger(&self, step: &str) -> Option<&LedgerRow> {
        self.ledger.get(step).map(|slot| &slot.row)
    }

    /// The step that emitted the saga's ending here, if one did.
    pub(crate) fn ended_by(&self) -> Option<&str> {
        self.ledger.values().find(|slot| slot.row.ended().is_some()).map(|slot| slot.row.step.as_str())
    }

    pub(crate) fn put_ledger(&mut self, row: LedgerRow) {
        match self.ledger.get_mut(&row.step) {
            Some(slot) => {
                slot.row = row;
                slot.dirty = true;
            }
            None => {
                self.ledger.insert(row.step.clone(), Slot { read: None, row, dirty: true });
            }
        }
    }

    pub(crate) fn work(&self, id: ReactionId) -> Option<&WorkRow> {
        self.waiting().find(|row| row.id == id)
    }

    /// Everything that waits, in order.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &WorkRow> {
        self.work.iter().filter(|slot| !slot.gone).map(|slot| &slot.row)
    }

    pub(crate) fn forward_of(&self, step: &str) -> Option<&WorkRow> {
        self.waiting().find(|row| row.step == step && row.direction == Direction::Forward && row.blocks)
    }

    /// Inserts or replaces; a new row goes behind all others.
    pub(crate) fn put_work(&mut self, mut row: WorkRow) {
        match self.work.iter_mut().find(|slot| slot.row.id == row.id) {
            Some(slot) => {
                row.seq = slot.row.seq;
                slot.row = row;
                slot.dirty = true;
                slot.gone = false;
                slot.closed = false;
            }
            None => {
                row.seq = self.work.last().map_or(1, |slot| slot.row.seq + 1);
                self.work.push(WorkSlot { row, stored: false, dirty: true, gone: false, closed: false });
            }
        }
    }

    pub(crate) fn remove_work(&mut self, id: ReactionId) {
        if let Some(slot) = self.work.iter_mut().find(|slot| slot.row.id == id) {
            slot.gone = true;
        }
    }

    /// The waiting forward of a step that is closed will never run. A second trigger stays for its person.
    pub(crate) fn remove_forwards_of(&mut self, step: &str) {
        for slot in &mut self.work {
            if slot.row.step == step && slot.row.direction == Direction::Forward && slot.row.blocks && !slot.gone {
                slot.gone = true;
                slot.closed = true;
            }
        }
    }

    /// Whether a reaction has to wait. Forwards wait behind everything of their saga; a compensation only behind an earlier
    /// compensation that is going on by itself: it never waits for another step's forward, nor for a person.
    pub(crate) fn blocked(&self, direction: Direction, before: Option<i64>) -> bool {
        self.waiting().filter(|row| row.blocks && before.is_none_or(|seq| row.seq < seq)).any(|row| match direction {
            Direction::Forward => true,
            Direction::Compensation => row.direction == Direction::Compensation && row.state != WorkState::Stuck,
        })
    }

    /// The parked rows, in order.
    pub(crate) fn parked(&self) -> Vec<ReactionId> {
        self.waiting().filter(|row| row.state == WorkState::Parked).map(|row| row.id).collect()
    }

    /// The rows that go away, and of which somebody was told or will hear nothing else: those of a step that was closed before they
    /// had run emit nothing.
    pub(crate) fn settled(&self) -> impl Iterator<Item = WorkRow> {
        let settled = self.work.iter().filter(|slot| slot.gone && (slot.row.told > 0 || slot.closed));
        settled.map(|slot| slot.row.clone())
    }

    pub(crate) fn collect(self, changes: &mut Changes) {
        for Slot { read, row, dirty } in self.ledger.into_values() {
            match (dirty, read) {
                (false, _) => {}
                (true, Some(expected)) => changes.ledger_updates.push((expected, row)),
                (true, None) => changes.ledger_inserts.push(row),
            }
        }
        for slot in self.work {
            match (slot.gone, slot.stored) {
                (true, true) => changes.work_done.push(slot.row.id),
                (true, false) => {}
                (false, _) if slot.dirty => changes.work.push(slot.row),
                (false, _) => {}
            }
        }
    }
}
