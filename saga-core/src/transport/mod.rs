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
