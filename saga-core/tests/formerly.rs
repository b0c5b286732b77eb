//! A step that was renamed: whatever is under way goes on under the name that it began with, with the same ids and keys, so that nothing
//! has its effect twice.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod toy;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use saga_core::{
    CompensateExternal, Error, Event as _, External, Local, Never, Participant, State, Step, StepContext, StepResult,
    discard::{Discard, discard},
    envelope::Envelope,
    id::{EventId, IdempotencyKey, ReactionId, SagaId},
    node::Node,
    observer::Unseen,
    redrive::redrive,
    retention::Retention,
    retry::Retry,
    start::{Requested, StartError},
    step::{CallContext, Direction, Doubt, MustSucceed},
    store::WorkState,
};
use toy::*;

/// The toy's step under another name.
macro_rules! renamed {
    ($name:ident($of:ty) $new:literal, formerly $($old:literal),*) => {
        struct $name($of);
        impl Step for $name {
            const NAME: &'static str = $new;
            const FORMERLY: &'static [&'static str] = &[$($old),*];
            type On = <$of as Step>::On;
            type Emits = <$of as Step>::Emits;
            type Rejects = <$of as Step>::Rejects;
            type CompensatedOn = <$of as Step>::CompensatedOn;
            fn retry(&self) -> Retry {
                self.0.retry()
            }
        }
    };
    ($name:ident($of:ty) local $new:literal, formerly $($old:literal),*) => {
        renamed!($name($of) $new, formerly $($old),*);
        impl Local for $name {
            async fn run(&self, on: Self::On, cx: &mut StepContext<'_>) -> StepResult<Self> {
                self.0.run(on, cx).await
            }
        }
    };
    ($name:ident($of:ty) external $new:literal, formerly $($old:literal),*) => {
        renamed!($name($of) $new, formerly $($old),*);
        impl External for $name {
            type Reply = bool;
            async fn call(&self, on: &Fetch, cx: &CallContext) -> MustSucceed<bool> {
                self.0.call(on, cx).await
            }
            async fn run(&self, on: Fetch, reply: bool, cx: &mut StepContext<'_>) -> StepResult<Self> {
                self.0.run(on, reply, cx).await
            }
        }
        impl CompensateExternal for $name {
            type Compensated = Undone;
            type Reversal = ();
            async fn reverse(&self, done: &Fetched, why: &TookBack, cx: &CallContext) -> MustSucceed<()> {
                self.0.reverse(done, why, cx).await
            }
            async fn in_doubt(&self, on: &Fetch, doubt: &Doubt, cx: &CallContext) -> MustSucceed<()> {
                self.0.in_doubt(on, doubt, cx).await
            }
            async fn compensate(&self, (): (), why: TookBack, cx: &mut StepContext<'_>) -> MustSucceed<Undone> {
                self.0.compensate((), why, cx).await
            }
            async fn nothing_done(&self, why: TookBack, cx: &mut StepContext<'_>) -> MustSucceed<Undone> {
                self.0.nothing_done(why, cx).await
            }
        }
    };
}
renamed!(Open(Begin) "open", formerly "begin");
renamed!(DoIt(Do) local "do-it", formerly "do");
renamed!(FetchIt(Ask) external "fetch-it", formerly "inquire", "ask");
// What is deployed first where old and new instances have to run beside each other.
renamed!(AskToo(Ask) external "ask", formerly "fetch-it");

/// A request of one name, and of another.
struct Ring;
impl Step for Ring {
    const NAME: &'static str = "ring";
    type On = Never;
    type Emits = AskedOtherwise;
    type Rejects = Never;
    type CompensatedOn = Never;
}
renamed!(Knock(Ring) "knock", formerly "ring");
impl Ring {
    fn retry(&self) -> Retry {
        Retry::default()
    }
}

/// The toy as its next version plays it.
fn next_version(toy: &Toy) -> Node {
    play(toy, cast(toy).external(FetchIt(Ask(toy.script.clone()))).request(Knock(Ring)))
}

/// All but the steps whose names differ.
fn cast(toy: &Toy) -> Participant {
    Participant::new("toy").start(Open(Begin)).step(DoIt(Do(toy.script.clone()))).step(Close).step(Silent)
}

fn play(toy: &Toy, cast: Participant) -> Node {
    let source = toy.broker.source("toy", &cast.listens_to());
    Node::observed(cast, toy.store.clone(), source, toy.broker.sink(), Arc::new(Unseen), toy.clock.clone()).unwrap()
}

fn key(saga: SagaId, direction: Direction) -> IdempotencyKey {
    IdempotencyKey::derive(saga, "toy", "ask", direction)
}

/// The ids of what the toy published for a saga.
fn ids(toy: &Toy, saga: SagaId) -> Vec<EventId> {
    let events = toy.broker.messages("toy");
    let ours = events.iter().filter_map(|d| Envelope::decode(d).ok()).filter(|e| e.saga == saga && e.source == "/toy");
    ours.map(|e| e.id).collect()
}

async fn steps(toy: &Toy, saga: SagaId) -> Vec<String> {
    toy.store.ledger(saga).await.unwrap().into_iter().map(|row| row.step).collect()
}

/// What is done is not done again, is compensated, and stays so.
async fn is_finished_and_taken_back_once(toy: &mut Toy, saga: SagaId) {
    let forward = EventId::derive(saga, "toy", "ask", Direction::Forward, Fetched::TYPE);
    let back = EventId::derive(saga, "toy", "ask", Direction::Compensation, Undone::TYPE);
    assert_eq!((toy.effects(saga).await, ids(toy, saga)), (1, vec![forward.clone()]));
    let calls = toy.script.seen().len();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    assert_eq!((toy.effects(saga).await, toy.script.seen().len()), (1, calls), "the same trigger is a duplicate");
    for _ in 0..2 {
        toy.send(saga, TookBack::TYPE, "t1");
        toy.settle().await;
    }
    let seen = toy.script.seen();
    assert_eq!(seen[calls..], [format!("reverse {}", key(saga, Direction::Compensation))], "{seen:?}");
    assert_eq!((toy.effects(saga).await, ids(toy, saga)), (0, vec![forward, back]));
    assert_eq!(
        (steps(toy, saga).await, toy.state(saga, "ask").await),
        (vec!["ask".to_owned()], Some(State::Compensated))
    );
    assert_eq!(toy.work(saga).await, []);
}

#[tokio::test]
async fn what_is_done_is_taken_back_under_the_name_that_it_was_done_under() {
    let mut toy = Toy::new([]).await;
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    toy.node = next_version(&toy);
    toy.node.check().await.unwrap();
    is_finished_and_taken_back_once(&mut toy, saga).await;
}

#[tokio::test]
async fn a_call_whose_lease_ends_is_repeated_under_its_key() {
    let mut toy = Toy::new([]).await;
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    assert!(toy.node.turn().await.unwrap(), "leased, and not made yet");
    toy.node = next_version(&toy);
    toy.later(60).await;
    assert_eq!(toy.script.seen()[0], format!("call {} 2", key(saga, Direction::Forward)));
    is_finished_and_taken_back_once(&mut toy, saga).await;
}

#[tokio::test]
async fn a_call_that_waits_for_its_next_attempt_is_repeated_under_its_key() {
    let mut toy = Toy::new([Todo::Fail]).await;
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    assert_eq!(toy.work(saga).await, [("ask".to_owned(), WorkState::Deferred)]);
    toy.node = next_version(&toy);
    toy.send(saga, Fetch::TYPE, "f1"); // its row owns it
    toy.later(60).await;
    let call = |attempt| format!("call {} {attempt}", key(saga, Direction::Forward));
    assert_eq!(toy.script.seen(), [call(1), call(2), "settle".to_owned()]);
    is_finished_and_taken_back_once(&mut toy, saga).await;
}

#[tokio::test]
async fn a_call_of_unknown_outcome_is_closed_by_its_key() {
    let mut toy = Toy::new([Todo::Fail]).await;
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    toy.node = next_version(&toy);
    toy.send(saga, TookBack::TYPE, "t1");
    toy.settle().await;
    assert_eq!(toy.script.seen()[1..], [format!("close {}", key(saga, Direction::Forward))]);
    assert_eq!((steps(&toy, saga).await, toy.work(saga).await), (vec!["ask".to_owned()], vec![]));
}

/// Stuck before it has a row in the ledger: only the waiting row tells the name.
#[tokio::test]
async fn what_is_stuck_is_redriven_under_the_name_that_it_is_stuck_under() {
    let mut toy = Toy::new([Todo::GiveUp]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    let id = ReactionId::derive(saga, "do", Direction::Forward, &EventId("a1".to_owned()));
    toy.node = next_version(&toy);
    toy.send(saga, Asked::TYPE, "a1"); // delivered again: it waits
    toy.settle().await;
    assert_eq!(toy.work(saga).await, [("do".to_owned(), WorkState::Stuck)]);
    assert_eq!(redrive(&toy.store, &toy.clock, &[(id, saga)]).await.unwrap().len(), 1);
    toy.settle().await;
    assert_eq!((toy.effects(saga).await, toy.work(saga).await), (1, vec![]));
    assert_eq!(steps(&toy, saga).await, ["close", "do"]);
    assert_eq!(ids(&toy, saga)[0], EventId::derive(saga, "toy", "do", Direction::Forward, Did::TYPE));
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    assert_eq!((toy.effects(saga).await, toy.script.seen().len()), (1, 2));
    // Another trigger of a saga of which the step is done is still another trigger.
    toy.send(saga, Asked::TYPE, "a2");
    toy.settle().await;
    assert_eq!((toy.effects(saga).await, toy.work(saga).await), (1, vec![("do".to_owned(), WorkState::Stuck)]));
}

#[tokio::test]
async fn a_new_saga_knows_the_new_name_only() {
    let mut toy = Toy::new([]).await;
    toy.node = next_version(&toy);
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    assert_eq!(steps(&toy, saga).await, ["close", "do-it", "fetch-it"]);
    let key = IdempotencyKey::derive(saga, "toy", "fetch-it", Direction::Forward);
    assert!(toy.script.seen().contains(&format!("call {key} 1")));
}

#[tokio::test]
async fn a_start_and_a_request_are_known_by_their_former_names() {
    let mut toy = Toy::new([]).await;
    let (saga, other) = {
        let key = "1";
        let node = play(
            &toy,
            Participant::new("toy").start(Begin).step(Do(toy.script.clone())).step(Close).step(Silent).request(Ring),
        );
        let saga = toy.begin(key).await;
        let other = toy.begin("2").await;
        let rung = node.starter().request::<Ring, _>(saga, async |_| Ok(AskedOtherwise {})).await.unwrap();
        assert_eq!(rung, Requested::New);
        (saga, other)
    };
    toy.node = next_version(&toy);
    toy.node.check().await.unwrap();
    let knock = async |saga| toy.node.starter().request::<Knock, _>(saga, async |_| Ok(AskedOtherwise {})).await;
    assert_eq!(knock(saga).await.unwrap(), Requested::Repeated, "it has knocked, when that was called ringing");
    assert_eq!(knock(other).await.unwrap(), Requested::New);
    assert!(matches!(knock(toy.saga()).await, Err(StartError::UnknownSaga(_))));
    assert_eq!(steps(&toy, other).await, ["begin", "knock"]);
}

/// Instances of both versions, each of which knows the other's name.
#[tokio::test]
async fn versions_that_know_each_others_names_may_run_beside_each_other() {
    let mut toy = Toy::new([]).await;
    toy.node = next_version(&toy);
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    assert_eq!(steps(&toy, saga).await, ["fetch-it"]);
    let calls = toy.script.seen().len();
    toy.node = play(&toy, cast(&toy).external(AskToo(Ask(toy.script.clone()))));
    toy.node.check().await.unwrap();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    assert_eq!((toy.effects(saga).await, toy.script.seen().len()), (1, calls));
    toy.send(saga, TookBack::TYPE, "t1");
    toy.settle().await;
    let key = IdempotencyKey::derive(saga, "toy", "fetch-it", Direction::Compensation);
    assert_eq!(toy.script.seen()[calls..], [format!("reverse {key}")]);
    assert_eq!((steps(&toy, saga).await, toy.effects(saga).await), (vec!["fetch-it".to_owned()], 0));
}

/// What a person discarded of a saga that is forgotten is all that is left of it, under the name that it had then.
#[tokio::test]
async fn what_was_discarded_of_a_forgotten_saga_does_not_come_back_under_another_name() {
    let mut toy = Toy::new([]).await;
    let saga = toy.saga();
    toy.clock.advance(Duration::from_secs(7_200));
    toy.store.prune(toy.clock.now() - 3_600_000, &[], 10).await.unwrap();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    assert_eq!(toy.work(saga).await, [("do".to_owned(), WorkState::Stuck)]);
    let reaction = ReactionId::derive(saga, "do", Direction::Forward, &EventId("a1".to_owned()));
    let what = Discard { reaction, reason: "seen to", who: "ada", taken_back: false, dry_run: false };
    discard(&toy.store, &toy.clock, "toy", &what).await.unwrap();
    toy.node = next_version(&toy);
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    assert_eq!((toy.work(saga).await, toy.effects(saga).await), (vec![], 0));
}

#[tokio::test]
async fn a_saga_that_started_under_another_name_is_not_forgotten_before_its_ending() {
    let mut toy = Toy::new([]).await;
    let saga = toy.begin("k").await;
    toy.settle().await;
    toy.node = next_version(&toy).remembering(Retention::keep(Duration::from_secs(3_600)));
    toy.later(10 * 3_600).await;
    assert_eq!(toy.node.keep_house().await.unwrap(), 0);
    toy.send(saga, Did::TYPE, "d"); // its ending
    toy.settle().await;
    assert_eq!(toy.node.keep_house().await.unwrap(), 1);
}

/// What an outage holds is woken by its end, whatever its step was called when it began.
#[tokio::test]
async fn what_a_breaker_holds_is_woken_under_either_name() {
    let mut toy = Toy::new(vec![Todo::Fail; 100_000]).await;
    let sagas: Vec<_> = (0..10).map(|_| toy.saga()).collect();
    for (i, saga) in sagas.iter().enumerate() {
        toy.send(*saga, Asked::TYPE, &format!("a{i}"));
    }
    for _ in 0..10 {
        toy.later(60).await;
    }
    toy.node = next_version(&toy);
    let more: Vec<_> = (0..6).map(|_| toy.saga()).collect();
    for (i, saga) in more.iter().enumerate() {
        toy.send(*saga, Asked::TYPE, &format!("b{i}"));
    }
    toy.settle().await;
    // Who failed before a breaker opened has a time of its own; who was held has not.
    let held = async |toy: &Toy| -> BTreeSet<String> {
        let rows = toy.store.work(100).await.unwrap();
        rows.into_iter().filter(|row| row.counted == 0).map(|row| row.step).collect()
    };
    assert_eq!(held(&toy).await, ["do", "do-it"].map(str::to_owned).into());
    toy.script.forget(); // the outage is over
    toy.later(3).await; // half a minute before those of the former name would be due
    assert_eq!(held(&toy).await, BTreeSet::new());
}

/// Steps that join: the one that is done last finds the other one, whatever that was called when it was done.
#[tokio::test]
async fn a_joined_step_is_found_under_its_former_name() {
    struct Pack<const LATER: bool>;
    struct Weigh<const LATER: bool>;
    impl<const LATER: bool> Step for Pack<LATER> {
        const NAME: &'static str = if LATER { "pack-up" } else { "pack" };
        const FORMERLY: &'static [&'static str] = if LATER { &["pack"] } else { &[] };
        const JOINS: &'static [&'static str] = &["weigh"];
        type On = Asked;
        type Emits = Did;
        type Rejects = Never;
        type CompensatedOn = Never;
    }
    impl<const LATER: bool> Step for Weigh<LATER> {
        const NAME: &'static str = "weigh";
        const JOINS: &'static [&'static str] = if LATER { &["pack-up"] } else { &["pack"] };
        type On = AskedOtherwise;
        type Emits = Did;
        type Rejects = Never;
        type CompensatedOn = Never;
    }
    impl<const LATER: bool> Local for Pack<LATER> {
        async fn run(&self, _: Asked, _: &mut StepContext<'_>) -> StepResult<Self> {
            Ok(Did {})
        }
    }
    impl<const LATER: bool> Local for Weigh<LATER> {
        async fn run(&self, _: AskedOtherwise, _: &mut StepContext<'_>) -> StepResult<Self> {
            Ok(Did {})
        }
    }
    let mut toy = Toy::new([]).await;
    toy.node = play(&toy, Participant::new("toy").step(Pack::<false>).step(Weigh::<false>));
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    assert_eq!(toy.emitted(saga), Vec::<String>::new(), "it waits for the other one");
    toy.node = play(&toy, Participant::new("toy").step(Pack::<true>).step(Weigh::<true>));
    toy.send(saga, AskedOtherwise::TYPE, "o1");
    toy.settle().await;
    assert_eq!(toy.emitted(saga), [Did::TYPE]);
}

#[tokio::test]
async fn a_renamed_step_that_does_not_say_so_is_refused() {
    renamed!(Forgetful(Do) local "do-it", formerly);
    let mut toy = Toy::new([]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    let cast = Participant::new("toy").step(Forgetful(Do(toy.script.clone()))).step(Close);
    let refused = play(&toy, cast).check().await.unwrap_err();
    assert!(matches!(&refused, Error::UnknownSteps { steps, .. } if steps == &["do"]), "{refused}");
    assert!(refused.to_string().contains("FORMERLY"), "{refused}");
}

#[test]
fn names_that_clash_are_refused() {
    renamed!(TakesItsName(Do) local "another", formerly "do");
    renamed!(TookTheSame(Do) local "another", formerly "before", "do");
    renamed!(Itself(Do) local "do", formerly "do");
    renamed!(Twice(Do) local "another", formerly "before", "before");
    renamed!(BadlyNamed(Do) local "another", formerly "Do It");
    let script = || Do(Script::default());
    let problem = |cast: Participant| cast.check().unwrap_err().to_string();
    let toy = || Participant::new("toy");
    assert!(
        problem(toy().step(script()).step(TakesItsName(script())))
            .contains("do and another both are or were called do")
    );
    assert!(
        problem(toy().step(TakesItsName(script())).step(script()))
            .contains("another and do both are or were called do")
    );
    assert!(
        problem(toy().step(DoIt(script())).step(TookTheSame(script())))
            .contains("do-it and another both are or were called do")
    );
    assert!(problem(toy().step(Itself(script()))).contains("which it is already called"));
    assert!(problem(toy().step(Twice(script()))).contains("which it is already called"));
    assert!(problem(toy().step(BadlyNamed(script()))).contains("\"Do It\" is no step name"));
    toy().step(DoIt(script())).check().unwrap();
}
