//! Topics as a whole: made, and looked at from outside of any group.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
};

use super::{
    ANSWER_WITHIN, POLL, client_error,
    config::{BOTH, CONSUMER, KafkaConfig, creation_error},
    delivery, is_refusal,
};
use crate::{envelope::Delivery, transport::TransportError};

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// How many instances of one participant can share it.
    pub partitions: i32,
    /// Replicas of each partition.
    pub replication: i32,
    /// How long messages are kept; the broker's default when `None`.
    pub retention: Option<Duration>,
}

/// Creates the topics that do not exist and returns their names. Existing ones stay as they are.
pub async fn create_topics(config: &KafkaConfig, topics: &[TopicSpec]) -> Result<Vec<String>, TransportError> {
    let client = config.with(&[BOTH])?;
    let admin: AdminClient<DefaultClientContext> = client.create().map_err(creation_error)?;
    let retentions = topics.iter().map(|topic| topic.retention.map(|kept| kept.as_millis().to_string()));
    let retentions: Vec<Option<String>> = retentions.collect();
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .zip(&retentions)
        .map(|(topic, retention)| {
            let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replication));
            match retention {
                Some(millis) => new.set("retention.ms", millis),
                None => new,
            }
        })
        .collect();
    let options = AdminOptions::new().request_timeout(Some(ANSWER_WITHIN)).operation_timeout(Some(ANSWER_WITHIN));
    let results = admin.create_topics(&new, &options).await.map_err(|error| client_error("creating topics", error))?;
    let mut created = Vec::new();
    for result in results {
        match result {
            Ok(name) => created.push(name),
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                return Err(client_error(&format!("creating the topic {name}"), KafkaError::AdminOp(code)));
            }
        }
    }
    Ok(created)
}

/// The longest `retention.ms` of these topics; `None` where the broker does not say, as the embedded one does not.
pub(super) async fn longest_retention(config: &KafkaConfig, topics: &[String]) -> Option<Duration> {
    let asked = async {
        let admin: AdminClient<DefaultClientContext> = config.with(&[BOTH])?.create().map_err(creation_error)?;
        let options = AdminOptions::new().request_timeout(Some(ANSWER_WITHIN));
        let topics: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let described = admin.describe_configs(&topics, &options).await;
        described.map_err(|error| client_error("asking for the retention of topics", error))
    };
    let described = match asked.await {
        Ok(described) => described,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the retention of the topics is not known");
            return None;
        }
    };
    let of = |topic: &ConfigResource| {
        topic.get("retention.ms").and_then(|entry| entry.value.as_deref()?.parse::<i64>().ok())
    };
    // Negative: for ever (Kafka, topic configs).
    let known = described.iter().filter_map(|topic| topic.as_ref().ok().and_then(of));
    known.map(|millis| u64::try_from(millis).map_or(Duration::MAX, Duration::from_millis)).max()
}

/// Most bytes that [`read_all`] holds.
const READ_ALL_BYTES: usize = 1 << 30;

/// Reads topics from their beginning to what is their end now, outside any group. Topic after topic, each partition in order;
/// the epochs are zero. At most 1 GiB of bodies.
pub async fn read_all(config: &KafkaConfig, topics: &[&str]) -> Result<Vec<Delivery>, TransportError> {
    let mut client = config.with(&[BOTH, CONSUMER])?;
    // The client asks for a group's name; assigning by hand neither joins it nor, without commits, leaves a trace of it.
    client.set("group.id", format!("{}-reader", config.group)).set("enable.auto.commit", "false");
    let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = client.create().map_err(creation_error)?;
        let metadata = consumer
            .fetch_metadata(None, ANSWER_WITHIN)
            .map_err(|error| client_error("asking the broker for its topics", error))?;
        let mut all = Vec::new();
        let mut missing = Vec::new();
        for name in topics {
            match metadata.topics().iter().find(|topic| topic.name() == name && topic.error().is_none()) {
                Some(topic) => read_topic(&consumer, &Arc::from(name), topic.partitions().len(), &mut all)?,
                None => missing.push(name),
            }
        }
        if missing.is_empty() { Ok(all) } else { Err(TransportError::MissingTopics { missing }) }
    })
    .await
    .map_err(|error| client_error("reading topics", error))?
}

fn read_topic(
    consumer: &BaseConsumer,
    topic: &Arc<str>,
    partitions: usize,
    all: &mut Vec<Delivery>,
) -> Result<(), TransportError> {
    let failed = |error: KafkaError| client_error(&format!("reading the topic {topic}"), error);
    let start = all.len();
    let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for (_, partition) in (0..partitions).zip(0..) {
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
