//! Signals: told in the transaction of what they tell, once, and never heard by a participant.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod toy;

use saga_core::{Event as _, envelope::Envelope, signal};
use toy::*;

impl Toy {
    fn signals(&self) -> Vec<(String, serde_json::Value)> {
        let messages = self.broker.messages(signal::TOPIC);
        let signals = messages.iter().map(|message| Envelope::decode(message).unwrap());
        signals.map(|it| (it.event_type, serde_json::from_slice(&it.body).unwrap())).collect()
    }
}

#[tokio::test]
async fn a_stuck_reaction_is_told_once_with_what_a_person_needs() {
    let mut toy = Toy::new([Todo::GiveUp]).await;
    toy.node = toy.another().signalling(signal::TOPIC);
    let saga = toy.saga();
    for _ in 0..2 {
        toy.send(saga, Asked::TYPE, "a1");
        toy.settle().await;
    }
    let signals = toy.signals();
    assert_eq!(signals.len(), 1, "{signals:?}");
    let (event_type, body) = &signals[0];
    assert_eq!(event_type, "saga.signal.stuck.v1");
    let row = &toy.store.work(10).await.unwrap()[0];
    let expected = serde_json::json!({
        "participant": "toy", "step": "do", "direction": "forward", "saga": saga, "reaction": row.id, "event": "a1",
        "attempts": 1, "topic": "toy", "partition": row.delivery.partition, "offset": row.delivery.offset, "reason": "never",
    });
    assert_eq!(body, &expected);
}

#[tokio::test]
async fn a_message_that_is_no_event_is_told_too() {
    let mut toy = Toy::new([]).await;
    toy.node = toy.another().signalling(signal::TOPIC);
    toy.broker.inject("toy", None, &[], b"hello");
    toy.settle().await;
    let signals = toy.signals();
    assert_eq!(signals.len(), 1, "{signals:?}");
    assert_eq!((&signals[0].1["offset"], &signals[0].1["step"]), (&serde_json::json!(0), &serde_json::json!("")));
}

#[tokio::test]
async fn a_reaction_that_fails_for_longer_than_its_patience_is_told_once() {
    let mut toy = Toy::new([Todo::Work, Todo::Work].into_iter().chain(vec![Todo::Fail; 20])).await;
    toy.node = toy.another().signalling(signal::TOPIC);
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    toy.send(saga, TookBack::TYPE, "t1");
    for _ in 0..10 {
        toy.later(61).await;
    }
    let signals = toy.signals();
    assert_eq!(signals.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["saga.signal.impatient.v1"]);
    assert_eq!(signals[0].1["direction"], "compensation");
}

#[tokio::test]
async fn a_node_that_was_told_no_topic_signals_nothing() {
    let mut toy = Toy::new([Todo::GiveUp]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    assert_eq!((toy.signals(), toy.store.outbox_len().await.unwrap()), (vec![], 0));
}
