//! Topics are folded into tables: whatever comes twice or late, whoever shares the tables, and again from the start.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod shop;

use std::{collections::BTreeMap, time::Duration};

use saga_core::{
    clock::Clock,
    id::SagaId,
    transport::memory::{Faults, MemoryBroker},
};
use saga_observer::{Cast, Saga, Store, intake, store::Filter, view::State};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const TOPICS: [&str; 3] = ["order", "payment", "shipping"];
const SAGAS: u128 = 40;

fn id(saga: u128) -> SagaId {
    SagaId(Uuid::from_u128(saga))
}

/// A broker with cancelled orders, of which every third has not come to its ending.
async fn broker() -> MemoryBroker {
    let broker = MemoryBroker::new(&TOPICS.map(|topic| (topic, 3)));
    for saga in 1..=SAGAS {
        let events = shop::cancelled(saga);
        let seen = if saga % 3 == 0 { 2 } else { events.len() };
        for event in &events[..seen] {
            let message = event.clone().encode(event.source.trim_start_matches('/')).unwrap();
            assert!(broker.sink().publish(&[message]).await[0].is_ok());
        }
    }
    broker
}

/// Folds until every saga has come to where its events end.
async fn fold_all(store: &Store, broker: &MemoryBroker) {
    let choreography = shop::choreography();
    let cast = Cast::of(choreography.flow());
    let complete = async {
        loop {
            let cancelled = Filter { state: Some(State::Cancelled), ..Filter::default() };
            let running = Filter { awaited: "shipping/ship-order".to_owned(), ..Filter::default() };
            let (cancelled, running) =
                (store.list(&cancelled, 1_000).await.unwrap(), store.list(&running, 1_000).await.unwrap());
            if cancelled.len() as u128 == SAGAS - SAGAS / 3 && running.len() as u128 == SAGAS / 3 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Beside the intake, not as its shutdown: a question that is not polled would hold a connection.
    let stop = CancellationToken::new();
    let complete = async {
        tokio::time::timeout(Duration::from_secs(20), complete).await.unwrap();
        stop.cancel();
    };
    let run = intake::run(store, &cast, broker.source(&store.group(), &TOPICS), stop.cancelled());
    tokio::join!(run, complete).0.unwrap();
}

async fn rows(store: &Store) -> BTreeMap<SagaId, Saga> {
    let mut rows = BTreeMap::new();
    for saga in 1..=SAGAS {
        rows.insert(id(saga), store.saga(id(saga)).await.unwrap().unwrap());
    }
    rows
}

#[tokio::test]
async fn tables_that_were_deleted_are_filled_again_with_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("observer.db").display());
    let broker = broker().await;
    let store = Store::open(&url, Clock::system().time_ordered_uuid()).await.unwrap();
    fold_all(&store, &broker).await;
    let first = rows(&store).await;
    let again = Store::open(&url, Clock::system().time_ordered_uuid()).await.unwrap();
    assert_eq!(again.group(), store.group(), "the same tables are read under the same group");

    broker.set_faults(Faults { seed: 7, duplicate: 3, reorder: true, lose_acknowledgement: 0 });
    let anew = format!("sqlite:{}", dir.path().join("anew.db").display());
    let anew = Store::open(&anew, Clock::system().time_ordered_uuid()).await.unwrap();
    assert_ne!(anew.group(), store.group());
    fold_all(&anew, &broker).await;
    assert_eq!(rows(&anew).await, first);
}

/// Each of them sees what the other does not.
async fn share(url: &str) {
    let clock = Clock::system();
    let one = Store::open(url, clock.time_ordered_uuid()).await.unwrap();
    let other = Store::open(url, clock.time_ordered_uuid()).await.unwrap();
    let choreography = shop::choreography();
    let cast = Cast::of(choreography.flow());
    let mut half = [BTreeMap::<SagaId, Saga>::new(), BTreeMap::new()];
    let mut whole = BTreeMap::<SagaId, Saga>::new();
    for saga in 1..=SAGAS {
        for (number, event) in shop::cancelled(saga).iter().enumerate() {
            let place = saga_observer::saga::Place { topic: "t".to_owned(), partition: 0, offset: number as i64 };
            let seen = Saga::of_event(event, place);
            half[number % 2].entry(id(saga)).or_default().merge(seen.clone());
            whole.entry(id(saga)).or_default().merge(seen);
        }
    }
    let [first, second] = half;
    let (a, b) = tokio::join!(one.fold(first, &cast), other.fold(second, &cast));
    a.unwrap();
    b.unwrap();
    assert_eq!(rows(&one).await, whole);
    assert_eq!(one.counts().await.unwrap(), [("cancelled".to_owned(), SAGAS as i64)]);
}

#[tokio::test]
async fn two_observers_that_share_a_file_lose_nothing_of_each_other() {
    let dir = tempfile::tempdir().unwrap();
    share(&format!("sqlite:{}", dir.path().join("observer.db").display())).await;
}

#[tokio::test]
async fn two_observers_that_share_postgres_lose_nothing_of_each_other() {
    let Ok(url) = std::env::var("SAGA_TEST_POSTGRES") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "SAGA_TEST_POSTGRES is required here");
        eprintln!("SKIPPED: set SAGA_TEST_POSTGRES=postgres://USER@HOST/NAME to test on PostgreSQL");
        return;
    };
    share(&url).await;
}

#[tokio::test]
async fn a_list_is_filtered() {
    let store = Store::open("sqlite::memory:", Clock::system().time_ordered_uuid()).await.unwrap();
    fold_all(&store, &broker().await).await;
    let found = async |filter: Filter| {
        store.list(&filter, 100).await.unwrap().into_iter().map(|row| row.subjects).collect::<Vec<_>>()
    };
    let text = |text: &str| Filter { text: text.to_owned(), ..Filter::default() };
    assert_eq!(found(text("order 12")).await, ["order 12"]);
    assert_eq!(found(text("%")).await, Vec::<String>::new(), "a wildcard is a letter like others");
    assert_eq!(found(Filter { after: Some(id(3)), ..Filter::default() }).await, ["order 2", "order 1"]);
    assert_eq!(found(Filter { started_before: Some(0), ..Filter::default() }).await.len(), 40);
}
