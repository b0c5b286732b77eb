//! A broker in memory, for tests and simulations: topics, partitions, groups and committed positions, no clock and no I/O.
//!
//! The same messages published and received by the same calls come out the same way: what [`Faults`] does is a function of its
//! seed. Groups, and what they committed, live as long as the broker, so dropping a source and making another is a restart.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{BoxFuture, Limit, Position, PublishError, Sink, Source, SourceStatus, TransportError};
use crate::envelope::{Delivery, Message};

/// What a network may do, on purpose. Each number is "about one in n", zero is never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Every choice follows from it.
    pub seed: u64,
    /// One in so many deliveries comes again at the end of its batch.
    pub duplicate: u64,
    /// Batches come shuffled, over partitions and topics, too.
    pub reorder: bool,
    /// One in so many messages is published, and the publisher told that it was not.
    pub lose_acknowledgement: u64,
}

/// A broker in memory; clones are the same broker.
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the sources when messages came or a group changed.
    changed: Notify,
}

struct State {
    topics: BTreeMap<Arc<str>, Vec<Vec<Stored>>>,
    groups: HashMap<String, Group>,
    faults: Faults,
    random: u64,
    /// Members and epochs are numbered from one counter, so none comes twice.
    counter: u64,
}

struct Stored {
    key: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

type Partition = (Arc<str>, i32);

#[derive(Default)]
struct Group {
    committed: BTreeMap<Partition, i64>,
    /// Member and the topics that it listens to, in the order of joining.
    members: BTreeMap<u64, Vec<String>>,
    assigned: BTreeMap<Partition, Assigned>,
}

struct Assigned {
    member: u64,
    epoch: u64,
    next: i64,
}

impl MemoryBroker {
    /// A broker with these topics and their numbers of partitions.
    pub fn new(topics: &[(&str, i32)]) -> Self {
        Self::with_faults(topics, Faults::default())
    }

    /// The same, on a bad day.
    pub fn with_faults(topics: &[(&str, i32)], faults: Faults) -> Self {
        let state = State { topics: BTreeMap::new(), groups: HashMap::new(), faults, random: faults.seed, counter: 0 };
        let broker = Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }) };
        for (name, partitions) in topics {
            broker.create_topic(name, *partitions);
        }
        broker
    }

    /// Creates a topic; one that exists stays as it is.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        let mut state = self.shared.lock();
        let partitions = (0..partitions.max(1)).map(|_| Vec::new()).collect();
        state.topics.entry(Arc::from(name)).or_insert(partitions);
        state.rebalance_all();
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// Exchanges the faults, so that a simulation can heal.
    pub fn set_faults(&self, faults: Faults) {
        let mut state = self.shared.lock();
        state.faults = faults;
        state.random = faults.seed;
    }

    /// A new member of a group. A topic that is missing shows as an error of [`Source::receive`].
    pub fn source(&self, group: &str, topics: &[&str]) -> Box<dyn Source> {
        let mut state = self.shared.lock();
        state.counter += 1;
        let member = state.counter;
        let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
        state.groups.entry(group.to_owned()).or_default().members.insert(member, topics.clone());
        state.rebalance(group);
        drop(state);
        self.shared.changed.notify_waiters();
        Box::new(MemorySource { shared: Arc::clone(&self.shared), group: group.to_owned(), topics, member })
    }

    /// Where messages go.
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(MemorySink { shared: Arc::clone(&self.shared) })
    }

    /// Stores a message as it is, however malformed: what a foreign publisher could send.
    ///
    /// Returns false when the topic does not exist.
    pub fn inject(&self, topic: &str, key: Option<&[u8]>, headers: &[(&str, &[u8])], body: &[u8]) -> bool {
        let stored = Stored {
            key: key.map(<[u8]>::to_vec),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect(),
            body: body.to_vec(),
        };
        let kept = self.shared.lock().store(topic, stored);
        self.shared.changed.notify_waiters();
        kept
    }

    /// Everything in a topic, partition after partition; the epochs are zero.
    pub fn messages(&self, topic: &str) -> Vec<Delivery> {
        let state = self.shared.lock();
        let Some((name, partitions)) = state.topics.get_key_value(topic) else { return Vec::new() };
        let deliveries = partitions.iter().zip(0..).flat_map(|(stored, partition)| {
            stored.iter().zip(0..).map(move |(stored, offset)| stored.delivery(name, partition, offset, 0))
        });
        deliveries.collect()
    }

    /// The position that a group committed; zero before its first.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> i64 {
        let state = self.shared.lock();
        let position = state.groups.get(group).and_then(|group| group.committed.get(&(Arc::from(topic), partition)));
        position.copied().unwrap_or(0)
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker").finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stored {
    fn delivery(&self, topic: &Arc<str>, partition: i32, offset: i64, epoch: u64) -> Delivery {
        let topic = Arc::clone(topic);
        let (key, headers, body) = (self.key.clone(), self.headers.clone(), self.body.clone());
        Delivery { topic, partition, offset, epoch, key, headers, body }
    }
}

impl State {
    fn store(&mut self, topic: &str, stored: Stored) -> bool {
        let Some(partitions) = self.topics.get_mut(topic) else { return false };
        // As Kafka's clients do it, so that a saga is in the same partition here and there. No key is partition zero.
        let index = stored.key.as_deref().map_or(0, |key| super::partition_of(key, partitions.len()));
        partitions[index].push(stored);
        true
    }

    fn rebalance_all(&mut self) {
        let groups: Vec<String> = self.groups.keys().cloned().collect();
        for group in groups {
            self.rebalance(&group);
        }
    }

    /// Spreads partitions over members. A partition that moves starts at the committed position, under a new epoch; one that
    /// stays keeps both.
    fn rebalance(&mut self, group: &str) {
        let Some(group) = self.groups.get_mut(group) else { return };
        let mut before = std::mem::take(&mut group.assigned);
        for (topic, partitions) in &self.topics {
            let members = group.members.iter();
            let listening: Vec<u64> =
                members.filter(|(_, topics)| topics.iter().any(|name| **name == **topic)).map(|(id, _)| *id).collect();
            if listening.is_empty() {
                continue;
            }
            for (index, partition) in (0..partitions.len()).zip(0..) {
                let key = (Arc::clone(topic), partition);
                let member = listening[index % listening.len()];
                let kept = before.remove(&key).filter(|assigned| assigned.member == member);
                let assigned = kept.unwrap_or_else(|| {
                    self.counter += 1;
                    let next = group.committed.get(&key).copied().unwrap_or(0);
                    Assigned { member, epoch: self.counter, next }
                });
                group.assigned.insert(key, assigned);
            }
        }
    }

    /// SplitMix64: one addition and three mixes, the same on every machine.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.random().is_multiple_of(n)
    }

    /// A position behind the end, as after a topic was recreated.
    fn out_of_range(&self, group: &str, member: u64) -> Option<TransportError> {
        let mut assigned = self.groups.get(group)?.assigned.iter();
        let ((topic, partition), lost) = assigned.find(|((topic, partition), one)| {
            let log = self.topics.get(topic).and_then(|logs| logs.get(*partition as usize));
            one.member == member && log.is_some_and(|log| one.next as usize > log.len())
        })?;
        Some(TransportError::OutOfRange { topic: topic.to_string(), partition: *partition, offset: lost.next })
    }

    fn take(&mut self, group: &str, member: u64, limit: Limit) -> Vec<Delivery> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let Some(group) = self.groups.get_mut(group) else { return batch };
        'full: for ((topic, partition), assigned) in &mut group.assigned {
            if assigned.member != member {
                continue;
            }
            let Some(log) = self.topics.get(topic).and_then(|logs| logs.get(*partition as usize)) else { continue };
            while let Some(stored) = log.get(assigned.next as usize) {
                if !batch.is_empty() && (batch.len() >= limit.messages || bytes + stored.body.len() > limit.bytes) {
                    break 'full;
                }
                bytes += stored.body.len();
                batch.push(stored.delivery(topic, *partition, assigned.next, assigned.epoch));
                assigned.next += 1;
            }
        }
        if self.faults.reorder {
            for upper in (1..batch.len()).rev() {
                let other = (self.random() % (upper as u64 + 1)) as usize;
                batch.swap(upper, other);
            }
        }
        for index in 0..batch.len() {
            if batch.len() < limit.messages && self.one_in(self.faults.duplicate) {
                batch.push(batch[index].clone());
            }
        }
        batch
    }
}

struct MemorySource {
    shared: Arc<Shared>,
    group: String,
    topics: Vec<String>,
    member: u64,
}

impl Source for MemorySource {
    fn receive(&mut self, limit: Limit) -> BoxFuture<'_, Result<Vec<Delivery>, TransportError>> {
        Box::pin(async move {
            loop {
                // Made before looking, so that a message between looking and waiting wakes it.
                let changed = self.shared.changed.notified();
                {
                    let mut state = self.shared.lock();
                    let missing = self.topics.iter().filter(|topic| !state.topics.contains_key(topic.as_str()));
                    let missing: Vec<String> = missing.cloned().collect();
                    if !missing.is_empty() {
                        return Err(TransportError::MissingTopics { missing });
                    }
                    if let Some(lost) = state.out_of_range(&self.group, self.member) {
                        return Err(lost);
                    }
                    let batch = state.take(&self.group, self.member, limit);
                    if !batch.is_empty() {
                        return Ok(batch);
                    }
                }
                changed.await;
            }
        })
    }

    fn settled(&mut self, positions: &[Position]) -> Result<(), TransportError> {
        let mut state = self.shared.lock();
        let Some(group) = state.groups.get_mut(&self.group) else { return Ok(()) };
        for position in positions {
            let key = (Arc::clone(&position.topic), position.partition);
            let current = group.assigned.get(&key);
            if current.is_some_and(|now| now.member == self.member && now.epoch == position.epoch) {
                let committed = group.committed.entry(key).or_default();
                *committed = position.next.max(*committed);
            }
        }
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        let state = self.shared.lock();
        let assigned = state.groups.get(&self.group).into_iter().flat_map(|group| group.assigned.values());
        SourceStatus::Ready(assigned.filter(|assigned| assigned.member == self.member).count())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>> {
        // Leaving the group is what dropping does, and positions are committed as they are settled.
        drop(self);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Drop for MemorySource {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(group) = state.groups.get_mut(&self.group) {
            group.members.remove(&self.member);
        }
        state.rebalance(&self.group);
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

struct MemorySink {
    shared: Arc<Shared>,
}

impl Sink for MemorySink {
    fn publish<'a>(&'a self, messages: &'a [Message]) -> BoxFuture<'a, Vec<Result<(), PublishError>>> {
        Box::pin(async move {
            let mut state = self.shared.lock();
            let mut results = Vec::with_capacity(messages.len());
            for message in messages {
                let headers = message.headers.iter();
                let stored = Stored {
                    key: Some(message.key.clone().into_bytes()),
                    headers: headers.map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect(),
                    body: message.body.clone(),
                };
                let lost = state.faults.lose_acknowledgement;
                results.push(if !state.store(&message.topic, stored) {
                    Err(PublishError { permanent: true, reason: format!("the topic {} does not exist", message.topic) })
                } else if state.one_in(lost) {
                    Err(PublishError { permanent: false, reason: "the acknowledgement was lost on purpose".to_owned() })
                } else {
                    Ok(())
                });
            }
            drop(state);
            self.shared.changed.notify_waiters();
            results
        })
    }
}
