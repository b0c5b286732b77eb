//! A broker in memory, for tests and simulation: partitions, groups and positions as Kafka has them, and nothing that waits.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use uuid::Uuid;

use super::{BoxFuture, Limit, Position, PublishError, Sink, Source, SourceStatus, TransportError};
use crate::envelope::{Delivery, Message};

/// Enough that several sagas share one and several do not.
const PARTITIONS: usize = 3;

/// A broker that several sources and sinks of one process share. Cheap to clone; clones are the same broker.
#[derive(Clone, Default)]
pub struct MemoryBroker(Arc<Shared>);

#[derive(Default)]
struct Shared {
    log: Mutex<Log>,
    arrived: Notify,
}

#[derive(Default)]
struct Log {
    topics: BTreeMap<Arc<str>, Vec<Vec<Delivery>>>,
    /// Next offset to read, per group, topic and partition.
    positions: BTreeMap<(String, Arc<str>, i32), i64>,
    epoch: u64,
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: usize = self.lock().topics.values().flatten().map(Vec::len).sum();
        f.debug_struct("MemoryBroker").field("messages", &messages).finish()
    }
}

impl MemoryBroker {
    /// A broker without messages. Topics come into being when they are named.
    pub fn new() -> Self {
        Self::default()
    }

    /// The one member of a group that it has at a time: a new one reads from where the group's positions stand, as after a crash.
    pub fn source(&self, group: &str, topics: &[&str]) -> Box<dyn Source> {
        let mut log = self.lock();
        log.epoch += 1;
        let epoch = log.epoch;
        let mut cursors = BTreeMap::new();
        for topic in topics {
            let topic: Arc<str> = Arc::from(*topic);
            for partition in 0..i32::try_from(PARTITIONS).unwrap_or(i32::MAX) {
                let stored = log.positions.get(&(group.to_owned(), topic.clone(), partition)).copied();
                cursors.insert((topic.clone(), partition), stored.unwrap_or(0));
            }
        }
        drop(log);
        Box::new(MemorySource { broker: self.clone(), group: group.to_owned(), epoch, cursors })
    }

    /// Where messages go.
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(MemorySink(self.clone()))
    }

    /// Everything on a topic, partition by partition.
    pub fn messages(&self, topic: &str) -> Vec<Delivery> {
        self.lock().topics.get(topic).into_iter().flatten().flatten().cloned().collect()
    }

    /// Appends a message with any bytes at all.
    pub fn append(&self, topic: &str, key: Option<Vec<u8>>, headers: Vec<(String, Vec<u8>)>, body: Vec<u8>) {
        let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, key.as_deref().unwrap_or_default()).as_u128();
        let partition = usize::try_from(hash % PARTITIONS as u128).unwrap_or(0);
        let topic: Arc<str> = Arc::from(topic);
        let mut log = self.lock();
        let partitions = log.topics.entry(topic.clone()).or_insert_with(|| vec![Vec::new(); PARTITIONS]);
        let messages = &mut partitions[partition];
        messages.push(Delivery {
            topic,
            partition: i32::try_from(partition).unwrap_or(0),
            offset: i64::try_from(messages.len()).unwrap_or(i64::MAX),
            epoch: 0,
            key,
            headers,
            body,
        });
        drop(log);
        self.0.arrived.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct MemorySource {
    broker: MemoryBroker,
    group: String,
    epoch: u64,
    cursors: BTreeMap<(Arc<str>, i32), i64>,
}

impl MemorySource {
    fn take(&mut self, limit: Limit) -> Vec<Delivery> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        let log = self.broker.lock();
        for ((topic, partition), cursor) in &mut self.cursors {
            let partitions = log.topics.get(topic);
            let messages = partitions.and_then(|all| all.get(usize::try_from(*partition).ok()?));
            let from = usize::try_from(*cursor).unwrap_or(usize::MAX);
            for delivery in messages.and_then(|all| all.get(from..)).unwrap_or_default() {
                bytes += delivery.body.len();
                if taken.len() >= limit.messages || (bytes > limit.bytes && !taken.is_empty()) {
                    return taken;
                }
                *cursor += 1;
                taken.push(Delivery { epoch: self.epoch, ..delivery.clone() });
            }
        }
        taken
    }
}

impl Source for MemorySource {
    fn receive(&mut self, limit: Limit) -> BoxFuture<'_, Result<Vec<Delivery>, TransportError>> {
        Box::pin(async move {
            loop {
                let broker = self.broker.clone();
                let mut arrived = std::pin::pin!(broker.0.arrived.notified());
                // Registered before looking, so that a message between the look and the wait wakes it.
                arrived.as_mut().enable();
                let taken = self.take(limit);
                if !taken.is_empty() {
                    return Ok(taken);
                }
                arrived.await;
            }
        })
    }

    fn settled(&mut self, positions: &[Position]) -> Result<(), TransportError> {
        let mut log = self.broker.lock();
        for position in positions.iter().filter(|position| position.epoch == self.epoch) {
            let key = (self.group.clone(), position.topic.clone(), position.partition);
            log.positions.insert(key, position.next);
        }
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        SourceStatus::Ready(self.cursors.len())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>> {
        Box::pin(async { Ok(()) })
    }
}

struct MemorySink(MemoryBroker);

impl Sink for MemorySink {
    fn publish<'a>(&'a self, messages: &'a [Message]) -> BoxFuture<'a, Vec<Result<(), PublishError>>> {
        Box::pin(async move {
            for message in messages {
                let headers = message.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes()));
                let key = Some(message.key.clone().into_bytes());
                self.0.append(&message.topic, key, headers.collect(), message.body.clone());
            }
            vec![Ok(()); messages.len()]
        })
    }
}
