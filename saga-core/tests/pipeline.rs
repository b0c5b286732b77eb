//! What the pipeline promises, shown with one toy participant in memory: each test is a sentence about a failure.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod toy;

use std::time::Duration;

use saga_core::{
    Event as _, Participant, State, StepContext,
    id::SagaId,
    node::Node,
    start::{StartError, StartKey, Started},
    store::WorkState,
};
use toy::*;
use uuid::Uuid;

#[tokio::test]
async fn a_failed_reaction_waits_with_its_error_and_the_partition_flows_on() {
    let mut toy = Toy::new([Todo::Fail, Todo::Panic]).await;
    let (bad, good) = (toy.saga(), toy.saga());
    toy.send(bad, Asked::TYPE, "a1");
    toy.settle().await;
    assert_eq!(toy.work(bad).await, [("do".to_owned(), WorkState::Deferred)]);
    toy.send(bad, Started1::TYPE, "s1"); // of the same saga: waits behind it
    toy.settle().await;
    toy.send(good, Asked::TYPE, "a2"); // the second attempt in the script is a panic
    toy.settle().await;
    assert_eq!(toy.work(bad).await, [("do".to_owned(), WorkState::Deferred), ("silent".to_owned(), WorkState::Parked)]);
    let rows = toy.store.work(10).await.unwrap();
    let panicked = rows.iter().find(|row| row.saga == good).unwrap();
    assert!(panicked.failures[0].error.contains("oh dear"), "{:?}", panicked.failures);
    assert_eq!(rows.iter().find(|row| row.saga == bad).unwrap().failures[0].error, "not now");
    assert_eq!((toy.effects(bad).await, toy.effects(good).await), (0, 0), "a failed run leaves no writes");

    toy.later(3_600).await;
    assert_eq!((toy.work(bad).await, toy.work(good).await), (vec![], vec![]));
    assert_eq!((toy.effects(bad).await, toy.effects(good).await), (2, 1));
    assert_eq!(toy.state(bad, "silent").await, Some(State::Done));
    assert_eq!(toy.emitted(good), [Did::TYPE, Closed::TYPE]);
}

#[tokio::test]
async fn a_policy_that_is_used_up_and_a_step_that_gives_up_need_a_person() {
    let mut toy = Toy::new([Todo::GiveUp]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    let rows = toy.store.work(10).await.unwrap();
    assert_eq!((rows[0].state, rows[0].reason.as_str()), (WorkState::Stuck, "never"));

    let mut toy = Toy::new([Todo::Fail; 5]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    for _ in 0..5 {
        toy.later(3_600).await;
    }
    let rows = toy.store.work(10).await.unwrap();
    assert_eq!((rows[0].state, rows[0].attempts), (WorkState::Stuck, 5));
    assert_eq!(rows[0].reason, "5 attempts failed, the last with: not now");
    assert_eq!(toy.effects(saga).await, 0);
}

#[tokio::test]
async fn what_a_rejecting_run_wrote_is_kept() {
    let mut toy = Toy::new([Todo::Reject]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    assert_eq!((toy.effects(saga).await, toy.emitted(saga)), (1, vec![Refused::TYPE.to_owned()]));
    assert_eq!(toy.state(saga, "do").await, Some(State::Rejected));
}

#[tokio::test]
async fn a_second_trigger_needs_a_person_and_blocks_nobody() {
    let mut toy = Toy::new([]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    toy.send(saga, Asked::TYPE, "a1"); // the same event: a duplicate
    toy.send(saga, AskedOtherwise::TYPE, "a2"); // another one
    toy.send(saga, Fetch::TYPE, "f1"); // something else of the same saga
    toy.settle().await;
    assert_eq!(toy.work(saga).await, [("do".to_owned(), WorkState::Stuck)]);
    assert!(toy.store.work(10).await.unwrap()[0].reason.starts_with("second trigger"));
    assert_eq!(toy.state(saga, "ask").await, Some(State::Done));
    assert_eq!(toy.effects(saga).await, 2, "one of do, one of ask");

    // Where the first one wins, the second is a duplicate.
    let saga = toy.saga();
    toy.send(saga, Started1::TYPE, "s1");
    toy.send(saga, Started1::TYPE, "s2");
    toy.settle().await;
    assert_eq!((toy.work(saga).await, toy.effects(saga).await), (vec![], 1));
}

#[tokio::test]
async fn a_second_ending_needs_a_person() {
    let mut toy = Toy::new([]).await;
    let saga = toy.saga();
    toy.send(saga, Did::TYPE, "d1");
    toy.settle().await;
    assert_eq!(toy.emitted(saga), [Closed::TYPE]);
    toy.send(saga, Did::TYPE, "d2");
    toy.settle().await;
    assert_eq!(toy.emitted(saga), [Closed::TYPE]);
    assert_eq!(toy.work(saga).await, [("close".to_owned(), WorkState::Stuck)]);
}

#[tokio::test]
async fn a_start_happens_once_per_key_and_its_event_survives_a_crash() {
    let mut toy = Toy::new([]).await;
    let starter = toy.node.starter();
    let start = async |key: &str, fingerprint: &[u8]| {
        let key = StartKey { caller: "shop", key, fingerprint };
        starter.start::<Begin, _, _>(key, async |_, _: &mut StepContext<'_>| Ok((Started1 {}, 7_u32))).await
    };
    let Started::New(saga, 7) = start("k1", b"a").await.unwrap() else { panic!("the key is new") };
    assert_eq!(start("k1", b"a").await.unwrap(), Started::Repeated(saga, 7));
    assert!(matches!(start("k1", b"b").await, Err(StartError::OtherRequest)));

    toy.crash(); // committed, never published
    toy.settle().await;
    assert_eq!(toy.emitted(saga), Vec::<String>::new());
    assert_eq!(toy.node.sweep().await.unwrap(), 0, "it might still be in flight");
    toy.clock.advance(Duration::from_secs(10));
    assert_eq!(toy.node.sweep().await.unwrap(), 1);
    assert_eq!(toy.emitted(saga), [Started1::TYPE]);
    assert_eq!(toy.store.outbox_len().await.unwrap(), 0);
    toy.settle().await;
    assert_eq!(toy.effects(saga).await, 1);
}

#[tokio::test]
async fn a_ledger_that_names_a_step_of_another_version_is_refused() {
    let mut toy = Toy::new([]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    let source = toy.broker.source("toy", &["toy"]);
    let older = Participant::new("toy").step(Close);
    let node = Node::new(older, toy.store.clone(), source, toy.broker.sink()).unwrap();
    let error = node.check().await.unwrap_err().to_string();
    assert!(error.contains(r#"["do"]"#), "{error}");
    assert_ne!(saga, SagaId(Uuid::nil()));
}
