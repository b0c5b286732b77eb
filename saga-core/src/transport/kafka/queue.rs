//! What the consumer's thread and the participant share: deliveries one way, settled positions the other way, under one lock.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Condvar, Mutex, atomic::AtomicBool},
    time::Instant,
};

use rdkafka::error::KafkaError;
use tokio::sync::Notify;

use crate::{
    envelope::Delivery,
    transport::{Limit, TransportError},
};

/// Above either of these the thread waits, then pauses its partitions: four batches.
const QUEUE_MESSAGES: usize = 2_000;
const QUEUE_BYTES: usize = 16 << 20;

/// What the thread and the participant share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) queue: Mutex<Queue>,
    /// Something was queued, or the thread failed.
    pub(super) arrived: Notify,
    /// Something was taken, or the source is closing.
    pub(super) room: Condvar,
    pub(super) closing: AtomicBool,
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) deliveries: VecDeque<Delivery>,
    pub(super) bytes: usize,
    pub(super) assigned: HashMap<Arc<str>, BTreeMap<i32, Assigned>>,
    /// Settled, not yet handed to the client.
    pub(super) settled: BTreeMap<(Arc<str>, i32), i64>,
    /// A callback cannot return an error, so the thread finds it here.
    pub(super) rebalance_failed: Option<KafkaError>,
    /// Why the thread gave up, for the next call of the participant.
    pub(super) failed: Option<TransportError>,
    pub(super) ended: bool,
    pub(super) joined: bool,
    pub(super) not_ready: Option<String>,
    /// When topics were first found missing.
    pub(super) missing_since: Option<Instant>,
    pub(super) suspect_topics: bool,
}

pub(super) struct Assigned {
    pub(super) epoch: u64,
    /// Where reading goes on, as far as known: for telling which partition is out of range.
    pub(super) next: Option<i64>,
    /// The highest settled position.
    pub(super) settled: i64,
}

impl Queue {
    pub(super) fn is_over(&self, share: usize) -> bool {
        self.deliveries.len() > QUEUE_MESSAGES / share || self.bytes > QUEUE_BYTES / share
    }
}

pub(super) fn take(queue: &mut Queue, limit: Limit) -> Vec<Delivery> {
    let mut batch: Vec<Delivery> = Vec::new();
    let mut bytes = 0;
    while let Some(delivery) = queue.deliveries.pop_front_if(|next| {
        batch.is_empty() || (batch.len() < limit.messages && bytes + next.body.len() <= limit.bytes)
    }) {
        bytes += delivery.body.len();
        batch.push(delivery);
    }
    queue.bytes -= bytes;
    batch
}
