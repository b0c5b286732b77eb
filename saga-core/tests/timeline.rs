//! A timeline depends on what happened, not on the order or the number of times in which it was read.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};
use saga_core::{
    envelope::{Envelope, Kind, TraceContext},
    event::Ending,
    id::{EventId, SagaId},
    timeline::Timeline,
};

const EXAMPLE: &str = "\
order     place-order      OrderPlaced
payment   charge-customer  OrderPlaced     -> PaymentCharged
shipping  ship-order       PaymentCharged  -> ShipmentFailed   rejected: out of stock
payment   charge-customer  ShipmentFailed  -> PaymentRefunded  compensated
order     place-order      PaymentRefunded -> OrderCancelled   compensated, cancelled
";

fn saga() -> SagaId {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a UUID")
}

fn event(n: u32, part: &str, step: &str, name: &str, kind: Kind) -> Envelope {
    Envelope {
        id: EventId(format!("event-{n}")),
        source: format!("/{part}"),
        event_type: format!("shop.{name}.v1"),
        time: None,
        subject: None,
        saga: saga(),
        causation: n.checked_sub(1).map(|cause| EventId(format!("event-{cause}"))),
        step: Some(step.to_owned()),
        kind: Some(kind),
        ending: (name == "order.cancelled").then_some(Ending::Cancelled),
        hops: n,
        trace: TraceContext::default(),
        extensions: BTreeMap::new(),
        body: if kind == Kind::Rejected { br#"{"reason":"out of stock"}"#.to_vec() } else { b"{}".to_vec() },
    }
}

fn events() -> Vec<Envelope> {
    vec![
        event(0, "order", "place-order", "order.placed", Kind::Done),
        event(1, "payment", "charge-customer", "payment.charged", Kind::Done),
        event(2, "shipping", "ship-order", "shipment.failed", Kind::Rejected),
        event(3, "payment", "charge-customer", "payment.refunded", Kind::Compensated),
        event(4, "order", "place-order", "order.cancelled", Kind::Compensated),
    ]
}

#[test]
fn the_documented_example_is_what_is_printed() {
    assert_eq!(Timeline::of(saga(), events()).to_string(), EXAMPLE);
}

#[test]
fn a_cause_that_was_not_read_shows_its_id() {
    let text = Timeline::of(saga(), events().split_off(1)).to_string();
    assert!(text.starts_with("payment   charge-customer  (event-0)"), "{text}");
}

#[test]
fn of_the_same_event_sent_twice_the_earliest_is_shown() {
    let sent = |time: Option<i64>, body: &str| Envelope {
        time,
        body: body.as_bytes().to_vec(),
        ..event(2, "shipping", "ship-order", "shipment.failed", Kind::Rejected)
    };
    let (first, again) = (sent(Some(1), r#"{"reason":"out of stock"}"#), sent(Some(2), r#"{"reason":"no carrier"}"#));
    for read in [[first.clone(), again.clone()], [again, first]] {
        let timeline = Timeline::of(saga(), read);
        assert_eq!(timeline.entries.len(), 1);
        assert_eq!(timeline.entries[0].notes(), "rejected: out of stock");
    }
}

#[test]
fn two_sources_with_the_same_id_are_two_events() {
    let ours = event(0, "order", "place-order", "order.placed", Kind::Done);
    let theirs = event(0, "till", "place-order", "order.placed", Kind::Done);
    for read in [[ours.clone(), theirs.clone()], [theirs, ours]] {
        let text = Timeline::of(saga(), read).to_string();
        assert_eq!(text, "order  place-order  OrderPlaced\ntill   place-order  OrderPlaced\n");
    }
}

/// Few values of each, so that ids clash, causes go in circles, and equal keys come with different contents.
fn any_event() -> impl Strategy<Value = Envelope> {
    let identity = (0..4_u32, select(vec!["order", "till"]), select(vec!["order.placed", "order.cancelled"]));
    let rest = (0..3_u32, proptest::option::of(0..4_u32), proptest::option::of(0..2_i64), any::<bool>());
    (identity, rest).prop_map(|((n, source, name), (hops, cause, time, done))| Envelope {
        hops,
        causation: cause.map(|cause| EventId(format!("event-{cause}"))),
        time,
        ..event(n, source, "place-order", name, if done { Kind::Done } else { Kind::Rejected })
    })
}

proptest! {
    #[test]
    fn whatever_was_read_its_order_does_not_matter(
        (one, other) in vec(any_event(), 0..8).prop_flat_map(|read| (Just(read.clone()), Just(read).prop_shuffle()))
    ) {
        prop_assert_eq!(Timeline::of(saga(), one), Timeline::of(saga(), other));
    }

    #[test]
    fn order_and_duplicates_do_not_matter(read in Just([events(), events()].concat()).prop_shuffle()) {
        prop_assert_eq!(Timeline::of(saga(), read).to_string(), EXAMPLE);
    }
}
