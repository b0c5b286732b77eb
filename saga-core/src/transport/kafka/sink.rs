//! The producer: a message counts as published when the broker has acknowledged it, and only then.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer, future_producer::DeliveryFuture},
};

use super::{
    ANSWER_WITHIN, MISSING_FOR, POLL,
    config::{KafkaConfig, Kind, creation_error},
    locked,
    voice::Voice,
};
use crate::{
    envelope::Message,
    transport::{BoxFuture, PublishError, Sink, Told, TransportError, partition_of},
};

/// Makes sinks.
#[derive(Debug)]
pub struct KafkaSink;

impl KafkaSink {
    /// Connects in the background. Only a refused setting is an error here.
    pub fn connect(config: &KafkaConfig) -> Result<Arc<dyn Sink>, TransportError> {
        let config = config.client(Kind::Producer)?;
        let producer = produce_with(&config).map_err(creation_error)?;
        Ok(Arc::new(Publishing {
            config,
            producer: Mutex::new(producer),
            alone: Mutex::default(),
            known: Mutex::default(),
        }))
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
    /// Sends what was too large in company, once there was such a message.
    alone: Mutex<Option<Publisher>>,
    /// Topics that were there when they were first published to, and their numbers of partitions. Publishing to one that is not
    /// creates it on many brokers, with one partition and the wrong retention.
    known: Mutex<HashMap<String, usize>>,
}

pub(super) fn produce_with(config: &ClientConfig) -> Result<Publisher, KafkaError> {
    config.create_with_context(PublisherContext::default())
}

impl Sink for Publishing {
    fn publish<'a>(&'a self, messages: &'a [Message]) -> BoxFuture<'a, Vec<Result<(), PublishError>>> {
        Box::pin(async move {
            let mut results = vec![Ok(()); messages.len()];
            let told = Box::new(|index: usize, result| results[index] = result);
            self.publish_each(messages.to_vec(), told).await;
            results
        })
    }

    fn publish_each<'a>(&'a self, messages: Vec<Message>, mut told: Told<'a>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let ready = async {
                let producer = self.working()?;
                let missing = self.missing(&producer, &messages).await?;
                Ok((producer, missing))
            };
            let (producer, missing) = match ready.await {
                Ok(ready) => ready,
                Err(error) => return (0..messages.len()).for_each(|index| told(index, Err(failure(&error)))),
            };
            let company = messages.len() > 1;
            let mut sent = FuturesUnordered::new();
            for (index, message) in messages.into_iter().enumerate() {
                if missing.contains(&message.topic) {
                    told(index, Err(failure(&KafkaError::MessageProduction(Code::UnknownTopic))));
                    continue;
                }
                match send(&producer, record(&message)).await {
                    Ok(delivery) => sent.push(async move {
                        let result = match acknowledged(delivery).await {
                            Err(error) if company && is_too_large(&error) => self.publish_alone(&message).await,
                            result => result,
                        };
                        (index, result)
                    }),
                    Err(error) => told(index, Err(failure(&error))),
                }
            }
            while let Some((index, result)) = sent.next().await {
                told(index, result.map_err(|error| failure(&error)));
            }
        })
    }

    fn partition(&self, message: &Message) -> i32 {
        // Asked for once, so that after partitions were added it is a guess. Nothing but whom it waits with rests on it.
        let partitions = locked(&self.known).get(&message.topic).copied().unwrap_or(1);
        i32::try_from(partition_of(message.key.as_bytes(), partitions)).unwrap_or(0)
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

    /// The broker measures what the client packed together, so only what is refused alone is too large. Whatever else is being
    /// published, this producer packs nothing.
    async fn publish_alone(&self, message: &Message) -> Result<(), KafkaError> {
        let producer = {
            let mut alone = locked(&self.alone);
            match alone.as_ref().filter(|producer| producer.client().fatal_error().is_none()) {
                Some(producer) => producer.clone(),
                None => {
                    let mut config = self.config.clone();
                    alone.insert(produce_with(config.set("batch.num.messages", "1"))?).clone()
                }
            }
        };
        acknowledged(send(&producer, record(message)).await?).await
    }

    /// Topics among those of the messages that do not exist. Asks once for each; all the cluster's, as asking for one by its name
    /// would create it.
    async fn missing(&self, producer: &Publisher, messages: &[Message]) -> Result<HashSet<String>, KafkaError> {
        let begun = Instant::now();
        let mut missing: HashSet<String> = {
            let known = locked(&self.known);
            let unknown = messages.iter().filter(|message| !known.contains_key(&message.topic));
            unknown.map(|message| message.topic.clone()).collect()
        };
        loop {
            if missing.is_empty() || begun.elapsed() > MISSING_FOR {
                return Ok(missing);
            }
            let asking = producer.clone();
            let ask = move || asking.client().fetch_metadata(None, ANSWER_WITHIN);
            let metadata = tokio::task::spawn_blocking(ask).await.map_err(|_| KafkaError::Canceled)??;
            let there = metadata.topics().iter().filter(|topic| topic.error().is_none());
            locked(&self.known).extend(there.map(|topic| (topic.name().to_owned(), topic.partitions().len())));
            missing.retain(|topic| !locked(&self.known).contains_key(topic));
            if !missing.is_empty() {
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

fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(Code::MessageSizeTooLarge)
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
