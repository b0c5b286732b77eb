//! The log looked at from outside any group: everything that is in it, and messages put there as they are.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use super::{
    ANSWER_WITHIN, POLL, client_error,
    config::{KafkaConfig, Kind, creation_error},
    delivery, is_refusal,
    sink::{Record, acknowledged, owned, produce_with, send},
    topics::partition_counts,
};
use crate::{envelope::Delivery, transport::TransportError};

/// Most bytes that [`read_all`] holds.
const READ_ALL_BYTES: usize = 1 << 30;

/// Reads topics from their beginning to what is their end now, outside any group. Topic after topic, each partition in order;
/// the epochs are zero. At most 1 GiB of bodies.
pub async fn read_all(config: &KafkaConfig, topics: &[&str]) -> Result<Vec<Delivery>, TransportError> {
    let mut client = config.client(Kind::Consumer)?;
    // The client asks for a group's name; assigning by hand neither joins it nor, without commits, leaves a trace of it.
    client.set("group.id", format!("{}-reader", config.group)).set("enable.auto.commit", "false");
    let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = client.create().map_err(creation_error)?;
        let mut all = Vec::new();
        for (topic, partitions) in partition_counts(&consumer, topics)? {
            read_topic(&consumer, &Arc::from(topic), partitions, &mut all)?;
        }
        Ok(all)
    })
    .await
    .map_err(|error| client_error("reading topics", error))?
}

/// Publishes messages as they are, however malformed: what a foreign publisher could send, and what was read by [`read_all`],
/// once more. The key decides on the partition; where the deliveries stood before counts for nothing.
pub async fn inject(config: &KafkaConfig, messages: &[Delivery]) -> Result<(), TransportError> {
    let producer = produce_with(&config.client(Kind::Producer)?).map_err(creation_error)?;
    let failed = |error| client_error("publishing messages as they are", error);
    let mut sent = Vec::with_capacity(messages.len());
    for message in messages {
        let headers = message.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let mut record = Record::to(&message.topic).payload(&message.body).headers(owned(headers));
        record.key = message.key.as_deref();
        sent.push(send(&producer, record).await.map_err(failed)?);
    }
    for sent in sent {
        acknowledged(sent).await.map_err(failed)?;
    }
    Ok(())
}

fn read_topic(
    consumer: &BaseConsumer,
    topic: &Arc<str>,
    partitions: i32,
    all: &mut Vec<Delivery>,
) -> Result<(), TransportError> {
    let failed = |error: KafkaError| client_error(&format!("reading the topic {topic}"), error);
    let start = all.len();
    let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition, ANSWER_WITHIN).map_err(failed)?;
        if low < high {
            ends.insert(partition, high);
            assignment.add_partition_offset(topic, partition, Offset::Offset(low)).map_err(failed)?;
        }
    }
    consumer.assign(&assignment).map_err(failed)?;
    let mut bytes: usize = all.iter().map(|delivery| delivery.body.len()).sum();
    let mut progress = Instant::now();
    while !ends.is_empty() {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                progress = Instant::now();
                let delivery = delivery(&message, Arc::clone(topic), 0);
                let end = ends.get(&delivery.partition).copied().unwrap_or(0);
                if delivery.offset < end {
                    bytes += delivery.body.len();
                    all.push(delivery);
                }
            }
            Some(Err(error)) if is_refusal(&error) => return Err(failed(error)),
            Some(Err(error)) => tracing::debug!(%topic, "while reading to the end: {error}"),
            None => {}
        }
        if bytes > READ_ALL_BYTES {
            return Err(client_error("reading topics", format!("{topic} holds more than {READ_ALL_BYTES} bytes")));
        }
        // Transaction markers and compacted messages have offsets and are never seen: the position passes them.
        for element in consumer.position().map_err(failed)?.elements() {
            if let Offset::Offset(next) = element.offset()
                && ends.get(&element.partition()).is_some_and(|end| next >= *end)
            {
                ends.remove(&element.partition());
            }
        }
        if progress.elapsed() > ANSWER_WITHIN {
            return Err(client_error("reading topics", format!("{topic} did not come to its end")));
        }
    }
    consumer.unassign().map_err(failed)?;
    all[start..].sort_by_key(|delivery| (delivery.partition, delivery.offset));
    Ok(())
}
