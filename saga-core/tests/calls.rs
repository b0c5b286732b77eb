//! What is promised of calls to other systems: counted before they are made, one key for all attempts, the first answer settles.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod toy;

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::poll;
use saga_core::{
    Event as _, External, Never, Participant, State, Step, StepContext, StepResult,
    id::SagaId,
    node::Node,
    observer::Unseen,
    retry::Retry,
    step::{CallContext, MustSucceed, retry},
    store::{Store, WorkState},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use toy::*;

#[tokio::test]
async fn a_crash_between_call_and_commit_repeats_the_call_under_its_key_when_the_lease_has_ended() {
    let mut toy = Toy::new([]).await;
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    assert!(toy.node.turn().await.unwrap(), "the intention is committed, the call is not made yet");
    assert_eq!(toy.state(saga, "ask").await, Some(State::Calling));
    toy.crash();
    toy.settle().await;
    assert_eq!(toy.script.seen(), Vec::<String>::new(), "the lease lasts: nobody else calls");
    toy.later(60).await;
    let seen = toy.script.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].starts_with("call ") && seen[0].ends_with(" 2"), "the lost attempt was counted: {seen:?}");
    assert_eq!((toy.effects(saga).await, toy.emitted(saga)), (1, vec![Fetched::TYPE.to_owned()]));
}

#[tokio::test]
async fn every_attempt_of_a_call_carries_the_same_key_and_a_reversal_its_own() {
    let mut toy = Toy::new([Todo::Fail, Todo::Fail]).await;
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    toy.later(60).await;
    toy.later(60).await;
    toy.send(saga, TookBack::TYPE, "t1");
    toy.settle().await;
    let seen = toy.script.seen();
    let key = |line: &str| line.split(' ').nth(1).map(ToOwned::to_owned);
    assert_eq!(seen.len(), 5, "three calls, one settlement, one reversal: {seen:?}");
    assert!(key(&seen[0]) == key(&seen[1]) && key(&seen[1]) == key(&seen[2]), "{seen:?}");
    assert_ne!(key(&seen[0]), key(&seen[4]));
    assert_eq!(toy.emitted(saga), [Fetched::TYPE, Undone::TYPE]);
    assert_eq!((toy.effects(saga).await, toy.state(saga, "ask").await), (0, Some(State::Compensated)));
}

#[tokio::test]
async fn a_compensation_that_finds_a_call_of_unknown_outcome_closes_its_key() {
    let mut toy = Toy::new([Todo::Fail]).await;
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await; // deferred: nobody knows
    toy.send(saga, TookBack::TYPE, "t1");
    toy.settle().await;
    let seen = toy.script.seen();
    assert!(seen[1].starts_with("close "), "{seen:?}");
    assert_eq!(toy.emitted(saga), [Undone::TYPE]);
    toy.later(3_600).await;
    assert_eq!(toy.script.seen().len(), 2, "nothing is called any more");
    assert_eq!((toy.work(saga).await, toy.state(saga, "ask").await), (vec![], Some(State::Compensated)));
}

#[tokio::test]
async fn a_compensation_waits_for_a_running_call_as_long_as_its_lease_and_no_longer() {
    let mut toy = Toy::new([]).await;
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.node.turn().await.unwrap(); // `calling`, the call itself is not made
    toy.crash();
    toy.send(saga, TookBack::TYPE, "t1");
    toy.settle().await;
    assert_eq!(toy.work(saga).await, [("ask".to_owned(), WorkState::Calling), ("ask".to_owned(), WorkState::Parked)]);
    toy.later(60).await;
    let seen = toy.script.seen();
    assert!(seen.len() == 1 && seen[0].starts_with("close "), "{seen:?}");
    assert_eq!((toy.work(saga).await, toy.emitted(saga)), (vec![], vec![Undone::TYPE.to_owned()]));
}

#[tokio::test]
async fn a_no_after_an_attempt_of_unknown_outcome_is_said_when_the_key_is_closed() {
    for script in [[Todo::Fail, Todo::Reject, Todo::Work], [Todo::Work, Todo::RejectAfterEffect, Todo::Work]] {
        let mut toy = Toy::new(script).await;
        let saga = toy.saga();
        toy.send(saga, Fetch::TYPE, "f1");
        toy.settle().await;
        toy.later(60).await;
        let seen = toy.script.seen();
        assert!(seen.last().unwrap().starts_with("close "), "{seen:?}");
        assert_eq!(toy.emitted(saga), [NotFetched::TYPE]);
        assert_eq!((toy.work(saga).await, toy.state(saga, "ask").await), (vec![], Some(State::Compensated)));
    }
    // A first no is believed.
    let mut toy = Toy::new([Todo::Reject]).await;
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    assert_eq!((toy.script.seen().len(), toy.state(saga, "ask").await), (2, Some(State::Rejected)));
}

#[tokio::test]
async fn a_reversal_that_fails_is_tried_again_and_blocks_no_other_saga() {
    let mut toy = Toy::new([Todo::Work, Todo::Work, Todo::Fail]).await;
    let (saga, other) = (toy.saga(), toy.saga());
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    toy.send(saga, TookBack::TYPE, "t1");
    toy.settle().await;
    assert_eq!(toy.state(saga, "ask").await, Some(State::Compensating));
    toy.send(other, Fetch::TYPE, "f2");
    toy.settle().await;
    assert_eq!(toy.emitted(other), [Fetched::TYPE]);
    toy.later(60).await;
    assert_eq!(toy.emitted(saga), [Fetched::TYPE, Undone::TYPE]);
}

/// A call that waited so long for its turn that its lease might end under it is not made, and is no attempt: otherwise a refusal
/// of the next one would be doubted for nothing, and a bounded policy would be used up by a queue.
#[tokio::test]
async fn a_call_whose_turn_comes_too_late_for_its_lease_is_no_attempt() {
    let mut toy = Toy::new([Todo::Reject]).await;
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    assert!(toy.node.turn().await.unwrap(), "leased, and not made yet");
    toy.clock.advance(Duration::from_secs(20)); // the call may take 30 s, the lease lasts 45 s
    toy.settle().await;
    let seen = toy.script.seen();
    assert!(seen[0].starts_with("call ") && seen[0].ends_with(" 1"), "{seen:?}");
    assert_eq!(toy.emitted(saga), [NotFetched::TYPE], "a refusal of the only attempt is believed at once: {seen:?}");
    assert_eq!(toy.state(saga, "ask").await, Some(State::Rejected));
}

/// The lease of a slow call is taken over, the second attempt settles, and then the first one is answered otherwise: the other
/// system does not keep its keys. What is settled stays, and a person is told.
#[tokio::test]
async fn a_late_answer_that_contradicts_what_was_settled_needs_a_person() {
    for (first, stuck) in [(Todo::HangThenRefuse, true), (Todo::HangThenAgree, false)] {
        let mut toy = Toy::new([first]).await;
        let saga = toy.saga();
        toy.send(saga, Fetch::TYPE, "f1");
        assert!(toy.node.turn().await.unwrap());
        let mut other = toy.another();
        let Toy { node, clock, script, .. } = &mut toy;
        {
            let mut slow = pin!(node.turn());
            assert!(poll!(&mut slow).is_pending(), "the other system takes its time");
            clock.advance(Duration::from_secs(60));
            while other.turn().await.unwrap() {}
            script.let_go();
            slow.await.unwrap();
        }
        toy.settle().await;
        assert_eq!((toy.effects(saga).await, toy.emitted(saga)), (1, vec![Fetched::TYPE.to_owned()]));
        let rows = toy.store.work(10).await.unwrap();
        assert_eq!(!rows.is_empty(), stuck, "{rows:?}");
        if let Some(row) = rows.first() {
            assert_eq!((row.state, row.blocks), (WorkState::Stuck, false));
            assert_eq!(row.reason, "attempt 1 was answered false, after true had settled it");
        }
    }
}

/// A system that answers nobody before it is opened.
struct System {
    open: watch::Sender<bool>,
    calls: Mutex<Calls>,
}
#[derive(Default)]
struct Calls {
    going: BTreeSet<SagaId>,
    most: usize,
    attempts: BTreeMap<SagaId, Vec<u32>>,
}
struct Slow(Arc<System>);
impl Step for Slow {
    const NAME: &'static str = "slow";
    type On = AskedOtherwise;
    type Emits = Did;
    type Rejects = Never;
    type CompensatedOn = Never;
    const CALLS_AT_ONCE: usize = 8;
}
impl External for Slow {
    type Reply = ();
    async fn call(&self, _: &AskedOtherwise, cx: &CallContext) -> MustSucceed<()> {
        {
            let mut calls = self.0.calls.lock().unwrap();
            assert!(calls.going.insert(cx.saga()), "two calls of one saga at a time");
            calls.most = calls.most.max(calls.going.len());
            calls.attempts.entry(cx.saga()).or_default().push(cx.attempt());
        }
        self.0.open.subscribe().wait_for(|open| *open).await.unwrap();
        self.0.calls.lock().unwrap().going.remove(&cx.saga());
        Ok(())
    }
    async fn run(&self, _: AskedOtherwise, (): (), _: &mut StepContext<'_>) -> StepResult<Self> {
        Ok(Did {})
    }
}

/// Another system, which fails each first attempt.
struct Quick;
impl Step for Quick {
    const NAME: &'static str = "quick";
    type On = Fetch;
    type Emits = Fetched;
    type Rejects = Never;
    type CompensatedOn = Never;
    fn retry(&self) -> Retry {
        Retry::fixed(Duration::from_secs(1)).forever()
    }
}
impl External for Quick {
    type Reply = ();
    async fn call(&self, _: &Fetch, cx: &CallContext) -> MustSucceed<()> {
        if cx.attempt() == 1 && cx.idempotency_key().0.as_u128().is_multiple_of(2) { retry("lost") } else { Ok(()) }
    }
    async fn run(&self, _: Fetch, (): (), _: &mut StepContext<'_>) -> StepResult<Self> {
        Ok(Fetched {})
    }
}

async fn count(store: &Store, sql: &'static str) -> i64 {
    store.fetch_optional::<(i64,), _>(sql, ()).await.unwrap().unwrap().0
}

/// Until `sql` counts as many.
async fn counts(store: &Store, sql: &'static str, many: i64) {
    let counted = async {
        while count(store, sql).await != many {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(Duration::from_secs(60), counted).await.is_err() {
        panic!("{sql}: {} instead of {many}", count(store, sql).await);
    }
}

#[tokio::test]
async fn a_slow_system_slows_its_own_step_only() {
    const SLOW: i64 = 2_000;
    const OTHERS: i64 = 100;
    let toy = Toy::new([]).await;
    let system = Arc::new(System { open: watch::Sender::new(false), calls: Mutex::default() });
    let cast = Participant::new("toy").external(Slow(system.clone())).external(Quick).step(Silent);
    let Toy { broker, clock, store, .. } = &toy;
    // In a group of its own, because the toy's node has a part of the partitions.
    let source = broker.source("slow", &cast.listens_to());
    let node = Node::observed(cast, store.clone(), source, broker.sink(), Arc::new(Unseen), clock.clone()).unwrap();
    let slow: Vec<_> = (0..SLOW).map(|_| toy.saga()).collect();
    for (i, saga) in slow.iter().enumerate() {
        toy.send(*saga, AskedOtherwise::TYPE, &format!("slow{i}"));
    }
    let stop = CancellationToken::new();
    let watch = async {
        // As many as may be called or wait for that, and the others in the work table, each without an attempt.
        let room = 8 * 16;
        counts(store, "SELECT count(*) FROM toy_work WHERE state = 'calling' AND attempts = 1", room).await;
        counts(store, "SELECT count(*) FROM toy_work WHERE state = 'deferred' AND attempts = 0", SLOW - room).await;

        for i in 0..OTHERS {
            toy.send(toy.saga(), Fetch::TYPE, &format!("quick{i}"));
            toy.send(toy.saga(), Started1::TYPE, &format!("local{i}"));
        }
        counts(store, "SELECT count(*) FROM toy_ledger WHERE step = 'silent' AND state = 'done'", OTHERS).await;
        counts(store, "SELECT count(*) FROM toy_work WHERE step = 'quick' AND state = 'calling'", 0).await;
        clock.advance(Duration::from_secs(2)); // what is tried again goes on, too
        counts(store, "SELECT count(*) FROM toy_ledger WHERE step = 'quick' AND state = 'done'", OTHERS).await;
        assert_eq!(count(store, "SELECT count(*) FROM toy_ledger WHERE step = 'slow' AND state = 'done'").await, 0);
        assert_eq!(system.calls.lock().unwrap().most, 8);

        system.open.send_replace(true);
        counts(store, "SELECT count(*) FROM toy_ledger WHERE step = 'slow' AND state = 'done'", SLOW).await;
    };
    let mut runs = pin!(node.run(stop.cancelled()));
    tokio::select! {
        ended = &mut runs => panic!("it ends by itself: {ended:?}"),
        () = watch => stop.cancel(),
    }
    runs.await.unwrap();
    assert_eq!(store.work(10).await.unwrap(), []);
    let calls = system.calls.lock().unwrap();
    assert!(calls.most <= 8, "{}", calls.most);
    assert_eq!(calls.attempts.len(), slow.len());
    assert!(calls.attempts.values().all(|attempts| attempts == &[1]), "waiting is no attempt");
}
