//! A timeline depends on what happened, not on the order or the number of times in which it was read.

use proptest::prelude::*;
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

proptest! {
    #[test]
    fn order_and_duplicates_do_not_matter(read in Just([events(), events()].concat()).prop_shuffle()) {
        prop_assert_eq!(Timeline::of(saga(), read).to_string(), EXAMPLE);
    }
}
