//! What is forgotten, what is never taken for new, and what is overdue.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod toy;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use saga_core::{
    Error, Event as _,
    envelope::Delivery,
    node::Node,
    observer::{Measure, Observer, Unseen},
    participant::Participant,
    retention::Retention,
    store::WorkState,
    transport::{BoxFuture, Limit, Position, Source, SourceStatus, TransportError},
};
use toy::*;

const DAY: u64 = 24 * 3_600;

fn two_days() -> Retention {
    Retention::keep(Duration::from_secs(2 * DAY))
}

/// Overdue sagas, as they were measured.
#[derive(Debug, Default)]
struct Overdue(Mutex<Vec<u64>>);
impl Observer for Overdue {
    fn measure(&self, _: &str, measure: &Measure<'_>) {
        if let Measure::Overdue { sagas } = measure {
            self.0.lock().unwrap().push(*sagas);
        }
    }
}

#[tokio::test]
async fn an_old_saga_is_forgotten_whole_and_what_comes_of_it_later_is_never_taken_for_new() {
    let mut toy = Toy::new([]).await;
    toy.node = toy.another().remembering(two_days());
    let old = toy.saga();
    toy.send(old, Asked::TYPE, "a1");
    toy.settle().await;
    toy.later(DAY).await;
    let young = toy.saga();
    toy.send(young, Asked::TYPE, "a2");
    toy.settle().await;
    assert_eq!(toy.node.keep_house().await.unwrap(), 0, "two days are not over");
    toy.later(DAY + 1).await;
    assert_eq!(toy.node.keep_house().await.unwrap(), 1);
    assert_eq!(toy.store.ledger(old).await.unwrap(), []);
    assert_eq!(toy.store.ledger(young).await.unwrap().len(), 2);

    for event in
        [(old, Asked::TYPE, "a1"), (old, Fetch::TYPE, "f1"), (old, TookBack::TYPE, "t1"), (young, Asked::TYPE, "a2")]
    {
        toy.send(event.0, event.1, event.2);
        toy.send(event.0, event.1, event.2); // and once more: its own stuck row is no memory
        toy.settle().await;
    }
    assert_eq!((toy.effects(old).await, toy.effects(young).await), (1, 1), "nothing ran again");
    let rows = toy.store.work(10).await.unwrap();
    assert_eq!(rows.len(), 3, "{rows:?}");
    for row in rows {
        assert_eq!((row.saga, row.state, row.blocks), (old, WorkState::Stuck, false));
        assert!(row.reason.contains("older than this participant's memory"), "{}", row.reason);
    }
}

/// A saga that comes late, but is younger than the horizon, is new; and so is one whose id tells no time.
#[tokio::test]
async fn what_is_not_behind_the_horizon_is_new() {
    let mut toy = Toy::new([]).await;
    toy.node = toy.another().remembering(two_days());
    let late = toy.saga();
    toy.later(2 * DAY - 1).await;
    toy.node.keep_house().await.unwrap();
    toy.send(late, Asked::TYPE, "a1");
    let foreign = saga_core::id::SagaId(uuid::Uuid::from_u128(7));
    toy.send(foreign, Asked::TYPE, "a2");
    toy.settle().await;
    assert_eq!((toy.effects(late).await, toy.effects(foreign).await), (1, 1));
    toy.later(10 * DAY).await;
    assert_eq!(toy.node.keep_house().await.unwrap(), 1, "only an id of version 7 tells an age");
    assert_eq!(toy.store.ledger(foreign).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_saga_that_waits_is_remembered_however_old_it_is() {
    let mut toy = Toy::new([]).await;
    toy.node = toy.another().remembering(two_days());
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    let stuck = toy.saga();
    toy.script.then(Todo::GiveUp);
    toy.send(stuck, Asked::TYPE, "a2");
    toy.settle().await;
    assert_eq!(toy.work(stuck).await, [("do".to_owned(), WorkState::Stuck)]);
    toy.later(10 * DAY).await;
    assert_eq!(toy.node.keep_house().await.unwrap(), 1, "the one that does not wait");
    toy.send(stuck, Fetch::TYPE, "f2");
    toy.settle().await;
    assert_eq!(toy.work(stuck).await.len(), 2, "it waits behind the stuck one, and is not called too old");
    assert_eq!(toy.store.work(10).await.unwrap().iter().filter(|row| row.state == WorkState::Stuck).count(), 1);
}

#[tokio::test]
async fn a_start_is_forgotten_with_its_saga() {
    let mut toy = Toy::new([]).await;
    toy.node = toy.another().remembering(two_days());
    let first = toy.begin("k").await;
    toy.settle().await;
    assert_eq!(toy.begin("k").await, first);
    toy.send(first, Did::TYPE, "d1"); // its ending
    toy.later(3 * DAY).await;
    toy.node.keep_house().await.unwrap();
    assert_ne!(toy.begin("k").await, first, "the key is as old as its saga");
}

#[tokio::test]
async fn a_saga_that_simply_stopped_is_counted_as_overdue_where_it_started() {
    let seen = Arc::new(Overdue::default());
    let mut toy = Toy::new([]).await;
    toy.node = toy.observed(seen.clone()).remembering(two_days().overdue_after(Duration::from_secs(600)));
    let sagas = [toy.begin("1").await, toy.begin("2").await];
    toy.settle().await;
    toy.node.keep_house().await.unwrap();
    toy.later(601).await;
    toy.node.keep_house().await.unwrap();
    toy.send(sagas[0], Did::TYPE, "d1"); // its ending
    toy.settle().await;
    toy.node.keep_house().await.unwrap();
    assert_eq!(*seen.0.lock().unwrap(), [0, 2, 1]);
}

/// A source whose topics keep their events for a week.
struct Week(Box<dyn Source>);
impl Source for Week {
    fn receive(&mut self, limit: Limit) -> BoxFuture<'_, Result<Vec<Delivery>, TransportError>> {
        self.0.receive(limit)
    }
    fn settled(&mut self, positions: &[Position]) -> Result<(), TransportError> {
        self.0.settled(positions)
    }
    fn status(&self) -> SourceStatus {
        self.0.status()
    }
    fn retention(&self) -> BoxFuture<'static, Result<Option<Duration>, TransportError>> {
        Box::pin(async { Ok(Some(Duration::from_secs(7 * DAY))) })
    }
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>> {
        self.0.close()
    }
}

#[tokio::test]
async fn a_memory_that_is_shorter_than_the_topics_is_refused_at_the_start() {
    let toy = Toy::new([]).await;
    let run = async |retention: Retention| {
        let source = Box::new(Week(toy.broker.source("week", &["toy"])));
        let cast = Participant::new("toy").start(Begin).step(Close);
        let node =
            Node::observed(cast, toy.store.clone(), source, toy.broker.sink(), Arc::new(Unseen), toy.clock.clone());
        let node = node.unwrap().remembering(retention);
        let health = node.health();
        let plays = async {
            while health.ready().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        node.run(plays).await
    };
    let refused = run(two_days()).await.unwrap_err().to_string();
    assert!(refused.contains("keeps events for 604800s") && refused.contains("retention.ms"), "{refused}");
    let refused = run(Retention::keep(Duration::from_secs(60))).await;
    assert!(matches!(refused, Err(Error::Retention { .. })), "{refused:?}");
    run(two_days().shorter_than_topics()).await.unwrap();
    run(Retention::keep(Duration::from_secs(8 * DAY))).await.unwrap();
    run(Retention::default()).await.unwrap();
}
