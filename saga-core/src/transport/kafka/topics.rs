//! Topics as a whole: made, and asked about.

use std::time::Duration;

use rdkafka::{
    admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
};

use super::{
    ANSWER_WITHIN, client_error,
    config::{KafkaConfig, Kind, creation_error},
};
use crate::transport::TransportError;

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
    let client = config.client(Kind::Admin)?;
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
        let admin: AdminClient<DefaultClientContext> = config.client(Kind::Admin)?.create().map_err(creation_error)?;
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

/// The topics with their numbers of partitions. Asks for all topics of the cluster, as asking for one by its name creates it on
/// many brokers.
pub(super) fn partition_counts(
    consumer: &BaseConsumer,
    topics: Vec<String>,
) -> Result<Vec<(String, i32)>, TransportError> {
    let metadata = consumer
        .fetch_metadata(None, ANSWER_WITHIN)
        .map_err(|error| client_error("asking the broker for its topics", error))?;
    let mut found = Vec::with_capacity(topics.len());
    let mut missing = Vec::new();
    for name in topics {
        match metadata.topics().iter().find(|topic| topic.name() == name && topic.error().is_none()) {
            Some(topic) => found.push((name, i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX))),
            None => missing.push(name),
        }
    }
    if missing.is_empty() { Ok(found) } else { Err(TransportError::MissingTopics { missing }) }
}
