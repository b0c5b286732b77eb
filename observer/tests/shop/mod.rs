//! The sample shop's choreography, and what one of its cancelled orders publishes.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::collections::BTreeMap;

use saga_choreography::Choreography;
use saga_core::{
    Manifest,
    envelope::{Envelope, Kind, TraceContext},
    event::Ending,
    id::{EventId, SagaId},
};
use uuid::Uuid;

/// The sample shop, without its schemas.
const SHOP: &str = r#"[
  { "manifest": 1, "participant": "order",
    "steps": [
      { "step": "place-order", "kind": "start", "emits": ["shop.order.placed.v1"],
        "compensated_on": ["shop.payment.refunded.v1"], "compensated": ["shop.order.cancelled.v1"] },
      { "step": "complete-order", "kind": "local", "on": ["shop.shipment.scheduled.v1"],
        "emits": ["shop.order.completed.v1"] } ],
    "events": {
      "shop.order.placed.v1": { "topic": "order", "writes": true },
      "shop.order.completed.v1": { "topic": "order", "ending": "completed", "writes": true },
      "shop.order.cancelled.v1": { "topic": "order", "ending": "cancelled", "writes": true } } },
  { "manifest": 1, "participant": "payment",
    "steps": [
      { "step": "charge-customer", "kind": "external", "on": ["shop.order.placed.v1"],
        "emits": ["shop.payment.charged.v1"],
        "compensated_on": ["shop.shipment.failed.v1"], "compensated": ["shop.payment.refunded.v1"] } ],
    "events": {
      "shop.payment.charged.v1": { "topic": "payment", "writes": true },
      "shop.payment.refunded.v1": { "topic": "payment", "writes": true } } },
  { "manifest": 1, "participant": "shipping",
    "steps": [
      { "step": "ship-order", "kind": "local", "on": ["shop.payment.charged.v1"],
        "emits": ["shop.shipment.scheduled.v1"], "rejects": ["shop.shipment.failed.v1"] } ],
    "events": {
      "shop.shipment.scheduled.v1": { "topic": "shipping", "writes": true },
      "shop.shipment.failed.v1": { "topic": "shipping", "writes": true } } }
]"#;

/// What the three services would print.
pub const fn manifests() -> &'static str {
    SHOP
}

pub fn choreography() -> Choreography {
    Choreography::from(Manifest::read(SHOP).unwrap())
}

fn event(
    saga: u128,
    number: u8,
    (source, step): (&str, &str),
    kind: Kind,
    event_type: &str,
    cause: Option<u8>,
) -> Envelope {
    Envelope {
        id: EventId(format!("e{number}")),
        source: format!("/{source}"),
        event_type: event_type.to_owned(),
        time: Some(i64::from(number) * 1_000),
        subject: Some(format!("order {saga}")),
        saga: SagaId(Uuid::from_u128(saga)),
        causation: cause.map(|cause| EventId(format!("e{cause}"))),
        step: Some(step.to_owned()),
        kind: Some(kind),
        ending: match event_type {
            "shop.order.completed.v1" => Some(Ending::Completed),
            "shop.order.cancelled.v1" => Some(Ending::Cancelled),
            _ => None,
        },
        hops: u32::from(number),
        trace: TraceContext {
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            tracestate: None,
        },
        extensions: BTreeMap::new(),
        body: if kind == Kind::Rejected { br#"{"reason":"out of stock"}"#.to_vec() } else { b"{}".to_vec() },
    }
}

/// A cancelled order, from its start to its ending.
pub fn cancelled(saga: u128) -> Vec<Envelope> {
    vec![
        event(saga, 0, ("order", "place-order"), Kind::Done, "shop.order.placed.v1", None),
        event(saga, 1, ("payment", "charge-customer"), Kind::Done, "shop.payment.charged.v1", Some(0)),
        event(saga, 2, ("shipping", "ship-order"), Kind::Rejected, "shop.shipment.failed.v1", Some(1)),
        event(saga, 3, ("payment", "charge-customer"), Kind::Compensated, "shop.payment.refunded.v1", Some(2)),
        event(saga, 4, ("order", "place-order"), Kind::Compensated, "shop.order.cancelled.v1", Some(3)),
    ]
}
