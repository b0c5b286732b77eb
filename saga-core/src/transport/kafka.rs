//! Kafka, by librdkafka, with every default that could lose or reorder messages overridden and kept.
//!
//! ```text
//! broker ── consumer on its own thread ── bounded queue ── receive()
//!                 │        ▲
//!     commits on its own   └── positions ── settled()
//! ```
//!
//! What it keeps: a position is stored only after [`Source::settled`], and only under the assignment that the deliveries were
//! read under, because thread, callbacks and positions meet under one lock. A partition without a committed position starts at its
//! beginning; one whose position the broker no longer has is an error, never reset. The thread polls whatever happens, so the
//! group never takes a slow participant for a dead one.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{Header, Headers, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer, future_producer::DeliveryFuture},
    types::RDKafkaRespErr,
};
use tokio::sync::{Notify, oneshot};

use super::{BoxFuture, Limit, Position, PublishError, Sink, Source, SourceStatus, TransportError};
use crate::{
    envelope::{Delivery, Message},
    step::BoxError,
};

/// How long topics may be missing: one that was just created takes a moment to be known everywhere.
const MISSING_FOR: Duration = Duration::from_secs(5);
/// How long closing may take: what it could not commit is delivered again, which is always allowed.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// Longest pause between two looks at what was settled and at closing.
const POLL: Duration = Duration::from_millis(50);
/// Above either of these the thread waits, then pauses its partitions: four batches.
const QUEUE_MESSAGES: usize = 2_000;
const QUEUE_BYTES: usize = 16 << 20;
/// A full queue is waited for so long before partitions are paused, because pausing throws away what was fetched ahead.
const PAUSE_AFTER: Duration = Duration::from_millis(300);
/// Most messages polled before the thread looks around.
const BURST: usize = 200;
/// Most bytes that [`read_all`] holds.
const READ_ALL_BYTES: usize = 1 << 30;
/// How long [`read_all`] and requests wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The same line of the client's log is written once in so long: a broker that is away says so twenty times a second.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Epochs are counted over all sources of the process, so that no position of one is ever taken by another.
static EPOCHS: AtomicU64 = AtomicU64::new(1);

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

impl KafkaConfig {
    fn with(&self, settings: &[&[(&str, &str)]]) -> Result<ClientConfig, TransportError> {
        if self.brokers.trim().is_empty() {
            let reason = "expected at least one host:port".to_owned();
            return Err(TransportError::Setting { name: "brokers".to_owned(), reason });
        }
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in settings.iter().copied().flatten() {
            config.set(*name, *value);
        }
        for (name, value) in &self.extra {
            let name = name.trim();
            if let Some((_, reason)) = OWNED.iter().find(|(owned, _)| *owned == name) {
                return Err(TransportError::Setting { name: name.to_owned(), reason: (*reason).to_owned() });
            }
            config.set(name, value);
        }
        Ok(config)
    }
}

impl fmt::Debug for KafkaConfig {
    /// Names of the extra settings only: among their values are passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extra: Vec<&str> = self.extra.iter().map(|(name, _)| name.as_str()).collect();
        let mut shown = f.debug_struct("KafkaConfig");
        shown.field("brokers", &self.brokers).field("group", &self.group).field("extra", &extra).finish()
    }
}

pub(crate) fn client_error(context: &str, source: impl Into<BoxError>) -> TransportError {
    TransportError::Client { context: context.to_owned(), source: source.into() }
}

/// A client's creation error is nearly always a setting that it does not know or cannot take.
fn creation_error(error: KafkaError) -> TransportError {
    match error {
        KafkaError::ClientConfig(_, reason, name, _) => TransportError::Setting { name, reason },
        other => client_error("creating the Kafka client", other),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the client says goes to the log, each kind of line once in a while.
#[derive(Default)]
struct Voice {
    said: Mutex<HashMap<String, Instant>>,
    last: Mutex<String>,
}

impl Voice {
    fn may_say(&self, kind: &str) -> bool {
        let mut said = locked(&self.said);
        if said.get(kind).is_some_and(|at| at.elapsed() < SAY_AGAIN) {
            return false;
        }
        said.insert(kind.to_owned(), Instant::now());
        true
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            RDKafkaLogLevel::Debug => tracing::debug!(facility, "{line}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => tracing::info!(facility, "{line}"),
            _ if self.may_say(facility) => tracing::warn!(facility, "{line}"),
            _ => {}
        }
    }

    fn error(&self, error: &KafkaError, reason: &str) {
        reason.clone_into(&mut locked(&self.last));
        if self.may_say(&format!("{error:?}")) {
            tracing::warn!(reason, "Kafka: {error}");
        }
    }

    fn last(&self) -> String {
        locked(&self.last).clone()
    }
}

// ---------------------------------------------------------------------------------------------------------------- source

/// Makes sources.
#[derive(Debug)]
pub struct KafkaSource;

impl KafkaSource {
    /// Joins the group in the background and returns at once; [`Source::status`] says when partitions are assigned. Only a
    /// refused setting is an error here.
    pub fn connect(config: &KafkaConfig, topics: &[&str]) -> Result<Box<dyn Source>, TransportError> {
        if config.group.trim().is_empty() {
            let reason = "expected the participant's name".to_owned();
            return Err(TransportError::Setting { name: "group".to_owned(), reason });
        }
        let mut client = config.with(&[BOTH, CONSUMER])?;
        client.set("group.id", &config.group);
        let shared = Arc::new(Shared::default());
        let membership = Membership { shared: Arc::clone(&shared), voice: Voice::default() };
        let consumer: BaseConsumer<Membership> = client.create_with_context(membership).map_err(creation_error)?;
        let (done, ended) = oneshot::channel();
        let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
        let reader = Reader { consumer, shared: Arc::clone(&shared), topics, probed: Instant::now(), paused: false };
        std::thread::Builder::new()
            .name(format!("kafka-{}", config.group))
            .spawn(move || reader.live(done))
            .map_err(|error| client_error("starting the consumer's thread", error))?;
        Ok(Box::new(Reading { shared, ended: Some(ended) }))
    }
}

/// What the thread and the participant share.
#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something was queued, or the thread failed.
    arrived: Notify,
    /// Something was taken, or the source is closing.
    room: Condvar,
    closing: AtomicBool,
}

#[derive(Default)]
struct Queue {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    assigned: HashMap<Arc<str>, BTreeMap<i32, Assigned>>,
    /// Settled, not yet handed to the client.
    settled: BTreeMap<(Arc<str>, i32), i64>,
    /// A callback cannot return an error, so the thread finds it here.
    rebalance_failed: Option<KafkaError>,
    /// Why the thread gave up, for the next call of the participant.
    failed: Option<TransportError>,
    ended: bool,
    joined: bool,
    not_ready: Option<String>,
    /// When topics were first found missing.
    missing_since: Option<Instant>,
    suspect_topics: bool,
}

struct Assigned {
    epoch: u64,
    /// Where reading goes on, as far as known: for telling which partition is out of range.
    next: Option<i64>,
    /// The highest settled position.
    settled: i64,
}

impl Queue {
    fn is_over(&self, share: usize) -> bool {
        self.deliveries.len() > QUEUE_MESSAGES / share || self.bytes > QUEUE_BYTES / share
    }
}

struct Membership {
    shared: Arc<Shared>,
    voice: Voice,
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

/// Waiting does not mend it: somebody has to change permissions or settings.
fn is_refusal(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed)
    )
}

fn store_settled(consumer: &BaseConsumer<Membership>, shared: &Shared, voice: &Voice) {
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

/// The consumer's thread.
struct Reader {
    consumer: BaseConsumer<Membership>,
    shared: Arc<Shared>,
    topics: Vec<String>,
    probed: Instant,
    paused: bool,
}

impl Reader {
    fn live(mut self, done: oneshot::Sender<Result<(), TransportError>>) {
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

    fn push(&self, message: &rdkafka::message::BorrowedMessage<'_>) {
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
                Err(error) => break Err(client_error("committing the last positions", error)),
            }
        };
        drop(self.consumer);
        committed
    }
}

fn delivery(message: &rdkafka::message::BorrowedMessage<'_>, topic: Arc<str>, epoch: u64) -> Delivery {
    let headers = message.headers().map(|headers| {
        let headers = headers.iter();
        headers.map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect()
    });
    Delivery {
        topic,
        partition: message.partition(),
        offset: message.offset(),
        epoch,
        key: message.key().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        body: message.payload().unwrap_or_default().to_vec(),
    }
}

/// The participant's end.
struct Reading {
    shared: Arc<Shared>,
    ended: Option<oneshot::Receiver<Result<(), TransportError>>>,
}

impl Source for Reading {
    fn receive(&mut self, limit: Limit) -> BoxFuture<'_, Result<Vec<Delivery>, TransportError>> {
        Box::pin(async move {
            loop {
                {
                    let mut queue = locked(&self.shared.queue);
                    if !queue.deliveries.is_empty() {
                        let batch = take(&mut queue, limit);
                        drop(queue);
                        self.shared.room.notify_all();
                        return Ok(batch);
                    }
                    if let Some(error) = queue.failed.take() {
                        return Err(error);
                    }
                    if queue.ended {
                        return Err(TransportError::Closed);
                    }
                }
                self.shared.arrived.notified().await;
            }
        })
    }

    fn settled(&mut self, positions: &[Position]) -> Result<(), TransportError> {
        let mut queue = locked(&self.shared.queue);
        for position in positions {
            let assigned =
                queue.assigned.get_mut(&*position.topic).and_then(|topic| topic.get_mut(&position.partition));
            if let Some(assigned) = assigned.filter(|now| now.epoch == position.epoch && now.settled < position.next) {
                assigned.settled = position.next;
                queue.settled.insert((Arc::clone(&position.topic), position.partition), position.next);
            }
        }
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        let queue = locked(&self.shared.queue);
        if queue.ended || queue.failed.is_some() {
            let reason = queue.failed.as_ref().map_or_else(|| "closed".to_owned(), ToString::to_string);
            return SourceStatus::NotReady(reason);
        }
        match &queue.not_ready {
            Some(reason) => SourceStatus::NotReady(reason.clone()),
            None if !queue.joined => SourceStatus::NotReady("waiting for the group's assignment".to_owned()),
            None => SourceStatus::Ready(queue.assigned.values().map(BTreeMap::len).sum()),
        }
    }

    fn close(mut self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>> {
        self.stop();
        let ended = self.ended.take();
        Box::pin(async move {
            let Some(ended) = ended else { return Ok(()) };
            match tokio::time::timeout(CLOSE_WITHIN, ended).await {
                Ok(Ok(left)) => locked(&self.shared.queue).failed.take().map_or(left, Err),
                Ok(Err(gone)) => Err(client_error("leaving the group", gone)),
                Err(late) => Err(client_error("leaving the group: what was settled last may come again", late)),
            }
        })
    }
}

impl Reading {
    fn stop(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.room.notify_all();
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.stop();
    }
}

fn take(queue: &mut Queue, limit: Limit) -> Vec<Delivery> {
    let mut batch: Vec<Delivery> = Vec::new();
    let mut bytes = 0;
    while let Some(delivery) = queue.deliveries.pop_front_if(|next| {
        batch.is_empty() || (batch.len() < limit.messages && bytes + next.body.len() <= limit.bytes)
    }) {
        bytes += delivery.body.len();
        batch.push(delivery);
    }
    queue.bytes -= bytes;
    batch
}

// ------------------------------------------------------------------------------------------------------------------ sink

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
struct PublisherContext(Voice);

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

fn produce_with(config: &ClientConfig) -> Result<Publisher, KafkaError> {
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

type Record<'a> = FutureRecord<'a, [u8], [u8]>;

fn record(message: &Message) -> Record<'_> {
    let headers = message.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let record = Record::to(&message.topic).payload(&message.body).headers(owned(headers));
    record.key(message.key.as_bytes())
}

fn owned<'a>(headers: impl ExactSizeIterator<Item = (&'a str, &'a [u8])>) -> OwnedHeaders {
    let room = OwnedHeaders::new_with_capacity(headers.len());
    headers.fold(room, |all, (key, value)| all.insert(Header { key, value: Some(value) }))
}

async fn send(producer: &Publisher, mut record: Record<'_>) -> Result<DeliveryFuture, KafkaError> {
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

async fn acknowledged(sent: DeliveryFuture) -> Result<(), KafkaError> {
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

// ---------------------------------------------------------------------------------------------------------------- topics

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
    question: impl FnOnce(&BaseConsumer, TopicPartitionList) -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, TransportError> {
    let mut client = config.with(&[BOTH, CONSUMER])?;
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
        question(&consumer, partitions).map_err(|error| client_error(&context, error))
    };
    tokio::task::spawn_blocking(asking).await.map_err(|error| client_error("asking the broker", error))?
}

/// Publishes messages as they are, however malformed: what a foreign publisher could send, and what was read by [`read_all`],
/// once more. The key decides on the partition; where the deliveries stood before counts for nothing.
pub async fn inject(config: &KafkaConfig, messages: &[Delivery]) -> Result<(), TransportError> {
    let producer = produce_with(&config.with(&[BOTH, PRODUCER])?).map_err(creation_error)?;
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

/// Reads topics from their beginning to what is their end now, outside any group. Topic after topic, each partition in order;
/// the epochs are zero. At most 1 GiB of bodies.
pub async fn read_all(config: &KafkaConfig, topics: &[&str]) -> Result<Vec<Delivery>, TransportError> {
    let mut client = config.with(&[BOTH, CONSUMER])?;
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

/// The topics with their numbers of partitions. Asks for all topics of the cluster, as asking for one by its name creates it on
/// many brokers.
fn partition_counts(consumer: &BaseConsumer, topics: Vec<String>) -> Result<Vec<(String, i32)>, TransportError> {
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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn passwords_are_not_shown() {
        let shown = format!("{:?}", config(&[("sasl.password", "hunter2")]));
        assert!(shown.contains("sasl.password") && !shown.contains("hunter2"), "{shown}");
    }
}
