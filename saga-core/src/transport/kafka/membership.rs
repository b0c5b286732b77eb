//! What happens when partitions come and go.
//!
//! The invariant: a position is handed to the client only under the assignment that its deliveries were read under.

use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, RDKafkaErrorCode as Code},
    types::RDKafkaRespErr,
};

use super::{
    POLL, is_refusal, locked,
    queue::{Assigned, Shared},
    voice::Voice,
};

/// Epochs are counted over all sources of the process, so that no position of one is ever taken by another.
static EPOCHS: AtomicU64 = AtomicU64::new(1);

pub(super) struct Membership {
    pub(super) shared: Arc<Shared>,
    pub(super) voice: Voice,
}

impl ClientContext for Membership {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.voice.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(&error, reason);
    }
}

impl ConsumerContext for Membership {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let outcome = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, partitions),
            _ => self.revoke(consumer, partitions),
        };
        if let Err(error) = outcome {
            locked(&self.shared.queue).rebalance_failed = Some(error);
        }
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, _: &TopicPartitionList) {
        match result {
            Ok(()) | Err(KafkaError::ConsumerCommit(Code::NoOffset)) => {}
            // Not lost: the position is committed with the next one, or its messages come again.
            Err(error) if self.voice.may_say("commit") => tracing::warn!("positions were not committed: {error}"),
            Err(_) => {}
        }
    }
}

impl Membership {
    /// Looks up the committed positions before anything is fetched: a partition without one starts at its beginning, said
    /// explicitly, and whatever is out of range later is therefore a loss.
    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Result<(), KafkaError> {
        let positions =
            if partitions.count() == 0 { partitions.clone() } else { self.committed(consumer, partitions)? };
        let mut queue = locked(&self.shared.queue);
        for mut element in positions.elements() {
            let next = match element.offset() {
                Offset::Offset(next) => Some(next),
                _ => {
                    element.set_offset(Offset::Beginning)?;
                    None
                }
            };
            let epoch = EPOCHS.fetch_add(1, Ordering::Relaxed);
            let topic = queue.assigned.entry(Arc::from(element.topic())).or_default();
            topic.insert(element.partition(), Assigned { epoch, next, settled: next.unwrap_or(0) });
        }
        queue.joined = true;
        drop(queue);
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&positions),
            _ => consumer.assign(&positions),
        }
    }

    fn committed(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &TopicPartitionList,
    ) -> Result<TopicPartitionList, KafkaError> {
        loop {
            let answer = consumer.committed_offsets(partitions.clone(), Duration::from_secs(2)).and_then(|positions| {
                positions.elements().iter().try_for_each(|element| element.error())?;
                Ok(positions)
            });
            match answer {
                Ok(positions) => return Ok(positions),
                // The broker is away. Nothing can be read without the positions, and the group does not wait longer than its
                // own timeout, so there is nothing better to do than asking again.
                Err(error) if !self.shared.closing.load(Ordering::Acquire) => {
                    let queue = locked(&self.shared.queue);
                    if is_refusal(&error) {
                        return Err(error);
                    }
                    if self.voice.may_say("committed") {
                        tracing::warn!("the committed positions cannot be read yet: {error}");
                    }
                    drop(self.shared.room.wait_timeout(queue, POLL).unwrap_or_else(PoisonError::into_inner));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Hands over what was settled until now (the client commits it as it gives the partitions up), then forgets the rest.
    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Result<(), KafkaError> {
        store_settled(consumer, &self.shared, &self.voice);
        let mut queue = locked(&self.shared.queue);
        for element in partitions.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            if let Some(assigned) = queue.assigned.get_mut(topic) {
                assigned.remove(&partition);
            }
            queue.settled.retain(|(name, number), _| (&**name, *number) != (topic, partition));
            queue.deliveries.retain(|delivery| (&*delivery.topic, delivery.partition) != (topic, partition));
        }
        queue.bytes = queue.deliveries.iter().map(|delivery| delivery.body.len()).sum();
        drop(queue);
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
            _ => consumer.unassign(),
        }
    }
}

pub(super) fn store_settled(consumer: &BaseConsumer<Membership>, shared: &Shared, voice: &Voice) {
    let settled = std::mem::take(&mut locked(&shared.queue).settled);
    if settled.is_empty() {
        return;
    }
    let mut positions = TopicPartitionList::with_capacity(settled.len());
    let mut outcome = Ok(());
    for ((topic, partition), next) in &settled {
        outcome = outcome.and(positions.add_partition_offset(topic, *partition, Offset::Offset(*next)));
    }
    // Not lost either: settled messages whose position was not stored come again and are found settled.
    if let Err(error) = outcome.and_then(|()| consumer.store_offsets(&positions))
        && voice.may_say("store")
    {
        tracing::warn!("positions were not stored: {error}");
    }
}
