//! Signals: what people should know of a saga besides its events, on a topic of their own.
//!
//! The invariant: a signal is written in the transaction of what it tells, and published as events are, so that none is told that did
//! not happen and none that happened is left out. Sagas never depend on one: no participant hears them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    envelope::{Envelope, TraceContext},
    id::{EventId, ReactionId, SagaId},
    step::Direction,
    store::{OutboxRow, WorkRow},
};

/// The topic that a node publishes its signals on unless it is told another one.
pub const TOPIC: &str = "saga-signals";

/// What a signal tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tells {
    /// A reaction failed, and will be tried again.
    Deferred,
    /// A reaction waits behind a deferred one of its saga.
    Parked,
    /// A reaction has failed for longer than its patience, and goes on being retried.
    Impatient,
    /// A reaction needs a person.
    Stuck,
    /// A person has made a reaction due again.
    Redriven,
    /// A person has given a reaction up.
    Discarded,
    /// A reaction changed nothing, and no event would ever show it: see `Fold::absorbed`.
    Absorbed,
    /// A reaction that had been told of is settled.
    Settled,
}

impl Tells {
    const ALL: [Tells; 8] = [
        Tells::Deferred,
        Tells::Parked,
        Tells::Impatient,
        Tells::Stuck,
        Tells::Redriven,
        Tells::Discarded,
        Tells::Absorbed,
        Tells::Settled,
    ];

    /// The type of the signal's event.
    pub const fn event_type(self) -> &'static str {
        match self {
            Tells::Deferred => "saga.signal.deferred.v1",
            Tells::Parked => "saga.signal.parked.v1",
            Tells::Impatient => "saga.signal.impatient.v1",
            Tells::Stuck => "saga.signal.stuck.v1",
            Tells::Redriven => "saga.signal.redriven.v1",
            Tells::Discarded => "saga.signal.discarded.v1",
            Tells::Absorbed => "saga.signal.absorbed.v1",
            Tells::Settled => "saga.signal.settled.v1",
        }
    }

    /// What an event of this type tells; `None` when it is no signal.
    pub fn of_type(event_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tells| tells.event_type() == event_type)
    }

    /// Whether the reaction waits no longer.
    pub const fn is_final(self) -> bool {
        matches!(self, Tells::Discarded | Tells::Absorbed | Tells::Settled)
    }
}

/// The body of a signal, as JSON. Names are those of log fields and work rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signal<'s> {
    /// Who tells it.
    pub participant: &'s str,
    /// Of which step; empty for a message that reached none.
    pub step: &'s str,
    /// Which way.
    pub direction: Direction,
    /// Of which saga; the nil UUID for a message that names none.
    pub saga: SagaId,
    /// Which reaction: the id of its work row.
    pub reaction: ReactionId,
    /// The event that it reacts to, where there is one.
    pub event: Option<&'s EventId>,
    /// Attempts that were made.
    pub attempts: u32,
    /// Grows with each signal of the reaction: the greatest is the last one, in whatever order they are read. By and large the time,
    /// in milliseconds since the Unix epoch.
    pub seq: i64,
    /// Where the event stood in the log.
    pub topic: &'s str,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Why, cut to a bounded length.
    pub reason: &'s str,
}

impl WorkRow {
    /// The place of the next signal about this reaction, which the row remembers: it grows although clocks may not agree.
    pub(crate) fn next_told(&mut self, now: i64) -> i64 {
        self.told = now.max(self.told.saturating_add(1));
        self.told
    }
}

/// Tells of a waiting reaction what its row knows, on the topic that the row names; `None` where its participant publishes no signals.
pub(crate) fn of_row(
    tells: Tells,
    participant: &str,
    step: &str,
    row: &mut WorkRow,
    reason: &str,
    clock: &Clock,
) -> Option<OutboxRow> {
    let topic = row.told_on.clone()?;
    let now = clock.now();
    let seq = row.next_told(now);
    let event = Envelope::decode(&row.delivery).ok();
    let signal = Signal {
        participant,
        step,
        direction: row.direction,
        saga: row.saga,
        reaction: row.id,
        event: event.as_ref().map(|event| &event.id),
        attempts: row.attempts,
        seq,
        topic: &row.delivery.topic,
        partition: row.delivery.partition,
        offset: row.delivery.offset,
        reason,
    };
    let trace = event.as_ref().map(|event| event.trace.clone()).unwrap_or_default();
    signal.row(tells, &topic, clock.time_ordered_uuid(), now, trace)
}

impl Signal<'_> {
    /// The row that publishes it; `None` where it cannot be written, which then only its log line tells.
    pub(crate) fn row(
        &self,
        tells: Tells,
        topic: &str,
        id: uuid::Uuid,
        now: i64,
        trace: TraceContext,
    ) -> Option<OutboxRow> {
        let envelope = Envelope {
            id: EventId::of_signal(self.reaction, tells.event_type(), self.seq),
            source: format!("/{}", self.participant),
            event_type: tells.event_type().to_owned(),
            time: Some(now),
            subject: None,
            saga: self.saga,
            causation: self.event.cloned(),
            step: Some(self.step.to_owned()).filter(|step| !step.is_empty()),
            kind: None,
            ending: None,
            hops: 0,
            trace,
            extensions: BTreeMap::new(),
            body: serde_json::to_vec(self).ok()?,
        };
        let message = envelope.encode(topic).ok()?;
        Some(OutboxRow { id, message, created_at: now })
    }
}
