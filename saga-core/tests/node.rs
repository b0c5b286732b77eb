//! A participant that runs by itself: it stops in time, and it does not go on without a part of it.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod toy;

use std::{sync::Arc, time::Duration};

use saga_core::{
    Error, Event as _,
    envelope::Message,
    observer::Unseen,
    transport::{BoxFuture, PublishError, Sink},
};
use tokio::time::timeout;
use toy::*;

/// What a stop may take, from the signal to the end.
const STOP: Duration = Duration::from_secs(5);

struct Broken;
impl Sink for Broken {
    fn publish<'a>(&'a self, _: &'a [Message]) -> BoxFuture<'a, Vec<Result<(), PublishError>>> {
        panic!("the sink has a bug")
    }
}

/// Otherwise events would be committed and never published, by a process that calls itself ready.
#[tokio::test]
async fn a_participant_whose_relay_panics_stops_with_an_error() {
    let mut toy = Toy::new([]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.node = toy.with_sink(Arc::new(Broken));
    let Toy { node, store, .. } = toy;
    let ended = timeout(STOP, node.run(std::future::pending())).await.expect("it goes on without its relay");
    assert!(matches!(ended, Err(Error::Relay { .. })), "{ended:?}");
    assert_eq!(store.ledger(saga).await.unwrap().len(), 1, "what was committed stays");
    assert_eq!(store.outbox_len().await.unwrap(), 1, "and its event waits for the next start");
}

/// A step may take its time, but not the stop's: its transaction is rolled back, and its event comes again after the start.
#[tokio::test]
async fn a_step_that_hangs_does_not_hold_up_the_stop() {
    let toy = Toy::new([Todo::HangThenAgree]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    let Toy { node, broker, clock, store, script } = toy;
    let told = async {
        while script.seen().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(STOP, node.run(told)).await.expect("the stop waits for the step").unwrap();
    assert_eq!(store.ledger(saga).await.unwrap(), []);
    let node = Toy::play(&broker, &clock, &store, &script, broker.sink(), Arc::new(Unseen));
    let mut toy = Toy { node, broker, clock, store, script };
    toy.settle().await;
    assert_eq!((toy.effects(saga).await, toy.emitted(saga).len()), (1, 2));
}
