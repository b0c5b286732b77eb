//! How far a group has come, asked from outside of it.

use std::{sync::Arc, time::Instant};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
};

use super::{
    ANSWER_WITHIN, POLL, client_error,
    config::{KafkaConfig, Kind, creation_error},
    topics::partition_counts,
};
use crate::transport::{Position, TransportError};

/// How far a group has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// How many messages of the topics the group has not settled.
    pub behind: u64,
    /// The end offsets of all partitions added up: while this stays the same, nothing was published.
    pub end: u64,
}

/// How far `config.group` has come on these topics, by its committed positions, which a participant commits once a second.
/// Does not join the group. Transaction markers and compacted messages count as messages.
pub async fn lag(config: &KafkaConfig, topics: &[&str]) -> Result<Lag, TransportError> {
    let context = format!("asking how far the group {} has come", config.group);
    ask(config, topics, context, |consumer, partitions| {
        let committed = consumer.committed_offsets(partitions, ANSWER_WITHIN)?;
        let mut lag = Lag::default();
        for element in committed.elements() {
            element.error()?;
            let (low, high) = consumer.fetch_watermarks(element.topic(), element.partition(), ANSWER_WITHIN)?;
            let next = match element.offset() {
                Offset::Offset(next) => next.max(low),
                _ => low,
            };
            lag.behind += u64::try_from(high - next).unwrap_or(0);
            lag.end += u64::try_from(high).unwrap_or(0);
        }
        Ok(lag)
    })
    .await
}

/// Commits the present ends of these topics for `config.group`, which must have no members: whoever joins it reads only what comes
/// later. For a participant with an empty database, to which events of earlier sagas would be news. Returns the positions;
/// their epochs are zero.
pub async fn skip(config: &KafkaConfig, topics: &[&str]) -> Result<Vec<Position>, TransportError> {
    let context = format!("moving the group {} to the end of its topics", config.group);
    ask(config, topics, context, |consumer, partitions| {
        let mut ends = Vec::with_capacity(partitions.count());
        for mut element in partitions.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let (_, next) = consumer.fetch_watermarks(topic, partition, ANSWER_WITHIN)?;
            ends.push(Position { topic: Arc::from(topic), partition, next, epoch: 0 });
            element.set_offset(Offset::Offset(next))?;
        }
        consumer.commit(&partitions, CommitMode::Sync)?;
        Ok(ends)
    })
    .await
}

/// Asks with all partitions of the topics and a consumer that has the group's name and never joins it.
async fn ask<T: Send + 'static>(
    config: &KafkaConfig,
    topics: &[&str],
    context: String,
    question: impl Fn(&BaseConsumer, TopicPartitionList) -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, TransportError> {
    let mut client = config.client(Kind::Consumer)?;
    client.set("group.id", &config.group).set("enable.auto.commit", "false");
    let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
    let asking = move || {
        let consumer: BaseConsumer = client.create().map_err(creation_error)?;
        let mut partitions = TopicPartitionList::new();
        for (topic, count) in partition_counts(&consumer, topics)? {
            for partition in 0..count {
                partitions.add_partition(&topic, partition);
            }
        }
        let begun = Instant::now();
        loop {
            match question(&consumer, partitions.clone()) {
                Err(error) if is_moving(&error) && begun.elapsed() < ANSWER_WITHIN => std::thread::sleep(POLL),
                answer => return answer.map_err(|error| client_error(&context, error)),
            }
        }
    };
    tokio::task::spawn_blocking(asking).await.map_err(|error| client_error("asking the broker", error))?
}

/// The broker that keeps the group's positions has just started, or another one takes over: in a moment one of them knows.
fn is_moving(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(Code::NotCoordinator | Code::CoordinatorLoadInProgress | Code::CoordinatorNotAvailable))
}
