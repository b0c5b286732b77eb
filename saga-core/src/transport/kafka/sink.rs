//! The producer: a message counts as published when the broker has acknowledged it, and only then.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer, future_producer::DeliveryFuture},
};

use super::{
    ANSWER_WITHIN, MISSING_FOR, POLL,
    config::{BOTH, KafkaConfig, PRODUCER, creation_error},
    locked,
    voice::Voice,
};
use crate::{
    envelope::Message,
    transport::{BoxFuture, PublishError, Sink, TransportError},
};

/// Makes sinks.
#[derive(Debug)]
pub struct KafkaSink;

impl KafkaSink {
    /// Connects in the background. Only a refused setting is an error here.
    pub fn connect(config: &KafkaConfig) -> Result<Arc<dyn Sink>, TransportError> {
        let config = config.with(&[BOTH, PRODUCER])?;
        let producer = produce_with(&config).map_err(creation_error)?;
        Ok(Arc::new(Publishing { config, producer: Mutex::new(producer), known: Mutex::default() }))
    }
}

#[derive(Default)]
pub(super) struct PublisherContext(Voice);

impl ClientContext for PublisherContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }
}

type Publisher = FutureProducer<PublisherContext>;

struct Publishing {
    config: ClientConfig,
    producer: Mutex<Publisher>,
    /// Topics that were there when they were first published to. Publishing to one that is not creates it on many brokers, with
    /// one partition and the wrong retention.
    known: Mutex<HashSet<String>>,
}

pub(super) fn produce_with(config: &ClientConfig) -> Result<Publisher, KafkaError> {
    config.create_with_context(PublisherContext::default())
}

impl Sink for Publishing {
    fn publish<'a>(&'a self, messages: &'a [Message]) -> BoxFuture<'a, Vec<Result<(), PublishError>>> {
        Box::pin(async move {
            let producer = match self.working() {
                Ok(producer) => producer,
                Err(error) => return messages.iter().map(|_| Err(failure(&error))).collect(),
            };
            let missing = match self.missing(&producer, messages).await {
                Ok(missing) => missing,
                Err(error) => return messages.iter().map(|_| Err(failure(&error))).collect(),
            };
            let mut sent = Vec::with_capacity(messages.len());
            for message in messages {
                sent.push(if missing.contains(message.topic.as_str()) {
                    Err(KafkaError::MessageProduction(Code::UnknownTopic))
                } else {
                    send(&producer, record(message)).await
                });
            }
            let mut results = Vec::with_capacity(messages.len());
            let mut too_large = Vec::new();
            for (index, sent) in sent.into_iter().enumerate() {
                let result = match sent {
                    Ok(sent) => acknowledged(sent).await,
                    Err(error) => Err(error),
                };
                if result == Err(KafkaError::MessageProduction(Code::MessageSizeTooLarge)) {
                    too_large.push(index);
                }
                results.push(result.map_err(|error| failure(&error)));
            }
            // The broker measures what the client packed together, so only what is refused alone is too large.
            for index in too_large.into_iter().filter(|_| messages.len() > 1) {
                let result = match send(&producer, record(&messages[index])).await {
                    Ok(sent) => acknowledged(sent).await,
                    Err(error) => Err(error),
                };
                results[index] = result.map_err(|error| failure(&error));
            }
            results
        })
    }
}

impl Publishing {
    /// An idempotent producer that lost its place among the broker's sequence numbers is dead for good: the next one is new. What
    /// the old one had in flight is unknown to its callers, who publish it again.
    fn working(&self) -> Result<Publisher, KafkaError> {
        let mut producer = locked(&self.producer);
        if let Some((code, reason)) = producer.client().fatal_error() {
            tracing::warn!("the producer is replaced: {code}: {reason}");
            *producer = produce_with(&self.config)?;
        }
        Ok(producer.clone())
    }

    /// Topics among those of the messages that do not exist. Asks once for each; all the cluster's, as asking for one by its name
    /// would create it.
    async fn missing<'m>(&self, producer: &Publisher, messages: &'m [Message]) -> Result<HashSet<&'m str>, KafkaError> {
        let begun = Instant::now();
        loop {
            let mut missing: HashSet<&str> = messages.iter().map(|message| message.topic.as_str()).collect();
            missing.retain(|topic| !locked(&self.known).contains(*topic));
            if missing.is_empty() || begun.elapsed() > MISSING_FOR {
                return Ok(missing);
            }
            let asking = producer.clone();
            let ask = move || asking.client().fetch_metadata(None, ANSWER_WITHIN);
            let metadata = tokio::task::spawn_blocking(ask).await.map_err(|_| KafkaError::Canceled)??;
            let there = metadata.topics().iter().filter(|topic| topic.error().is_none());
            locked(&self.known).extend(there.map(|topic| topic.name().to_owned()));
            if missing.iter().any(|topic| !locked(&self.known).contains(*topic)) {
                tokio::time::sleep(POLL).await;
            }
        }
    }
}

pub(super) type Record<'a> = FutureRecord<'a, [u8], [u8]>;

fn record(message: &Message) -> Record<'_> {
    let headers = message.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let record = Record::to(&message.topic).payload(&message.body).headers(owned(headers));
    record.key(message.key.as_bytes())
}

pub(super) fn owned<'a>(headers: impl ExactSizeIterator<Item = (&'a str, &'a [u8])>) -> OwnedHeaders {
    let room = OwnedHeaders::new_with_capacity(headers.len());
    headers.fold(room, |all, (key, value)| all.insert(Header { key, value: Some(value) }))
}

pub(super) async fn send(producer: &Publisher, mut record: Record<'_>) -> Result<DeliveryFuture, KafkaError> {
    loop {
        match producer.send_result(record) {
            Ok(sent) => return Ok(sent),
            Err((KafkaError::MessageProduction(Code::QueueFull), again)) => record = again,
            Err((error, _)) => return Err(error),
        }
        // Back-pressure: what is in flight makes room.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) async fn acknowledged(sent: DeliveryFuture) -> Result<(), KafkaError> {
    match sent.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((error, _))) => Err(error),
        Err(_) => Err(KafkaError::Canceled),
    }
}

fn failure(error: &KafkaError) -> PublishError {
    let permanent = matches!(
        error.rdkafka_error_code(),
        Some(
            Code::MessageSizeTooLarge
                | Code::InvalidTopic
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::InvalidRecord
                | Code::PolicyViolation
        )
    );
    PublishError { permanent, reason: error.to_string() }
}
