//! One participant with a step of every kind, in memory, on a clock of its own. Its steps do what a script tells them.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

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
    observer::{Observer, Unseen},
    one_of,
    retry::Retry,
    start::{StartKey, Started},
    step::{CallContext, Doubt, MustSucceed, give_up, reject, reject_after_effect, retry},
    store::{Store, WorkState},
    transport::{Sink, memory::MemoryBroker},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

macro_rules! event {
    ($name:ident, $type:literal $(, $ending:ident)?) => {
        #[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
        pub struct $name {}
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
    pub enum Either { Asked, AskedOtherwise }
}

/// What the toy's steps are told to do next; `Work` when nothing is left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Todo {
    Work,
    Fail,
    Panic,
    GiveUp,
    Reject,
    RejectAfterEffect,
    /// The call, or the run, ends with a no, but only when [`Script::let_go`] says so.
    HangThenRefuse,
    /// The same, with a yes.
    HangThenAgree,
}

#[derive(Debug, Clone, Default)]
pub struct Script(Arc<Mutex<(VecDeque<Todo>, Vec<String>)>>, Arc<Notify>);

impl Script {
    pub fn of(todo: impl IntoIterator<Item = Todo>) -> Self {
        Self(Arc::new(Mutex::new((todo.into_iter().collect(), Vec::new()))), Arc::default())
    }
    pub fn next(&self, what: String) -> Todo {
        let mut script = self.0.lock().unwrap();
        script.1.push(what);
        script.0.pop_front().unwrap_or(Todo::Work)
    }
    pub fn let_go(&self) {
        self.1.notify_waiters();
    }
    /// What comes next.
    pub fn then(&self, todo: Todo) {
        self.0.lock().unwrap().0.push_back(todo);
    }
    /// From now on everything works.
    pub fn forget(&self) {
        self.0.lock().unwrap().0.clear();
    }
    pub fn seen(&self) -> Vec<String> {
        self.0.lock().unwrap().1.clone()
    }
}

pub struct Do(pub Script);
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
            Todo::HangThenAgree => {
                self.0.1.notified().await;
                Ok(Did {})
            }
            Todo::Work => Ok(Did {}),
            Todo::Fail => retry("not now"),
            Todo::Panic => panic!("oh dear"),
            Todo::GiveUp => give_up("never"),
            _ => reject(Refused {}),
        }
    }
}

/// Hears what `Do` emits, so that a saga has something that waits behind it.
pub struct Close;
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

pub struct Ask(pub Script);
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
            todo @ (Todo::HangThenRefuse | Todo::HangThenAgree) => {
                self.0.1.notified().await;
                Ok(todo == Todo::HangThenAgree)
            }
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

pub struct Begin;
impl Step for Begin {
    const NAME: &'static str = "begin";
    type On = Never;
    type Emits = Started1;
    type Rejects = Never;
    type CompensatedOn = Never;
}

pub struct Silent;
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

pub struct Toy {
    pub broker: MemoryBroker,
    pub clock: Clock,
    pub store: Store,
    pub script: Script,
    pub node: Node,
}

/// An event of another participant, as a toy that runs by itself hears it.
pub fn send(broker: &MemoryBroker, saga: SagaId, event_type: &str, id: &str) {
    let key = saga.to_string();
    let headers: [(&str, &[u8]); 5] = [
        ("ce_specversion", b"1.0"),
        ("ce_type", event_type.as_bytes()),
        ("ce_id", id.as_bytes()),
        ("ce_source", b"/test"),
        ("ce_sagaid", key.as_bytes()),
    ];
    assert!(broker.inject("toy", Some(key.as_bytes()), &headers, b"{}"));
}

impl Toy {
    pub async fn new(todo: impl IntoIterator<Item = Todo>) -> Self {
        Self::on("sqlite::memory:", todo).await
    }

    /// On a database of its own, which is empty.
    pub async fn on(url: &str, todo: impl IntoIterator<Item = Todo>) -> Self {
        let store = Store::connect(url, "toy").await.unwrap();
        store.migrate().await.unwrap();
        let mut tx = store.begin().await.unwrap();
        tx.conn().execute("CREATE TABLE effects (saga TEXT, step TEXT)", ()).await.unwrap();
        tx.commit().await.unwrap();
        Self::with(store, Clock::manual(1_800_000_000_000, 7), Script::of(todo))
    }

    /// With a broker of its own, on tables that are there.
    pub fn with(store: Store, clock: Clock, script: Script) -> Self {
        let broker = MemoryBroker::new(&[("toy", 3), (saga_core::signal::TOPIC, 1)]);
        let node = Self::play(&broker, &clock, &store, &script, broker.sink(), Arc::new(Unseen));
        Self { broker, clock, store, script, node }
    }

    pub fn play(
        broker: &MemoryBroker,
        clock: &Clock,
        store: &Store,
        script: &Script,
        sink: Arc<dyn Sink>,
        observer: Arc<dyn Observer>,
    ) -> Node {
        let cast = Participant::new("toy")
            .start(Begin)
            .step(Do(script.clone()))
            .step(Close)
            .step(Silent)
            .external(Ask(script.clone()));
        let source = broker.source("toy", &cast.listens_to());
        Node::observed(cast, store.clone(), source, sink, observer, clock.clone()).unwrap()
    }

    /// As kill -9 and a start would do it.
    pub fn crash(&mut self) {
        self.node = self.another();
    }

    /// Another instance on the same database, in the same group.
    pub fn another(&self) -> Node {
        self.with_sink(self.broker.sink())
    }

    pub fn with_sink(&self, sink: Arc<dyn Sink>) -> Node {
        Self::play(&self.broker, &self.clock, &self.store, &self.script, sink, Arc::new(Unseen))
    }

    pub fn observed(&self, observer: Arc<dyn Observer>) -> Node {
        Self::play(&self.broker, &self.clock, &self.store, &self.script, self.broker.sink(), observer)
    }

    pub fn saga(&self) -> SagaId {
        SagaId::mint(&self.clock)
    }

    /// Starts a saga, or finds the one that was started under this key.
    pub async fn begin(&self, key: &str) -> SagaId {
        let key = StartKey { caller: "test", key, fingerprint: b"" };
        let begin = async |_, _: &mut StepContext<'_>| Ok((Started1 {}, ()));
        match self.node.starter().start::<Begin, _, _>(key, begin).await.unwrap() {
            Started::New(saga, ()) | Started::Repeated(saga, ()) => saga,
        }
    }

    pub fn send(&self, saga: SagaId, event_type: &str, id: &str) {
        send(&self.broker, saga, event_type, id);
    }

    /// Until nothing is left to do at this time.
    pub async fn settle(&mut self) {
        for _ in 0..1_000 {
            if !self.node.turn().await.unwrap() {
                return;
            }
        }
        panic!("the participant spins");
    }

    pub async fn later(&mut self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.settle().await;
    }

    pub fn emitted(&self, saga: SagaId) -> Vec<String> {
        let events = self.broker.messages("toy");
        let ours = events.iter().filter_map(|d| Envelope::decode(d).ok()).filter(|e| e.saga == saga);
        ours.filter(|e| e.source == "/toy").map(|e| e.event_type).collect()
    }

    pub async fn state(&self, saga: SagaId, step: &str) -> Option<State> {
        self.store.ledger(saga).await.unwrap().into_iter().find(|row| row.step == step).map(|row| row.state)
    }

    pub async fn work(&self, saga: SagaId) -> Vec<(String, WorkState)> {
        let rows = self.store.work(1_000).await.unwrap();
        rows.into_iter().filter(|row| row.saga == saga).map(|row| (row.step, row.state)).collect()
    }

    pub async fn effects(&self, saga: SagaId) -> i64 {
        let mut tx = self.store.begin().await.unwrap();
        let sql = "SELECT count(*) FROM effects WHERE saga = $1";
        let count: Option<(i64,)> = tx.conn().fetch_optional(sql, (saga.to_string(),)).await.unwrap();
        count.unwrap().0
    }
}
