//! Where Kafka is, and the settings of its clients: ours, what users may add, and what they may not.
//!
//! The invariant: no setting that safety rests on is left to a default or to a user.

use std::fmt;

use rdkafka::{ClientConfig, error::KafkaError};

use super::client_error;
use crate::transport::TransportError;

/// Where Kafka is, and who asks.
#[derive(Clone)]
pub struct KafkaConfig {
    /// Comma-separated `host:port`.
    pub brokers: String,
    /// The consumer group: the participant's name.
    pub group: String,
    /// Settings of librdkafka, for TLS, SASL and tuning. The ones that safety rests on are refused.
    pub extra: Vec<(String, String)>,
}

impl KafkaConfig {
    /// One of the [`extra`](Self::extra) settings, as people write it: `KEY=VALUE`. The error repeats nothing, as it may be a password.
    pub fn setting(pair: &str) -> Result<(String, String), TransportError> {
        match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
            _ => Err(TransportError::NoSetting),
        }
    }

    /// The settings of one kind of client: ours, and what users add, as far as that kind knows it.
    pub(super) fn client(&self, kind: Kind) -> Result<ClientConfig, TransportError> {
        if self.brokers.trim().is_empty() {
            let reason = "expected at least one host:port".to_owned();
            return Err(TransportError::Setting { name: "brokers".to_owned(), reason });
        }
        let (ours, foreign): (_, &[&[&str]]) = match kind {
            Kind::Consumer => (CONSUMER, &[PRODUCER_ONLY]),
            Kind::Producer => (PRODUCER, &[CONSUMER_ONLY]),
            Kind::Admin => (&[][..], &[CONSUMER_ONLY, PRODUCER_ONLY]),
        };
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in BOTH.iter().chain(ours) {
            config.set(*name, *value);
        }
        for (name, value) in &self.extra {
            let name = name.trim();
            if let Some((_, reason)) = OWNED.iter().find(|(owned, _)| *owned == name) {
                return Err(TransportError::Setting { name: name.to_owned(), reason: (*reason).to_owned() });
            }
            if !foreign.iter().any(|names| names.contains(&name)) {
                config.set(name, value);
            }
        }
        Ok(config)
    }
}

/// What a client is for. Users give their settings once, for all kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It reads.
    Consumer,
    /// It publishes.
    Producer,
    /// It does neither.
    Admin,
}

impl fmt::Debug for KafkaConfig {
    /// Names of the extra settings only: among their values are passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extra: Vec<&str> = self.extra.iter().map(|(name, _)| name.as_str()).collect();
        let mut shown = f.debug_struct("KafkaConfig");
        shown.field("brokers", &self.brokers).field("group", &self.group).field("extra", &extra).finish()
    }
}

/// What both directions need.
const BOTH: &[(&str, &str)] = &[
    ("log.connection.close", "false"),
    ("reconnect.backoff.max.ms", "1000"),
    // New topics and partitions are seen in half a minute, not in five.
    ("topic.metadata.refresh.interval.ms", "30000"),
];

const CONSUMER: &[(&str, &str)] = &[
    ("enable.auto.commit", "true"),
    ("auto.commit.interval.ms", "1000"),
    // Or positions count as settled before anybody has seen the message.
    ("enable.auto.offset.store", "false"),
    // The rebalance callback names every position itself; what is left for this are positions out of range: never reset.
    ("auto.offset.reset", "error"),
    ("partition.assignment.strategy", "cooperative-sticky"),
    ("allow.auto.create.topics", "false"),
    ("isolation.level", "read_committed"),
    ("check.crcs", "true"),
    // Partitions of a killed instance move after this, not after 45 seconds.
    ("session.timeout.ms", "10000"),
    ("heartbeat.interval.ms", "1000"),
    // The embedded broker does not wake a waiting fetch, so this is its latency.
    ("fetch.wait.max.ms", "20"),
    ("fetch.error.backoff.ms", "50"),
    // A second without fetching whenever the client's own queue was full, otherwise.
    ("fetch.queue.backoff.ms", "10"),
    ("queued.max.messages.kbytes", "65536"),
];

const PRODUCER: &[(&str, &str)] = &[
    ("enable.idempotence", "true"),
    ("acks", "all"),
    // The outbox tries for ever, so the client must not give up either.
    ("message.timeout.ms", "0"),
    // As the Java clients do, so that a saga is in the same partition whoever publishes.
    ("partitioner", "murmur2_random"),
    ("linger.ms", "1"),
    // The broker's default: the client's own is smaller than a body with its headers may be.
    ("message.max.bytes", "1048588"),
    ("queue.buffering.max.kbytes", "65536"),
    ("topic.metadata.propagation.max.ms", "10000"),
];

/// Settings that nobody else may set, and why.
const OWNED: &[(&str, &str)] = &[
    ("bootstrap.servers", "it is the configuration's `brokers`"),
    ("metadata.broker.list", "it is the configuration's `brokers`"),
    ("group.id", "it is the participant's group"),
    ("enable.auto.offset.store", "messages would count as settled before they are"),
    ("enable.auto.commit", "positions are stored when settled and committed each second"),
    ("auto.commit.enable", "positions are stored when settled and committed each second"),
    ("auto.offset.reset", "a lost position must stop the participant, never skip messages"),
    ("partition.assignment.strategy", "only cooperative-sticky keeps partitions flowing while instances come and go"),
    ("group.protocol", "the callbacks that guard positions belong to the classic protocol"),
    ("isolation.level", "messages of aborted transactions did not happen"),
    ("allow.auto.create.topics", "topics are created by `migrate --topics`, with their partitions and retention"),
    ("enable.partition.eof", "nothing here asks for it"),
    ("check.crcs", "a damaged message must not be reacted to"),
    ("enable.idempotence", "retries of the client would reorder and repeat messages"),
    ("acks", "a message that one broker has is lost with that broker"),
    ("request.required.acks", "a message that one broker has is lost with that broker"),
    ("message.timeout.ms", "the outbox waits for the broker however long it takes"),
    ("delivery.timeout.ms", "the outbox waits for the broker however long it takes"),
    ("partitioner", "messages of one saga must meet in one partition, whoever publishes them"),
    ("transactional.id", "the outbox and the ledger do what transactions would"),
    ("test.mock.num.brokers", "messages would go to a broker that keeps nothing: start the embedded one and say so"),
];

/// Settings of consumers, of which other clients warn (librdkafka, CONFIGURATION.md, "C"), but for those that are ours.
const CONSUMER_ONLY: &[&str] = &[
    "auto.commit.interval.ms",
    "consume.callback.max.messages",
    "coordinator.query.interval.ms",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.instance.id",
    "group.protocol.type",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "offset.store.method",
    "offset.store.path",
    "offset.store.sync.interval.ms",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "session.timeout.ms",
];

/// The same of producers ("P").
const PRODUCER_ONLY: &[&str] = &[
    "batch.num.messages",
    "batch.size",
    "compression.codec",
    "compression.level",
    "compression.type",
    "delivery.report.only.error",
    "enable.gapless.guarantee",
    "linger.ms",
    "message.send.max.retries",
    "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queuing.strategy",
    "request.timeout.ms",
    "retries",
    "sticky.partitioning.linger.ms",
    "transaction.timeout.ms",
];

/// A client's creation error is nearly always a setting that it does not know or cannot take.
pub(super) fn creation_error(error: KafkaError) -> TransportError {
    match error {
        KafkaError::ClientConfig(_, reason, name, _) => TransportError::Setting { name, reason },
        other => client_error("creating the Kafka client", other),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use rdkafka::{
        ClientContext,
        config::RDKafkaLogLevel,
        consumer::{BaseConsumer, Consumer as _, ConsumerContext},
        message::DeliveryResult,
        producer::{BaseProducer, Producer as _, ProducerContext},
    };

    use super::{
        super::{KafkaSink, KafkaSource},
        *,
    };

    fn config(extra: &[(&str, &str)]) -> KafkaConfig {
        let extra = extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        KafkaConfig { brokers: "localhost:1".to_owned(), group: "payment".to_owned(), extra }
    }

    #[test]
    fn every_setting_that_safety_rests_on_is_refused() {
        for name in ["enable.auto.offset.store", "acks", "request.required.acks", "group.protocol", "partitioner"] {
            let refused = KafkaSink::connect(&config(&[(name, "1")])).err();
            let Some(TransportError::Setting { name: refused, .. }) = refused else { panic!("{name}: {refused:?}") };
            assert_eq!(refused, name);
        }
        assert!(KafkaSource::connect(&config(&[("auto.offset.reset", "latest")]), &["orders"]).is_err());
    }

    #[test]
    fn a_setting_that_the_client_does_not_know_is_refused_by_its_name() {
        let refused = KafkaSink::connect(&config(&[("compresion.type", "lz4")])).err();
        assert!(
            matches!(refused, Some(TransportError::Setting { ref name, .. }) if name == "compresion.type"),
            "{refused:?}"
        );
        assert!(KafkaSink::connect(&config(&[("compression.type", "lz4"), ("linger.ms", "5")])).is_ok());
    }

    /// Keeps the client's warnings about its settings.
    #[derive(Default)]
    struct Warnings(Mutex<Vec<String>>);

    impl ClientContext for Warnings {
        fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
            if facility == "CONFWARN" {
                super::super::locked(&self.0).push(line.to_owned());
            }
        }
    }

    impl ConsumerContext for Warnings {}
    impl ProducerContext for Warnings {
        type DeliveryOpaque = ();

        fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
    }

    #[test]
    fn each_client_is_given_the_settings_that_it_knows() {
        let both = config(&[("session.timeout.ms", "9000"), ("linger.ms", "5"), ("client.id", "me")]);
        let named = |kind| {
            let client = both.client(kind).expect("none of these is ours");
            ["session.timeout.ms", "linger.ms", "client.id"].map(|name| client.get(name).map(str::to_owned))
        };
        let some = |value: &str| Some(value.to_owned());
        assert_eq!(named(Kind::Consumer), [some("9000"), None, some("me")]);
        assert_eq!(named(Kind::Producer), [None, some("5"), some("me")]);
        assert_eq!(named(Kind::Admin), [None, None, some("me")]);

        let create = |kind| both.client(kind).expect("none of these is ours");
        let producer: BaseProducer<Warnings> =
            create(Kind::Producer).create_with_context(Warnings::default()).expect("a producer");
        let mut consuming = create(Kind::Consumer);
        let consumer: BaseConsumer<Warnings> =
            consuming.set("group.id", "me").create_with_context(Warnings::default()).expect("a consumer");
        // Warnings are handed out by polling.
        producer.poll(Duration::from_millis(50));
        drop(consumer.poll(Duration::from_millis(50)));
        for warnings in [&**producer.context(), &**consumer.context()] {
            assert_eq!(*super::super::locked(&warnings.0), Vec::<String>::new());
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let shown = format!("{:?}", config(&[("sasl.password", "hunter2")]));
        assert!(shown.contains("sasl.password") && !shown.contains("hunter2"), "{shown}");
    }
}
