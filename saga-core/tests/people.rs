//! What people may do to waiting work, shown with one toy participant in memory: each test is a sentence.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use saga_core::{
    Compensate, CompensateExternal, Event, External, Local, Never, Participant, State, Step, StepContext, StepResult,
    clock::Clock,
    discard::{Discard, DiscardError, Discarded, discard},
    envelope::{Delivery, Envelope, Message},
    id::{ReactionId, SagaId},
    node::Node,
    observer::Unseen,
    redrive::{is_reaction, re_emit, redrive},
    retry::Retry,
    start::{StartKey, Started},
    step::{CallContext, Direction, Doubt, MustSucceed, give_up, reject, retry},
    store::{Changes, Store, WorkRow, WorkState},
    transport::memory::MemoryBroker,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! event {
    ($name:ident, $type:literal) => {
        #[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
        struct $name {}
        impl Event for $name {
            const TYPE: &'static str = $type;
            const TOPIC: &'static str = "desk";
            fn subject(&self) -> Option<String> {
                Some("4711".to_owned())
            }
        }
    };
}
event!(Asked, "desk.asked.v1");
event!(Booked, "desk.booked.v1");
event!(Unbooked, "desk.unbooked.v1");
event!(Wanted, "desk.wanted.v1");
event!(Fetched, "desk.fetched.v1");
event!(NotFetched, "desk.not-fetched.v1");
event!(Returned, "desk.returned.v1");
event!(Cancelled, "desk.cancelled.v1");
event!(Greeted, "desk.greeted.v1");
event!(Opened, "desk.opened.v1");
event!(Withdrawn, "desk.withdrawn.v1");
event!(Answered, "desk.answered.v1");

/// What the steps are told to do next; `Work` when nothing is left.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Todo {
    Work,
    Fail,
    GiveUp,
    No,
}
use Todo::{Fail, GiveUp, No, Work};

#[derive(Debug, Clone, Default)]
struct Script(Arc<Mutex<(VecDeque<Todo>, Vec<String>)>>);

impl Script {
    fn next(&self, what: &str) -> Todo {
        let mut script = self.0.lock().unwrap();
        script.1.push(what.to_owned());
        script.0.pop_front().unwrap_or(Work)
    }
    fn then(&self, todo: impl IntoIterator<Item = Todo>) {
        self.0.lock().unwrap().0.extend(todo);
    }
    fn seen(&self) -> Vec<String> {
        self.0.lock().unwrap().1.clone()
    }
}

/// Two attempts, a minute apart.
fn twice() -> Retry {
    Retry::fixed(Duration::from_secs(60)).attempts(2)
}

struct Book(Script);
impl Step for Book {
    const NAME: &'static str = "book";
    type On = Asked;
    type Emits = Booked;
    type Rejects = Never;
    type CompensatedOn = Cancelled;
    fn retry(&self) -> Retry {
        twice()
    }
}
impl Local for Book {
    async fn run(&self, _: Asked, _: &mut StepContext<'_>) -> StepResult<Self> {
        match self.0.next("book") {
            Fail => retry("not now"),
            GiveUp => give_up("never"),
            _ => Ok(Booked {}),
        }
    }
}
impl Compensate for Book {
    type Compensated = Unbooked;
    async fn compensate(&self, _: Booked, _: Cancelled, _: &mut StepContext<'_>) -> MustSucceed<Unbooked> {
        match self.0.next("unbook") {
            GiveUp => give_up("the desk is closed"),
            _ => Ok(Unbooked {}),
        }
    }
    async fn nothing_done(&self, _: Cancelled, _: &mut StepContext<'_>) -> MustSucceed<Unbooked> {
        self.0.next("nothing booked");
        Ok(Unbooked {})
    }
}

struct Fetch(Script);
impl Step for Fetch {
    const NAME: &'static str = "fetch";
    type On = Wanted;
    type Emits = Fetched;
    type Rejects = NotFetched;
    type CompensatedOn = Cancelled;
    fn retry(&self) -> Retry {
        twice()
    }
}
impl External for Fetch {
    type Reply = bool;
    async fn call(&self, _: &Wanted, cx: &CallContext) -> MustSucceed<bool> {
        match self.0.next(&format!("call {}", cx.attempt())) {
            Fail => retry("lost"),
            GiveUp => give_up("refused at the door"),
            todo => Ok(todo == Work),
        }
    }
    async fn run(&self, _: Wanted, reply: bool, _: &mut StepContext<'_>) -> StepResult<Self> {
        if reply { Ok(Fetched {}) } else { reject(NotFetched {}) }
    }
}
impl CompensateExternal for Fetch {
    type Compensated = Returned;
    type Reversal = ();
    async fn reverse(&self, _: &Fetched, _: &Cancelled, _: &CallContext) -> MustSucceed<()> {
        self.0.next("reverse");
        Ok(())
    }
    async fn in_doubt(&self, _: &Wanted, _: &Doubt, _: &CallContext) -> MustSucceed<()> {
        match self.0.next("close the key") {
            GiveUp => give_up("no such door"),
            _ => Ok(()),
        }
    }
    async fn compensate(&self, (): (), _: Cancelled, _: &mut StepContext<'_>) -> MustSucceed<Returned> {
        Ok(Returned {})
    }
    async fn nothing_done(&self, _: Cancelled, _: &mut StepContext<'_>) -> MustSucceed<Returned> {
        Ok(Returned {})
    }
}

/// Never fails: what waits behind something, and what hears an event a second time.
struct Greet(Script);
impl Step for Greet {
    const NAME: &'static str = "greet";
    type On = Greeted;
    type Emits = Answered;
    type Rejects = Never;
    type CompensatedOn = Never;
}
impl Local for Greet {
    async fn run(&self, _: Greeted, _: &mut StepContext<'_>) -> StepResult<Self> {
        self.0.next("greet");
        Ok(Answered {})
    }
}

struct Open;
impl Step for Open {
    const NAME: &'static str = "open";
    type On = Never;
    type Emits = Opened;
    type Rejects = Never;
    type CompensatedOn = Never;
}

struct Withdraw;
impl Step for Withdraw {
    const NAME: &'static str = "withdraw";
    type On = Never;
    type Emits = Withdrawn;
    type Rejects = Never;
    type CompensatedOn = Never;
}

struct Desk {
    broker: MemoryBroker,
    clock: Clock,
    store: Store,
    script: Script,
    node: Node,
    saga: SagaId,
}

impl Desk {
    async fn new(todo: impl IntoIterator<Item = Todo>) -> Self {
        let broker = MemoryBroker::new(&[("desk", 1)]);
        let clock = Clock::manual(1_800_000_000_000, 7);
        let store = Store::connect("sqlite::memory:", "desk").await.unwrap();
        store.migrate().await.unwrap();
        let script = Script::default();
        script.then(todo);
        let node = Self::node("desk", &broker, &clock, &store, &script);
        let saga = SagaId::mint(&clock);
        Self { broker, clock, store, script, node, saga }
    }

    fn node(group: &str, broker: &MemoryBroker, clock: &Clock, store: &Store, script: &Script) -> Node {
        let cast = Participant::new("desk")
            .start(Open)
            .request(Withdraw)
            .step(Book(script.clone()))
            .external(Fetch(script.clone()))
            .step(Greet(script.clone()));
        let source = broker.source(group, &cast.listens_to());
        Node::observed(cast, store.clone(), source, broker.sink(), Arc::new(Unseen), clock.clone()).unwrap()
    }

    /// Everything that was ever published is delivered once more.
    async fn deliver_again(&mut self) {
        self.node = Self::node("once more", &self.broker, &self.clock, &self.store, &self.script);
        self.settle().await;
    }

    fn headers(&self, event_type: &str, id: &str) -> Vec<(String, Vec<u8>)> {
        let saga = self.saga.to_string();
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        vec![
            header("ce_specversion", "1.0"),
            header("ce_type", event_type),
            header("ce_id", id),
            header("ce_source", "/test"),
            header("ce_sagaid", &saga),
        ]
    }

    async fn send(&mut self, event_type: &str, id: &str) {
        self.append(event_type, id);
        self.settle().await;
    }

    fn append(&self, event_type: &str, id: &str) {
        let headers = self.headers(event_type, id);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        assert!(self.broker.inject("desk", Some(self.saga.to_string().as_bytes()), &headers, b"{}"));
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

    /// The running participant publishes what others wrote to its outbox.
    async fn sweep(&mut self) {
        self.clock.advance(Duration::from_secs(6));
        self.node.sweep().await.unwrap();
        self.settle().await;
    }

    async fn rows(&self) -> Vec<WorkRow> {
        self.store.work(100).await.unwrap()
    }

    async fn work(&self) -> Vec<(String, WorkState)> {
        self.rows().await.into_iter().map(|row| (row.step, row.state)).collect()
    }

    async fn redrive(&mut self) -> usize {
        let rows: Vec<_> = self.rows().await.iter().map(|row| (row.id, row.saga)).collect();
        let count = redrive(&self.store, &self.clock, &rows).await.unwrap().len();
        self.settle().await;
        count
    }

    async fn discard(&mut self, taken_back: bool) -> Result<Discarded, DiscardError> {
        let reaction = self.rows().await[0].id;
        let what = Discard { reaction, reason: " done by hand ", who: "ada", taken_back, dry_run: true };
        let before = (self.rows().await, self.store.ledger(self.saga).await.unwrap());
        let dry = discard(&self.store, &self.clock, "desk", &what).await;
        assert_eq!(
            (self.rows().await, self.store.ledger(self.saga).await.unwrap()),
            before,
            "a dry run changes nothing"
        );
        let done = discard(&self.store, &self.clock, "desk", &Discard { dry_run: false, ..what }).await;
        assert_eq!(format!("{dry:?}"), format!("{done:?}"));
        self.settle().await;
        done
    }

    async fn state(&self, step: &str) -> Option<State> {
        self.store.ledger(self.saga).await.unwrap().into_iter().find(|row| row.step == step).map(|row| row.state)
    }

    fn published(&self) -> Vec<Delivery> {
        let ours = |delivery: &Delivery| Envelope::decode(delivery).is_ok_and(|event| event.source == "/desk");
        self.broker.messages("desk").into_iter().filter(ours).collect()
    }

    fn emitted(&self) -> Vec<String> {
        self.published().iter().map(|delivery| Envelope::decode(delivery).unwrap().event_type).collect()
    }
}

fn waits(step: &str, state: WorkState) -> (String, WorkState) {
    (step.to_owned(), state)
}

#[tokio::test]
async fn what_gave_up_is_redriven_when_the_fault_is_gone_and_the_rows_behind_it_follow_in_order() {
    let mut desk = Desk::new([GiveUp]).await;
    desk.send(Asked::TYPE, "a").await;
    desk.send(Greeted::TYPE, "g").await;
    desk.send(Wanted::TYPE, "w").await;
    let (stuck, parked) = (WorkState::Stuck, WorkState::Parked);
    assert_eq!(desk.work().await, [waits("book", stuck), waits("greet", parked), waits("fetch", parked)]);
    desk.later(86_400).await;
    assert_eq!(desk.work().await.len(), 3, "time alone does not help");

    assert_eq!(desk.redrive().await, 1, "the rows behind it follow by themselves");
    assert_eq!(desk.work().await, []);
    assert_eq!(desk.script.seen(), ["book", "book", "greet", "call 1"]);
    assert_eq!(desk.emitted(), [Booked::TYPE, Answered::TYPE, Fetched::TYPE]);
}

#[tokio::test]
async fn a_redriven_row_that_fails_again_is_stuck_again_and_its_saga_still_waits() {
    let mut desk = Desk::new([GiveUp, GiveUp]).await;
    desk.send(Asked::TYPE, "a").await;
    desk.send(Greeted::TYPE, "g").await;
    desk.redrive().await;
    assert_eq!(desk.work().await, [waits("book", WorkState::Stuck), waits("greet", WorkState::Parked)]);
    let row = &desk.rows().await[0];
    assert_eq!((row.reason.as_str(), row.failures.len()), ("never", 2));
}

#[tokio::test]
async fn a_redrive_starts_the_policy_anew_and_counts_the_attempts_on() {
    let mut desk = Desk::new([Fail; 4]).await;
    desk.send(Asked::TYPE, "a").await;
    desk.later(60).await;
    assert_eq!((desk.rows().await[0].state, desk.rows().await[0].attempts), (WorkState::Stuck, 2));
    desk.later(3_600).await;
    desk.redrive().await;
    let row = &desk.rows().await[0];
    assert_eq!((row.state, row.attempts, row.reason.as_str()), (WorkState::Deferred, 3, ""), "its policy has one more");
    desk.later(60).await;
    let row = &desk.rows().await[0];
    assert_eq!((row.state, row.attempts, row.failures.len()), (WorkState::Stuck, 4, 4));
    assert_eq!(row.reason, "4 attempts failed, the last with: not now");
}

#[tokio::test]
async fn a_deferred_row_is_redriven_without_waiting_for_its_time() {
    let mut desk = Desk::new([Fail]).await;
    desk.send(Asked::TYPE, "a").await;
    assert_eq!(desk.work().await, [waits("book", WorkState::Deferred)]);
    assert_eq!(desk.redrive().await, 1);
    assert_eq!((desk.work().await, desk.emitted()), (vec![], vec![Booked::TYPE.to_owned()]));
}

/// Were its attempts forgotten, the answer of the third would look like that of the first, and its no would be believed although
/// one of the lost two may have taken effect.
#[tokio::test]
async fn a_no_to_a_redriven_call_is_not_believed_before_its_key_is_closed() {
    let mut desk = Desk::new([Fail, Fail, No]).await;
    desk.send(Wanted::TYPE, "w").await;
    desk.later(60).await;
    assert_eq!(desk.work().await, [waits("fetch", WorkState::Stuck)]);
    desk.redrive().await;
    assert_eq!(desk.script.seen(), ["call 1", "call 2", "call 3", "close the key"]);
    assert_eq!(desk.emitted(), [NotFetched::TYPE]);
}

#[tokio::test]
async fn a_call_is_neither_redriven_nor_discarded_while_its_lease_lasts() {
    let mut desk = Desk::new([]).await;
    desk.append(Wanted::TYPE, "w");
    assert!(desk.node.turn().await.unwrap(), "the intention is committed, the call is not made yet");
    let before = desk.rows().await;
    assert_eq!(before[0].state, WorkState::Calling);
    assert_eq!(redrive(&desk.store, &desk.clock, &[(before[0].id, desk.saga)]).await.unwrap(), []);
    assert_eq!(desk.rows().await, before);
    let what = Discard { reaction: before[0].id, reason: "r", who: "w", taken_back: true, dry_run: false };
    let refused = discard(&desk.store, &desk.clock, "desk", &what).await.unwrap_err();
    assert!(matches!(refused, DiscardError::Calling { seconds: 1..=60, .. }), "{refused:?}");
    assert_eq!(desk.rows().await, before);

    // When it has ended, nobody calls any more.
    desk.node = Desk::node("desk", &desk.broker, &desk.clock, &desk.store, &desk.script);
    desk.clock.advance(Duration::from_secs(60));
    discard(&desk.store, &desk.clock, "desk", &what).await.unwrap();
    desk.settle().await;
    assert_eq!((desk.work().await, desk.state("fetch").await), (vec![], Some(State::Calling)));
}

#[tokio::test]
async fn a_message_that_was_no_event_is_read_again_by_a_binary_that_knows_better() {
    let mut desk = Desk::new([]).await;
    let message = |offset, headers| WorkRow {
        id: ReactionId::of_message("desk", 0, offset),
        saga: SagaId(Uuid::nil()),
        step: String::new(),
        direction: Direction::Forward,
        state: WorkState::Stuck,
        seq: 0,
        delivery: Delivery {
            topic: "desk".into(),
            partition: 0,
            offset,
            epoch: 0,
            key: None,
            headers,
            body: b"{}".to_vec(),
        },
        due_at: None,
        attempts: 0,
        lease_owner: None,
        failures: Vec::new(),
        since: 5,
        reason: "an older binary could not read it".to_owned(),
        blocks: false,
        counted: 0,
        counted_from: 5,
        told: 0,
        told_on: None,
    };
    let work = vec![
        message(100, desk.headers(Greeted::TYPE, "g")),
        message(101, desk.headers(Greeted::TYPE, "")),
        message(102, desk.headers("desk.nobody-hears-this.v1", "n")),
    ];
    let mut tx = desk.store.begin().await.unwrap();
    tx.write(&Changes { work, ..Changes::default() }).await.unwrap();
    tx.commit().await.unwrap();
    desk.settle().await;
    assert_eq!(desk.work().await.len(), 3);

    assert_eq!(desk.redrive().await, 3);
    assert_eq!((desk.emitted(), desk.state("greet").await), (vec![Answered::TYPE.to_owned()], Some(State::Done)));
    let rows = desk.rows().await;
    assert_eq!(rows.len(), 1, "what is still no event waits for a person again, and does not spin: {rows:?}");
    assert_eq!((rows[0].delivery.offset, rows[0].state, rows[0].due_at), (101, WorkState::Stuck, None));
    assert!(rows[0].reason.contains("id"), "{}", rows[0].reason);
}

#[tokio::test]
async fn a_discarded_message_does_not_come_back_when_it_is_delivered_again() {
    let mut desk = Desk::new([]).await;
    desk.send(Greeted::TYPE, "").await;
    assert_eq!(desk.work().await, [waits("", WorkState::Stuck)]);
    desk.discard(false).await.unwrap();
    assert_eq!(desk.work().await, []);
    desk.deliver_again().await;
    assert_eq!(desk.work().await, []);
    let kept = desk.store.discarded(None, 9).await.unwrap();
    assert_eq!((kept.len(), kept[0].why.as_str(), kept[0].who.as_str()), (1, "done by hand", "ada"));
    assert_eq!(kept[0].work.delivery.body, b"{}");
}

#[tokio::test]
async fn a_discarded_forward_never_runs_and_what_waited_behind_it_goes_on() {
    let mut desk = Desk::new([GiveUp]).await;
    desk.send(Asked::TYPE, "a").await;
    desk.send(Greeted::TYPE, "g").await;
    let discarded = desk.discard(false).await.unwrap();
    assert_eq!(discarded.step, (None, Some(State::Rejected)));
    assert!(discarded.wakes.is_some());
    assert_eq!((desk.work().await, desk.emitted()), (vec![], vec![Answered::TYPE.to_owned()]));

    desk.deliver_again().await;
    assert_eq!(desk.script.seen(), ["book", "greet"], "its event was delivered again, and absorbed");
    let ledger = desk.store.ledger(desk.saga).await.unwrap();
    let notes = &ledger.iter().find(|row| row.step == "book").unwrap().notes;
    assert_eq!((notes[0].who.as_str(), notes[0].reason.as_str()), ("ada", "done by hand"));

    // Somebody publishes the event anew, without what was wrong with it.
    desk.send(Asked::TYPE, "a, corrected").await;
    assert_eq!((desk.work().await, desk.state("book").await), (vec![], Some(State::Done)));
    desk.send(Asked::TYPE, "a").await;
    assert_eq!(desk.script.seen(), ["book", "greet", "book"]);
}

#[tokio::test]
async fn the_compensation_of_a_discarded_forward_says_that_nothing_was_done() {
    let mut desk = Desk::new([GiveUp]).await;
    desk.send(Asked::TYPE, "a").await;
    desk.discard(false).await.unwrap();
    desk.send(Cancelled::TYPE, "c").await;
    assert!(desk.script.seen().contains(&"nothing booked".to_owned()));
    assert_eq!(desk.state("book").await, Some(State::Void));
    assert!(desk.emitted().contains(&Unbooked::TYPE.to_owned()));
}

#[tokio::test]
async fn the_compensation_of_a_discarded_call_closes_its_key() {
    let mut desk = Desk::new([GiveUp]).await;
    desk.send(Wanted::TYPE, "w").await;
    let discarded = desk.discard(false).await.unwrap();
    assert_eq!(discarded.step, (Some(State::Calling), Some(State::Calling)));
    desk.deliver_again().await;
    assert_eq!(desk.script.seen(), ["call 1"], "nobody calls again");
    desk.send(Cancelled::TYPE, "c").await;
    assert!(desk.script.seen().contains(&"close the key".to_owned()), "{:?}", desk.script.seen());
    assert_eq!(desk.state("fetch").await, Some(State::Compensated));
}

#[tokio::test]
async fn a_discarded_second_trigger_does_not_come_back() {
    let mut desk = Desk::new([]).await;
    desk.send(Asked::TYPE, "a1").await;
    desk.send(Asked::TYPE, "a2").await;
    assert_eq!(desk.work().await, [waits("book", WorkState::Stuck)]);
    assert_eq!(desk.redrive().await, 1);
    assert_eq!(desk.work().await, [waits("book", WorkState::Stuck)], "it is a second trigger still");
    let discarded = desk.discard(false).await.unwrap();
    assert_eq!(discarded.step, (Some(State::Done), Some(State::Done)));
    desk.deliver_again().await;
    assert_eq!((desk.work().await, desk.script.seen()), (vec![], vec!["book".to_owned()]));
}

#[tokio::test]
async fn a_stuck_compensation_is_redriven() {
    let mut desk = Desk::new([Work, GiveUp]).await;
    desk.send(Asked::TYPE, "a").await;
    desk.send(Cancelled::TYPE, "c").await;
    assert_eq!(desk.work().await, [waits("book", WorkState::Stuck)]);
    desk.redrive().await;
    assert_eq!((desk.work().await, desk.state("book").await), (vec![], Some(State::Compensated)));
    assert!(desk.emitted().contains(&Unbooked::TYPE.to_owned()));
}

#[tokio::test]
async fn a_compensation_is_discarded_only_by_who_took_the_effect_back() {
    let mut desk = Desk::new([Work, GiveUp]).await;
    desk.send(Asked::TYPE, "a").await;
    desk.send(Cancelled::TYPE, "c").await;
    let refused = desk.discard(false).await.unwrap_err();
    assert!(matches!(refused, DiscardError::Compensation(_)), "{refused:?}");
    assert_eq!(desk.work().await, [waits("book", WorkState::Stuck)]);

    let discarded = desk.discard(true).await.unwrap();
    assert_eq!(discarded.step, (Some(State::Done), Some(State::Compensated)));
    desk.deliver_again().await;
    assert_eq!((desk.work().await, desk.state("book").await), (vec![], Some(State::Compensated)));
    let unbooked = desk.script.seen().iter().filter(|what| *what == "unbook").count();
    assert_eq!(unbooked, 1, "the attempt that gave up");
}

/// A rejection waits until the key of a lost call is closed; a person has closed it.
#[tokio::test]
async fn a_rejection_is_said_when_a_person_has_closed_the_key() {
    let mut desk = Desk::new([Fail, No, GiveUp]).await;
    desk.send(Wanted::TYPE, "w").await;
    desk.later(60).await;
    assert_eq!(
        (desk.work().await, desk.state("fetch").await),
        (vec![waits("fetch", WorkState::Stuck)], Some(State::Compensating))
    );
    assert_eq!(re_emit(&desk.store, &desk.clock, "desk", desk.saga, true).await.unwrap().again, []);
    let discarded = desk.discard(true).await.unwrap();
    assert!(discarded.emits.is_some());
    desk.sweep().await;
    assert_eq!(
        (desk.emitted(), desk.state("fetch").await),
        (vec![NotFetched::TYPE.to_owned()], Some(State::Compensated))
    );
    let event = Envelope::decode(&desk.published()[0]).unwrap();
    assert_eq!((event.hops, event.subject.as_deref()), (1, Some("4711")), "{event:?}");
}

#[tokio::test]
async fn a_reason_is_required() {
    let mut desk = Desk::new([GiveUp]).await;
    desk.send(Asked::TYPE, "a").await;
    let reaction = desk.rows().await[0].id;
    for reason in [" \t", &"x".repeat(2_001)] {
        let what = Discard { reaction, reason, who: "ada", taken_back: false, dry_run: false };
        let refused = discard(&desk.store, &desk.clock, "desk", &what).await.unwrap_err();
        assert!(matches!(refused, DiscardError::Reason(_)), "{refused:?}");
    }
    let reaction = ReactionId(Uuid::nil());
    let what = Discard { reaction, reason: "r", who: "ada", taken_back: false, dry_run: false };
    let refused = discard(&desk.store, &desk.clock, "desk", &what).await.unwrap_err();
    assert!(matches!(refused, DiscardError::NotWaiting(_)), "{refused:?}");
}

/// The topic was deleted, or nobody listened long enough: everything that the participant said is said again, byte for byte, and
/// whoever heard it before absorbs it.
#[tokio::test]
async fn what_a_saga_said_is_said_again_word_for_word() {
    let mut desk = Desk::new([]).await;
    desk.send(Asked::TYPE, "a").await;
    desk.send(Wanted::TYPE, "w").await;
    desk.send(Greeted::TYPE, "g").await;
    let mut first = desk.published();
    assert_eq!(first.len(), 3);

    assert_eq!(re_emit(&desk.store, &desk.clock, "desk", desk.saga, true).await.unwrap().again.len(), 3);
    assert_eq!(desk.store.outbox_len().await.unwrap(), 0, "a dry run writes nothing");
    re_emit(&desk.store, &desk.clock, "desk", desk.saga, false).await.unwrap();
    desk.sweep().await;
    let mut second = desk.published().split_off(3);
    let words = |delivery: &Delivery| (delivery.key.clone(), delivery.headers.clone(), delivery.body.clone());
    for said in [&mut first, &mut second] {
        said.sort_by_key(words);
    }
    assert_eq!(first.iter().map(words).collect::<Vec<_>>(), second.iter().map(words).collect::<Vec<_>>());

    // What its compensations said, too; beside them what was done, at a time that the row does not know any more.
    desk.send(Cancelled::TYPE, "c").await;
    let compensations: Vec<_> = desk.published().split_off(6).iter().map(words).collect();
    assert_eq!(compensations.len(), 2);
    let said = re_emit(&desk.store, &desk.clock, "desk", desk.saga, false).await.unwrap();
    let types: Vec<_> = said.again.iter().map(|(step, message)| (step.as_str(), event_type(message))).collect();
    assert_eq!(
        types,
        [
            ("book", Booked::TYPE),
            ("book", Unbooked::TYPE),
            ("fetch", Fetched::TYPE),
            ("fetch", Returned::TYPE),
            ("greet", Answered::TYPE)
        ]
    );
    desk.sweep().await;
    let again: Vec<_> = desk.published().split_off(8).iter().map(words).collect();
    assert!(compensations.iter().all(|message| again.contains(message)), "{again:#?}");
    assert_eq!(desk.work().await, []);
}

/// Nothing triggers a start, and a request is caused by the start.
#[tokio::test]
async fn what_started_and_what_was_requested_is_said_again_word_for_word() {
    let mut desk = Desk::new([]).await;
    let starter = desk.node.starter();
    let key = StartKey { caller: "test", key: "1", fingerprint: b"" };
    let begin = async |_: SagaId, _: &mut StepContext<'_>| Ok((Opened {}, ()));
    let Started::New(saga, ()) = starter.start::<Open, _, _>(key, begin).await.unwrap() else { panic!("a new key") };
    starter.request::<Withdraw, _>(saga, async |_: &mut StepContext<'_>| Ok(Withdrawn {})).await.unwrap();
    desk.settle().await;
    let said = re_emit(&desk.store, &desk.clock, "desk", saga, false).await.unwrap();
    assert_eq!((said.again.len(), &said.silent), (2, &vec![]));
    desk.sweep().await;
    let published = desk.published();
    assert_eq!(published.len(), 4);
    for (first, second) in published[..2].iter().zip(&published[2..]) {
        assert_eq!((&first.headers, &first.body, &first.key), (&second.headers, &second.body, &second.key));
    }
}

/// What a late answer left behind is beside the step's reactions: settling it would only make it disappear.
#[tokio::test]
async fn what_a_late_answer_left_behind_is_not_redriven() {
    let mut desk = Desk::new([GiveUp]).await;
    desk.send(Asked::TYPE, "a").await;
    let mut late = desk.rows().await.remove(0);
    late.id = ReactionId(Uuid::from_u128(77));
    let mut tx = desk.store.begin().await.unwrap();
    tx.write(&Changes { work: vec![late.clone()], ..Changes::default() }).await.unwrap();
    tx.commit().await.unwrap();
    assert!(!is_reaction(&late));
    assert_eq!(desk.redrive().await, 1, "the other one");
    assert_eq!(desk.rows().await, [late]);
}

/// An event of a saga that was forgotten is stuck. Discarding it must not make the saga look known, or the next one would run.
#[tokio::test]
async fn what_comes_of_a_forgotten_saga_is_discarded_and_the_saga_stays_forgotten() {
    let mut desk = Desk::new([]).await;
    desk.clock.advance(Duration::from_secs(7_200));
    desk.store.prune(desk.clock.now() - 3_600_000, &[], 10).await.unwrap();
    desk.send(Asked::TYPE, "a").await;
    assert_eq!(desk.work().await, [waits("book", WorkState::Stuck)]);
    assert_eq!(desk.redrive().await, 1);
    assert_eq!(desk.work().await, [waits("book", WorkState::Stuck)], "it is no younger");

    let discarded = desk.discard(false).await.unwrap();
    assert_eq!(discarded.step, (None, None));
    desk.deliver_again().await;
    assert_eq!(desk.work().await, [], "it does not come back");
    desk.send(Greeted::TYPE, "g").await;
    assert_eq!(desk.work().await, [waits("greet", WorkState::Stuck)]);
    assert_eq!((desk.script.seen(), desk.emitted()), (Vec::new(), Vec::new()), "nothing is taken for new");
}

fn event_type(message: &Message) -> &str {
    message.headers.iter().find(|(name, _)| name == "ce_type").map_or("", |(_, value)| value)
}
