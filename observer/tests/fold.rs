//! What was seen is folded to the same row, and the same view, whatever came first and however often.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod shop;

use proptest::prelude::*;
use saga_core::{
    envelope::TraceContext,
    id::{EventId, ReactionId, SagaId},
    signal::Tells,
    step::Direction,
};
use saga_observer::{
    Saga,
    saga::{Place, Told},
    view::{Cast, View},
};
use shop::{cancelled, choreography};
use uuid::Uuid;

fn place(offset: i64) -> Place {
    Place { topic: "t".to_owned(), partition: 0, offset }
}

fn told(tells: Tells, seq: i64, step: (&str, &str, Direction), event: u8) -> Told {
    Told {
        seq,
        tells,
        participant: step.0.to_owned(),
        step: step.1.to_owned(),
        direction: step.2,
        event: Some(EventId(format!("e{event}"))),
        attempts: 3,
        reason: "the gateway does not answer".to_owned(),
        at: Some(seq),
    }
}

fn folded(seen: impl IntoIterator<Item = Saga>) -> Saga {
    let mut saga = Saga::default();
    seen.into_iter().for_each(|one| saga.merge(one));
    saga
}

fn view(saga: &Saga) -> View {
    Cast::of(choreography().flow()).view(saga)
}

#[test]
fn at_each_moment_somebody_owes_the_next_event() {
    let mut shown = String::new();
    let mut saga = Saga::default();
    for (offset, event) in cancelled(7).into_iter().enumerate() {
        saga.merge(Saga::of_event(&event, place(offset as i64)));
        let view = view(&saga);
        let waiting: Vec<String> = view.waiting.iter().map(|awaited| awaited.describe()).collect();
        shown += &format!("{}: {}; then {}\n", view.state.as_str(), waiting.join(", "), view.expected.join(", "));
    }
    expect_test::expect![[r#"
        running: payment/charge-customer reacts to OrderPlaced; then shipping/ship-order, order/complete-order
        running: shipping/ship-order reacts to PaymentCharged; then order/complete-order
        running: payment/charge-customer is compensated on ShipmentFailed; then order/place-order
        running: order/place-order is compensated on PaymentRefunded; then 
        cancelled: ; then 
    "#]]
    .assert_eq(&shown);
    expect_test::expect![[r#"
        order     place-order      OrderPlaced
        payment   charge-customer  OrderPlaced     -> PaymentCharged
        shipping  ship-order       PaymentCharged  -> ShipmentFailed   rejected: out of stock
        payment   charge-customer  ShipmentFailed  -> PaymentRefunded  compensated
        order     place-order      PaymentRefunded -> OrderCancelled   compensated, cancelled
    "#]]
    .assert_eq(&saga.timeline(SagaId(Uuid::from_u128(7))).to_string());
    assert_eq!(view(&saga).trace_id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
}

#[test]
fn a_signal_says_why_and_a_later_one_that_it_is_over() {
    let charge = ("payment", "charge-customer", Direction::Forward);
    let reaction = ReactionId(Uuid::from_u128(1));
    let mut saga = folded([Saga::of_event(&cancelled(7)[0], place(0))]);
    let mut states = vec![view(&saga).state.as_str()];
    for (seq, tells) in [Tells::Deferred, Tells::Stuck, Tells::Redriven, Tells::Settled].into_iter().enumerate() {
        saga.merge(Saga::of_signal(reaction, told(tells, seq as i64, charge, 0)));
        states.push(view(&saga).state.as_str());
    }
    // Settled, but nothing that it emitted was seen yet: then nobody is known to owe anything.
    assert_eq!(states, ["running", "deferred", "stuck", "running", "silent"]);
}

fn anything() -> impl Strategy<Value = Vec<Saga>> {
    let events = proptest::collection::vec((0usize..5, 0i64..20, any::<bool>()), 0..30);
    let signals = proptest::collection::vec((0u8..3, 0i64..4, 0usize..4), 0..10);
    (events, signals).prop_map(|(events, signals)| {
        let events = events.into_iter().map(|(which, offset, again)| {
            let mut event = cancelled(7).remove(which);
            if again {
                // Ran again before it committed: another time, another trace.
                event.time = event.time.map(|time| time + 5);
                event.trace = TraceContext::default();
            }
            Saga::of_event(&event, place(offset))
        });
        let tells = [Tells::Deferred, Tells::Parked, Tells::Stuck, Tells::Settled];
        let signals = signals.into_iter().map(move |(event, seq, which)| {
            let step = ("payment", "charge-customer", Direction::Forward);
            Saga::of_signal(ReactionId(Uuid::from_u128(u128::from(event))), told(tells[which], seq, step, event))
        });
        events.chain(signals).collect()
    })
}

proptest! {
    #[test]
    fn every_order_gives_the_same_row(seen in anything(), seed: u64) {
        let straight = folded(seen.clone());
        let mut order: Vec<usize> = (0..seen.len()).collect();
        order.sort_by_key(|i| (*i as u64 + 1).wrapping_mul(seed | 1).rotate_left(17));
        let shuffled = folded(order.iter().map(|i| seen[*i].clone()));
        prop_assert_eq!(&straight, &shuffled);
        // Read again from the start, and merged from two halves.
        let mut twice = straight.clone();
        twice.merge(folded(seen.clone()));
        prop_assert_eq!(&straight, &twice);
        let (one, other) = seen.split_at(seen.len() / 2);
        let mut halves = folded(other.to_vec());
        halves.merge(folded(one.to_vec()));
        prop_assert_eq!(&straight, &halves);
        let stored: Saga = serde_json::from_slice(&serde_json::to_vec(&straight).unwrap()).unwrap();
        prop_assert_eq!(&straight, &stored);
        prop_assert_eq!(view(&straight), view(&stored));
    }
}
