//! Rare sequences that once lost or doubled something, each kept as it was found.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod toy;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use saga_core::{
    Compensate, CompensateExternal, Event, External, Local, Never, Nothing, Participant, State, Step, StepContext,
    StepResult,
    clock::Clock,
    discard::{Discard, discard},
    event::Ending,
    id::{IdempotencyKey, SagaId},
    node::Node,
    observer::Unseen,
    retention::Retention,
    retry::Retry,
    signal,
    start::Requested,
    step::{CallContext, Direction, Doubt, MustSucceed, give_up, reject, retry},
    store::WorkState,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toy::*;
use uuid::Uuid;

/// Rows of messages that name no saga have the nil UUID: an event that names it would be settled as one of them, and vanish.
#[tokio::test]
async fn an_event_of_the_nil_saga_is_stuck_with_its_bytes() {
    let mut toy = Toy::new([Todo::Fail]).await;
    let nil = SagaId(Uuid::nil());
    toy.send(nil, Asked::TYPE, "a1");
    toy.send(nil, Fetch::TYPE, "f1");
    toy.settle().await;
    toy.later(7_200).await;
    let rows = toy.store.work(10).await.unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows.iter().all(|row| row.state == WorkState::Stuck && row.reason.contains("nil UUID")), "{rows:?}");
    assert_eq!(toy.script.seen(), Vec::<String>::new());
}

/// A batch comes again after a part of it has committed: a call that was given back, and leased again in the meantime, must not be
/// given back a second time. Its attempt was made, and its answer may be lost.
#[tokio::test]
async fn a_call_that_was_given_back_and_then_made_is_not_given_back_again() {
    let mut toy = Toy::new([Todo::Fail]).await;
    let (saga, other) = (toy.saga(), toy.saga());
    toy.send(other, Asked::TYPE, "a1");
    toy.settle().await; // `do` is due again after an hour
    toy.clock.advance(Duration::from_secs(3_500));
    toy.send(saga, Fetch::TYPE, "f1");
    assert!(toy.node.turn().await.unwrap(), "leased, and not made yet");
    toy.clock.advance(Duration::from_secs(101)); // the lease has ended, and `do` is due
    toy.script.then(Todo::Fail);
    toy.script.then(Todo::Fail);
    let no_room =
        "CREATE TRIGGER t BEFORE INSERT ON toy_work WHEN NEW.step = 'do' BEGIN SELECT RAISE(ABORT, 'full'); END";
    execute(&toy, no_room).await;
    toy.node.turn().await.unwrap_err();
    execute(&toy, "DROP TRIGGER t").await;
    toy.script.forget();
    toy.script.then(Todo::Fail); // the call takes effect there, and its answer is lost
    toy.script.then(Todo::Work); // `do`
    toy.script.then(Todo::Reject); // they have forgotten it, and refuse
    for _ in 0..6 {
        toy.node.turn().await.unwrap();
    }
    toy.later(60).await;
    toy.later(60).await;
    let seen = toy.script.seen();
    let calls: Vec<_> = seen.iter().filter(|line| line.starts_with("call ")).collect();
    assert_eq!(calls.iter().filter(|line| line.ends_with(" 1")).count(), 1, "one attempt has one number: {seen:?}");
    assert!(seen.iter().any(|line| line.starts_with("close ")), "the refusal is doubted, and the key closed: {seen:?}");
    assert_eq!(toy.state(saga, "ask").await, Some(State::Compensated));
}

async fn execute(toy: &Toy, sql: &'static str) {
    let mut tx = toy.store.begin().await.unwrap();
    tx.conn().execute(sql, ()).await.unwrap();
    tx.commit().await.unwrap();
}

/// Two instances need not agree on the time. The one behind must not take for young what the other has forgotten.
#[tokio::test]
async fn a_clock_that_is_behind_runs_nothing_again() {
    let mut toy = Toy::new([]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    toy.clock.advance(Duration::from_secs(3_602));
    toy.node = toy.another().remembering(Retention::keep(Duration::from_secs(3_600)));
    assert_eq!(toy.node.keep_house().await.unwrap(), 1);
    let Toy { node, broker, clock, store, script } = toy;
    drop(node);
    let behind = Clock::manual(clock.now() - 5_000, 9);
    let node = Toy::play(&broker, &behind, &store, &script, broker.sink(), Arc::new(Unseen));
    let mut toy = Toy { node, broker, clock: behind, store, script };
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    assert_eq!(toy.effects(saga).await, 1);
    assert_eq!(toy.work(saga).await, [("do".to_owned(), WorkState::Stuck)]);
}

/// Tries every five seconds, for a minute.
struct Timed(Script);
impl Step for Timed {
    const NAME: &'static str = "timed";
    type On = Asked;
    type Emits = Did;
    type Rejects = Never;
    type CompensatedOn = Never;
    fn retry(&self) -> Retry {
        Retry::fixed(Duration::from_secs(5)).for_at_most(Duration::from_secs(60))
    }
}
impl Local for Timed {
    async fn run(&self, _: Asked, _: &mut StepContext<'_>) -> StepResult<Self> {
        match self.0.next("timed".to_owned()) {
            Todo::Fail => retry("not now"),
            _ => Ok(Did {}),
        }
    }
}

/// Tries every five minutes, for ever.
struct Slow(Script);
impl Step for Slow {
    const NAME: &'static str = "slow";
    type On = AskedOtherwise;
    type Emits = Nothing;
    type Rejects = Never;
    type CompensatedOn = Never;
    fn retry(&self) -> Retry {
        Retry::fixed(Duration::from_secs(300)).forever()
    }
}
impl Local for Slow {
    async fn run(&self, _: AskedOtherwise, _: &mut StepContext<'_>) -> StepResult<Self> {
        match self.0.next("slow".to_owned()) {
            Todo::Fail => retry("not now"),
            _ => Ok(Nothing),
        }
    }
}

/// A toy with another cast; the first script is the toy's own.
async fn with(cast: impl Fn(Script, Script) -> Participant) -> (Toy, Script) {
    let mut toy = Toy::new([]).await;
    let other = Script::of([]);
    let cast = cast(toy.script.clone(), other.clone());
    let source = toy.broker.source("other", &cast.listens_to());
    let (store, sink, clock) = (toy.store.clone(), toy.broker.sink(), toy.clock.clone());
    toy.node = Node::observed(cast, store, source, sink, Arc::new(Unseen), clock).unwrap();
    (toy, other)
}

#[tokio::test]
async fn an_outage_uses_up_no_policy_that_is_bounded_by_time() {
    let (mut toy, _) = with(|timed, slow| Participant::new("toy").step(Timed(timed)).step(Slow(slow))).await;
    for _ in 0..10_000 {
        toy.script.then(Todo::Fail);
    }
    let sagas: Vec<_> = (0..10).map(|_| toy.saga()).collect();
    for (i, saga) in sagas.iter().enumerate() {
        toy.send(*saga, Asked::TYPE, &format!("a{i}"));
    }
    toy.settle().await;
    for _ in 0..60 {
        toy.later(10).await;
    }
    // It is over. Everybody else meets one hiccup more.
    toy.script.forget();
    toy.script.then(Todo::Work);
    for _ in 0..18 {
        toy.script.then(Todo::Fail);
    }
    for _ in 0..30 {
        toy.later(31).await;
        let rows = toy.store.work(100).await.unwrap();
        assert!(rows.iter().all(|row| row.state != WorkState::Stuck), "{rows:?}");
    }
    assert_eq!(toy.store.work(100).await.unwrap().len(), 0);
}

#[tokio::test]
async fn waiting_behind_another_row_uses_up_no_policy_that_is_bounded_by_time() {
    let (mut toy, slow) = with(|timed, slow| Participant::new("toy").step(Timed(timed)).step(Slow(slow))).await;
    let saga = toy.saga();
    slow.then(Todo::Fail);
    toy.send(saga, AskedOtherwise::TYPE, "x");
    toy.settle().await;
    toy.send(saga, Asked::TYPE, "y");
    toy.settle().await;
    toy.script.then(Todo::Fail);
    toy.later(301).await;
    assert_eq!(toy.work(saga).await, [("timed".to_owned(), WorkState::Deferred)], "its minute has just begun");
    toy.later(6).await;
    assert_eq!(toy.work(saga).await, []);
}

/// A rejection that ends the saga.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
struct NoEnd {}
impl Event for NoEnd {
    const TYPE: &'static str = "toy.no-end.v1";
    const TOPIC: &'static str = "toy";
    const ENDING: Option<Ending> = Some(Ending::Cancelled);
}

struct Ask2(Script);
impl Step for Ask2 {
    const NAME: &'static str = "ask2";
    type On = Fetch;
    type Emits = Fetched;
    type Rejects = NoEnd;
    type CompensatedOn = TookBack;
    fn retry(&self) -> Retry {
        Retry::fixed(Duration::from_secs(60)).forever()
    }
}
impl External for Ask2 {
    type Reply = bool;
    async fn call(&self, _: &Fetch, _: &CallContext) -> MustSucceed<bool> {
        match self.0.next("call".to_owned()) {
            Todo::Fail => retry("lost"),
            Todo::Reject => Ok(false),
            _ => Ok(true),
        }
    }
    async fn run(&self, _: Fetch, reply: bool, _: &mut StepContext<'_>) -> StepResult<Self> {
        if reply { Ok(Fetched {}) } else { reject(NoEnd {}) }
    }
}
impl CompensateExternal for Ask2 {
    type Compensated = Undone;
    type Reversal = ();
    async fn reverse(&self, _: &Fetched, _: &TookBack, _: &CallContext) -> MustSucceed<()> {
        Ok(())
    }
    async fn in_doubt(&self, _: &Fetch, _: &Doubt, _: &CallContext) -> MustSucceed<()> {
        match self.0.next("close".to_owned()) {
            Todo::GiveUp => give_up("ask them"),
            _ => Ok(()),
        }
    }
    async fn compensate(&self, (): (), _: TookBack, _: &mut StepContext<'_>) -> MustSucceed<Undone> {
        Ok(Undone {})
    }
    async fn nothing_done(&self, _: TookBack, _: &mut StepContext<'_>) -> MustSucceed<Undone> {
        Ok(Undone {})
    }
}

/// A rejection waits until its key is closed, which becomes stuck, and a person closes it by hand: the rejection is said then, and
/// it is the saga's ending.
#[tokio::test]
async fn a_rejection_that_is_said_by_a_discard_ends_the_saga() {
    let (mut toy, _) = with(|ask, _| Participant::new("toy").start(Begin).request(Beg).external(Ask2(ask))).await;
    let saga = toy.begin("k").await;
    for todo in [Todo::Fail, Todo::Reject, Todo::GiveUp] {
        toy.script.then(todo);
    }
    toy.send(saga, Fetch::TYPE, "f");
    toy.settle().await;
    toy.later(60).await;
    assert_eq!(toy.state(saga, "ask2").await, Some(State::Compensating));
    let beg =
        async |toy: &Toy| toy.node.starter().request::<Beg, _>(saga, async |_: &mut StepContext<'_>| Ok(Nothing)).await;
    assert_eq!(beg(&toy).await.unwrap(), Requested::New, "it has not ended yet");
    let row = toy.store.work(10).await.unwrap().pop().unwrap();
    let by_hand = Discard { reaction: row.id, reason: "closed by hand", who: "me", taken_back: true, dry_run: false };
    let discarded = discard(&toy.store, &toy.clock, "toy", &by_hand).await.unwrap();
    let headers = discarded.emits.unwrap().headers;
    assert!(headers.iter().any(|(name, value)| name == "ce_sagaending" && value == "cancelled"), "{headers:?}");
    assert_eq!(beg(&toy).await.unwrap(), Requested::Ended(Ending::Cancelled));
}

struct Beg;
impl Step for Beg {
    const NAME: &'static str = "beg";
    type On = Never;
    type Emits = Nothing;
    type Rejects = Never;
    type CompensatedOn = Never;
}

/// So many sagas have fetched, and from now on everything fails while they are taken back.
async fn whose_reversals_fail(sagas: usize) -> Toy {
    let mut toy = Toy::new([]).await;
    let sagas: Vec<_> = (0..sagas).map(|_| toy.saga()).collect();
    for (i, saga) in sagas.iter().enumerate() {
        toy.send(*saga, Fetch::TYPE, &format!("f{i}"));
    }
    toy.settle().await;
    for _ in 0..10_000 {
        toy.script.then(Todo::Fail);
    }
    for (i, saga) in sagas.iter().enumerate() {
        toy.send(*saga, TookBack::TYPE, &format!("t{i}"));
    }
    toy.settle().await;
    toy
}

/// Sagas that have nothing to take back succeed without a call: the breaker of the calls that fail must not learn from them.
#[tokio::test]
async fn what_has_nothing_to_take_back_does_not_close_the_breaker_of_reversals() {
    let mut toy = whose_reversals_fail(30).await;
    let before = toy.script.seen().len();
    for i in 0..20 {
        let saga = toy.saga();
        toy.send(saga, TookBack::TYPE, &format!("n{i}"));
        toy.later(60).await;
        assert_eq!(toy.emitted(saga), [Undone::TYPE], "it waits for no breaker either");
    }
    let calls = toy.script.seen().len() - before;
    assert!(calls <= 45, "20 minutes, at most two probes a minute: {calls} calls");
}

/// A step whose compensation cannot even say that there was nothing to take back. Counts how often that is tried.
struct Moan(Arc<AtomicUsize>);
impl Step for Moan {
    const NAME: &'static str = "moan";
    type On = Fetch;
    type Emits = Fetched;
    type Rejects = Never;
    type CompensatedOn = TookBack;
}
impl External for Moan {
    type Reply = ();
    async fn call(&self, _: &Fetch, _: &CallContext) -> MustSucceed<()> {
        Ok(())
    }
    async fn run(&self, _: Fetch, (): (), _: &mut StepContext<'_>) -> StepResult<Self> {
        Ok(Fetched {})
    }
}
impl CompensateExternal for Moan {
    type Compensated = Undone;
    type Reversal = ();
    async fn reverse(&self, _: &Fetched, _: &TookBack, _: &CallContext) -> MustSucceed<()> {
        Ok(())
    }
    async fn in_doubt(&self, _: &Fetch, _: &Doubt, _: &CallContext) -> MustSucceed<()> {
        Ok(())
    }
    async fn compensate(&self, (): (), _: TookBack, _: &mut StepContext<'_>) -> MustSucceed<Undone> {
        Ok(Undone {})
    }
    async fn nothing_done(&self, _: TookBack, _: &mut StepContext<'_>) -> MustSucceed<Undone> {
        self.0.fetch_add(1, Ordering::Relaxed);
        retry("a table is missing")
    }
}

/// It asks no breaker, and its failures are excused by one: they were due at once, at each tick.
#[tokio::test]
async fn what_asks_no_breaker_does_not_fail_at_each_tick() {
    let toy = Toy::new([]).await;
    let tried = Arc::new(AtomicUsize::new(0));
    let cast = Participant::new("toy").external(Moan(tried.clone()));
    let source = toy.broker.source("other", &cast.listens_to());
    let mut node =
        Node::observed(cast, toy.store.clone(), source, toy.broker.sink(), Arc::new(Unseen), toy.clock.clone())
            .unwrap();
    for i in 0..6 {
        toy.send(toy.saga(), TookBack::TYPE, &format!("t{i}"));
    }
    for _ in 0..600 {
        node.turn().await.unwrap();
        toy.clock.advance(Duration::from_millis(100));
    }
    // A run that fails in company is made again alone.
    let tried = tried.load(Ordering::Relaxed);
    assert!(tried < 40, "{tried} runs in a minute of an outage");
}

/// A step of which nothing can be taken back.
struct Clings;
impl Step for Clings {
    const NAME: &'static str = "clings";
    type On = Refused;
    type Emits = Nothing;
    type Rejects = Never;
    type CompensatedOn = TookBack;
}
impl Local for Clings {
    async fn run(&self, _: Refused, _: &mut StepContext<'_>) -> StepResult<Self> {
        Ok(Nothing)
    }
}
impl Compensate for Clings {
    type Compensated = Nothing;
    async fn compensate(&self, _: Nothing, _: TookBack, _: &mut StepContext<'_>) -> MustSucceed<Nothing> {
        retry("not now")
    }
    async fn nothing_done(&self, _: TookBack, _: &mut StepContext<'_>) -> MustSucceed<Nothing> {
        retry("not now")
    }
}

/// Whoever discards a row wakes what waits behind it. That was the first one only, and so the compensation waited for somebody to
/// ask for another step's forward: as long as everything failed there, or for ever where that step is gone.
#[tokio::test]
async fn a_compensation_behind_a_discarded_one_waits_for_no_forward_of_another_step() {
    let mut toy = Toy::new([Todo::GiveUp]).await;
    let play = |toy: &Toy, cast: Participant| {
        let cast = cast.step(Do(toy.script.clone())).step(Clings).external(Ask(toy.script.clone()));
        let source = toy.broker.source("toy", &cast.listens_to());
        Node::observed(cast, toy.store.clone(), source, toy.broker.sink(), Arc::new(Unseen), toy.clock.clone()).unwrap()
    };
    toy.node = play(&toy, Participant::new("toy").step(Silent));
    let saga = toy.saga();
    for (event, id) in [(Asked::TYPE, "a1"), (Started1::TYPE, "s1"), (TookBack::TYPE, "t1")] {
        toy.send(saga, event, id);
        toy.settle().await;
    }
    let waiting = [
        ("do", WorkState::Stuck),
        ("silent", WorkState::Parked),
        ("clings", WorkState::Deferred),
        ("ask", WorkState::Parked),
    ];
    assert_eq!(toy.work(saga).await, waiting.map(|(step, state)| (step.to_owned(), state)));

    toy.node = play(&toy, Participant::new("toy")); // `silent` has never run, and is not wanted any more
    toy.node.check().await.unwrap();
    let rows = toy.store.work(10).await.unwrap();
    let reaction = rows.iter().find(|row| row.step == "clings").unwrap().id;
    let what = Discard { reaction, reason: "by hand", who: "ada", taken_back: true, dry_run: false };
    discard(&toy.store, &toy.clock, "toy", &what).await.unwrap();
    toy.settle().await;
    assert_eq!(toy.state(saga, "ask").await, Some(State::Void));
    assert_eq!(toy.emitted(saga), [Undone::TYPE]);
    assert_eq!(
        toy.work(saga).await,
        waiting[..2].iter().map(|(step, state)| ((*step).to_owned(), *state)).collect::<Vec<_>>()
    );
}

/// The breaker holds a compensation whose call's lease has ended: until it may go, the forward is not called again.
#[tokio::test]
async fn a_compensation_that_is_held_keeps_its_forward_from_being_called_again() {
    let mut toy = whose_reversals_fail(12).await;
    for _ in 0..8 {
        toy.later(30).await;
    }
    assert_eq!(toy.node.health().failing_steps(), ["ask (compensation)"]);

    // Another instance shares the partitions, leases some calls, and dies.
    let more: Vec<_> = (0..12).map(|_| toy.saga()).collect();
    {
        let mut other = toy.another();
        for (i, saga) in more.iter().enumerate() {
            toy.send(*saga, Fetch::TYPE, &format!("x{i}"));
        }
        other.turn().await.unwrap();
    }
    let mut leased = Vec::new();
    for saga in more {
        if toy.state(saga, "ask").await.is_some() {
            leased.push(saga);
        }
    }
    let saga = leased[0];
    toy.send(saga, TookBack::TYPE, "tx");
    toy.settle().await;
    assert_eq!(toy.work(saga).await.len(), 2, "the compensation waits as long as the lease lasts");
    let before = toy.script.seen().len();
    for _ in 0..10 {
        toy.later(10).await;
    }
    let seen = toy.script.seen();
    let call = format!("call {} ", IdempotencyKey::derive(saga, "toy", "ask", Direction::Forward));
    let called = seen[before..].iter().filter(|line| line.starts_with(&call)).count();
    assert_eq!(called, 0, "{:?}", &seen[before..]);
}

/// A saga that started here and never ended is overdue for as long as it takes; and its request's key means it as long.
#[tokio::test]
async fn a_saga_that_has_not_ended_is_not_forgotten_where_it_started() {
    let mut toy = Toy::new([]).await;
    toy.node = toy.another().remembering(Retention::keep(Duration::from_secs(3_600)));
    let saga = toy.begin("k").await;
    toy.settle().await;
    toy.later(10 * 3_600).await;
    assert_eq!(toy.node.keep_house().await.unwrap(), 0);
    assert_eq!(toy.begin("k").await, saga);
    toy.send(saga, Did::TYPE, "d"); // its ending
    toy.settle().await;
    assert_eq!(toy.node.keep_house().await.unwrap(), 1);
}

/// The topic of the signals is missing: nobody's events wait for it, and the rows of the signals do not pile up.
#[tokio::test]
async fn signals_whose_topic_is_missing_hold_up_no_event() {
    let mut toy = Toy::new([Todo::GiveUp]).await;
    toy.node = toy.another().signalling("no-such-topic");
    let (stuck, well) = (toy.saga(), toy.saga());
    toy.send(stuck, Asked::TYPE, "a1");
    toy.settle().await;
    toy.send(well, Asked::TYPE, "a2");
    toy.settle().await;
    assert_eq!(toy.emitted(well), [Did::TYPE, Closed::TYPE]);
    assert_eq!(toy.store.outbox_len().await.unwrap(), 0);
    assert_eq!(toy.broker.messages(signal::TOPIC), []);
}
