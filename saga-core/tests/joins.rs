//! Joined steps: in whatever order their triggers come, and however often, one event goes out, by the last of them.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::collections::BTreeSet;

use saga_core::{
    Compensate, Event, Local, Participant, Step, StepContext, StepResult,
    clock::Clock,
    envelope::Envelope,
    id::SagaId,
    node::Node,
    redrive::re_emit,
    step::{MustSucceed, reject},
    store::Store,
    transport::memory::MemoryBroker,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! event {
    ($($name:ident $type:literal $topic:literal)+) => {$(
        #[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
        struct $name {
            #[serde(default)]
            no: bool,
        }
        impl Event for $name {
            const TYPE: &'static str = $type;
            const TOPIC: &'static str = $topic;
        }
    )+};
}
event! {
    LeftCame "legs.left.came.v1" "legs"
    MiddleCame "legs.middle.came.v1" "legs"
    RightCame "legs.right.came.v1" "legs"
    Cancelled "legs.all.cancelled.v1" "legs"
    AllCame "desk.all.came.v1" "desk"
    Missing "desk.one.missing.v1" "desk"
    Forgot "desk.one.forgot.v1" "desk"
}

/// A step that notes that its leg has come, joined with the others.
macro_rules! note {
    ($($name:ident $step:literal $on:ident [$($joins:literal)+])+) => {$(
        struct $name;
        impl Step for $name {
            const NAME: &'static str = $step;
            type On = $on;
            type Emits = AllCame;
            type Rejects = Missing;
            type CompensatedOn = Cancelled;
            const JOINS: &'static [&'static str] = &[$($joins),+];
        }
        impl Local for $name {
            async fn run(&self, on: $on, _: &mut StepContext<'_>) -> StepResult<Self> {
                if on.no { reject(Missing::default()) } else { Ok(AllCame::default()) }
            }
        }
        impl Compensate for $name {
            type Compensated = Forgot;
            async fn compensate(&self, _: AllCame, _: Cancelled, _: &mut StepContext<'_>) -> MustSucceed<Forgot> {
                Ok(Forgot::default())
            }
            async fn nothing_done(&self, _: Cancelled, _: &mut StepContext<'_>) -> MustSucceed<Forgot> {
                Ok(Forgot::default())
            }
        }
    )+};
}
mod two {
    use super::*;
    note! {
        Left "left" LeftCame ["right"]
        Right "right" RightCame ["left"]
    }
    pub(super) fn participant() -> Participant {
        Participant::new("desk").step(Left).step(Right)
    }
}
mod three {
    use super::*;
    note! {
        Left "left" LeftCame ["middle" "right"]
        Middle "middle" MiddleCame ["left" "right"]
        Right "right" RightCame ["left" "middle"]
    }
    pub(super) fn participant() -> Participant {
        Participant::new("desk").step(Left).step(Middle).step(Right)
    }
}

/// The steps of the two groups, with what triggers each.
const TWO: [Leg; 2] = [("left", LeftCame::TYPE), ("right", RightCame::TYPE)];
const THREE: [Leg; 3] = [("left", LeftCame::TYPE), ("middle", MiddleCame::TYPE), ("right", RightCame::TYPE)];

struct Desk {
    broker: MemoryBroker,
    clock: Clock,
    store: Store,
    node: Node,
}

impl Desk {
    async fn of(cast: Participant) -> Self {
        cast.check().unwrap();
        // One partition, so that one batch has the order in which it was sent.
        let broker = MemoryBroker::new(&[("legs", 1), ("desk", 1)]);
        let clock = Clock::manual(1_800_000_000_000, 7);
        let store = Store::connect("sqlite::memory:", "desk").await.unwrap();
        store.migrate().await.unwrap();
        let source = broker.source("desk", &cast.listens_to());
        let node = Node::observed(
            cast,
            store.clone(),
            source,
            broker.sink(),
            std::sync::Arc::new(saga_core::observer::Unseen),
            clock.clone(),
        );
        Self { broker, clock, store, node: node.unwrap() }
    }

    fn send(&self, saga: SagaId, event_type: &str, no: bool) {
        let key = saga.to_string();
        let headers: [(&str, &[u8]); 5] = [
            ("ce_specversion", b"1.0"),
            ("ce_type", event_type.as_bytes()),
            ("ce_id", event_type.as_bytes()),
            ("ce_source", b"/legs"),
            ("ce_sagaid", key.as_bytes()),
        ];
        let body = format!(r#"{{"no":{no}}}"#);
        assert!(self.broker.inject("legs", Some(key.as_bytes()), &headers, body.as_bytes()));
    }

    async fn settle(&mut self) {
        while self.node.turn().await.unwrap() {}
    }

    /// What went out, as the step and the event's type.
    fn emitted(&self, saga: SagaId) -> Vec<(String, String)> {
        let events = self.broker.messages("desk").iter().map(|d| Envelope::decode(d).unwrap()).collect::<Vec<_>>();
        let ours = events.into_iter().filter(|event| event.saga == saga);
        ours.map(|event| (event.step.unwrap(), event.event_type)).collect()
    }

    fn emitted_of(&self, saga: SagaId, event_type: &str) -> Vec<String> {
        self.emitted(saga).into_iter().filter(|(_, other)| other == event_type).map(|(step, _)| step).collect()
    }
}

/// Every order of `items`.
fn orders<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let begins = (0..items.len()).map(|first| {
        let mut rest = items.to_vec();
        (rest.remove(first), rest)
    });
    begins
        .flat_map(|(first, rest)| orders(&rest).into_iter().map(move |rest| [vec![first.clone()], rest].concat()))
        .collect()
}

/// The name of a step, and the type of its trigger.
type Leg = (&'static str, &'static str);

/// Who joins them, and what is joined.
type Group = (fn() -> Participant, &'static [Leg]);

fn both() -> [Group; 2] {
    [(two::participant, &TWO), (three::participant, &THREE)]
}

#[tokio::test]
async fn the_last_one_emits_in_every_order_and_however_often_it_is_told() {
    for (cast, legs) in both() {
        let mut desk = Desk::of(cast()).await;
        for order in orders(legs) {
            // Each in a batch of its own, and all in one.
            for at_once in [false, true] {
                let saga = SagaId::mint(&desk.clock);
                for (i, (_, event_type)) in order.iter().enumerate() {
                    desk.send(saga, event_type, false);
                    desk.send(saga, event_type, false);
                    // Once more, what came before.
                    desk.send(saga, order[i / 2].1, false);
                    if !at_once {
                        desk.settle().await;
                        let last = i + 1 == order.len();
                        assert_eq!(desk.emitted(saga).len(), usize::from(last), "{order:?}");
                    }
                }
                desk.settle().await;
                for (_, event_type) in legs {
                    desk.send(saga, event_type, false);
                }
                desk.settle().await;
                let last = order.last().unwrap().0.to_owned();
                assert_eq!(desk.emitted(saga), [(last, AllCame::TYPE.to_owned())], "{order:?} {at_once}");
            }
        }
    }
}

#[tokio::test]
async fn where_one_of_them_says_no_nothing_is_joined() {
    for (cast, legs) in both() {
        let mut desk = Desk::of(cast()).await;
        for order in orders(legs) {
            for no in 0..order.len() {
                let saga = SagaId::mint(&desk.clock);
                for (i, (_, event_type)) in order.iter().enumerate() {
                    desk.send(saga, event_type, i == no);
                    desk.settle().await;
                }
                for (i, (_, event_type)) in order.iter().enumerate() {
                    desk.send(saga, event_type, i == no);
                }
                desk.settle().await;
                assert_eq!(desk.emitted(saga), [(order[no].0.to_owned(), Missing::TYPE.to_owned())], "{order:?} {no}");
            }
        }
    }
}

/// Cancelled before the last of them: what was done is taken back, what comes later is void, and nothing is joined. Cancelled behind
/// it: joined first, and then taken back.
#[tokio::test]
async fn a_cancellation_at_any_moment_joins_all_or_nothing() {
    for (cast, legs) in both() {
        let mut desk = Desk::of(cast()).await;
        for order in orders(legs) {
            for before in 0..=order.len() {
                let saga = SagaId::mint(&desk.clock);
                for (i, (_, event_type)) in order.iter().enumerate() {
                    if i == before {
                        desk.send(saga, Cancelled::TYPE, false);
                        desk.settle().await;
                    }
                    desk.send(saga, event_type, false);
                    desk.settle().await;
                }
                desk.send(saga, Cancelled::TYPE, false);
                desk.settle().await;
                let joined = desk.emitted_of(saga, AllCame::TYPE);
                let last = (before == order.len()).then(|| order.last().unwrap().0.to_owned());
                assert_eq!(joined, last.into_iter().collect::<Vec<_>>(), "{order:?} {before}");
                let forgot: BTreeSet<String> = desk.emitted_of(saga, Forgot::TYPE).into_iter().collect();
                assert_eq!(forgot, legs.iter().map(|(step, _)| (*step).to_owned()).collect(), "{order:?} {before}");
            }
        }
    }
}

/// A person who lets a saga say everything again does not make it say what it never said.
#[tokio::test]
async fn an_event_that_was_withheld_is_not_said_again() {
    for (cast, legs) in both() {
        let mut desk = Desk::of(cast()).await;
        for order in orders(legs) {
            let saga = SagaId::mint(&desk.clock);
            for (i, (step, event_type)) in order.iter().enumerate() {
                desk.send(saga, event_type, false);
                desk.settle().await;
                let said = re_emit(&desk.store, &desk.clock, "desk", saga, true).await.unwrap();
                let again: Vec<&str> = said.again.iter().map(|(step, _)| step.as_str()).collect();
                let last = i + 1 == order.len();
                assert_eq!(again, if last { vec![*step] } else { vec![] }, "{order:?}");
                let withheld: BTreeSet<&str> = said.silent.iter().map(|(step, _)| step.as_str()).collect();
                let earlier = order[..=i].iter().map(|(step, _)| *step).filter(|step| !again.contains(step));
                assert_eq!(withheld, earlier.collect(), "{order:?}");
                assert!(said.silent.iter().all(|(_, why)| why.contains("joins")), "{:?}", said.silent);
            }
        }
    }
}
