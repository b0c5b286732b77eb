//! When everything fails at a step: it is probed, nobody's policy is used up, and it recovers by itself. When one saga fails for long:
//! somebody is told.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod toy;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use saga_core::{
    Event as _, Local, Never, Nothing, Participant, Step, StepContext, StepResult,
    id::SagaId,
    node::Node,
    observer::{Measure, Observer, Unseen},
    retry::Retry,
    step::retry,
    store::WorkState,
};
use toy::*;

/// What was measured of breakers and patience.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<String>>);
impl Observer for Seen {
    fn measure(&self, _: &str, measure: &Measure<'_>) {
        if let Measure::Breaker { .. } | Measure::PatienceExceeded { .. } = measure {
            self.0.lock().unwrap().push(format!("{measure:?}"));
        }
    }
}

/// The policy of `do` is five attempts, an hour apart: held against it, the probes of an outage would use it up in minutes.
#[tokio::test]
async fn an_outage_uses_up_nobodys_policy_and_is_probed_by_one() {
    let seen = Arc::new(Seen::default());
    let mut toy = Toy::new(vec![Todo::Fail; 100_000]).await;
    toy.node = toy.observed(seen.clone());
    let sagas: Vec<_> = (0..10).map(|_| toy.saga()).collect();
    for (i, saga) in sagas.iter().enumerate() {
        toy.send(*saga, Asked::TYPE, &format!("a{i}"));
    }
    toy.settle().await;
    let at_first = toy.script.seen().len();
    assert!(at_first < sagas.len(), "the rest was held after the first failures: {at_first} runs");
    assert_eq!(toy.node.health().failing_steps(), ["do (forward)"]);
    let outage = 2 * 3_600;
    for _ in 0..outage / 60 {
        toy.later(60).await;
    }
    let probes = toy.script.seen().len() - at_first;
    assert!((outage / 60 / 2..=outage / 30 * 2).contains(&probes), "about one a minute, as the clock stood: {probes}");
    let rows = toy.store.work(1_000).await.unwrap();
    assert_eq!(rows.len(), sagas.len());
    assert!(rows.iter().all(|row| row.state == WorkState::Deferred && row.counted <= 4), "{rows:?}");

    toy.script.forget(); // the outage is over
    toy.later(60).await;
    toy.later(2).await;
    assert_eq!(
        toy.store.work(1_000).await.unwrap(),
        [],
        "all recovered within a probe, long before the hour of their policy"
    );
    for saga in sagas {
        assert_eq!(toy.effects(saga).await, 1);
    }
    assert_eq!(toy.node.health().failing_steps(), Vec::<String>::new());
    let seen = seen.0.lock().unwrap();
    let opened = r#"Breaker { step: "do", direction: Forward, open: true }"#;
    let closed = r#"Breaker { step: "do", direction: Forward, open: false }"#;
    let breakers: Vec<_> = seen.iter().filter(|line| line.starts_with("Breaker")).collect();
    assert_eq!(breakers, [opened, closed]);
}

type Fails = Arc<Mutex<Box<dyn Fn(SagaId) -> bool + Send>>>;

/// A step that may be tried for a minute, and fails for some sagas.
struct Brief(Fails);
impl Step for Brief {
    const NAME: &'static str = "brief";
    type On = Asked;
    type Emits = Nothing;
    type Rejects = Never;
    type CompensatedOn = Never;
    fn retry(&self) -> Retry {
        Retry::fixed(Duration::from_secs(1)).for_at_most(Duration::from_secs(60))
    }
}
impl Local for Brief {
    async fn run(&self, _: Asked, cx: &mut StepContext<'_>) -> StepResult<Self> {
        if self.0.lock().unwrap()(cx.saga()) { retry("not now") } else { Ok(Nothing) }
    }
}

/// What failed before the outage is due during it, and is not asked for: that is no time that its policy has had.
#[tokio::test]
async fn the_time_of_a_policy_stands_still_while_its_next_attempt_waits_for_the_step() {
    let toy = Toy::new([]).await;
    let fails: Fails = Arc::new(Mutex::new(Box::new(|_| true)));
    let cast = Participant::new("toy").step(Brief(fails.clone()));
    let source = toy.broker.source("other", &cast.listens_to());
    let mut node =
        Node::observed(cast, toy.store.clone(), source, toy.broker.sink(), Arc::new(Unseen), toy.clock.clone())
            .unwrap();
    for i in 0..100 {
        toy.send(toy.saga(), Asked::TYPE, &format!("a{i}"));
    }
    while node.turn().await.unwrap() {}
    for _ in 0..10 {
        toy.clock.advance(Duration::from_secs(60));
        while node.turn().await.unwrap() {}
    }
    let rows = toy.store.work(1_000).await.unwrap();
    let early: Vec<_> = rows.iter().filter(|row| row.counted == 1 && row.attempts == 1).map(|row| row.saga).collect();
    assert_eq!(early.len(), 4, "they failed before the breaker opened, and none of them has got the probe");

    let unlucky = early[..2].to_vec();
    *fails.lock().unwrap() = Box::new(move |saga| unlucky.contains(&saga));
    toy.clock.advance(Duration::from_secs(60));
    while node.turn().await.unwrap() {}
    let rows = toy.store.work(1_000).await.unwrap();
    let left: Vec<_> = rows.iter().map(|row| (row.saga, row.state, row.counted)).collect();
    let expected: Vec<_> = early[..2].iter().map(|saga| (*saga, WorkState::Deferred, 2)).collect();
    assert_eq!(left, expected, "a second failure after a second of trying makes nothing stuck");
    // And its minute goes on from there.
    for _ in 0..70 {
        toy.clock.advance(Duration::from_secs(1));
        while node.turn().await.unwrap() {}
    }
    let rows = toy.store.work(1_000).await.unwrap();
    assert!(rows.len() == 2 && rows.iter().all(|row| row.state == WorkState::Stuck), "{rows:?}");
}

/// What a step cannot take is not read again and again: it costs the other steps nothing, however much of it there is.
#[tokio::test]
async fn thousands_that_are_held_keep_no_other_due_work_waiting() {
    let mut toy = Toy::new([Todo::Fail]).await;
    let other = toy.saga();
    toy.send(other, Fetch::TYPE, "f1");
    toy.settle().await; // `ask` is due again in a minute
    (0..100).for_each(|_| toy.script.then(Todo::Fail));
    for i in 0..5_000 {
        toy.send(toy.saga(), Asked::TYPE, &format!("a{i}"));
    }
    toy.settle().await;
    let rows = toy.store.work(10_000).await.unwrap();
    let held = rows.iter().filter(|row| row.step == "do" && row.attempts == 0).count();
    assert!(held > 4_900, "{held} of {}", rows.len());
    let before: std::collections::BTreeMap<_, _> = rows.into_iter().map(|row| (row.id, row)).collect();

    toy.clock.advance(Duration::from_secs(60));
    toy.script.forget();
    (0..1).for_each(|_| toy.script.then(Todo::Fail)); // the probe, or the call: whichever comes first
    for _ in 0..3 {
        toy.node.turn().await.unwrap();
    }
    assert_eq!(toy.emitted(other), [Fetched::TYPE], "leased, called, settled: {:?}", toy.script.seen());
    let after = toy.store.work(10_000).await.unwrap();
    let touched = after.iter().filter(|row| before[&row.id] != **row).count();
    assert!(touched <= 2, "{touched} of {} were written again", after.len());
}

#[tokio::test]
async fn a_gateway_that_is_down_is_called_by_one_and_every_call_is_made_when_it_is_back() {
    let mut toy = Toy::new(vec![Todo::Fail; 100_000]).await;
    let sagas: Vec<_> = (0..30).map(|_| toy.saga()).collect();
    for (i, saga) in sagas.iter().enumerate() {
        toy.send(*saga, Fetch::TYPE, &format!("f{i}"));
    }
    toy.settle().await;
    for _ in 0..60 {
        toy.later(60).await;
    }
    let calls = toy.script.seen().len();
    assert!(calls < sagas.len() + 2 * 60 + 10, "an hour of a gateway that is down: {calls} calls for 30 sagas");
    // What never fails must not wait: another step of the same participant goes on meanwhile.
    let other = toy.saga();
    toy.send(other, Started1::TYPE, "s1");
    toy.settle().await;
    assert_eq!(toy.effects(other).await, 1);

    toy.script.forget();
    toy.later(60).await;
    toy.later(2).await;
    assert_eq!(toy.store.work(1_000).await.unwrap(), []);
    for saga in sagas {
        assert_eq!((toy.effects(saga).await, toy.emitted(saga)), (1, vec![Fetched::TYPE.to_owned()]));
    }
}

/// A compensation never gives up, so that somebody has to be told; once, not at every attempt.
#[tokio::test]
async fn a_reaction_that_fails_for_longer_than_its_patience_raises_one_alarm_and_goes_on() {
    let seen = Arc::new(Seen::default());
    let mut toy = Toy::new([Todo::Work, Todo::Work].into_iter().chain(vec![Todo::Fail; 20])).await;
    toy.node = toy.observed(seen.clone());
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    toy.send(saga, TookBack::TYPE, "t1");
    toy.settle().await;
    for minute in 0..10 {
        let alarms = seen.0.lock().unwrap().len();
        assert_eq!(alarms, usize::from(minute >= 5), "after {minute} minutes of a patience of five");
        toy.later(60).await;
        toy.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(toy.work(saga).await, [("ask".to_owned(), WorkState::Deferred)]);
    for _ in 0..12 {
        toy.later(60).await;
    }
    assert_eq!(toy.emitted(saga), [Fetched::TYPE, Undone::TYPE]);
    assert_eq!(*seen.0.lock().unwrap(), [r#"PatienceExceeded { step: "ask", direction: Compensation }"#]);
}
