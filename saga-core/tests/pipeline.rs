//! What the pipeline promises, shown with one toy participant in memory: each test is a sentence about a failure.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use saga_core::{
    CompensateExternal, Event, External, Local, Never, Nothing, Participant, State, Step, StepContext, StepResult,
    clock::Clock,
    envelope::Envelope,
    event::Ending,
    id::SagaId,
    node::Node,
    observer::Unseen,
    one_of,
    retry::Retry,
    start::{StartError, StartKey, Started},
    step::{CallContext, Doubt, MustSucceed, give_up, reject, reject_after_effect, retry},
    store::{Store, WorkState},
    transport::memory::MemoryBroker,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! event {
    ($name:ident, $type:literal $(, $ending:ident)?) => {
        #[derive(Debug, Clone, Default, Serialize, Deserialize)]
        struct $name {}
        impl Event for $name {
            const TYPE: &'static str = $type;
            const TOPIC: &'static str = "toy";
            $(const ENDING: Option<Ending> = Some(Ending::$ending);)?
        }
    };
}
event!(Asked, "toy.asked.v1");
event!(AskedOtherwise, "toy.asked-otherwise.v1");
event!(Fetch, "toy.fetch.v1");
event!(TookBack, "toy.took-back.v1");
event!(Did, "toy.did.v1");
event!(Refused, "toy.refused.v1");
event!(Fetched, "toy.fetched.v1");
event!(NotFetched, "toy.not-fetched.v1");
event!(Undone, "toy.fetch-undone.v1");
event!(Closed, "toy.closed.v1", Completed);
event!(Started1, "toy.started.v1");

one_of! {
    /// Either may come first.
    #[derive(Debug)]
    enum Either { Asked, AskedOtherwise }
}

/// What the toy's steps are told to do next; `Work` when nothing is left.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Todo {
    Work,
    Fail,
    Panic,
    GiveUp,
    Reject,
    RejectAfterEffect,
}

#[derive(Debug, Clone, Default)]
struct Script(Arc<Mutex<(VecDeque<Todo>, Vec<String>)>>);

impl Script {
    fn of(todo: impl IntoIterator<Item = Todo>) -> Self {
        Self(Arc::new(Mutex::new((todo.into_iter().collect(), Vec::new()))))
    }
    fn next(&self, what: String) -> Todo {
        let mut script = self.0.lock().unwrap();
        script.1.push(what);
        script.0.pop_front().unwrap_or(Todo::Work)
    }
    fn seen(&self) -> Vec<String> {
        self.0.lock().unwrap().1.clone()
    }
}

struct Do(Script);
impl Step for Do {
    const NAME: &'static str = "do";
    type On = Either;
    type Emits = Did;
    type Rejects = Refused;
    type CompensatedOn = Never;
    fn retry(&self) -> Retry {
        Retry::fixed(Duration::from_secs(3600)).attempts(5)
    }
}
impl Local for Do {
    async fn run(&self, _: Either, cx: &mut StepContext<'_>) -> StepResult<Self> {
        cx.execute("INSERT INTO effects (saga, step) VALUES ($1, 'do')", (cx.saga().to_string(),)).await?;
        match self.0.next(format!("run {}", cx.saga())) {
            Todo::Work => Ok(Did {}),
            Todo::Fail => retry("not now"),
            Todo::Panic => panic!("oh dear"),
            Todo::GiveUp => give_up("never"),
            Todo::Reject | Todo::RejectAfterEffect => reject(Refused {}),
        }
    }
}

/// Hears what `Do` emits, so that a saga has something that waits behind it.
struct Close;
impl Step for Close {
    const NAME: &'static str = "close";
    type On = Did;
    type Emits = Closed;
    type Rejects = Never;
    type CompensatedOn = Never;
}
impl Local for Close {
    async fn run(&self, _: Did, _: &mut StepContext<'_>) -> StepResult<Self> {
        Ok(Closed {})
    }
}

struct Ask(Script);
impl Step for Ask {
    const NAME: &'static str = "ask";
    type On = Fetch;
    type Emits = Fetched;
    type Rejects = NotFetched;
    type CompensatedOn = TookBack;
    fn retry(&self) -> Retry {
        Retry::fixed(Duration::from_secs(60)).forever()
    }
}
impl External for Ask {
    type Reply = bool;
    async fn call(&self, _: &Fetch, cx: &CallContext) -> MustSucceed<bool> {
        match self.0.next(format!("call {} {}", cx.idempotency_key(), cx.attempt())) {
            Todo::Fail => retry("lost"),
            Todo::Reject => Ok(false),
            _ => Ok(true),
        }
    }
    async fn run(&self, _: Fetch, reply: bool, cx: &mut StepContext<'_>) -> StepResult<Self> {
        cx.execute("INSERT INTO effects (saga, step) VALUES ($1, 'ask')", (cx.saga().to_string(),)).await?;
        match (reply, self.0.next("settle".to_owned())) {
            (_, Todo::RejectAfterEffect) => reject_after_effect(NotFetched {}),
            (true, _) => Ok(Fetched {}),
            (false, _) => reject(NotFetched {}),
        }
    }
}
impl CompensateExternal for Ask {
    type Compensated = Undone;
    type Reversal = ();
    async fn reverse(&self, _: &Fetched, _: &TookBack, cx: &CallContext) -> MustSucceed<()> {
        match self.0.next(format!("reverse {}", cx.idempotency_key())) {
            Todo::Fail => retry("lost"),
            _ => Ok(()),
        }
    }
    async fn in_doubt(&self, _: &Fetch, doubt: &Doubt, cx: &CallContext) -> MustSucceed<()> {
        assert_ne!(doubt.forward_key, cx.idempotency_key());
        self.0.next(format!("close {}", doubt.forward_key));
        Ok(())
    }
    async fn compensate(&self, (): (), _: TookBack, cx: &mut StepContext<'_>) -> MustSucceed<Undone> {
        cx.execute("DELETE FROM effects WHERE saga = $1 AND step = 'ask'", (cx.saga().to_string(),)).await?;
        Ok(Undone {})
    }
    async fn nothing_done(&self, _: TookBack, _: &mut StepContext<'_>) -> MustSucceed<Undone> {
        Ok(Undone {})
    }
}

struct Begin;
impl Step for Begin {
    const NAME: &'static str = "begin";
    type On = Never;
    type Emits = Started1;
    type Rejects = Never;
    type CompensatedOn = Never;
}

struct Silent;
impl Step for Silent {
    const NAME: &'static str = "silent";
    type On = Started1;
    type Emits = Nothing;
    type Rejects = Never;
    type CompensatedOn = Never;
    const FIRST_TRIGGER_WINS: bool = true;
}
impl Local for Silent {
    async fn run(&self, _: Started1, cx: &mut StepContext<'_>) -> StepResult<Self> {
        cx.execute("INSERT INTO effects (saga, step) VALUES ($1, 'silent')", (cx.saga().to_string(),)).await?;
        Ok(Nothing)
    }
}

struct Toy {
    broker: MemoryBroker,
    clock: Clock,
    store: Store,
    script: Script,
    node: Node,
}

impl Toy {
    async fn new(todo: impl IntoIterator<Item = Todo>) -> Self {
        let broker = MemoryBroker::new(&[("toy", 3)]);
        let clock = Clock::manual(1_800_000_000_000, 7);
        let store = Store::connect("sqlite::memory:", "toy").await.unwrap();
        store.migrate().await.unwrap();
        let mut tx = store.begin().await.unwrap();
        tx.conn().execute("CREATE TABLE effects (saga TEXT, step TEXT)", ()).await.unwrap();
        tx.commit().await.unwrap();
        let script = Script::of(todo);
        let node = Self::node(&broker, &clock, &store, &script);
        Self { broker, clock, store, script, node }
    }

    fn node(broker: &MemoryBroker, clock: &Clock, store: &Store, script: &Script) -> Node {
        let cast = Participant::new("toy")
            .start(Begin)
            .step(Do(script.clone()))
            .step(Close)
            .step(Silent)
            .external(Ask(script.clone()));
        let source = broker.source("toy", &cast.listens_to());
        Node::observed(cast, store.clone(), source, broker.sink(), Arc::new(Unseen), clock.clone()).unwrap()
    }

    /// As kill -9 and a start would do it.
    fn crash(&mut self) {
        self.node = Self::node(&self.broker, &self.clock, &self.store, &self.script);
    }

    fn saga(&self) -> SagaId {
        SagaId::mint(&self.clock)
    }

    fn send(&self, saga: SagaId, event_type: &str, id: &str) {
        let key = saga.to_string();
        let headers: [(&str, &[u8]); 5] = [
            ("ce_specversion", b"1.0"),
            ("ce_type", event_type.as_bytes()),
            ("ce_id", id.as_bytes()),
            ("ce_source", b"/test"),
            ("ce_sagaid", key.as_bytes()),
        ];
        assert!(self.broker.inject("toy", Some(key.as_bytes()), &headers, b"{}"));
    }

    /// Until nothing is left to do at this time.
    async fn settle(&mut self) {
        for _ in 0..1_000 {
            if !self.node.turn().await.unwrap() {
                return;
            }
        }
        panic!("the participant spins");
    }

    async fn later(&mut self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.settle().await;
    }

    fn emitted(&self, saga: SagaId) -> Vec<String> {
        let events = self.broker.messages("toy");
        let ours = events.iter().filter_map(|d| Envelope::decode(d).ok()).filter(|e| e.saga == saga);
        ours.filter(|e| e.source == "/toy").map(|e| e.event_type).collect()
    }

    async fn state(&self, saga: SagaId, step: &str) -> Option<State> {
        self.store.ledger(saga).await.unwrap().into_iter().find(|row| row.step == step).map(|row| row.state)
    }

    async fn work(&self, saga: SagaId) -> Vec<(String, WorkState)> {
        let rows = self.store.work(1_000).await.unwrap();
        rows.into_iter().filter(|row| row.saga == saga).map(|row| (row.step, row.state)).collect()
    }

    async fn effects(&self, saga: SagaId) -> i64 {
        let mut tx = self.store.begin().await.unwrap();
        let sql = "SELECT count(*) FROM effects WHERE saga = $1";
        let count: Option<(i64,)> = tx.conn().fetch_optional(sql, (saga.to_string(),)).await.unwrap();
        count.unwrap().0
    }
}

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
