//! One contract, three transports: in memory, the embedded broker, and a real one at `SAGA_TEST_KAFKA=host:port`.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures_util::FutureExt as _;
use saga_core::{
    envelope::{Delivery, MAX_BODY, Message},
    transport::{
        Limit, Position, Sink, Source, SourceStatus, TransportError,
        embedded::EmbeddedBroker,
        kafka::{KafkaConfig, KafkaSink, KafkaSource, TopicSpec, create_topics, inject, lag, read_all, skip},
        memory::{Faults, MemoryBroker},
    },
};

/// Longer than the slowest join of a group, and short enough to wait for.
const PATIENCE: Duration = Duration::from_secs(40);

/// What the contract is tried on: a broker with the topics `one` (one partition) and `three`.
trait World: Send + Sync {
    /// The topic's name on this broker.
    fn topic(&self, name: &str) -> String;
    fn source(&self, group: &str, topics: &[&str]) -> Box<dyn Source>;
    fn sink(&self) -> Arc<dyn Sink>;
    /// None for what is no Kafka at all.
    fn kafka(&self) -> Option<KafkaConfig>;
}

const TOPICS: [(&str, i32); 2] = [("one", 1), ("three", 3)];

struct Memory(MemoryBroker);

impl Memory {
    async fn start() -> Option<Self> {
        Some(Self(MemoryBroker::new(&TOPICS)))
    }
}

impl World for Memory {
    fn topic(&self, name: &str) -> String {
        name.to_owned()
    }

    fn source(&self, group: &str, topics: &[&str]) -> Box<dyn Source> {
        self.0.source(group, topics)
    }

    fn sink(&self) -> Arc<dyn Sink> {
        self.0.sink()
    }

    fn kafka(&self) -> Option<KafkaConfig> {
        None
    }
}

struct Embedded(EmbeddedBroker);

impl Embedded {
    async fn start() -> Option<Self> {
        Some(Self(EmbeddedBroker::start(&TOPICS).expect("the embedded broker starts")))
    }
}

impl World for Embedded {
    fn topic(&self, name: &str) -> String {
        name.to_owned()
    }

    fn source(&self, group: &str, topics: &[&str]) -> Box<dyn Source> {
        KafkaSource::connect(&self.0.config(group), topics).expect("the settings are fine")
    }

    fn sink(&self) -> Arc<dyn Sink> {
        KafkaSink::connect(&self.0.config("sink")).expect("the settings are fine")
    }

    fn kafka(&self) -> Option<KafkaConfig> {
        Some(self.0.config("reader"))
    }
}

struct Real {
    brokers: String,
    /// Topics and groups of other tests and runs stay out of the way.
    run: String,
}

impl Real {
    async fn start() -> Option<Self> {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let Ok(brokers) = std::env::var("SAGA_TEST_KAFKA") else {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "CI needs a real broker: set SAGA_TEST_KAFKA=host:port"
            );
            eprintln!("SKIPPED: no real broker, set SAGA_TEST_KAFKA=host:port");
            return None;
        };
        let since = SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis();
        let run = format!("{since}-{}-{}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        let real = Self { brokers, run };
        let specs = TOPICS.map(|(name, partitions)| TopicSpec {
            name: real.topic(name),
            partitions,
            replication: 1,
            retention: Some(Duration::from_secs(3600)),
        });
        let created = create_topics(&real.config("admin"), &specs).await.expect("topics are created");
        assert_eq!(created.len(), 2);
        let again = create_topics(&real.config("admin"), &specs).await.expect("existing topics are fine");
        assert_eq!(again, Vec::<String>::new());
        Some(real)
    }

    fn config(&self, group: &str) -> KafkaConfig {
        KafkaConfig { brokers: self.brokers.clone(), group: format!("{group}-{}", self.run), extra: Vec::new() }
    }
}

impl World for Real {
    fn topic(&self, name: &str) -> String {
        format!("{name}-{}", self.run)
    }

    fn source(&self, group: &str, topics: &[&str]) -> Box<dyn Source> {
        KafkaSource::connect(&self.config(group), topics).expect("the settings are fine")
    }

    fn sink(&self) -> Arc<dyn Sink> {
        KafkaSink::connect(&self.config("sink")).expect("the settings are fine")
    }

    fn kafka(&self) -> Option<KafkaConfig> {
        Some(self.config("reader"))
    }
}

macro_rules! on_every_transport {
    ($($case:ident)*) => {
        on_every_transport!(@ memory Memory $($case)*);
        on_every_transport!(@ embedded Embedded $($case)*);
        on_every_transport!(@ real Real $($case)*);
    };
    (@ $module:ident $world:ident $($case:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    if let Some(world) = super::$world::start().await {
                        super::$case(&world).await;
                    }
                }
            )*
        }
    };
}

on_every_transport! {
    every_byte_arrives_in_the_order_of_its_key
    a_thousand_messages_arrive_once_each
    a_slow_reader_loses_nothing
    settled_positions_survive_a_restart
    what_a_dropped_source_did_not_settle_comes_again
    every_group_sees_everything
    positions_of_another_epoch_are_ignored
    a_batch_keeps_its_limits
    receiving_may_be_cancelled
    members_share_partitions
    a_missing_topic_is_an_error
    a_position_that_the_broker_does_not_have_is_an_error
    a_key_is_in_the_same_partition_everywhere
    everything_can_be_read_without_a_group
    a_group_is_behind_by_what_it_has_not_settled
    a_group_that_skipped_reads_only_what_comes_later
    what_was_read_can_be_published_byte_for_byte
}

async fn every_byte_arrives_in_the_order_of_its_key(world: &dyn World) {
    let topic = world.topic("three");
    let mut messages: Vec<Message> = (0..60).map(|number| message(&topic, number % 7, number)).collect();
    messages[3].body = vec![0xff; MAX_BODY];
    messages[4].body = Vec::new();
    messages[5].headers =
        vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), String::new()), ("ü".to_owned(), "ß".to_owned())];
    publish(world, &messages).await;

    let mut source = world.source("bytes", &[&topic]);
    let deliveries = receive(&mut *source, 60).await;
    assert!(deliveries.iter().all(|delivery| *delivery.topic == *topic));
    for key in 0..7 {
        let sent = messages.iter().filter(|message| message.key == format!("key-{key}"));
        let sent: Vec<_> = sent.map(|message| (headers(message), message.body.clone())).collect();
        let came: Vec<&Delivery> = deliveries
            .iter()
            .filter(|delivery| delivery.key.as_deref() == Some(format!("key-{key}").as_bytes()))
            .collect();
        let partitions: BTreeSet<i32> = came.iter().map(|delivery| delivery.partition).collect();
        assert_eq!(partitions.len(), 1, "one key, one partition");
        let came: Vec<_> = came.into_iter().map(|one| (one.headers.clone(), one.body.clone())).collect();
        assert!(came == sent, "the messages of key {key} differ");
    }
    close(source).await;
}

async fn a_thousand_messages_arrive_once_each(world: &dyn World) {
    let topic = world.topic("three");
    let messages: Vec<Message> = (0..1000).map(|number| message(&topic, number, number)).collect();
    publish(world, &messages).await;
    let mut source = world.source("thousand", &[&topic]);
    let deliveries = receive(&mut *source, 1000).await;
    let bodies: BTreeSet<&[u8]> = deliveries.iter().map(|delivery| &*delivery.body).collect();
    assert_eq!(bodies.len(), 1000);
    assert_in_order(&deliveries);
    assert_eq!(source.status(), SourceStatus::Ready(3));
    close(source).await;
}

async fn a_slow_reader_loses_nothing(world: &dyn World) {
    let topic = world.topic("three");
    let messages: Vec<Message> = (0..6000).map(|number| message(&topic, number, number)).collect();
    publish(world, &messages).await;
    let mut source = world.source("slow", &[&topic]);
    let mut deliveries = receive(&mut *source, 1).await;
    // Nothing shows from outside that partitions are paused; they are after 0.3 seconds with a full queue.
    tokio::time::sleep(Duration::from_secs(1)).await;
    deliveries.extend(receive(&mut *source, 5999).await);
    assert_eq!(deliveries.len(), 6000);
    assert_in_order(&deliveries);
    close(source).await;
}

async fn settled_positions_survive_a_restart(world: &dyn World) {
    let topic = world.topic("three");
    let messages: Vec<Message> = (0..40).map(|number| message(&topic, number, number)).collect();
    publish(world, &messages).await;
    let mut source = world.source("restart", &[&topic]);
    let deliveries = receive(&mut *source, 40).await;
    let (settled, open): (Vec<Delivery>, Vec<Delivery>) =
        deliveries.into_iter().partition(|delivery| delivery.offset < 5);
    source.settled(&positions(&settled)).expect("positions are taken");
    close(source).await;

    let mut source = world.source("restart", &[&topic]);
    let again = receive(&mut *source, open.len()).await;
    assert_eq!(places(&again), places(&open));
    source.settled(&positions(&again)).expect("positions are taken");
    close(source).await;

    let mut source = world.source("restart", &[&topic]);
    publish(world, &[message(&topic, 1, 999)]).await;
    let last = receive(&mut *source, 1).await;
    assert_eq!(last[0].body, message(&topic, 1, 999).body);
    close(source).await;
}

async fn what_a_dropped_source_did_not_settle_comes_again(world: &dyn World) {
    let topic = world.topic("one");
    let messages: Vec<Message> = (0..10).map(|number| message(&topic, number, number)).collect();
    publish(world, &messages).await;
    let mut source = world.source("dropped", &[&topic]);
    let first = receive(&mut *source, 10).await;
    drop(source);
    let mut source = world.source("dropped", &[&topic]);
    assert_eq!(places(&receive(&mut *source, 10).await), places(&first));
    close(source).await;
}

async fn every_group_sees_everything(world: &dyn World) {
    let (one, three) = (world.topic("one"), world.topic("three"));
    let messages: Vec<Message> = (0..20).map(|n| message(if n % 2 == 0 { &one } else { &three }, n, n)).collect();
    let mut early = world.source("early", &[&one, &three]);
    publish(world, &messages).await;
    let mut late = world.source("late", &[&one, &three]);
    let first = receive(&mut *early, 20).await;
    early.settled(&positions(&first)).expect("positions are taken");
    assert_eq!(places(&receive(&mut *late, 20).await), places(&first));
    close(early).await;
    close(late).await;
}

async fn positions_of_another_epoch_are_ignored(world: &dyn World) {
    let topic = world.topic("one");
    publish(world, &[message(&topic, 1, 1)]).await;
    let mut source = world.source("epochs", &[&topic]);
    let first = receive(&mut *source, 1).await;
    let mut stale = positions(&first);
    stale[0].epoch += 1;
    source.settled(&stale).expect("stale positions are no error");
    close(source).await;
    let mut source = world.source("epochs", &[&topic]);
    let second = receive(&mut *source, 1).await;
    assert_eq!(places(&second), places(&first));
    assert_ne!(second[0].epoch, first[0].epoch);
    // The epoch of the assignment before is just as stale.
    source.settled(&positions(&first)).expect("stale positions are no error");
    close(source).await;
    let mut source = world.source("epochs", &[&topic]);
    assert_eq!(places(&receive(&mut *source, 1).await), places(&first));
    close(source).await;
}

async fn a_batch_keeps_its_limits(world: &dyn World) {
    let topic = world.topic("one");
    let messages: Vec<Message> = (0..30).map(|number| message(&topic, number, number)).collect();
    publish(world, &messages).await;
    let size = messages[10].body.len();
    let mut source = world.source("limits", &[&topic]);
    let mut came = 0;
    while came < 14 {
        let batch = patiently(source.receive(Limit { messages: 7, bytes: 1 << 20 })).await.expect("it receives");
        assert!((1..=7).contains(&batch.len()), "{}", batch.len());
        came += batch.len();
    }
    while came < 24 {
        let batch = patiently(source.receive(Limit { messages: 7, bytes: 2 * size })).await.expect("it receives");
        assert!((1..=2).contains(&batch.len()), "{}", batch.len());
        came += batch.len();
    }
    while came < 30 {
        let batch = patiently(source.receive(Limit { messages: 7, bytes: 0 })).await.expect("it receives");
        assert_eq!(batch.len(), 1, "one message is always taken");
        came += 1;
    }
    close(source).await;
}

async fn receiving_may_be_cancelled(world: &dyn World) {
    let topic = world.topic("one");
    let messages: Vec<Message> = (0..50).map(|number| message(&topic, number, number)).collect();
    let mut source = world.source("cancelled", &[&topic]);
    assert!(source.receive(Limit::default()).now_or_never().is_none());
    publish(world, &messages).await;
    let mut deliveries = Vec::new();
    let begun = Instant::now();
    while deliveries.len() < 50 {
        assert!(begun.elapsed() < PATIENCE, "{} messages came", deliveries.len());
        let waiting = source.receive(Limit { messages: 3, bytes: 1 << 20 });
        if let Ok(batch) = tokio::time::timeout(Duration::from_millis(1), waiting).await {
            deliveries.extend(batch.expect("it receives"));
        }
    }
    assert_in_order(&deliveries);
    assert_eq!(deliveries.len(), 50);
    close(source).await;
}

async fn members_share_partitions(world: &dyn World) {
    let topic = world.topic("three");
    // The group of the configuration.
    let mut one = world.source("reader", &[&topic]);
    publish(world, &[message(&topic, 1, 1)]).await;
    let first = receive(&mut *one, 1).await;
    one.settled(&positions(&first)).expect("positions are taken");
    if let Some(config) = world.kafka() {
        // Committed before the group changes. The embedded broker refuses positions while members join, and then what was
        // settled last comes again, as it may.
        let begun = Instant::now();
        while patiently(lag(&config, &[&topic])).await.expect("it tells").behind > 0 {
            assert!(begun.elapsed() < PATIENCE, "the position is not committed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let other = world.source("reader", &[&topic]);
    let ready = |source: &dyn Source| match source.status() {
        SourceStatus::Ready(partitions) => partitions,
        SourceStatus::NotReady(_) => 0,
    };
    until("both have partitions", || {
        let (ones, others) = (ready(&*one), ready(&*other));
        ones + others == 3 && ones.min(others) == 1
    })
    .await;
    // What the other one had goes back when it leaves.
    close(other).await;
    until("one has them all", || ready(&*one) == 3).await;
    let messages: Vec<Message> = (0..30).map(|number| message(&topic, number, number)).collect();
    publish(world, &messages).await;
    let deliveries = receive(&mut *one, 30).await;
    let partitions: BTreeSet<i32> = deliveries.iter().map(|delivery| delivery.partition).collect();
    assert_eq!(partitions.len(), 3);
    assert!(places(&deliveries).is_disjoint(&places(&first)), "settled messages did not come again");
    close(one).await;
}

async fn a_missing_topic_is_an_error(world: &dyn World) {
    let (here, gone) = (world.topic("one"), world.topic("gone"));
    let mut source = world.source("missing", &[&here, &gone]);
    match patiently(source.receive(Limit::default())).await {
        Err(TransportError::MissingTopics { missing }) => assert_eq!(missing, std::slice::from_ref(&gone)),
        other => panic!("{other:?}"),
    }
    drop(source);
    let sink = world.sink();
    let results = patiently(sink.publish(&[message(&here, 1, 1), message(&gone, 1, 2), message(&here, 1, 3)])).await;
    assert_eq!((&results[0], &results[2]), (&Ok(()), &Ok(())));
    assert!(results[1].as_ref().is_err_and(|error| error.permanent), "{results:?}");
    if let Some(config) = world.kafka() {
        // Neither asking nor publishing has created it.
        let read = read_all(&config, &[&here, &gone]).await;
        assert!(matches!(read, Err(TransportError::MissingTopics { .. })), "{read:?}");
    }
}

async fn a_position_that_the_broker_does_not_have_is_an_error(world: &dyn World) {
    let topic = world.topic("one");
    publish(world, &[message(&topic, 1, 1)]).await;
    let mut source = world.source("lost", &[&topic]);
    let mut beyond = positions(&receive(&mut *source, 1).await);
    beyond[0].next = 1000;
    source.settled(&beyond).expect("positions are taken");
    close(source).await;
    let mut source = world.source("lost", &[&topic]);
    match patiently(source.receive(Limit::default())).await {
        Err(TransportError::OutOfRange { topic: lost, partition: 0, offset: 1000 }) => assert_eq!(lost, topic),
        other => panic!("{other:?}"),
    }
}

async fn a_key_is_in_the_same_partition_everywhere(world: &dyn World) {
    let topic = world.topic("three");
    let messages: Vec<Message> = (0..20).map(|number| message(&topic, number, number)).collect();
    let sink = world.sink();
    assert!(patiently(sink.publish(&messages)).await.iter().all(Result::is_ok));
    let mut source = world.source("keys", &[&topic]);
    let place = |delivery: Delivery| (delivery.key, delivery.partition);
    let came: BTreeSet<_> = receive(&mut *source, 20).await.into_iter().map(place).collect();
    if world.kafka().is_some() {
        let told = messages.iter().map(|message| (Some(message.key.clone().into_bytes()), sink.partition(message)));
        assert_eq!(came, told.collect(), "a sink knows where its messages go");
    }
    let memory = MemoryBroker::new(&[(&topic, 3)]);
    assert!(memory.sink().publish(&messages).await.iter().all(Result::is_ok));
    assert_eq!(came, memory.messages(&topic).into_iter().map(place).collect());
    close(source).await;
}

async fn everything_can_be_read_without_a_group(world: &dyn World) {
    let (one, three) = (world.topic("one"), world.topic("three"));
    let messages: Vec<Message> = (0..50).map(|n| message(if n % 2 == 0 { &one } else { &three }, n, n)).collect();
    publish(world, &messages).await;
    let Some(config) = world.kafka() else { return };
    for _ in 0..2 {
        let all = patiently(read_all(&config, &[&one, &three])).await.expect("it reads");
        assert_eq!(all.len(), 50);
        assert_in_order(&all);
    }
}

async fn a_group_is_behind_by_what_it_has_not_settled(world: &dyn World) {
    let (one, three) = (world.topic("one"), world.topic("three"));
    let Some(config) = world.kafka() else { return };
    let topics: [&str; 2] = [&one, &three];
    let lag_now = async || {
        let lag = patiently(lag(&config, &topics)).await.expect("it tells");
        (lag.behind, lag.end)
    };
    assert_eq!(lag_now().await, (0, 0), "nothing was published");
    let messages: Vec<Message> = (0..40).map(|n| message(if n % 2 == 0 { &one } else { &three }, n, n)).collect();
    publish(world, &messages).await;
    assert_eq!(lag_now().await, (40, 40), "a group that has committed nothing is behind by everything");

    // The group of the configuration.
    let mut source = world.source("reader", &topics);
    let deliveries = receive(&mut *source, 40).await;
    let (settled, open): (Vec<Delivery>, Vec<Delivery>) =
        deliveries.into_iter().partition(|delivery| delivery.offset < 3);
    source.settled(&positions(&settled)).expect("positions are taken");
    close(source).await;
    assert_eq!(lag_now().await, (open.len() as u64, 40), "what was received and not settled counts");
}

async fn a_group_that_skipped_reads_only_what_comes_later(world: &dyn World) {
    let topic = world.topic("three");
    let Some(config) = world.kafka() else { return };
    let messages: Vec<Message> = (0..30).map(|number| message(&topic, number, number)).collect();
    publish(world, &messages).await;
    let ends = patiently(skip(&config, &[&topic])).await.expect("it skips");
    assert_eq!(ends.iter().map(|end| end.next).sum::<i64>(), 30);
    assert_eq!(patiently(lag(&config, &[&topic])).await.expect("it tells").behind, 0);

    // The group of the configuration.
    let mut source = world.source("reader", &[&topic]);
    publish(world, &[message(&topic, 1, 999)]).await;
    assert_eq!(receive(&mut *source, 1).await[0].body, message(&topic, 1, 999).body);
    close(source).await;
}

async fn what_was_read_can_be_published_byte_for_byte(world: &dyn World) {
    let (one, three) = (world.topic("one"), world.topic("three"));
    let Some(config) = world.kafka() else { return };
    let bytes = |topic: &str, key: Option<&[u8]>, headers: Vec<(String, Vec<u8>)>, body: &[u8]| Delivery {
        topic: topic.into(),
        partition: 0,
        offset: 0,
        epoch: 0,
        key: key.map(<[u8]>::to_vec),
        headers,
        body: body.to_vec(),
    };
    let odd = [
        bytes(&one, None, vec![], b"hello"),
        bytes(&one, Some(&[0xff]), vec![("a".to_owned(), vec![0xfe]), ("a".to_owned(), vec![])], &[0xff, 0x00]),
        bytes(&three, Some(b"key"), vec![], b""),
    ];
    patiently(inject(&config, &odd)).await.expect("it publishes");
    let first = patiently(read_all(&config, &[&one, &three])).await.expect("it reads");
    patiently(inject(&config, &first)).await.expect("it publishes");
    let both = patiently(read_all(&config, &[&one, &three])).await.expect("it reads");
    let content = |delivery: &Delivery| (delivery.topic.clone(), delivery.key.clone(), delivery.headers.clone());
    let mut expected: Vec<_> = odd.iter().chain(&odd).map(|one| (content(one), one.body.clone())).collect();
    let mut came: Vec<_> = both.iter().map(|one| (content(one), one.body.clone())).collect();
    expected.sort();
    came.sort();
    assert_eq!(came, expected);
}

#[tokio::test]
async fn memory_makes_the_same_faults_from_the_same_seed() {
    let faults = Faults { seed: 7, duplicate: 5, reorder: true, lose_acknowledgement: 4 };
    let run = |faults: Faults| {
        let broker = MemoryBroker::with_faults(&TOPICS, faults);
        let messages: Vec<Message> = (0..100).map(|number| message("three", number, number)).collect();
        let sink = broker.sink();
        let results = sink.publish(&messages).now_or_never().expect("nothing to wait for");
        let lost = results.iter().filter(|result| result.is_err()).count();
        let mut source = broker.source("faults", &["three"]);
        let mut all = Vec::new();
        while let Some(batch) = source.receive(Limit::default()).now_or_never() {
            all.extend(batch.expect("it receives").into_iter().map(|delivery| (delivery.partition, delivery.offset)));
        }
        (lost, all)
    };
    let (lost, places) = run(faults);
    assert_eq!((lost, places.clone()), run(faults));
    assert_ne!(places, run(Faults { seed: 8, ..faults }).1);
    assert!(lost > 0 && places.len() > 100, "{lost} {}", places.len());
    assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), 100, "nothing is lost");
    assert!(!places.is_sorted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_away_shows_in_the_status_and_does_not_hold_up_closing() {
    let broker = EmbeddedBroker::start(&TOPICS).expect("the embedded broker starts");
    let mut source = KafkaSource::connect(&broker.config("away"), &["one"]).expect("the settings are fine");
    let sink = KafkaSink::connect(&broker.config("sink")).expect("the settings are fine");
    let results = sink.publish(&[message("one", 1, 1)]).await;
    assert_eq!(results, [Ok(())]);
    let first = receive(&mut *source, 1).await;
    drop(broker);
    until("the source is not ready", || matches!(source.status(), SourceStatus::NotReady(_))).await;
    source.settled(&positions(&first)).expect("positions are taken");
    let begun = Instant::now();
    // Whether it says that the last position is not committed is a matter of timing; that it ends is not.
    let closed = source.close().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{closed:?} after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_is_refused_for_good_and_alone() {
    let broker = EmbeddedBroker::start(&TOPICS).expect("the embedded broker starts");
    let sink = KafkaSink::connect(&broker.config("sink")).expect("the settings are fine");
    let mut large = message("one", 1, 1);
    large.body = vec![0; 2 << 20];
    let results = sink.publish(&[message("one", 1, 2), large, message("one", 1, 3)]).await;
    assert_eq!(results[0], Ok(()));
    assert!(results[1].as_ref().is_err_and(|error| error.permanent), "{results:?}");
    assert_eq!(results[2], Ok(()));
}

/// A small message; its number is its body.
fn message(topic: &str, key: usize, number: usize) -> Message {
    Message {
        topic: topic.to_owned(),
        key: format!("key-{key}"),
        headers: vec![("ce_id".to_owned(), number.to_string())],
        body: format!("{{\"number\":{number:05}}}").into_bytes(),
    }
}

fn headers(message: &Message) -> Vec<(String, Vec<u8>)> {
    message.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect()
}

async fn publish(world: &dyn World, messages: &[Message]) {
    let results = patiently(world.sink().publish(messages)).await;
    assert_eq!(results.len(), messages.len());
    assert!(results.iter().all(Result::is_ok), "{:?}", results.iter().find(|result| result.is_err()));
}

/// So many deliveries, however they are batched, and no more than those.
async fn receive(source: &mut dyn Source, count: usize) -> Vec<Delivery> {
    let mut all: Vec<Delivery> = Vec::new();
    while all.len() < count {
        let limit = Limit { messages: Limit::default().messages.min(count - all.len()), ..Limit::default() };
        all.extend(patiently(source.receive(limit)).await.expect("it receives"));
    }
    all
}

async fn close(source: Box<dyn Source>) {
    patiently(source.close()).await.expect("it closes");
}

async fn patiently<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn positions(deliveries: &[Delivery]) -> Vec<Position> {
    let mut last: BTreeMap<(Arc<str>, i32), (i64, u64)> = BTreeMap::new();
    for delivery in deliveries {
        last.insert((Arc::clone(&delivery.topic), delivery.partition), (delivery.offset + 1, delivery.epoch));
    }
    let last = last.into_iter();
    last.map(|((topic, partition), (next, epoch))| Position { topic, partition, next, epoch }).collect()
}

fn places(deliveries: &[Delivery]) -> BTreeSet<(Arc<str>, i32, i64)> {
    deliveries.iter().map(|one| (Arc::clone(&one.topic), one.partition, one.offset)).collect()
}

fn assert_in_order(deliveries: &[Delivery]) {
    let mut next: BTreeMap<(&str, i32), i64> = BTreeMap::new();
    for delivery in deliveries {
        let expected = next.entry((&delivery.topic, delivery.partition)).or_insert(delivery.offset);
        assert_eq!(delivery.offset, *expected, "partition {} of {}", delivery.partition, delivery.topic);
        *expected += 1;
    }
}
