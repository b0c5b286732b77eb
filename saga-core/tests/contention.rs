//! Transactions of others that stand in a step's way, on PostgreSQL, where `SAGA_TEST_POSTGRES` is the URL of a database in which
//! tables may be created. SQLite has one writer, and so nobody to meet.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]
#![allow(clippy::disallowed_methods, reason = "each test awaits what it spawns")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use saga_core::{
    Event, Local, Never, Nothing, Participant, State, Step, StepContext, StepResult,
    clock::Clock,
    id::SagaId,
    node::Node,
    observer::Unseen,
    retry::Retry,
    store::{Store, WorkState},
    transport::memory::MemoryBroker,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
struct Asked {}
impl Event for Asked {
    const TYPE: &'static str = "contention.asked.v1";
    const TOPIC: &'static str = "contention";
}

/// Takes one row after the other, once: any failure that counts makes it stuck.
#[derive(Clone, Default)]
struct Take(Arc<Taking>);
#[derive(Default)]
struct Taking {
    runs: AtomicU32,
    /// In so many runs its own statement says that there is a deadlock.
    deadlocks: AtomicU32,
    has_first: Notify,
}
impl Step for Take {
    const NAME: &'static str = "take";
    type On = Asked;
    type Emits = Nothing;
    type Rejects = Never;
    type CompensatedOn = Never;
    fn retry(&self) -> Retry {
        Retry::never()
    }
}
impl Local for Take {
    async fn run(&self, _: Asked, cx: &mut StepContext<'_>) -> StepResult<Self> {
        self.0.runs.fetch_add(1, Ordering::SeqCst);
        let less = |left: u32| left.checked_sub(1);
        if self.0.deadlocks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            cx.execute("DO 'BEGIN RAISE EXCEPTION ''in its own way'' USING ERRCODE = ''40P01''; END'", ()).await?;
        }
        cx.execute("UPDATE contention_rows SET taken = taken + 1 WHERE id = 1", ()).await?;
        self.0.has_first.notify_one();
        cx.execute("UPDATE contention_rows SET taken = taken + 1 WHERE id = 2", ()).await?;
        Ok(Nothing)
    }
}

/// A participant with tables of its own, whose saga was asked for; `None` without PostgreSQL.
async fn asked(take: &Take) -> Option<(Store, Node, SagaId)> {
    let Ok(url) = std::env::var("SAGA_TEST_POSTGRES") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "SAGA_TEST_POSTGRES is required here");
        eprintln!("SKIPPED: set SAGA_TEST_POSTGRES=postgres://USER@HOST/NAME to test on PostgreSQL");
        return None;
    };
    let clock = Clock::system();
    let name: &'static str = Box::leak(format!("t-{:016x}", clock.random()).into_boxed_str());
    let store = Store::connect(&url, name).await.unwrap();
    store.migrate().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.lock(&[SagaId(uuid::Uuid::nil())]).await.unwrap();
    for sql in [
        "DROP TABLE IF EXISTS contention_rows",
        "CREATE TABLE contention_rows (id int PRIMARY KEY, taken int NOT NULL)",
        "INSERT INTO contention_rows VALUES (1, 0), (2, 0)",
    ] {
        tx.conn().execute(sql, ()).await.unwrap();
    }
    tx.commit().await.unwrap();
    let broker = MemoryBroker::new(&[("contention", 1)]);
    let cast = Participant::new(name).step(take.clone());
    let source = broker.source(name, &cast.listens_to());
    let node = Node::observed(cast, store.clone(), source, broker.sink(), Arc::new(Unseen), clock.clone()).unwrap();
    let saga = SagaId::mint(&clock);
    let key = saga.to_string();
    let headers: [(&str, &[u8]); 5] = [
        ("ce_specversion", b"1.0"),
        ("ce_type", Asked::TYPE.as_bytes()),
        ("ce_id", b"a1"),
        ("ce_source", b"/test"),
        ("ce_sagaid", key.as_bytes()),
    ];
    assert!(broker.inject("contention", Some(key.as_bytes()), &headers, b"{}"));
    Some((store, node, saga))
}

async fn state(store: &Store, saga: SagaId) -> Option<(State, u32)> {
    store.ledger(saga).await.unwrap().first().map(|row| (row.state, row.attempts))
}

/// The tests share a table.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Requests that come in a flood wait for each other, and not the participant for them.
#[tokio::test]
async fn requests_that_take_all_of_their_connections_keep_nobody_from_settling() {
    let _alone = ALONE.lock().await;
    let take = Take::default();
    let Some((store, mut node, saga)) = asked(&take).await else { return };
    let requests = store.apart().await.unwrap();
    let mut flood = Vec::new();
    while let Ok(Ok(taken)) = tokio::time::timeout(Duration::from_secs(1), requests.begin()).await {
        flood.push(taken);
        assert!(flood.len() < 100, "there is no bound");
    }
    node.turn().await.unwrap();
    assert_eq!(state(&store, saga).await, Some((State::Done, 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_conflict_is_no_attempt_and_one_that_never_ends_is_seen() {
    let _alone = ALONE.lock().await;
    // Another transaction has the second row and wants the first one. The step is the one that is rolled back, since the other one
    // looks for deadlocks much later.
    let take = Take::default();
    let Some((store, mut node, saga)) = asked(&take).await else { return };
    let mut other = store.begin().await.unwrap();
    for sql in ["SET LOCAL deadlock_timeout = '60s'", "UPDATE contention_rows SET taken = taken + 1 WHERE id = 2"] {
        other.conn().execute(sql, ()).await.unwrap();
    }
    let contends = take.clone();
    let other = tokio::spawn(async move {
        contends.0.has_first.notified().await;
        other.conn().execute("UPDATE contention_rows SET taken = taken + 1 WHERE id = 1", ()).await.unwrap();
        other.commit().await.unwrap();
    });
    tokio::time::timeout(Duration::from_secs(30), node.turn()).await.expect("it waits for ever").unwrap();
    other.await.unwrap();
    assert!(take.0.runs.load(Ordering::SeqCst) >= 2, "they met");
    assert_eq!(state(&store, saga).await, Some((State::Done, 1)));
    assert_eq!(store.work(10).await.unwrap(), []);
    let taken: Option<(i64,)> = store.fetch_optional("SELECT sum(taken) FROM contention_rows", ()).await.unwrap();
    assert_eq!(taken, Some((4,)), "each of the two once");

    // A few times in a row, as in a crowd.
    let take = Take::default();
    take.0.deadlocks.store(4, Ordering::SeqCst);
    let (store, mut node, saga) = asked(&take).await.unwrap();
    node.turn().await.unwrap();
    assert_eq!(state(&store, saga).await, Some((State::Done, 1)));

    // Its own statements are in each other's way, each time.
    let take = Take::default();
    take.0.deadlocks.store(u32::MAX, Ordering::SeqCst);
    let (store, mut node, saga) = asked(&take).await.unwrap();
    node.turn().await.unwrap();
    let rows = store.work(10).await.unwrap();
    assert_eq!((rows.len(), rows[0].saga, rows[0].state, rows[0].attempts), (1, saga, WorkState::Stuck, 1), "{rows:?}");
    assert!(rows[0].reason.contains("in its own way"), "{}", rows[0].reason);
    assert!(take.0.runs.load(Ordering::SeqCst) < 10, "it does not spin");
}
