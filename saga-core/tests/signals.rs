//! Signals: told in the transaction of what they tell, once, and never heard by a participant.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod toy;

use std::collections::{BTreeMap, BTreeSet};

use saga_core::{
    Event as _, State,
    discard::{Discard, discard},
    envelope::Envelope,
    redrive::redrive,
    signal,
    store::WorkState,
};
use toy::*;

impl Toy {
    async fn signalling(todo: impl IntoIterator<Item = Todo>) -> Self {
        let mut toy = Self::new(todo).await;
        toy.node = toy.another().signalling(signal::TOPIC);
        toy
    }

    /// The running participant publishes what others wrote to its outbox.
    async fn sweep(&mut self) {
        self.clock.advance(std::time::Duration::from_secs(6));
        self.node.sweep().await.unwrap();
        self.settle().await;
    }

    /// What was told of each reaction, in the order of `seq`, and that no two have one place or one id.
    fn told(&self) -> BTreeMap<String, Vec<String>> {
        let signals = self.broker.messages(signal::TOPIC);
        let ids: BTreeSet<_> = signals.iter().map(|message| Envelope::decode(message).unwrap().id).collect();
        assert_eq!(ids.len(), signals.len());
        let mut told = BTreeMap::<_, BTreeMap<i64, String>>::new();
        for (name, body) in self.signals() {
            let word = name.trim_start_matches("saga.signal.").trim_end_matches(".v1").to_owned();
            let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
            let reaction = format!("{} {} {}", text("step"), text("direction"), text("event"));
            let before = told.entry(reaction).or_default().insert(body["seq"].as_i64().unwrap(), word);
            assert_eq!(before, None, "{body}");
        }
        told.into_iter().map(|(reaction, told)| (reaction, told.into_values().collect())).collect()
    }

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
        "attempts": 1, "seq": row.told, "topic": "toy", "partition": row.delivery.partition, "offset": row.delivery.offset, "reason": "never",
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
    let alarms = signals.iter().filter(|(name, _)| name == "saga.signal.impatient.v1");
    assert_eq!(alarms.map(|(_, body)| &body["direction"]).collect::<Vec<_>>(), ["compensation"], "{signals:?}");
}

#[tokio::test]
async fn a_node_that_was_told_no_topic_signals_nothing() {
    let mut toy = Toy::new([Todo::GiveUp]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    assert_eq!((toy.signals(), toy.store.outbox_len().await.unwrap()), (vec![], 0));
}

fn told<const N: usize>(expected: [(&str, &[&str]); N]) -> BTreeMap<String, Vec<String>> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    expected.into_iter().map(|(reaction, told)| (reaction.to_owned(), words(told))).collect()
}

#[tokio::test]
async fn each_failure_is_told_and_what_waits_behind_it_and_that_both_are_settled() {
    let mut toy = Toy::signalling([Todo::Fail, Todo::Fail]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    toy.send(saga, Did::TYPE, "d1");
    // .. and once more: its row owns it.
    toy.send(saga, Did::TYPE, "d1");
    toy.settle().await;
    toy.later(3_601).await;
    assert_eq!(
        toy.told(),
        told([("close forward d1", &["parked"]), ("do forward a1", &["deferred", "impatient"])]),
        "while it waits"
    );
    toy.later(3_601).await;
    let mut seen = toy.told();
    // `close` hears what `do` emits, too: a second trigger.
    seen.retain(|reaction, told| reaction.ends_with("a1") || reaction.ends_with("d1") || *told != ["stuck"]);
    let expected =
        told([("close forward d1", &["parked", "settled"]), ("do forward a1", &["deferred", "impatient", "settled"])]);
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn what_a_person_does_is_told_by_the_running_participant() {
    let mut toy = Toy::signalling([Todo::GiveUp, Todo::GiveUp]).await;
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    let id = toy.store.work(10).await.unwrap()[0].id;
    assert_eq!(redrive(&toy.store, &toy.clock, &[(id, saga)]).await.unwrap().len(), 1);
    toy.settle().await;
    let what = Discard { reaction: id, reason: "paid by hand", who: "ada", taken_back: false, dry_run: true };
    discard(&toy.store, &toy.clock, "toy", &what).await.unwrap();
    toy.sweep().await;
    let reaction = "do forward a1";
    assert_eq!(toy.told(), told([(reaction, &["stuck", "redriven", "stuck"])]), "a dry run tells nothing");
    discard(&toy.store, &toy.clock, "toy", &Discard { dry_run: false, ..what }).await.unwrap();
    toy.sweep().await;
    // Absorbed for ever, which was told when it was discarded.
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    assert_eq!(toy.told(), told([(reaction, &["stuck", "redriven", "stuck", "discarded"])]));
    let last = toy.signals().into_iter().max_by_key(|(_, body)| body["seq"].as_i64()).unwrap();
    assert_eq!((&last.1["reason"], &last.1["participant"]), (&"paid by hand".into(), &"toy".into()));
}

#[tokio::test]
async fn a_message_that_a_person_discards_is_told_too() {
    let mut toy = Toy::signalling([]).await;
    toy.broker.inject("toy", None, &[], b"hello");
    toy.settle().await;
    let reaction = toy.store.work(10).await.unwrap()[0].id;
    let what = Discard { reaction, reason: "nobody's", who: "ada", taken_back: false, dry_run: false };
    discard(&toy.store, &toy.clock, "toy", &what).await.unwrap();
    toy.sweep().await;
    assert_eq!(toy.told(), told([(" forward ", &["stuck", "discarded"])]));
}

#[tokio::test]
async fn what_changes_nothing_is_told_where_no_event_shows_it() {
    let mut toy = Toy::signalling([]).await;
    let saga = toy.saga();
    for (event, id) in [(TookBack::TYPE, "t1"), (Fetch::TYPE, "f1"), (TookBack::TYPE, "t2")] {
        toy.send(saga, event, id);
        toy.settle().await;
    }
    assert_eq!(toy.state(saga, "ask").await, Some(State::Void));
    let expected = told([("ask compensation t2", &["absorbed"]), ("ask forward f1", &["absorbed"])]);
    assert_eq!(toy.told(), expected);
}

/// Otherwise everything that is read once more would be written once more.
#[tokio::test]
async fn of_plain_redeliveries_nothing_is_told() {
    let mut toy = Toy::signalling([]).await;
    let (saga, overtaken) = (toy.saga(), toy.saga());
    for _ in 0..3 {
        for (event, id) in [(Asked::TYPE, "a1"), (Fetch::TYPE, "f1"), (TookBack::TYPE, "t1")] {
            toy.send(saga, event, id);
            toy.settle().await;
        }
        toy.send(overtaken, TookBack::TYPE, "t1");
        toy.settle().await;
    }
    assert_eq!(toy.state(saga, "ask").await, Some(State::Compensated));
    assert_eq!(toy.state(overtaken, "ask").await, Some(State::Void));
    assert_eq!(toy.told(), told([]));
}

/// The step closes its call's key before it says its no: a compensation meanwhile, and one after that, has no event to show for it.
#[tokio::test]
async fn a_compensation_that_meets_a_rejection_is_told() {
    let mut toy = Toy::signalling([Todo::Fail, Todo::Reject, Todo::Work, Todo::Work]).await;
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    toy.later(61).await;
    assert_eq!(toy.emitted(saga), [NotFetched::TYPE]);
    for _ in 0..2 {
        toy.send(saga, TookBack::TYPE, "t1");
        toy.settle().await;
        toy.clock.advance(std::time::Duration::from_millis(1));
    }
    let told = toy.told();
    assert_eq!(told["ask forward f1"], ["deferred", "settled"]);
    assert_eq!(told["ask compensation t1"], ["absorbed", "absorbed"]);
}

/// Its step is closed by the compensation, so that it will never run.
#[tokio::test]
async fn a_forward_that_its_compensation_closes_is_settled() {
    let mut toy = Toy::signalling([Todo::Fail]).await;
    let saga = toy.saga();
    toy.send(saga, Fetch::TYPE, "f1");
    toy.settle().await;
    assert_eq!(toy.work(saga).await, [("ask".to_owned(), WorkState::Deferred)]);
    toy.send(saga, TookBack::TYPE, "t1");
    toy.settle().await;
    assert_eq!((toy.work(saga).await, toy.emitted(saga)), (vec![], vec![Undone::TYPE.to_owned()]));
    assert_eq!(toy.told(), told([("ask forward f1", &["deferred", "settled"])]));
}
