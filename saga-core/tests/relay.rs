//! What holds up the way from the outbox to the broker, and what it holds up.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod toy;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use saga_core::{
    Event as _,
    envelope::{Delivery, Envelope, Message},
    id::SagaId,
    observer::Unseen,
    store::{Changes, OutboxRow, Store},
    transport::{
        BoxFuture, PublishError, Sink, Told,
        embedded::EmbeddedBroker,
        kafka::{KafkaSink, inject, read_all},
    },
};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use toy::*;

/// What a stop may take.
const STOP: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Which partition of the broker's topic `toy` each key is in, by the broker's own account.
async fn placed(broker: &EmbeddedBroker, sagas: &[SagaId]) -> BTreeMap<SagaId, i32> {
    let probe = |saga: &SagaId| {
        let (topic, key) = (Arc::from("toy"), Some(saga.to_string().into_bytes()));
        Delivery { topic, partition: 0, offset: 0, epoch: 0, key, headers: Vec::new(), body: b"probe".to_vec() }
    };
    inject(&broker.config("probe"), &sagas.iter().map(probe).collect::<Vec<_>>()).await.unwrap();
    let all = read_all(&broker.config("probe"), &["toy"]).await.unwrap();
    let saga = |one: &Delivery| std::str::from_utf8(one.key.as_deref().unwrap()).unwrap().parse().unwrap();
    all.iter().map(|one| (saga(one), one.partition)).collect()
}

/// The sagas whose events are in the outbox, and how many of them are claimed at a moment.
async fn waiting_at(store: &Store, now: i64) -> (BTreeSet<String>, usize) {
    let rows = store.outbox_page(true, None, None, 1_000).await.unwrap();
    let claimed = rows.iter().filter(|row| row.claimed_until > now).count();
    (rows.into_iter().map(|entry| entry.row.message.key).collect(), claimed)
}

async fn waiting(store: &Store) -> BTreeSet<String> {
    waiting_at(store, 0).await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_without_a_leader_holds_up_only_its_own_events() {
    let kafka = EmbeddedBroker::start(&[("toy", 2)]).unwrap();
    let mut toy = Toy::new([]).await;
    let sagas: Vec<SagaId> = (0..40).map(|_| toy.saga()).collect();
    let placed = placed(&kafka, &sagas).await;
    let (early, late) = sagas.split_at(20);
    let stuck = |sagas: &[SagaId]| -> BTreeSet<String> {
        sagas.iter().filter(|saga| placed[saga] == 0).map(SagaId::to_string).collect()
    };
    assert!((1..20).contains(&stuck(early).len()) && (1..20).contains(&stuck(late).len()), "both have some");

    kafka.set_leader("toy", 0, false).unwrap();
    toy.node = toy.with_sink(KafkaSink::connect(&kafka.config("sink")).unwrap());
    early.iter().for_each(|saga| toy.send(*saga, Asked::TYPE, &saga.to_string()));
    let Toy { node, store, broker, clock, .. } = toy;
    let (health, stop) = (node.health(), CancellationToken::new());
    let mut playing = JoinSet::new();
    playing.spawn(node.run(stop.clone().cancelled_owned()));
    until("the events of the other partition are out", async || waiting(&store).await == stuck(early)).await;
    until("it shows", async || health.slow_partitions() == ["toy/0"]).await;

    // What comes later flows past them at once, and a sweep does not take for lost what is in flight.
    late.iter().for_each(|saga| send(&broker, *saga, Asked::TYPE, &saga.to_string()));
    until("those of later sagas are, too", async || {
        let (last, all) = (late.last().unwrap(), waiting(&store).await);
        all == stuck(&sagas) && !store.ledger(*last).await.unwrap().is_empty()
    })
    .await;
    clock.advance(Duration::from_secs(40));
    until("a sweep sees them", async || waiting_at(&store, clock.now()).await.1 == stuck(&sagas).len()).await;

    kafka.set_leader("toy", 0, true).unwrap();
    until("all are out", async || store.outbox_len().await.unwrap() == 0).await;
    until("it shows no longer", async || health.slow_partitions().is_empty()).await;
    stop.cancel();
    playing.join_next().await.unwrap().unwrap().unwrap();
    let events = read_all(&kafka.config("reader"), &["toy"]).await.unwrap();
    let mut out: Vec<String> =
        events.iter().filter_map(|one| Envelope::decode(one).ok()).map(|event| event.saga.to_string()).collect();
    out.sort();
    let mut sent: Vec<String> = sagas.iter().map(SagaId::to_string).collect();
    sent.sort();
    assert_eq!(out, sent, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_without_a_leader_does_not_hold_up_the_stop() {
    let kafka = EmbeddedBroker::start(&[("toy", 1)]).unwrap();
    kafka.set_leader("toy", 0, false).unwrap();
    let mut toy = Toy::new([]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.node = toy.with_sink(KafkaSink::connect(&kafka.config("sink")).unwrap());
    let Toy { node, store, .. } = toy;
    let (health, stop) = (node.health(), CancellationToken::new());
    let mut playing = JoinSet::new();
    playing.spawn(node.run(stop.clone().cancelled_owned()));
    until("its event waits", async || !health.slow_partitions().is_empty()).await;
    stop.cancel();
    timeout(STOP, playing.join_next()).await.expect("the stop waits for the leader").unwrap().unwrap().unwrap();
    assert_eq!(waiting(&store).await, BTreeSet::from([saga.to_string()]), "for the next start");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_leader_is_published_by_one_instance_only() {
    let kafka = EmbeddedBroker::start(&[("toy", 1)]).unwrap();
    kafka.set_leader("toy", 0, false).unwrap();
    let mut toy = Toy::new([]).await;
    let sagas: Vec<SagaId> = (0..10).map(|_| toy.saga()).collect();
    sagas.iter().for_each(|saga| toy.send(*saga, Asked::TYPE, &saga.to_string()));
    toy.node = toy.with_sink(KafkaSink::connect(&kafka.config("sink")).unwrap());
    let Toy { node, store, broker, clock, script } = toy;
    let stop = CancellationToken::new();
    let mut playing = JoinSet::new();
    playing.spawn(node.run(stop.clone().cancelled_owned()));
    until("its events are held", async || waiting_at(&store, clock.now()).await.1 == sagas.len()).await;

    clock.advance(Duration::from_secs(10));
    let sink = KafkaSink::connect(&kafka.config("sink")).unwrap();
    let mut other = Toy::play(&broker, &clock, &store, &script, sink, Arc::new(Unseen));
    assert_eq!(other.sweep().await.unwrap(), 0, "old as they are, they are not lost");
    stop.cancel();
    timeout(STOP, playing.join_next()).await.expect("the stop waits for the leader").unwrap().unwrap().unwrap();
    kafka.set_leader("toy", 0, true).unwrap();
    assert_eq!(other.sweep().await.unwrap(), sagas.len(), "whoever stops leaves them to the others at once");
    assert_eq!(store.outbox_len().await.unwrap(), 0);
    let events = read_all(&kafka.config("reader"), &["toy"]).await.unwrap();
    assert_eq!(events.len(), sagas.len(), "each once");
}

/// A broker with a partition, that of the key `held`, which acknowledges nothing until it is opened.
#[derive(Default)]
struct Gate {
    open: CancellationToken,
    /// The bodies, as they came.
    came: Mutex<Vec<Vec<u8>>>,
}

impl Sink for Gate {
    fn publish<'a>(&'a self, _: &'a [Message]) -> BoxFuture<'a, Vec<Result<(), PublishError>>> {
        unreachable!("the relay wants to hear of each")
    }

    fn publish_each<'a>(&'a self, messages: Vec<Message>, mut told: Told<'a>) -> BoxFuture<'a, ()> {
        let held: Vec<bool> = messages.iter().map(|message| message.key == "held").collect();
        self.came.lock().unwrap().extend(messages.into_iter().map(|message| message.body));
        Box::pin(async move {
            let mut tell = |wanted: bool| {
                held.iter().enumerate().filter(|(_, held)| **held == wanted).for_each(|(index, _)| told(index, Ok(())));
            };
            tell(false);
            self.open.cancelled().await;
            tell(true);
        })
    }

    fn partition(&self, message: &Message) -> i32 {
        i32::from(message.key != "held")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_room_in_memory_stays_in_the_outbox_and_goes_out_later() {
    const HELD: u32 = 9_000;
    const OTHERS: u32 = 100;
    let mut toy = Toy::new([]).await;
    let row = |number: u32| {
        let key = if number < HELD { "held" } else { "free" }.to_owned();
        let message =
            Message { topic: "toy".to_owned(), key, headers: Vec::new(), body: number.to_be_bytes().to_vec() };
        OutboxRow { id: toy.clock.time_ordered_uuid(), message, created_at: i64::from(number) }
    };
    let mut tx = toy.store.begin().await.unwrap();
    tx.write(&Changes { outbox: (0..HELD + OTHERS).map(row).collect(), ..Changes::default() }).await.unwrap();
    tx.commit().await.unwrap();
    let gate = Arc::new(Gate::default());
    toy.node = toy.with_sink(gate.clone());
    let Toy { node, store, .. } = toy;
    let stop = CancellationToken::new();
    let mut playing = JoinSet::new();
    playing.spawn(node.run(stop.clone().cancelled_owned()));
    until("what is behind them is out", async || store.outbox_len().await.unwrap() == u64::from(HELD)).await;
    let in_flight = gate.came.lock().unwrap().len();
    assert!((4_000..=6_000 + OTHERS as usize).contains(&in_flight), "{in_flight}");

    // The clock stands still: no claim ends by itself.
    gate.open.cancel();
    until("all are out", async || store.outbox_len().await.unwrap() == 0).await;
    stop.cancel();
    playing.join_next().await.unwrap().unwrap().unwrap();
    let mut came = gate.came.lock().unwrap().clone();
    came.sort();
    let sent: Vec<_> = (0..HELD + OTHERS).map(|number| number.to_be_bytes().to_vec()).collect();
    assert!(came == sent, "each once: {} came", came.len());
}

/// Fails once, as a broker does that is away for a moment.
struct FailsOnce(AtomicBool, Arc<dyn Sink>);

impl Sink for FailsOnce {
    fn publish<'a>(&'a self, messages: &'a [Message]) -> BoxFuture<'a, Vec<Result<(), PublishError>>> {
        if self.0.swap(true, Ordering::SeqCst) {
            return self.1.publish(messages);
        }
        let away = PublishError { permanent: false, reason: "away".to_owned() };
        Box::pin(async move { vec![Err(away); messages.len()] })
    }
}

#[tokio::test]
async fn what_a_sweep_could_not_publish_is_taken_by_the_next() {
    let mut toy = Toy::new([]).await;
    let saga = toy.begin("k1").await;
    toy.node = toy.with_sink(Arc::new(FailsOnce(AtomicBool::new(false), toy.broker.sink())));
    toy.clock.advance(Duration::from_secs(10));
    assert_eq!(toy.node.sweep().await.unwrap(), 1);
    assert_eq!(toy.emitted(saga), Vec::<String>::new());
    assert_eq!(toy.node.sweep().await.unwrap(), 0, "not in a spin");
    toy.clock.advance(Duration::from_secs(1));
    assert_eq!(toy.node.sweep().await.unwrap(), 1, "not after the claim only");
    assert_eq!(toy.emitted(saga), [Started1::TYPE]);
    assert_eq!(toy.store.outbox_len().await.unwrap(), 0);
}
