//! How deliveries come and messages go: two small traits, Kafka's and the in-memory ones behind them.
//!
//! The contract that the conformance suite holds every transport to: messages of one partition come in order unless
//! redelivered; everything may come twice; nothing whose position was not [`Source::settled`] is lost over a restart; a message
//! counts as published only when the broker has acknowledged it.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::envelope::{Delivery, Message};

pub mod embedded;
pub mod kafka;
pub mod memory;

/// A boxed future: one per batch, never one per message.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How much one batch may hold. Below 100 reactions a batch the throughput halves, above 500 it falls again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Most messages.
    pub messages: usize,
    /// Most bytes of bodies; one message is always taken.
    pub bytes: usize,
}

impl Default for Limit {
    fn default() -> Self {
        Self { messages: 500, bytes: 4 << 20 }
    }
}

/// The next offset to read of a partition: everything before it is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// One more than the last settled offset.
    pub next: i64,
    /// The [`Delivery::epoch`] of the deliveries that were settled.
    pub epoch: u64,
}

impl Position {
    /// Behind all of these deliveries. Where batches follow each other and each is settled whole, the highest offset per partition is
    /// the end of a contiguous prefix.
    pub fn behind<'d>(deliveries: impl IntoIterator<Item = &'d Delivery>) -> Vec<Self> {
        let mut positions: Vec<Self> = Vec::new();
        for d in deliveries {
            let next = d.offset + 1;
            match positions.iter_mut().find(|p| p.partition == d.partition && p.topic == d.topic && p.epoch == d.epoch)
            {
                Some(position) => position.next = position.next.max(next),
                None => positions.push(Self { topic: d.topic.clone(), partition: d.partition, next, epoch: d.epoch }),
            }
        }
        positions
    }
}

/// Whether deliveries can come at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceStatus {
    /// Partitions are assigned (their number; zero when other instances have them all).
    Ready(usize),
    /// Not yet, or not any more, and why.
    NotReady(String),
}

/// Where deliveries come from.
pub trait Source: Send {
    /// Waits for one delivery, then takes whatever else is queued, up to `limit`; never waits for more. Cancel safe. Errors are
    /// those that waiting cannot mend (a missing topic, a position that retention has overtaken): the participant stops.
    fn receive(&mut self, limit: Limit) -> BoxFuture<'_, Result<Vec<Delivery>, TransportError>>;

    /// Everything before these positions is settled in the database. Positions of an assignment that is gone are ignored.
    fn settled(&mut self, positions: &[Position]) -> Result<(), TransportError>;

    /// For readiness.
    fn status(&self) -> SourceStatus;

    /// The longest time for which a topic that it reads keeps messages; `None` when that is not known. May take long, so it can be
    /// asked while the source is in use.
    fn retention(&self) -> BoxFuture<'static, Result<Option<Duration>, TransportError>> {
        Box::pin(async { Ok(None) })
    }

    /// Stores what was settled, leaves the group.
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>>;
}

/// Where messages go.
pub trait Sink: Send + Sync {
    /// Publishes all of them and waits for each acknowledgement; the results are in the order of the messages. A full queue
    /// is back-pressure, not an error.
    fn publish<'a>(&'a self, messages: &'a [Message]) -> BoxFuture<'a, Vec<Result<(), PublishError>>>;

    /// The same, and tells of each message, by its index, as soon as its result is known: one that waits for its partition's
    /// leader keeps nobody waiting but itself. Ends when it has told of all. By default it tells of all at the end.
    fn publish_each<'a>(&'a self, messages: Vec<Message>, mut told: Told<'a>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let results = self.publish(&messages).await;
            results.into_iter().enumerate().for_each(|(index, result)| told(index, result));
        })
    }

    /// The partition of its topic that a message goes to, as far as that is known: what is in one partition waits for one leader.
    /// By default a topic is one.
    fn partition(&self, _message: &Message) -> i32 {
        0
    }
}

/// Hears what became of a message: its index, and the result.
pub type Told<'a> = Box<dyn FnMut(usize, Result<(), PublishError>) + Send + 'a>;

/// The partition that a key belongs to, as Kafka's Java client and librdkafka's `murmur2` partitioner have it.
fn partition_of(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions.max(1)
}

/// The hash that they spread keys with.
fn murmur2(key: &[u8]) -> u32 {
    const MIX: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(MIX);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(MIX) ^ mixed.wrapping_mul(MIX);
    }
    if !rest.is_empty() {
        for (shift, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * shift);
        }
        hash = hash.wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    hash ^ (hash >> 15)
}

/// Why a message was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PublishError {
    /// True when trying again cannot help (too large, no such topic, not allowed).
    pub permanent: bool,
    /// What the broker or the client said.
    pub reason: String,
}

/// A transport that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// What should be a setting of the client is none; it is not shown, because it may be a password.
    #[error("a Kafka setting is not of the form KEY=VALUE")]
    NoSetting,
    /// A setting is refused, and why.
    #[error("the setting {name} is refused: {reason}")]
    Setting {
        /// Its name.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Topics are missing.
    #[error("the topics {missing:?} do not exist: create them with `migrate --topics`, the services never do")]
    MissingTopics {
        /// Their names.
        missing: Vec<String>,
    },
    /// Retention removed messages that were not read yet, or the topic was recreated. Never reset silently.
    #[error("partition {partition} of {topic} no longer has offset {offset}: messages were lost before they were read")]
    OutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset that was asked for.
        offset: i64,
    },
    /// The transport is closed.
    #[error("the transport is closed")]
    Closed,
    /// The client library gave up.
    #[error("{context}")]
    Client {
        /// What was tried.
        context: String,
        /// What it said.
        #[source]
        source: crate::step::BoxError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values are those of Kafka's own UtilsTest.
    #[test]
    fn keys_are_spread_as_kafka_spreads_them() {
        assert_eq!(murmur2(b"21") as i32, -973_932_308);
        assert_eq!(murmur2(b"foobar") as i32, -790_332_482);
        assert_eq!(murmur2(b"a-little-bit-long-string") as i32, -985_981_536);
        assert_eq!(murmur2(b"abc") as i32, 479_470_107);
    }
}
