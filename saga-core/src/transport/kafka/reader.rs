//! The consumer's thread: it polls whatever happens, so the group never takes a slow participant for a dead one.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::BorrowedMessage,
};
use tokio::sync::oneshot;

use super::{
    CLOSE_WITHIN, MISSING_FOR, POLL, client_error, delivery, is_refusal, locked,
    membership::{Membership, store_settled},
    queue::{Queue, Shared},
    voice::Voice,
};
use crate::transport::TransportError;

/// A full queue is waited for so long before partitions are paused, because pausing throws away what was fetched ahead.
const PAUSE_AFTER: Duration = Duration::from_millis(300);
/// Most messages polled before the thread looks around.
const BURST: usize = 200;

pub(super) struct Reader {
    pub(super) consumer: BaseConsumer<Membership>,
    pub(super) shared: Arc<Shared>,
    pub(super) topics: Vec<String>,
    pub(super) probed: Instant,
    pub(super) paused: bool,
}

impl Reader {
    pub(super) fn live(mut self, done: oneshot::Sender<Result<(), TransportError>>) {
        let shared = Arc::clone(&self.shared);
        let work = std::panic::AssertUnwindSafe(move || {
            if let Err(error) = self.read() {
                // Told before leaving, which may take long when the broker is away.
                locked(&self.shared.queue).failed = Some(error);
                self.shared.arrived.notify_one();
            }
            self.leave()
        });
        let left = std::panic::catch_unwind(work)
            .unwrap_or_else(|_| Err(client_error("reading from Kafka", "the consumer's thread panicked")));
        locked(&shared.queue).ended = true;
        shared.arrived.notify_one();
        if let Err(Err(error)) = done.send(left) {
            tracing::warn!("a source was dropped before it was closed, and leaving the group failed: {error}");
        }
    }

    fn is_closing(&self) -> bool {
        self.shared.closing.load(Ordering::Acquire)
    }

    fn voice(&self) -> &Voice {
        &self.consumer.context().voice
    }

    fn read(&mut self) -> Result<(), TransportError> {
        while !self.is_closing() && !self.topics_exist()? {
            // Before the subscription nothing comes but errors and lines for the log.
            if let Some(Err(error)) = self.consumer.poll(Duration::ZERO) {
                self.judge(error)?;
            }
            self.idle(POLL);
        }
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        self.consumer.subscribe(&topics).map_err(|error| client_error("subscribing", error))?;
        while !self.is_closing() {
            store_settled(&self.consumer, &self.shared, self.voice());
            self.probe()?;
            self.throttle()?;
            self.burst()?;
            if let Some(error) = locked(&self.shared.queue).rebalance_failed.take() {
                return Err(client_error("taking over or giving up partitions", error));
            }
        }
        Ok(())
    }

    fn idle(&self, time: Duration) {
        let queue = locked(&self.shared.queue);
        drop(self.shared.room.wait_timeout(queue, time).unwrap_or_else(PoisonError::into_inner));
    }

    /// True when all topics are there, false while that is not known. Asks for all topics of the cluster, because asking for one
    /// by its name creates it on many brokers.
    fn topics_exist(&self) -> Result<bool, TransportError> {
        let answer = self.consumer.fetch_metadata(None, Duration::from_secs(1));
        let mut queue = locked(&self.shared.queue);
        let metadata = match answer {
            Ok(metadata) => metadata,
            Err(error) => {
                queue.not_ready = Some(format!("the broker does not answer: {error}"));
                return Ok(false);
            }
        };
        let known = metadata.topics().iter().filter(|topic| topic.error().is_none());
        let known: Vec<&str> = known.map(|topic| topic.name()).collect();
        let missing = self.topics.iter().filter(|topic| !known.contains(&topic.as_str()));
        let missing: Vec<String> = missing.cloned().collect();
        if missing.is_empty() {
            (queue.missing_since, queue.not_ready, queue.suspect_topics) = (None, None, false);
            return Ok(true);
        }
        let since = *queue.missing_since.get_or_insert_with(Instant::now);
        queue.not_ready = Some(format!("the topics {missing:?} do not exist"));
        if since.elapsed() > MISSING_FOR { Err(TransportError::MissingTopics { missing }) } else { Ok(false) }
    }

    /// Once a second: are topics gone, is a broker that was away back?
    fn probe(&mut self) -> Result<(), TransportError> {
        let (suspect, away) = {
            let queue = locked(&self.shared.queue);
            (queue.suspect_topics, queue.not_ready.is_some())
        };
        if (suspect || away) && self.probed.elapsed() > Duration::from_secs(1) {
            self.probed = Instant::now();
            self.topics_exist()?;
        }
        Ok(())
    }

    /// Waits while the queue is full; if that takes long, pauses the partitions and goes on polling for the group's sake.
    fn throttle(&mut self) -> Result<(), TransportError> {
        let queue = locked(&self.shared.queue);
        if !self.paused && !queue.is_over(1) {
            return Ok(());
        }
        let full = |queue: &mut Queue| queue.is_over(2) && !self.is_closing();
        let waited = self.shared.room.wait_timeout_while(queue, PAUSE_AFTER, full);
        let still_full = waited.unwrap_or_else(PoisonError::into_inner).0.is_over(2);
        let failed = |error| client_error("pausing and resuming partitions", error);
        let assignment = self.consumer.assignment().map_err(failed)?;
        if still_full {
            // Again each time: partitions that came meanwhile are not paused yet.
            self.consumer.pause(&assignment).map_err(failed)?;
        } else if self.paused {
            self.consumer.resume(&assignment).map_err(failed)?;
        }
        self.paused = still_full;
        Ok(())
    }

    fn burst(&self) -> Result<(), TransportError> {
        let mut wait = POLL;
        for _ in 0..BURST {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => self.push(&message),
                Some(Err(error)) => self.judge(error)?,
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    fn push(&self, message: &BorrowedMessage<'_>) {
        let mut queue = locked(&self.shared.queue);
        // A partition that was just revoked: whoever has it now reads the message.
        let Some((topic, partitions)) = queue.assigned.get_key_value(message.topic()) else { return };
        let Some(epoch) = partitions.get(&message.partition()).map(|assigned| assigned.epoch) else { return };
        let delivery = delivery(message, Arc::clone(topic), epoch);
        if let Some(assigned) =
            queue.assigned.get_mut(message.topic()).and_then(|partitions| partitions.get_mut(&message.partition()))
        {
            assigned.next = Some(delivery.offset + 1);
        }
        queue.bytes += delivery.body.len();
        queue.deliveries.push_back(delivery);
        drop(queue);
        self.shared.arrived.notify_one();
    }

    fn judge(&self, error: KafkaError) -> Result<(), TransportError> {
        if is_refusal(&error) || matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            return Err(client_error(&format!("reading from Kafka ({})", self.voice().last()), error));
        }
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset) => Err(self.out_of_range(error)),
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                locked(&self.shared.queue).suspect_topics = true;
                Ok(())
            }
            Some(Code::AllBrokersDown) => {
                locked(&self.shared.queue).not_ready = Some(format!("no broker answers: {}", self.voice().last()));
                Ok(())
            }
            // The client mends everything else by itself, and has said it to the log.
            _ => Ok(()),
        }
    }

    /// The client does not say which partition it means, so all are compared with what the broker has.
    fn out_of_range(&self, error: KafkaError) -> TransportError {
        let positions: Vec<(Arc<str>, i32, i64)> = {
            let queue = locked(&self.shared.queue);
            let topics = queue.assigned.iter();
            let all = topics.flat_map(|(topic, all)| all.iter().map(move |(number, one)| (topic, *number, one.next)));
            all.filter_map(|(topic, partition, next)| Some((Arc::clone(topic), partition, next?))).collect()
        };
        for (topic, partition, offset) in positions {
            match self.consumer.fetch_watermarks(&topic, partition, Duration::from_secs(2)) {
                Ok((low, high)) if (low..=high).contains(&offset) => {}
                Ok(_) => return TransportError::OutOfRange { topic: topic.to_string(), partition, offset },
                Err(error) => tracing::warn!(%topic, partition, "the broker does not say what it has: {error}"),
            }
        }
        client_error(&format!("a position is lost ({})", self.voice().last()), error)
    }

    /// Commits, leaves the group. Here and not in a destructor of somebody else's thread, because it may take long.
    fn leave(self) -> Result<(), TransportError> {
        store_settled(&self.consumer, &self.shared, self.voice());
        let begun = Instant::now();
        let committed = loop {
            match self.consumer.commit_consumer_state(CommitMode::Sync) {
                Ok(()) | Err(KafkaError::ConsumerCommit(Code::NoOffset)) => break Ok(()),
                // Others leave at the same time. Whatever is polled meanwhile was never settled.
                Err(KafkaError::ConsumerCommit(Code::RebalanceInProgress)) if begun.elapsed() < CLOSE_WITHIN / 3 => {
                    drop(self.consumer.poll(POLL));
                }
                // The group went on without this member, as after a silence: others read these messages again, and absorb them.
                Err(KafkaError::ConsumerCommit(Code::IllegalGeneration | Code::UnknownMemberId)) => {
                    tracing::warn!("the group went on without this member: what was settled last may come again");
                    break Ok(());
                }
                Err(error) => break Err(client_error("committing the last positions", error)),
            }
        };
        drop(self.consumer);
        committed
    }
}
