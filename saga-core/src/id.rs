//! Ids and keys, all of them derived or time-ordered.
//!
//! The invariant: running a reaction again gives the same event id and the same idempotency key, whatever process runs it, so
//! that the next participant and the other system recognise a repetition.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{clock::Clock, step::Direction};

/// The namespace of every derived id (RFC 9562, section 5.5). Drawn once; changing it would make a repetition look new.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f2d_8f0a_53c4_4d0b_9d63_0a1f_7c2e_51b8);

/// One saga: a UUIDv7 minted where the saga starts, so its age can be read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SagaId(pub Uuid);

impl SagaId {
    /// A saga that starts now.
    pub fn mint(clock: &Clock) -> Self {
        Self(clock.time_ordered_uuid())
    }

    /// The least id of a saga that started at this time or later, in milliseconds since the Unix epoch (RFC 9562, section 5.7: an
    /// id begins with its time).
    pub(crate) fn first_of(time: i64) -> Self {
        Self(Uuid::from_u128(u128::from(time.max(0).unsigned_abs() & 0xffff_ffff_ffff) << 80))
    }

    /// When the saga started, in milliseconds since the Unix epoch; `None` for an id that is no UUIDv7.
    pub fn started_at(self) -> Option<i64> {
        let (seconds, nanos) = self.0.get_timestamp().filter(|_| self.0.get_version_num() == 7)?.to_unix();
        i64::try_from(seconds).ok()?.checked_mul(1000)?.checked_add(i64::from(nanos / 1_000_000))
    }
}

impl fmt::Display for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for SagaId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// One event. Ours are UUIDv5; an event from elsewhere may carry any text of up to 256 bytes (CloudEvents 1.0, `id`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub String);

impl EventId {
    /// The id of what a step emits: UUIDv5 of (saga, participant, step, direction, event type).
    pub fn derive(saga: SagaId, participant: &str, step: &str, direction: Direction, event_type: &str) -> Self {
        Self(derive(&["event", &saga.to_string(), participant, step, direction.as_str(), event_type]).to_string())
    }
}

impl EventId {
    /// The id of a signal about a reaction. Its place in their order makes it unique.
    pub(crate) fn of_signal(reaction: ReactionId, event_type: &str, seq: i64) -> Self {
        Self(derive(&["signal", &reaction.to_string(), event_type, &seq.to_string()]).to_string())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What another system recognises a repeated call by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IdempotencyKey(pub Uuid);

impl IdempotencyKey {
    /// UUIDv5 of (saga, participant, step, direction): the same for every attempt.
    pub fn derive(saga: SagaId, participant: &str, step: &str, direction: Direction) -> Self {
        Self(derive(&["key", &saga.to_string(), participant, step, direction.as_str()]))
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One reaction: one event at one step in one direction. The primary key of the work table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReactionId(pub Uuid);

impl ReactionId {
    /// UUIDv5 of (saga, step, direction, event id): a redelivered event finds the row of its first delivery.
    pub fn derive(saga: SagaId, step: &str, direction: Direction, event: &EventId) -> Self {
        Self(derive(&["reaction", &saga.to_string(), step, direction.as_str(), &event.0]))
    }

    /// A message that is no event has only its place in the log.
    pub fn of_message(topic: &str, partition: i32, offset: i64) -> Self {
        Self(derive(&["message", topic, &partition.to_string(), &offset.to_string()]))
    }
}

impl fmt::Display for ReactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Parts are separated by a byte that UTF-8 never contains, so that ("ab", "c") and ("a", "bc") differ.
fn derive(parts: &[&str]) -> Uuid {
    let mut name = Vec::with_capacity(160);
    for part in parts {
        name.extend_from_slice(part.as_bytes());
        name.push(0xff);
    }
    Uuid::new_v5(&NAMESPACE, &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_has_the_same_ids_and_nothing_else_has() {
        let saga = SagaId(Uuid::from_u128(7));
        let id = |step, direction| EventId::derive(saga, "payment", step, direction, "shop.payment.charged.v1");
        assert_eq!(id("charge-customer", Direction::Forward), id("charge-customer", Direction::Forward));
        assert_ne!(id("charge-customer", Direction::Forward), id("charge-customer", Direction::Compensation));
        assert_ne!(derive(&["ab", "c"]), derive(&["a", "bc"]));
        // Pinned: a new version that derived another id would take every repetition for something new.
        let key = |direction| IdempotencyKey::derive(saga, "payment", "charge-customer", direction).to_string();
        assert_eq!(id("charge-customer", Direction::Forward).0, "0f68887d-750a-522c-9a4a-a41370c661ef");
        assert_eq!(key(Direction::Forward), "d1f4fa4b-8482-5a0e-9072-d20271f766b3");
        assert_eq!(key(Direction::Compensation), "f814e08e-e018-59d1-89e4-d7cf3cc8c551");
    }

    #[test]
    fn a_saga_id_tells_its_age() {
        let clock = Clock::manual(1_700_000_000_123, 1);
        assert_eq!(SagaId::mint(&clock).started_at(), Some(1_700_000_000_123));
        assert_eq!(SagaId(Uuid::from_u128(7)).started_at(), None);
    }
}
